"""Places that many want: of callers who wait, readers of events, webhooks, connections.

A holder, such as a room, gets no more places than are still free. So one that takes all it can gets half of them, two
get a third each, and the next that comes finds a place. A fixed number for each holder would either be too small for a
service that speaks for a thousand participants, or leave nothing to others.

A holder within another one, such as a caller in a room, gets no more places than the other may still take: whatever one
caller takes, another finds a place in the same room.
"""

from collections.abc import Hashable
from typing import Final

from gateway.errors import TooManyWaiting
from gateway.observability import metrics

__all__ = ["Places"]

_RETRY_SECONDS: Final = 1.0


class Places:
    """Places of one sort.

    Args:
        bound: What the refusal and the metric call them: `event-readers`.
        most: How many there are.
        detail: What a refused request is answered.
        retry_after: Seconds after which it may come again.
        first_always: Whether holders that have none get one even where none is free.
    """

    def __init__(
        self,
        bound: str,
        most: int,
        detail: str,
        *,
        retry_after: float = _RETRY_SECONDS,
        first_always: bool = False,
    ) -> None:
        self._bound = bound
        self._most = most
        self._detail = detail
        self._retry_after = retry_after
        self._first_always = first_always
        self._held: dict[tuple[str, Hashable], int] = {}
        self.taken = 0
        """How many are not free."""

    def take(self, **holders: Hashable) -> None:
        """Take a place, to be left by the same holders.

        Args:
            holders: Who takes it, by what they are, each within the one before: `room`, `caller`.

        Raises:
            TooManyWaiting: There is none, or a holder has as many as are still free. Its member `bound` says which.
        """
        full = self.full(**holders)
        if full is not None:
            raise self.refusal(full)
        self.taken += 1
        for holder in holders.items():
            self._held[holder] = self._held.get(holder, 0) + 1

    def full(self, **holders: Hashable) -> str | None:
        """Return the bound that refuses these holders a place, None where none does."""
        free = self._most - self.taken
        if free <= 0 and not self._first_always:
            return self._bound
        least = 1 if self._first_always else 0
        for holder in holders.items():
            held = self._held.get(holder, 0)
            if held >= max(free, least):
                return f"{self._bound}-per-{holder[0]}"
            # With each place that it takes it holds one more, and one less is free.
            free = (free - held + 1) // 2
        return None

    def refusal(self, bound: str) -> TooManyWaiting:
        """Count a refusal and return what it is answered."""
        metrics.refused(bound)
        detail = self._detail
        if bound != self._bound:
            detail += f" One {bound.rpartition('-')[2]} may hold no more places than are free to it."
        return TooManyWaiting(detail, retry_after=self._retry_after, extensions={"bound": bound})

    def leave(self, **holders: Hashable) -> None:
        """Give a place back."""
        self.taken -= 1
        for holder in holders.items():
            left = self._held[holder] - 1
            if left:
                self._held[holder] = left
            else:
                del self._held[holder]
