"""What a person sees: tables, colours where they can be seen, and that something still goes on."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Final

__all__ = ["coloured", "moment", "note", "printable", "progress", "show", "table"]

_COLOURS: Final[Mapping[str, int]] = {
    "starting": 36,
    "recording": 32,
    "stopping": 36,
    "stopped": 2,
    "failed": 31,
    "unknown": 33,
    "bad": 31,
    "good": 32,
    "note": 2,
}
"""By what a word says. The word stands there in any case: colour is never all that tells."""
_QUIET_SECONDS: Final = 1.0
"""How long a wait may take before something is said of it."""
_WIDEST: Final = 60
"""A cell that is wider does not widen its column: what follows it goes on the next line."""


def show(text: str) -> None:
    """Write a line to standard output at once, so that what reads it has it at once."""
    print(text, flush=True)


def note(text: str) -> None:
    """Write a line that is for a person alone."""
    print(coloured(text, "note", error=True), file=sys.stderr, flush=True)


def coloured(text: str, meaning: str, *, error: bool = False) -> str:
    """Return a text in the colour of its meaning, where a terminal shows it and NO_COLOR is not set."""
    stream = sys.stderr if error else sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain or meaning not in _COLOURS else f"\x1b[{_COLOURS[meaning]}m{text}\x1b[0m"


def printable(value: object) -> str:
    """Return a value as text that cannot move the cursor, whatever a caller or VideoSDK put into it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(value))


def moment(value: object) -> str:
    """Return a moment of the gateway's in this machine's time; nothing where there is none."""
    try:
        return datetime.fromisoformat(str(value)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return ""


def table(rows: Sequence[Sequence[str]], meanings: Mapping[str, str] | None = None, column: int = -1) -> str:
    """Lay rows out below each other; the cells of one column are coloured by what they mean."""
    widths = [
        max([len(cell) for cell in cells if len(cell) <= _WIDEST], default=0) for cells in zip(*rows, strict=True)
    ]
    starts = [sum(width + 2 for width in widths[:at]) for at in range(len(widths))]
    return "\n".join(_line(row, starts, meanings or {}, column) for row in rows)


def _line(row: Sequence[str], starts: Sequence[int], meanings: Mapping[str, str], column: int) -> str:
    line, taken = "", 0
    for at, (cell, start) in enumerate(zip(row, starts, strict=True)):
        if not cell:
            continue
        if taken > start:  # what stands before it is too wide
            line, taken = f"{line}\n", 0
        line += " " * (start - taken) + (coloured(cell, meanings.get(cell, "")) if at == column else cell)
        taken = start + len(cell)
    return line


@asynccontextmanager
async def progress(what: str) -> AsyncGenerator[None]:
    """Say on a terminal what is waited for and since when, while it is."""
    if not sys.stderr.isatty():
        yield
        return
    task = asyncio.create_task(_tick(what))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tick(what: str) -> None:
    now = asyncio.get_running_loop().time
    begun = now()
    await asyncio.sleep(_QUIET_SECONDS)
    try:
        while True:
            print(f"\r\x1b[K{what}, {now() - begun:.0f} s", end="", file=sys.stderr, flush=True)
            await asyncio.sleep(_QUIET_SECONDS)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
