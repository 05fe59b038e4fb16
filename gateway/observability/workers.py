"""One directory in which several workers add up what they count.

Importing this module takes this worker's place in the directory. That must happen before the first metric is made: each
takes the kind of value that is in force then.
"""

import fcntl
import os
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from prometheus_client import values

__all__ = ["SEAT", "Seat", "shared"]

_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX: Final = "gateway-metrics-"


def shared() -> AbstractContextManager[object]:
    """Have the workers that are started meanwhile add up their numbers, in a private directory that goes at the end.

    Raises:
        OSError: There is no place for temporary files.
    """
    folder = TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    os.environ[_VARIABLE] = folder.name
    return folder


class Seat:
    """A worker's place in the directory. The worker that replaces a dead one takes its seat and its counters.

    Which seats are taken the kernel knows: a lock ends with its process. There are never more files than workers
    at the same time, however often one dies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        while (taken := _lock(folder / f"seat-{self.number}.lock")) is None:
            self.number += 1
        self._taken: Final = taken
        self._clear(self.number)

    def clear_dead_workers(self) -> None:
        """Drop the gauges of dead workers: what they were doing has ended."""
        for file in self.folder.glob("seat-*.lock"):
            number = int(file.stem.removeprefix("seat-"))
            if number != self.number and (free := _lock(file)) is not None:
                self._clear(number)
                os.close(free)

    def _clear(self, number: int) -> None:
        for file in self.folder.glob(f"gauge_live*_{number}.db"):
            file.unlink(missing_ok=True)


def _lock(file: Path) -> int | None:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _take_seat() -> Seat | None:
    folder = Path(os.environ.get(_VARIABLE, ""))
    # A directory that was set for other processes is left alone.
    if not folder.name.startswith(_PREFIX):
        values.ValueClass = values.MutexValue
        return None
    seat = Seat(folder)
    values.ValueClass = values.MultiProcessValue(lambda: seat.number)
    return seat


SEAT: Final = _take_seat()
"""This process's place; None where one process serves alone."""
