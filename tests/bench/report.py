"""What was measured, for people and for programs."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.measuring import Figures

__all__ = ["read", "table", "write"]

_UNIT: Final = "start"
"""The scenario of a plain program that the costs of all others are compared with."""
_HEAD: Final = "scenario         program               CPU us"
_REST: Final = "   busy    req/s     p50 ms   p99 ms  scripts  script us  Redis us   calls  RSS MiB"


class _File(msgspec.Struct, frozen=True):
    machine: str
    figures: list[Figures]


def table(figures: Sequence[Figures], plain: Sequence[str] = (), before: Sequence[Figures] | None = None) -> str:
    """Return the figures for people.

    Args:
        figures: Of this run.
        plain: Programs with whose starts every cost is compared: `3.1 x` is as much as 3.1 of their starts.
        before: Of an earlier run, to compare each cost with what it was.
    """
    units = {name: cost for name in plain if (cost := _costs(figures).get((name, _UNIT)))}
    was = _costs(before or ())
    head = _HEAD + "".join(f"{'x ' + name:>10}" for name in units) + ("   x before" if before else "") + _REST
    lines = [head]
    for scenario in dict.fromkeys(one.scenario for one in figures):
        for one in (one for one in figures if one.scenario == scenario):
            ratios = "".join(f"{one.cpu_us / unit:>10.2f}" for unit in units.values())
            if before:
                earlier = was.get((one.program, one.scenario))
                ratios += f"{one.cpu_us / earlier:>11.2f}" if earlier else f"{'-':>11}"
            lines.append(f"{one.scenario:<16} {one.program:<20} {one.cpu_us:>7.0f}{ratios}{_row(one)}")
    return "\n".join(lines)


def _row(one: Figures) -> str:
    return (
        f"{one.busy:>7.0%} {one.rate:>8.0f} {one.p50_ms:>10.2f} {one.p99_ms:>8.2f} {one.scripts:>8.2f}"
        f" {one.scripts_us:>10.0f} {one.redis_us:>9.0f} {one.calls:>7.2f} {one.resident_mib:>8.0f}"
    )


def _costs(figures: Sequence[Figures]) -> Mapping[tuple[str, str], float]:
    return {(one.program, one.scenario): one.cpu_us for one in figures}


def write(figures: Sequence[Figures], path: Path) -> None:
    """Write the figures for a later run to be compared with."""
    content = _File(f"{platform.machine()}, Python {platform.python_version()}", list(figures))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def read(path: Path) -> list[Figures]:
    """Read what an earlier run wrote.

    Raises:
        msgspec.MsgspecError: It is not that.
    """
    return msgspec.json.decode(path.read_bytes(), type=_File).figures
