"""What somebody looks after, or has to: for operators, who want to see whose claim it is and how often it was tried."""

import asyncio

import msgspec
from msgspec import Struct, field

from gateway.coordinator.protocol import VERSION
from gateway.store.connection import Connection
from gateway.store.scripts import BUCKETS, due_times

__all__ = ["Backlog", "PendingTrack"]

_FAR_MS = 4_000_000_000_000


class PendingTrack(Struct, frozen=True, kw_only=True):
    """One track's record, as it concerns an operator. Times in ms by Redis's clock, 0 where there is none."""

    key: str = ""
    state: str = ""
    action: str = ""
    operation: str = field(name="op", default="0")
    holder: str = ""
    """The attempt that holds the claim."""
    owner: str = ""
    """The process that made it."""
    granted: int = 0
    lease: int = 0
    """Until when it holds without being renewed."""
    due: int = 0
    """When somebody looks at it next."""
    tries: int = 0
    """How often it was taken up since it was settled last."""
    upstream: str = ""
    """What VideoSDK answered last."""
    uncertain_since: int = 0
    """Since when it is unknown, or stopping without an answer."""
    intent: str = ""
    suspect_since: int = 0
    confirmed: int = 0
    confirmed_by: str = ""


class Backlog:
    """Reads what is due, soonest first.

    Args:
        connection: How Redis is reached.
        tenant: Whose tracks; separates the projects that share a Redis.
    """

    def __init__(self, connection: Connection, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    async def now(self) -> int:
        """Return Redis's clock in ms.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return await self._connection.now()

    async def look(self, most: int) -> list[PendingTrack]:
        """Return up to `most` tracks that somebody holds or has to look at, the soonest due first.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        buckets = [due_times(bucket, self._tenant) for bucket in range(BUCKETS)]
        lots = await asyncio.gather(*(self._connection.scheduled(bucket, _FAR_MS, most) for bucket in buckets))
        soonest = sorted((at, key) for lot in lots for key, at in lot.items())[:most]
        found = await asyncio.gather(*(self.read(key, at) for at, key in soonest))
        return [pending_tracks for pending_tracks in found if pending_tracks is not None]

    async def read(self, key: str, due: float = 0) -> PendingTrack | None:
        """Return one track's, None where nothing is known of it.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        fields = await self._connection.read(key)
        if not fields or int(fields.get("v", VERSION)) > VERSION:
            return None
        return msgspec.convert({**fields, "key": key, "due": int(due)}, PendingTrack, strict=False)
