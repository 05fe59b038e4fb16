"""Token buckets that all replicas share, without a round trip for each request.

A process draws tokens in advance, and reports in the background what was spent beyond them: one script every quarter
of a second for all buckets that it used. Requests wait for Redis only where the process holds too little, and then all
of them for one script. How much it draws grows with what a bucket's last requests took, to at most a tenth of what is
left; from a bucket that holds less than ten tokens it draws exactly what waiting requests need.

What this costs in exactness, for each process:

- What is drawn is missing to other processes until it is used, or given back after a few idle seconds. Meanwhile the
  bucket fills up without it, so that all together may take up to a tenth of the burst more than it holds.
- What was spent beyond what was drawn (`spend`) is not known to other processes for a quarter of a second: at most a
  tenth of the burst or one token, and the cost that goes beyond it, since then it is reported at once.
- A bucket that the process has heard nothing of yet is taken for a full one, once: then it reports before it lets
  another request in. The same holds for buckets of which nothing is drawn in advance: whether they are overdrawn (a
  cost of 0) is answered from the last report's reply. So N processes exceed a limit by N requests at most.

A process that dies takes with it what it held, which comes back with time, and what it had not reported. While Redis
does not answer, a report is repeated for half a minute, and taken once; what is spent later is reported later.

All buckets lie in one slot: they are small, and one script synchronises hundreds of them. So it is a few scripts a
second, whatever the number of buckets.
"""

import asyncio
import secrets
from contextlib import suppress
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from gateway.errors import CoordinationUnavailable
from gateway.store.bucket_shares import BucketShare, Quota, ReportLine
from gateway.store.clock import clock
from gateway.store.connection import Connection
from gateway.store.scripts import Script, bucket_of

__all__ = ["Quota", "TokenBuckets"]

_SLOT: Final = bucket_of("limits")
_MAX_LINES: Final = 200
"""Buckets that one script synchronises: other scripts wait for it."""
_GIVE_UP_SECONDS: Final = 30.0
"""How long a report is repeated: less than Redis remembers its number (limit.lua), or it would be taken twice."""

_log = structlog.get_logger("gateway.coordinator")
_replies = msgspec.json.Decoder(list[tuple[float, float]])


class TokenBuckets:
    """Takes from token buckets in Redis; keeps them in step in the background between `open` and `close`.

    Args:
        connection: How Redis is reached.
        sync_every: Seconds from one synchronisation with Redis to the next.
        idle_seconds: How long what is not used is held.
        max_shares: Buckets that the process keeps in mind; the longest unused is given up.
        give_up_seconds: How long a report is repeated.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        sync_every: float = 0.25,
        idle_seconds: float = 3.0,
        max_shares: int = 20_000,
        give_up_seconds: float = _GIVE_UP_SECONDS,
    ) -> None:
        self._connection = connection
        self._sync_every = sync_every
        self._idle_seconds = idle_seconds
        self._max_shares = max_shares
        self._give_up_seconds = give_up_seconds
        self._script = Script("gateway.store", "limit")
        self._mark = f"{_SLOT}:limit-report:{secrets.token_hex(8)}"
        self._shares: dict[str, BucketShare] = {}
        """By the buckets' names; the longest unused first."""
        self._due: dict[BucketShare, None] = {}
        """Those that Redis is to hear of, in this order."""
        self._report: _Report | None = None
        """What Redis may not have heard of yet."""
        self._reports = 0
        self._reporting: asyncio.Task[None] | None = None
        self._syncing: asyncio.Task[None] | None = None

    def take_at_once(self, name: str, *, per_minute: float, burst: float, cost: float) -> Quota | None:
        """Take from the bucket of this name, if this process can say whether it may; None: ask `take`.

        Args:
            name: Whose bucket; safe in a key.
            per_minute: How much comes back in a minute.
            burst: The most it holds.
            cost: How much to take; 0 asks whether the bucket is overdrawn.
        """
        # Where Redis may be away there is no limit, which the asking of it shows.
        return self._share(name, per_minute, burst).take(cost, clock(), trusted=self._connection.healthy)

    async def take(self, name: str, *, per_minute: float, burst: float, cost: float) -> Quota:
        """Take from the bucket of this name, and wait for Redis where it has to be asked.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        share = self._share(name, per_minute, burst)
        quota = share.take(cost, clock(), trusted=self._connection.healthy)
        return quota if quota is not None else await self._wait(share, cost)

    async def look(self, name: str, *, per_minute: float, burst: float) -> Quota:
        """Say how the bucket of this name stands, and take nothing: Redis is asked where it was not heard of lately.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        share = self._share(name, per_minute, burst)
        quota = share.look(clock())
        return quota if quota is not None else await self._wait(share, 0)

    def spend(self, name: str, *, per_minute: float, burst: float, cost: float) -> Quota:
        """Take what was spent already, even where it is not there."""
        share = self._share(name, per_minute, burst)
        quota = share.spend(cost, clock())
        if share.owes_much:
            self._hear(share)
        return quota

    def open(self) -> None:
        """Synchronise in the background."""
        self._syncing = asyncio.create_task(self._sync_for_ever(), name="limits")

    async def close(self, grace: float) -> None:
        """Report what was spent and give back what was not, for at most so many seconds."""
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
        self._idle_seconds = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                # What was on its way may have left something.
                await self._reported()
                await self.sync()
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)

    async def sync(self) -> None:
        """Report what was spent, draw what will be used, give back what is idle, and forget what says nothing."""
        self._begin_round()
        await self._reported()

    def _begin_round(self) -> None:
        now = clock()
        for share in list(self._shares.values()):
            if share.forgettable(now, self._idle_seconds):
                del self._shares[share.name]
            elif share.due(now, self._idle_seconds):
                self._due[share] = None
        self._begin()

    async def _sync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._sync_every)
            try:
                self._begin_round()
            except Exception:  # noqa: BLE001 - whatever went wrong, the next round must come
                _log.exception("limits.failed")

    async def _wait(self, share: BucketShare, cost: float) -> Quota:
        answer: asyncio.Future[Quota] = asyncio.get_running_loop().create_future()
        share.waiting.append((cost, answer))
        self._hear(share)
        return await answer

    def _share(self, name: str, per_minute: float, burst: float) -> BucketShare:
        share = self._shares.pop(name, None)
        if share is None:
            if len(self._shares) >= self._max_shares:
                oldest = self._shares.pop(next(iter(self._shares)))
                oldest.retire()
                self._due[oldest] = None
                self._begin()
            share = BucketShare(name, clock(), self._sync_every)
        share.rate, share.burst = per_minute / 60, burst
        self._shares[name] = share
        return share

    def _hear(self, share: BucketShare) -> None:
        self._due[share] = None
        self._begin()

    def _begin(self) -> None:
        if self._reporting is None and (self._due or self._report is not None):
            self._reporting = asyncio.create_task(self._report_all(), name="limits")

    async def _reported(self) -> None:
        if self._reporting is not None:
            await asyncio.wait([self._reporting])

    async def _report_all(self) -> None:
        """Report what is due until nothing is: a request that comes while a script runs waits for the next."""
        try:
            while self._report is not None or self._due:
                # One that failed is repeated as it was: its number says that it is the same.
                self._report = self._report or self._next_report()
                try:
                    replies = await self._send(self._report)
                except Exception as error:  # noqa: BLE001 - no request may wait for an answer that never comes
                    if not isinstance(error, CoordinationUnavailable):
                        _log.exception("limits.failed")
                    self._fail(self._report)
                    return
                lines, self._report = self._report.lines, None
                for line, (given, tokens) in zip(lines, replies, strict=True):
                    line.share.confirm(given, tokens, clock())
        finally:
            self._reporting = None

    def _next_report(self) -> "_Report":
        now = clock()
        shares = list(self._due)[:_MAX_LINES]
        for share in shares:
            del self._due[share]
        self._reports += 1
        lines = [share.line(now, self._idle_seconds) for share in shares]
        return _Report(self._reports, now + self._give_up_seconds, lines)

    async def _send(self, report: "_Report") -> list[tuple[float, float]]:
        keys = [self._mark, *(f"{_SLOT}:limit:{line.share.name}" for line in report.lines)]
        buckets = [(line.share.rate, line.share.burst, line.spent, line.need, line.spare) for line in report.lines]
        argument = msgspec.json.encode({"report": report.number, "buckets": buckets})
        return _replies.decode(await self._connection.evaluate(self._script.text, self._script.sha, keys, argument))

    def _fail(self, report: "_Report") -> None:
        """Let those who wait go on without an answer; whether the report was heard is not known, so it comes again."""
        error = CoordinationUnavailable("The limits cannot be had.")
        for share in (*(line.share for line in report.lines), *self._due):
            share.fail(error)
        self._due.clear()
        if clock() > report.until:
            for line in report.lines:
                line.share.give_up()
            self._report = None


class _Report(Struct):
    """What is reported with one script.

    Attributes:
        number: Redis takes what was spent once for each number.
        until: When it is given up.
        lines: One for each bucket.
    """

    number: int
    until: float
    lines: list[ReportLine]
