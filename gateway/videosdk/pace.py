"""How fast calls may follow each other."""

import asyncio
import time

__all__ = ["Pace"]


class Pace:
    """Lets calls go one after the other, so many in a second. Who gives up waiting takes no turn away."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._queue = asyncio.Lock()
        self._before_queue = asyncio.Lock()

    async def turn(self, *, last: bool = False) -> None:
        """Wait for the next turn.

        Args:
            last: Let others go first: at most one of those that do so stands before them.
        """
        if not self._gap:
            return
        if last:
            async with self._before_queue:
                await self._turn()
        else:
            await self._turn()

    async def _turn(self) -> None:
        async with self._queue:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._gap
