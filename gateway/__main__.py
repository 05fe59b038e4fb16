"""The command `gateway`; what it does is in `gateway.terminal`."""

import sys
from collections.abc import Sequence

from gateway.terminal.arguments import CLIENT_COMMANDS, parse

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (`gateway.terminal.exit_codes`)."""
    chosen = parse(arguments)
    # Each reads what it needs: a client starts without a server's parts, which take a second to read.
    if chosen.command in CLIENT_COMMANDS:
        from gateway.terminal.client import run  # noqa: PLC0415
    else:
        from gateway.terminal.server import run  # noqa: PLC0415
    return run(chosen)


if __name__ == "__main__":
    sys.exit(main())
