"""Tickets: what a caller was allowed, for the first bearer of the ticket, on any replica."""

import hashlib
import secrets
from datetime import timedelta
from typing import Final

import msgspec

from gateway.store.connection import Connection
from gateway.store.scripts import bucket_of

__all__ = ["TICKET_PREFIX", "Tickets"]

TICKET_PREFIX: Final = "gwt_"
"""What every ticket begins with, so that logs know one wherever it turns up."""


class Tickets:
    """Makes tickets and takes them back.

    Args:
        connection: How Redis is reached.
        lifetime: How long a ticket can be used.
    """

    def __init__(self, connection: Connection, lifetime: timedelta) -> None:
        self._connection = connection
        self.lifetime = lifetime

    async def issue(self, scope: tuple[str, ...], value: bytes) -> str:
        """Make a ticket of 256 random bits.

        Args:
            scope: What it is for: it is good for nothing else.
            value: What its bearer gets.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        ticket = TICKET_PREFIX + secrets.token_urlsafe(32)
        await self._connection.keep(_key(scope, ticket), value, round(self.lifetime.total_seconds() * 1000))
        return ticket

    async def redeem(self, scope: tuple[str, ...], ticket: str) -> bytes | None:
        """Return what a ticket is worth, once; None where it was used, is too old, or never was.

        Raises:
            CoordinationUnavailable: Redis did not answer. The ticket may be used up all the same.
        """
        return await self._connection.take(_key(scope, ticket))


def _key(scope: tuple[str, ...], ticket: str) -> str:
    # Only the hash: a reader of Redis cannot use the tickets in it.
    name = hashlib.sha256(msgspec.json.encode((scope, ticket))).hexdigest()
    return f"{bucket_of(name)}:ticket:{name}"
