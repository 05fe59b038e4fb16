"""How much is uncertain at this moment, for operators: read from the due times, of which only few records have one."""

import asyncio
import time

import msgspec
import structlog
from msgspec import Struct

from gateway.errors import CoordinationUnavailable
from gateway.store.connection import Connection
from gateway.store.scripts import BUCKETS, Script, due_times

__all__ = ["BacklogGauge", "UncertainTracks"]

_FRESH_SECONDS = 2.0
_MAX_PER_BUCKET = 1_000
_HORIZON_MS = 120_000
"""Whatever is uncertain is looked at again within this time: it is the longest lease there can be."""

_log = structlog.get_logger("gateway.coordinator")


class UncertainTracks(Struct, frozen=True):
    """How things stand over all replicas.

    Attributes:
        tracks: How many tracks nobody knows the state of, or have a stop that was not answered. Of each bucket only the
            most urgent thousand are looked at.
        oldest: Seconds since the oldest of them became so, 0 where there is none.
        lag: Seconds by which the most overdue track is late, 0 where none is.
    """

    tracks: int
    oldest: float
    lag: float


class _Found(Struct, frozen=True):
    uncertain_since: int
    since: int


class BacklogGauge:
    """Looks at all buckets, once in two seconds at most, however many ask.

    Args:
        connection: How Redis is reached.
        tenant: Whose tracks; separates the projects that share a Redis.
        max_per_bucket: Tracks of a bucket that are looked at, the most urgent.
    """

    def __init__(self, connection: Connection, tenant: str, *, max_per_bucket: int = _MAX_PER_BUCKET) -> None:
        self._connection = connection
        self._tenant = tenant
        self._max_per_bucket = max_per_bucket
        self._script = Script("backlog", prelude=False)
        self._looking = asyncio.Lock()
        self._seen: UncertainTracks | None = None
        self._seen_at = float("-inf")

    async def look(self) -> UncertainTracks | None:
        """Return how things stand, or None where Redis does not answer, or not as expected."""
        async with self._looking:
            if time.monotonic() - self._seen_at > _FRESH_SECONDS:
                try:
                    self._seen = await self._look()
                except CoordinationUnavailable:
                    self._seen = None
                except Exception:  # noqa: BLE001 - all other metrics are to be told
                    _log.exception("survey.failed")
                    self._seen = None
                self._seen_at = time.monotonic()
            return self._seen

    async def _look(self) -> UncertainTracks:
        # Asked first, and alone: where Redis is away that is found out once and not sixteen times.
        now = await self._connection.now()
        buckets = [due_times(bucket, self._tenant) for bucket in range(BUCKETS)]
        due = await asyncio.gather(
            *(self._connection.scheduled(bucket, now + _HORIZON_MS, self._max_per_bucket) for bucket in buckets)
        )
        found = await asyncio.gather(*(self._inspect(list(times)) for times in due if times))
        since = min((lot.since for lot in found if lot.uncertain_since), default=now)
        first = min((at for times in due for at in times.values()), default=now)
        return UncertainTracks(
            tracks=sum(lot.uncertain_since for lot in found),
            oldest=max(now - since, 0) / 1000,
            lag=max(now - first, 0) / 1000,
        )

    async def _inspect(self, records: list[str]) -> _Found:
        reply = await self._connection.evaluate(self._script.text, self._script.sha, records, b"")
        return msgspec.json.decode(reply, type=_Found)
