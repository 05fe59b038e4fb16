"""Processes that are measured: started on cores of their own, and read from /proc."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from msgspec import Struct

from gateway.sandbox import tether
from tests import harness
from tests.bench.load import UnexpectedAnswerError, ask

__all__ = ["ANY", "Cores", "Served", "cpu_seconds", "on"]


class Cores(Struct, frozen=True):
    """Which cores do what; none named is all of them.

    Attributes:
        measured: Of the process that is measured, and of nothing else.
        others: Of all that it is measured with.
    """

    measured: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """One core for what is measured and the others for the rest, where there are two."""
        first, *others = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(others)) if others else cls()


ANY = Cores()


@contextmanager
def on(cores: frozenset[int]) -> Generator[None]:
    """Have what is started meanwhile run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Served:
    """A process that serves a port of loopback; it ends with the `with` block, and at the latest with this process."""

    def __init__(
        self, command: Sequence[str], port: int, log: Path, *, environ: Mapping[str, str], cores: frozenset[int]
    ) -> None:
        self._command, self._log, self._environ, self._cores = command, log, environ, cores
        self.port = port

    def __enter__(self) -> Self:
        with self._log.open("ab") as output, on(self._cores):
            self._tether = subprocess.Popen(
                [sys.executable, tether.__file__, *self._command],
                env={**os.environ, **self._environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        assert self._tether.stdout
        self.pid = int(self._tether.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._tether.terminate()
        try:
            self._tether.wait(20)
        finally:
            for pipe in (self._tether.stdin, self._tether.stdout):
                assert pipe
                pipe.close()

    async def ready(self, path: str) -> None:
        """Wait until it answers a path with success."""

        async def serves() -> bool:
            assert self._tether.poll() is None, self._log.read_text()
            try:
                status, _ = await ask(self.port, path)
            except (OSError, UnexpectedAnswerError):
                return False
            return status == 200

        await harness.until(serves)

    @property
    def cpu_seconds(self) -> float:
        """CPU time so far, of all its processes and threads."""
        return sum(map(cpu_seconds, _family(self.pid)))

    @property
    def resident_mib(self) -> float:
        """Memory of all its processes."""
        return sum(map(_resident_kib, _family(self.pid))) / 1024


def cpu_seconds(pid: int) -> float:
    """Read a process's CPU clock: in nanoseconds, where `/proc` counts ticks of 10 ms, in which many requests fit."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def _family(pid: int) -> list[int]:
    children = [
        int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()
    ]
    return [pid, *(descendant for child in children for descendant in _family(child))]


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
