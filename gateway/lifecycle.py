"""The time between being asked to end and ending, in which load balancers learn to send nothing more."""

import asyncio
import signal
from types import FrameType

import structlog

__all__ = ["Drain"]

_log = structlog.get_logger("gateway")


class Drain:
    """Holds SIGTERM back from the server for a while: the process is not ready any more, and serves all the same.

    A second SIGTERM, and SIGINT, reach the server at once.

    Args:
        seconds: How long; 0 holds nothing back.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether this process was asked to end."""
        return self._begun

    def watch(self) -> None:
        """Stand before the server's own handler; to be called in its event loop, in the main thread."""
        end = signal.getsignal(signal.SIGTERM)
        if not self._seconds or not callable(end):
            return
        loop = asyncio.get_running_loop()

        def announce(number: int, frame: FrameType | None) -> None:
            if self._begun:
                end(number, frame)
                return
            self._begun = True
            # Python runs this between two steps of whatever was interrupted: only the loop may touch what is its own.
            loop.call_soon_threadsafe(_log.info, "drain.begun")
            loop.call_soon_threadsafe(loop.call_later, self._seconds, end, number, frame)

        signal.signal(signal.SIGTERM, announce)
