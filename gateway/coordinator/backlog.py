"""The targets that a replica holds or has to look at, for operators: how many are uncertain, and each by itself."""

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from gateway.coordinator.protocol import VERSION, Record
from gateway.coordinator.scripts import due_times
from gateway.errors import CoordinationUnavailable
from gateway.store.connection import Connection
from gateway.store.scripts import BUCKETS, Script

__all__ = ["Backlog", "PendingTarget", "Uncertainty"]

_FRESH_SECONDS = 2.0
_MAX_PER_BUCKET = 1_000
_HORIZON_MS = 120_000
"""Whatever is uncertain is looked at again within this time: it is the longest lease there can be."""
_FAR_MS = 4_000_000_000_000


_log = structlog.get_logger("gateway.coordinator")


class Uncertainty(Struct, frozen=True):
    """How things stand over all replicas.

    Attributes:
        count: How many targets are in an unknown state, or have a stop without an answer. Of each bucket only the
            most urgent thousand are looked at.
        oldest: Seconds since the oldest of them became so, 0 where there is none.
        lag: Seconds by which the most overdue target is late, 0 where none is.
    """

    count: int
    oldest: float
    lag: float


class _Found(Struct, frozen=True):
    uncertain: int
    since: int


class PendingTarget(Record, frozen=True, kw_only=True):
    """One target's record, as it concerns an operator. Times in ms by Redis's clock, 0 where there is none."""

    key: str = ""
    granted: int = 0
    lease: int = 0
    """Until when its claim holds without being renewed."""
    due: int = 0
    """When a reconciler looks at it next."""
    tries: int = 0
    """How often it was taken up since it was certain last."""
    upstream: str = ""
    """What VideoSDK answered last."""
    uncertain_since: int = 0
    """Since when it is unknown, or stopping without an answer."""
    suspect_since: int = 0

    @property
    def owner(self) -> str:
        """The process that holds the claim."""
        return self.holder.partition(".")[0]


class Backlog:
    """Reads what is due, and how much of it is uncertain.

    Args:
        connection: How Redis is reached.
        project: Whose targets; separates the projects that share a Redis.
        max_per_bucket: Targets of a bucket, the most urgent, of which it is found out whether they are uncertain.
    """

    def __init__(self, connection: Connection, project: str, *, max_per_bucket: int = _MAX_PER_BUCKET) -> None:
        self._connection = connection
        self._buckets = [due_times(bucket, project) for bucket in range(BUCKETS)]
        self._max_per_bucket = max_per_bucket
        self._script = Script("gateway.coordinator", "backlog")
        self._counting = asyncio.Lock()
        self._counted: Uncertainty | None = None
        self._counted_at = float("-inf")

    async def now(self) -> int:
        """Return Redis's clock in ms.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return await self._connection.now()

    async def pending(self, most: int, wanted: Callable[[str], bool] = lambda _: True) -> list[PendingTarget]:
        """Return up to `most` targets that a leader holds or a reconciler has to look at, the soonest due first.

        Args:
            most: How many at most.
            wanted: Tells by its key whether a target is to be among them.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        lots = await asyncio.gather(*(self._soonest(bucket, most, wanted) for bucket in self._buckets))
        soonest = sorted((at, key) for lot in lots for key, at in lot.items())[:most]
        found = await asyncio.gather(*(self.read(key, at) for at, key in soonest))
        return [pending for pending in found if pending is not None]

    async def _soonest(self, bucket: str, most: int, wanted: Callable[[str], bool]) -> dict[str, float]:
        """Return of one bucket the targets that are wanted, at least the first `most`, with their times (ms)."""
        read = most
        while True:
            due = await self._connection.scheduled(bucket, _FAR_MS, read)
            found = {key: at for key, at in due.items() if wanted(key)}
            if len(found) >= most or len(due) < read:
                return found
            # Others stand before them: again, from the beginning, because they move meanwhile.
            read *= 4

    async def read(self, key: str, due: float = 0) -> PendingTarget | None:
        """Return one target's, None where nothing is known of it.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        fields = await self._connection.read(key)
        if not fields or int(fields.get("v", VERSION)) > VERSION:
            return None
        return msgspec.convert({**fields, "key": key, "due": int(due)}, PendingTarget, strict=False)

    async def uncertainty(self) -> Uncertainty | None:
        """Return how much is uncertain, or None where Redis does not answer, or not as expected.

        It is counted once in two seconds at most, however many ask.
        """
        async with self._counting:
            if time.monotonic() - self._counted_at > _FRESH_SECONDS:
                try:
                    self._counted = await self._count()
                except CoordinationUnavailable:
                    self._counted = None
                except Exception:  # noqa: BLE001 - all other metrics are to be shown
                    _log.exception("survey.failed")
                    self._counted = None
                self._counted_at = time.monotonic()
            return self._counted

    async def _count(self) -> Uncertainty:
        # Asked first, and alone: where Redis is away that is found out once and not sixteen times.
        now = await self._connection.now()
        # Of a Cluster each bucket may lie on another node.
        await asyncio.gather(*(self._connection.check(bucket) for bucket in range(BUCKETS)))
        due = await self._due(now + _HORIZON_MS, self._max_per_bucket)
        found = await asyncio.gather(*(self._inspect(list(times)) for times in due if times))
        since = min((lot.since for lot in found if lot.uncertain), default=now)
        first = min((at for times in due for at in times.values()), default=now)
        return Uncertainty(
            count=sum(lot.uncertain for lot in found),
            oldest=max(now - since, 0) / 1000,
            lag=max(now - first, 0) / 1000,
        )

    async def _due(self, until_ms: int, most: int) -> list[dict[str, float]]:
        """Return of each bucket up to `most` targets that are due by then, with the times (ms)."""
        return await asyncio.gather(*(self._connection.scheduled(bucket, until_ms, most) for bucket in self._buckets))

    async def _inspect(self, records: list[str]) -> _Found:
        reply = await self._connection.evaluate(self._script.text, self._script.sha, records, b"")
        return msgspec.json.decode(reply, type=_Found)
