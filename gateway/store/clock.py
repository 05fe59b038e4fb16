"""The two clocks: one of this process that never steps, and Redis's, which all replicas share."""

import time
from collections.abc import Awaitable, Callable

__all__ = ["RedisClock", "clock"]

_SLOW_REPLY_SECONDS = 0.1


def clock() -> float:
    """Return seconds of a clock that never steps and also counts while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class RedisClock:
    """Redis's time, estimated from its replies.

    Args:
        ask: Asks Redis for its time in ms.
    """

    def __init__(self, ask: Callable[[], Awaitable[int]]) -> None:
        self._ask = ask
        self._offset_ms: float | None = None

    def now_ms(self) -> int:
        """Return its time in ms, as far as its last reply tells; our own before the first."""
        return int(time.time() * 1000 if self._offset_ms is None else clock() * 1000 + self._offset_ms)

    async def learned_now_ms(self) -> int:
        """Return its time in ms, after asking for it where that was never done.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        if self._offset_ms is None:
            sent = clock()
            self.learn(await self._ask(), sent)
        return self.now_ms()

    def learn(self, redis_ms: int, sent: float) -> None:
        """Take over the time in a reply to what was sent at `sent` (`clock`)."""
        # A slow reply says little about the clock: either half of the way may have taken the time.
        if self._offset_ms is not None and clock() - sent > _SLOW_REPLY_SECONDS:
            return
        self._offset_ms = redis_ms - (sent + clock()) / 2 * 1000

    def forget(self) -> None:
        """Ask again before the next use: the estimate may be off."""
        self._offset_ms = None
