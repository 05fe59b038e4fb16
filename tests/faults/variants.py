"""Gateways and servers that are run in another way than usual: with another clock, other scripts, a loop to block."""

import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import gateway
from gateway.sandbox.valkey import packaged_binary
from tests.harness import Variant

__all__ = ["blockable", "lacks_faketime", "other_clocks", "server_clock", "server_with_clock", "two_versions"]

_LIBRARIES: Final = "usr/lib/*/faketime/libfaketimeMT.so.1"
_CLOCKS: Final = (3600, -3600, 0)
"""Seconds by which the gateways' wall clocks are off."""


def _faketime() -> Path | None:
    return next(Path("/").glob(_LIBRARIES), None)


def lacks_faketime() -> str:
    """Say that libfaketime is missing, where it is."""
    return "" if _faketime() else "libfaketime is not installed"


def server_clock(folder: Path) -> Path:
    """Return the file that says how far off the server's clock is."""
    return folder / "clock"


def server_with_clock(folder: Path) -> str:
    """Make a command that runs the server with a clock that can be set.

    The package's server, because jemalloc, which Debian's is built with, and libfaketime do not bear each other.
    """
    server_clock(folder).write_text("+0")
    command = folder / "server-with-clock"
    command.write_text(
        f"#!/bin/sh\nexec env LD_PRELOAD={_faketime()} FAKETIME_TIMESTAMP_FILE={server_clock(folder)} "
        f'FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 {packaged_binary()} "$@"\n'
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return str(command)


def other_clocks(_: Path) -> Sequence[Variant]:
    """Run gateways whose wall clocks are an hour fast, an hour slow, and right; their monotonic clocks are right."""
    preload = {"LD_PRELOAD": str(_faketime()), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return [Variant(environ={**preload, "FAKETIME": f"{seconds:+}"}) for seconds in _CLOCKS]


def blockable(_: Path) -> Sequence[Variant]:
    """Run gateways whose event loop a signal can block."""
    return [Variant(module="tests.faults.stalling")]


def two_versions(folder: Path) -> Sequence[Variant]:
    """Run, in turn, the gateway as it stands and a copy of it whose scripts have another text, and other names."""
    copy = folder / "other-version"
    shutil.copytree(Path(gateway.__file__).parent, copy / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    for script in (copy / "gateway" / "coordinator").glob("*.lua"):
        script.write_text(f"{script.read_text()}\n-- another version\n")
    return [Variant(), Variant(folder=copy)]
