"""What `gateway` takes on its command line, with an example for everything."""

import argparse
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from gateway import __version__
from gateway.terminal.exit_codes import MEANINGS

__all__ = ["CLIENT_COMMANDS", "DEFAULT_ADDRESS", "MODE_IDS", "parse"]

DEFAULT_ADDRESS: Final = "http://127.0.0.1:8080"
CLIENT_COMMANDS: Final = frozenset({"start", "stop", "list", "watch"})
"""The commands that speak to a running gateway."""
MODE_IDS: Final[Mapping[str, str]] = {
    "track": "ROOM PARTICIPANT KIND",
    "participant": "ROOM PARTICIPANT",
    "room": "ROOM",
}
"""The ids that each mode takes. Help alone: the gateway says which modes it records and what is wrong with an id."""

_MODES: Final = "; ".join(f"{mode}: {ids}" for mode, ids in MODE_IDS.items())
_CODES: Final = "exit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in MEANINGS.items())
_ACCESS: Final = f"""environment:
  GATEWAY_ADDRESS   where the gateway is ({DEFAULT_ADDRESS})
  GATEWAY_KEY       an API key, join token or JWT; or GATEWAY_KEY_FILE, a file that holds it.
                    There is no option for the key itself: every user of a machine sees arguments.
"""

_EXAMPLES: Final[Mapping[str, str]] = {
    "gateway": """examples:
  gateway sandbox                                   try it: no account, no network
  gateway check && gateway serve                    serve, with the settings of the environment
  gateway start abcd-efgh-ijkl ada video            record a track, through a running gateway
  gateway watch abcd-efgh-ijkl                      follow a room
  gateway COMMAND --help                            more examples
""",
    "serve": """examples:
  GATEWAY_REDIS_URL=redis://redis:6379 GATEWAY_CALLERS_FILE=callers.toml \\
  GATEWAY_VIDEOSDK_API_KEY=… GATEWAY_VIDEOSDK_SECRET_FILE=/run/secrets/videosdk gateway serve
""",
    "check": """examples:
  gateway check                                     settings, what answers, and what to do where something does not
  gateway check --json | jq '.checks[] | select(.ok | not)'
""",
    "openapi": """examples:
  gateway openapi > gateway.yaml
""",
    "sandbox": """examples:
  gateway sandbox
  GATEWAY_PORT=9090 gateway sandbox
""",
    "keys": """examples:
  gateway keys new lesson-service >> callers.toml   the key itself goes to standard error, once
""",
    "start": """examples:
  gateway start abcd-efgh-ijkl ada video
  gateway start --mode participant abcd-efgh-ijkl ada
  gateway start --max-duration 90m abcd-efgh-ijkl ada video
  gateway start --set bucketDirPath=lessons/1 --set webhookUrl=@hook.txt abcd-efgh-ijkl ada video
  gateway start --json abcd-efgh-ijkl ada video | jq -r .status
""",
    "stop": """examples:
  gateway stop abcd-efgh-ijkl ada video
  gateway stop --mode participant --wait 5 abcd-efgh-ijkl ada
  gateway stop --all abcd-efgh-ijkl                 the lesson is over
""",
    "list": """examples:
  gateway list abcd-efgh-ijkl
  gateway list --status recording --mode track abcd-efgh-ijkl
  gateway list --json abcd-efgh-ijkl | jq -r '.recordings[].id'
""",
    "watch": """examples:
  gateway watch abcd-efgh-ijkl                      until Ctrl-C
  gateway watch --json abcd-efgh-ijkl               one JSON object a line: event, id, data
""",
}


class _Commands(Protocol):
    """What argparse gives for subcommands."""

    def add_parser(
        self,
        name: str,
        *,
        help: str,  # noqa: A002 - argparse's own name
        description: str,
        epilog: str,
        formatter_class: type[argparse.HelpFormatter],
        allow_abbrev: bool,
    ) -> argparse.ArgumentParser:
        """Add one."""
        ...


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what cannot be used ends the process with exit code 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="Starts and stops VideoSDK recordings, once.",
        epilog=f"{_EXAMPLES['gateway']}\n{_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _server_commands(commands)
    start = _client_command(commands, "start", "start a recording; one that runs already is not started twice")
    _target(start)
    start.add_argument(
        "--set",
        dest="fields",
        type=_text,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the start: NAME=TEXT, NAME=@FILE, NAME:=JSON; again for another",
    )
    start.add_argument(
        "--max-duration",
        type=_duration,
        metavar="DURATION",
        help="for how long it may record at most: seconds, or 90m, or 2h; the gateway stops it then",
    )
    stop = _client_command(commands, "stop", "stop a recording, or all of a room; one that does not run is no error")
    _target(stop)
    stop.add_argument("--all", action="store_true", help="stop all that the gateway started in ROOM, whatever its mode")
    stop.add_argument(
        "--include-foreign", action="store_true", help="with --all: also what was started outside the gateway"
    )
    listing = _client_command(commands, "list", "list a room's recordings, what runs or may run first")
    listing.add_argument("room", type=_text, metavar="ROOM")
    for name in ("mode", "participant", "kind", "status"):
        listing.add_argument(f"--{name}", type=_text, metavar=name.upper(), help=f"only those of this {name}")
    watching = _client_command(commands, "watch", "follow a room's recordings until Ctrl-C")
    watching.add_argument("room", type=_text, metavar="ROOM")
    return parser.parse_args(arguments)


def _server_commands(commands: _Commands) -> None:
    _command(commands, "serve", "serve the API")
    check = _command(commands, "check", "say whether Redis answers and VideoSDK accepts the token; start nothing")
    check.add_argument("--json", action="store_true", help="write one JSON object")
    _command(commands, "openapi", "print the contract as YAML")
    _command(commands, "sandbox", "serve against an embedded Valkey and a simulated VideoSDK, to try it out")
    keys = _command(commands, "keys", "make keys for callers").add_subparsers(dest="keys_command", required=True)
    keys.add_parser("new", help="make a key; it is shown once").add_argument("name", help="the caller's name")


def _command(commands: _Commands, name: str, text: str, more: str = "") -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="\n".join(part for part in (_EXAMPLES[name], more, _CODES) if part),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # Or `--key KEY` were taken for `--key-file`, and a key would stand among the arguments, which all users see.
        allow_abbrev=False,
    )


def _client_command(commands: _Commands, name: str, text: str) -> argparse.ArgumentParser:
    parser = _command(commands, name, text, _ACCESS)
    parser.add_argument("--address", metavar="URL", help="where the gateway is, instead of GATEWAY_ADDRESS")
    parser.add_argument("--key-file", metavar="FILE", help="a file that holds the key, instead of GATEWAY_KEY")
    parser.add_argument("--json", action="store_true", help="write JSON, problems too, to standard output")
    return parser


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", type=_text, metavar="ID", help=f"what is recorded, by mode ({_MODES})")
    parser.add_argument("--mode", type=_text, default="track", metavar="MODE", help=f"{', '.join(MODE_IDS)} (track)")
    parser.add_argument(
        "--wait", type=_seconds, metavar="SECONDS", help="how long to wait; the operation goes on without you"
    )


def _text(text: str) -> str:
    """Take what can be sent: Python keeps bytes that are no UTF-8 as something that cannot."""
    with suppress(UnicodeEncodeError):
        text.encode()
        return text
    raise argparse.ArgumentTypeError("expected UTF-8")


def _duration(text: str) -> int:
    """Read a duration as whole seconds; the gateway says which it takes."""
    if match := re.fullmatch(r"([0-9]{1,6})([smh]?)", text):
        return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    raise argparse.ArgumentTypeError("expected a duration like 5400, 90m or 2h")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0.001 <= (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError("expected seconds, from 0.001 to 3600")
