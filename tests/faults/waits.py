"""How long the machine keeps processes from their work, as its kernel tells it.

Whatever a busy machine does to a process must not be taken for the gateway's doing. What counts is only the time for
which a process could have run and was not let: not what it computes or waits for, and not while it is stopped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.faults.history import Trouble

__all__ = ["Waits", "waited"]

_EVERY: Final = 0.05
_WINDOW: Final = 1.0
"""Seconds a command to Redis may take before a gateway calls it lost."""
_STALL: Final = 0.5
"""Seconds in any such time for which a process has to be kept from its work for that to be noted."""


def waited(pid: int) -> float | None:
    """Return for how many seconds a process's main thread was ready to run and did not; None where nobody tells."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


class _Process:
    """What is known of one process: its samples of the last second, and its stalls."""

    def __init__(self, name: str, detail: str) -> None:
        self._name = name
        self._detail = detail
        self._samples: deque[tuple[float, float]] = deque()
        self.stalls: list[Trouble] = []

    def add(self, moment: float, total: float) -> None:
        """Take in for how long it has been kept from its work so far."""
        samples = self._samples
        # The last stays in any case: where nobody looked for long, everything stood still.
        while len(samples) > 1 and samples[0][0] < moment - _WINDOW:
            samples.popleft()
        if samples:
            since, before = samples[0]
            kept = total - before
            if kept >= _STALL:
                # What the kernel tells at a moment may have begun before it was asked last.
                self._note(min(since, moment - kept), moment)
        samples.append((moment, total))

    def _note(self, begun: float, ended: float) -> None:
        if self.stalls and self.stalls[-1].ended >= begun:
            begun = min(begun, self.stalls.pop().begun)
        self.stalls.append(Trouble(what="stall", begun=begun, ended=ended, process=self._name, detail=self._detail))


class Waits:
    """Watches some processes and this one, as an asynchronous context manager, and notes their stalls.

    Of this process counts how late its event loop comes to its timers. That is what its clients, proxies and servers
    suffer, for whatever reason, and none of it is the doing of those that it serves.

    Args:
        processes: Gives what to watch now: name of the gateway, or none where all depend on it; what it is; its id.
    """

    def __init__(self, processes: Callable[[], Iterable[tuple[str, str, int]]]) -> None:
        self._processes = processes
        self._known: dict[tuple[str, str, int], _Process] = {}
        self._own = _Process("", "clients, proxies and simulator")
        self._late = 0.0

    async def __aenter__(self) -> Self:
        self._look()
        self._task = asyncio.create_task(self._watch(), name="waits")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def stalls(self) -> list[Trouble]:
        """Return every stall so far."""
        self._look()
        return [stall for process in (self._own, *self._known.values()) for stall in process.stalls]

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + _EVERY
            await asyncio.sleep(_EVERY)
            self._late += time.monotonic() - due
            self._look()

    def _look(self) -> None:
        self._own.add(time.monotonic(), self._late)
        for known in self._processes():
            total = waited(known[2])
            if total is not None:
                name, detail, _ = known
                self._known.setdefault(known, _Process(name, detail)).add(time.monotonic(), total)
