"""Writes that could not be made, repeated in the background until they succeed or no longer matter."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.errors import CoordinationUnavailable
from gateway.store.clock import clock

__all__ = ["Retries"]

_log = structlog.get_logger("gateway.coordinator")


class Retries:
    """The repeated writes of one process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> bool:
        """Whether anything is still unwritten."""
        return bool(self._tasks)

    def begin(
        self,
        name: str,
        write: Callable[[], Awaitable[object]],
        *,
        pause: float,
        longest_pause: float,
        seconds: float,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Repeat a write in the background.

        Args:
            name: What the log calls it.
            write: Makes it; fails where it could not be made.
            pause: Seconds before the first try; before each later one twice as many as before the last.
            longest_pause: The longest pause.
            seconds: How long it is tried.
            at_end: Called when it has succeeded or is given up.
        """
        task = asyncio.create_task(self._repeat(name, write, pause, longest_pause, seconds, at_end), name=name)
        # A strong reference: asyncio itself keeps only a weak one.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, timeout: float) -> None:
        """Wait for what is still unwritten, for at most `timeout` seconds, and give up the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _repeat(
        self,
        name: str,
        write: Callable[[], Awaitable[object]],
        pause: float,
        longest_pause: float,
        seconds: float,
        at_end: Callable[[], None],
    ) -> None:
        give_up = clock() + seconds
        try:
            while clock() < give_up:
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest_pause)
                try:
                    await write()
                except CoordinationUnavailable:
                    continue
                except Exception:  # noqa: BLE001 - whatever went wrong, the next try must come
                    _log.exception("write.failed", write=name)
                else:
                    return
        finally:
            at_end()
