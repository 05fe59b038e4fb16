"""How every command of `gateway` ends: one table, for help, docs and scripts."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

__all__ = ["MEANINGS", "ExitCode"]


class ExitCode(IntEnum):
    """What the process returns to the shell."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNKNOWN = 4
    NOT_NOW = 5
    INTERRUPTED = 130


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.DONE: "done: it records, it is stopped, every check is well",
    ExitCode.REFUSED: "refused: by the gateway, by VideoSDK, or a check failed; change something first",
    ExitCode.USAGE: "the arguments or settings cannot be used; nothing was sent",
    ExitCode.UNREACHABLE: "no gateway answers at this address",
    ExitCode.UNKNOWN: "not known yet: a start or stop may have happened; the same command again is safe",
    ExitCode.NOT_NOW: "not now: a limit, or a part that is away for a while; the same command again later",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); the gateway goes on with what it was asked",
}
"""What each of them says."""
