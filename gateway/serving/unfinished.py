"""Memory for requests that have not arrived whole: it is bounded for all connections together.

A client that sends half of a body and waits costs the half until its time is over. Where many do so, the one that has
been at it for the longest gives way: an honest body arrives within moments, so that is seldom an honest one.
"""

from typing import Final, Protocol

__all__ = ["MAX_UNFINISHED", "Unfinished"]

MAX_UNFINISHED: Final = 8 * 1024 * 1024
"""Bytes."""


class Arriving(Protocol):
    """A connection on which a request is arriving."""

    def give_way(self) -> None:
        """Refuse the request and close the connection."""
        ...


class Unfinished:
    """Counts the bytes of what has not arrived whole.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int = MAX_UNFINISHED) -> None:
        self._most = most
        self._bytes: dict[Arriving, int] = {}
        """By connection; the one whose request began first is first."""
        self.total = 0

    def add(self, connection: Arriving, count: int) -> None:
        """Count bytes, and have others give way where there are too many."""
        self._bytes[connection] = self._bytes.get(connection, 0) + count
        self.total += count
        while self.total > self._most:
            oldest = next(iter(self._bytes))
            self.remove(oldest)
            oldest.give_way()

    def remove(self, connection: Arriving) -> None:
        """Count them no more: the request has arrived, or does not go on."""
        self.total -= self._bytes.pop(connection, 0)
