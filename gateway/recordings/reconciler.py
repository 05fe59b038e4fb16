"""Keeps records true although no caller may come again: carries out what is due, and compares records with the list.

Every script of the protocol writes down when its target has to be looked at again. Any replica may take up what is due;
the claim decides which one does. One list answers for all that is due in a room: a list that agrees with a record
confirms it, and one that disagrees changes nothing by itself, since only a leader may.
"""

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from gateway.coordinator import Command, Coordinator, Record
from gateway.errors import CoordinationUnavailable, ListIncomplete, NewerRecord, UpstreamError
from gateway.observability import tracing
from gateway.recordings.decoding import key_of
from gateway.recordings.evidence import (
    Evidence,
    dead_rows,
    own_row,
    report_deliveries,
    report_duplicates,
    with_dead,
)
from gateway.recordings.leader import Leader
from gateway.recordings.listings import Listing, ListingCache, ReadBudget
from gateway.recordings.model import ENDED, EndReason, Status
from gateway.recordings.operation import Operation
from gateway.recordings.targets import Target, target_of
from gateway.store.scripts import BUCKETS
from gateway.videosdk.pace import Pace
from gateway.videosdk.rows import ListedRow

__all__ = ["Reconciler"]

_ROUND_SECONDS: Final = 1.0
_MAX_PER_BUCKET: Final = 500
_MAX_RECONCILING: Final = 200
"""Targets that are reconciled at once because of what was heard; the others are due, and come to their turn."""
_MAX_CONCURRENT_ROOMS: Final = 64
"""Rooms in which something uncertain is reconciled; and just as many, which do not hold those up, are compared."""
_MAX_CONCURRENT_ENDS: Final = 64
"""Recordings that are stopped at once because their time is over. Nothing else that is due takes their places, and more
would only wait for VideoSDK's client, while their claims grow old."""
_FILES_EVERY_SECONDS: Final = 2.0
_FILES_FOR_SECONDS: Final = 600.0
_REST_SECONDS: Final = 5.0
"""How long what is due in a room is left alone after its list could not be had."""

_log = structlog.get_logger("gateway.recordings")


class Reconciler:
    """Reconciles records with VideoSDK, for one process.

    Args:
        coordinator: Where records and due times are.
        listings: Says what VideoSDK records.
        leader: Finds out what a list cannot tell by itself.
        checks_per_second: Most rooms that are compared in a second because it is time; 0 is no limit.
        every: Seconds between two rounds, about.
        max_per_bucket: Targets of a bucket that are taken up in one round, the longest due first.
        max_concurrent_rooms: Rooms in which something uncertain is reconciled at once, and as many that are compared.
        max_reconciling: Targets that are reconciled at once because of what was heard.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        listings: ListingCache,
        leader: Leader,
        *,
        checks_per_second: float = 0,
        every: float = _ROUND_SECONDS,
        max_per_bucket: int = _MAX_PER_BUCKET,
        max_concurrent_rooms: int = _MAX_CONCURRENT_ROOMS,
        max_reconciling: int = _MAX_RECONCILING,
    ) -> None:
        self._coordinator = coordinator
        self._timing = coordinator.timing
        self._listings = listings
        self._leader = leader
        self._every = every
        self._max_per_bucket = max_per_bucket
        self._max_reconciling = max_reconciling
        self._pace = Pace(checks_per_second)
        self._reconciling: dict[str, asyncio.Task[None]] = {}
        self._checking: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(max_concurrent_rooms)
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._ends = asyncio.Semaphore(_MAX_CONCURRENT_ENDS)
        self._comparing = asyncio.Semaphore(max_concurrent_rooms)
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look for what is due."""
        self._loop = asyncio.create_task(self._check_for_ever(), name="reconciler")

    async def close(self) -> None:
        """Stop looking, and leave what is under way to other replicas."""
        loops = [self._loop] if self._loop else []
        tasks = [*self._reconciling.values(), *self._checking.values(), *self._ending.values(), *loops]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one record ----------------------------------------------------------------------------------------------

    async def reconcile(self, key: str) -> None:
        """Carry out what is left to do on a target, and find out what is not known of it.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        while await self._reconcile_once(key):
            pass  # a stop that was requested meanwhile is left to do

    async def _reconcile_once(self, key: str) -> bool:
        target = target_of(key)
        with tracing.span("reconcile", root=True, kind=target.label):
            claim, lease = await self._coordinator.claim(key, Command.RECONCILE)
            if lease is None:
                return False
            operation = Operation(key, target, Command.RECONCILE, claim, lease)
            await self._leader.lead(operation)
            return operation.stop_pending

    def reconcile_if_idle(self, key: str) -> None:
        """Reconcile a record in the background, unless so much is under way that it had better wait until it is due."""
        if len(self._reconciling) < self._max_reconciling:
            self.reconcile_soon(key)

    def reconcile_soon(self, key: str) -> asyncio.Task[None]:
        """Reconcile a record in the background, once for all who ask while that goes on."""
        task = self._reconciling.get(key)
        if task is None:
            task = self._reconciling[key] = asyncio.create_task(self.reconcile_quietly(key), name="reconcile")
            task.add_done_callback(lambda _: self._reconciling.pop(key, None))
        return task

    async def reconcile_all(self, keys: Iterable[str]) -> None:
        """Reconcile records, and wait for it."""
        tasks = [self.reconcile_soon(key) for key in keys]
        if tasks:
            await asyncio.gather(*(asyncio.shield(task) for task in tasks), return_exceptions=True)

    async def reconcile_quietly(self, key: str) -> None:
        """Reconcile a record; what goes wrong is logged, and tried again when the record is due."""
        try:
            await self.reconcile(key)
        except (CoordinationUnavailable, NewerRecord):
            _log.warning("settle.postponed", target=key)
        except Exception:  # noqa: BLE001 - one target's trouble must not end the reconciling of the others
            _log.exception("settle.failed", target=key)

    # --- what is due ---------------------------------------------------------------------------------------------

    async def _check_for_ever(self) -> None:
        while True:
            # Jittered, so that replicas seldom reach for the same target in the same moment.
            await asyncio.sleep(self._every * random.uniform(0.7, 1.3))  # noqa: S311
            try:
                await self._end_overdue()
                await self._check_due()
            except CoordinationUnavailable:
                continue
            except Exception:  # noqa: BLE001 - whatever went wrong, the next round must come
                _log.exception("look.failed")

    async def _end_overdue(self) -> None:
        for bucket in random.sample(range(BUCKETS), BUCKETS):
            self.end_soon(await self._coordinator.records.overdue(bucket, self._max_per_bucket))

    def end_soon(self, keys: Iterable[str]) -> None:
        """Begin to stop what has recorded for as long as it may, whatever else is under way in its room."""
        for key in keys:
            if key not in self._ending:
                task = self._ending[key] = asyncio.create_task(self._end(key), name="end")
                task.add_done_callback(lambda _, key=key: self._ending.pop(key, None))

    async def _end(self, key: str) -> None:
        async with self._ends:
            await self.reconcile_quietly(key)

    async def _check_due(self) -> None:
        for bucket in random.sample(range(BUCKETS), BUCKETS):
            rooms: dict[str, list[str]] = {}
            for key in await self._coordinator.records.due(bucket, self._max_per_bucket):
                rooms.setdefault(target_of(key).room_id, []).append(key)
            for room, keys in rooms.items():
                if room not in self._checking:
                    task = self._checking[room] = asyncio.create_task(self._check_quietly(keys), name="check")
                    task.add_done_callback(lambda _, room=room: self._checking.pop(room, None))

    async def _check_quietly(self, keys: list[str]) -> None:
        try:
            await self.check(keys)
        except (CoordinationUnavailable, NewerRecord):
            pass
        except Exception:  # noqa: BLE001 - one room's trouble must not end the checks of the others
            _log.exception("check.failed")

    # --- comparing -----------------------------------------------------------------------------------------------

    async def check(self, keys: Iterable[str]) -> None:
        """Look after targets of one room that are due.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        keys = list(keys)
        room = target_of(keys[0]).room_id
        async with self._places:
            read = await asyncio.gather(*(self._coordinator.records.read(key) for key in keys))
        # A record that was compared and then became suspect, or an unfinished one, needs a leader.
        certain = {
            key: record
            for key, record in zip(keys, read, strict=True)
            if record is not None and not record.holder and not record.stop_due
            and (record.state in ENDED or (record.state == Status.RECORDING and record.confirmed))
        }  # fmt: skip
        await asyncio.gather(
            self._reconcile_in_place([key for key in keys if key not in certain]), self._compare_in_turn(room, certain)
        )

    async def _reconcile_in_place(self, keys: Sequence[str]) -> None:
        if keys:
            async with self._places:
                await self.reconcile_all(keys)

    async def _compare_in_turn(self, room: str, records: dict[str, Record]) -> None:
        if not records:
            return
        async with self._comparing:
            await self._pace.turn()
            lists = await self._lists_of(room, records)
            await asyncio.gather(*(self._compare_due(room, listed, told) for listed, told in lists))

    async def _lists_of(self, room: str, records: dict[str, Record]) -> list[tuple[Listing | None, dict[str, Record]]]:
        """Return the lists that tell of the records, each with those that it tells of; None for what was not told.

        All that are due name their participants: one list of the room answers for all of them where it can be read.
        """
        targets = {key: target_of(key) for key in records}
        several = len({target.participant_id for target in targets.values()}) > 1

        async def ask(target: Target) -> Listing | None:
            # What is remembered of a whole room is about all modes, so that questions about each do not take turns.
            mode = None if several and target.participant_id else target.mode
            try:
                return await self._listings.ask(room, target.participant_id, mode)
            except UpstreamError:
                return None

        lists: dict[int, tuple[Listing | None, dict[str, Record]]] = {}
        for key, listed in zip(records, await asyncio.gather(*map(ask, targets.values())), strict=True):
            lists.setdefault(id(listed), (listed, {}))[1][key] = records[key]
        return list(lists.values())

    async def _compare_due(self, room: str, listed: Listing | None, records: dict[str, Record]) -> None:
        if listed is None:
            rest = _REST_SECONDS * random.uniform(1.0, 1.5)  # noqa: S311
            await asyncio.gather(
                *(self._coordinator.records.postpone(key, record, due_in=rest) for key, record in records.items())
            )
            return
        # Beside one record, what else its participant's list shows is not looked up: each has its own time.
        target = target_of(next(iter(records))) if len(records) == 1 else None
        await self._compare_with(listed, room, records, target)

    async def refresh(
        self,
        room: str,
        records: dict[str, Record],
        target: Target | None = None,
        *,
        whole: bool = False,
        max_age: float = 0,
        budget: ReadBudget | None = None,
    ) -> None:
        """Compare records with the list of their room, or of one target, if it can be had.

        Args:
            room: Which room.
            records: Those of it, or that of the target.
            target: What matters; None for the whole room.
            whole: Whether the whole room is listed all the same, where its list can be read.
            max_age: As `ListingCache.ask` takes it.
            budget: The same.

        Raises:
            TooManyRequests: The read cannot pay for the list.
        """
        whole = whole and not self._listings.is_in_parts(room)
        # What is remembered of a whole room is about all modes, so that questions about each do not take turns.
        participant, mode = (None, None) if target is None or whole else (target.participant_id, target.mode)
        try:
            listed = await self._listings.ask(room, participant, mode, max_age=max_age, budget=budget)
        except ListIncomplete:
            if target is not None and whole:
                await self.refresh(room, records, target, max_age=max_age, budget=budget)
        except UpstreamError:
            pass
        else:
            await self._compare_with(listed, room, records, target)

    async def _compare_with(
        self, listed: Listing, room: str, records: dict[str, Record], target: Target | None
    ) -> None:
        agreed = await asyncio.gather(*(self._compare(key, record, listed) for key, record in records.items()))
        differing = [key for key, agrees in zip(records, agreed, strict=True) if not agrees]
        await self.reconcile_all({*differing, *await self._unrecorded(room, records, target, listed)})

    async def _unrecorded(
        self, room: str, records: dict[str, Record], target: Target | None, listed: Listing
    ) -> set[str]:
        """Return what the list shows as recording although no record says so, of what was not compared."""
        targets = listed.open_targets(room)
        found = {key_of(self._coordinator, one) for one in targets if target in {None, one}} - records.keys()
        # Those of the room that are not due are known all the same.
        known = (await self._coordinator.records.room(room)).records if found and target is None else {}
        unrecorded: set[str] = set()
        for key in found:
            record = known.get(key) or await self._coordinator.records.read(key)
            if record is None:
                await self._coordinator.records.invalidate(key)
                unrecorded.add(key)
            elif record.state in ENDED and not await self._compare(key, record, listed):
                unrecorded.add(key)
        return unrecorded

    async def _compare(self, key: str, record: Record, listed: Listing) -> bool:
        """Return whether nothing is left to find out; where list and record agree, that is written down."""
        if record.holder:
            return True
        target, now = target_of(key), self._coordinator.now_ms()
        open_now = listed.open_rows_of(target, record, now, self._timing.settle)
        over = record.state in ENDED
        if not over and (record.state != Status.RECORDING or not open_now):
            return False
        if over and open_now:
            await self._coordinator.records.invalidate(key)
            return False
        report_duplicates(key, open_now)
        known = Evidence.decode(record.evidence, record.generation)
        row = self._row_of_ended(record, listed.of(target), known) if over else open_now[0]
        evidence = Evidence.of(record.generation, row, known, rivals=len(open_now) > 1) if row is not None else None
        if record.state == Status.FAILED and evidence is not None and evidence.ended:
            # It had begun after all.
            await self._coordinator.records.invalidate(key)
            return False
        # Whenever it ended: a row that is still open counts.
        stopping = bool(listed.open_rows_of(target, Record(evidence=record.evidence), now, settle=0))
        if evidence is not None:
            report_deliveries(known, evidence, target.label)
        return await self._coordinator.records.confirm(
            key,
            record,
            seen_at=listed.asked_at,
            evidence=with_dead(evidence.encode(), *dead_rows(record.evidence)) if evidence is not None else "",
            due_in=self._look_again(record, evidence, stopping=stopping),
        )

    def _row_of_ended(self, record: Record, rows: Sequence[ListedRow], known: Evidence | None) -> ListedRow | None:
        settled = self._coordinator.now_ms() - record.ended_at >= self._timing.settle * 1000
        if record.because == EndReason.REFUSED or (known is None and not settled):
            # It never was; or the list may not show it yet, and show the one before it.
            return None
        return own_row(rows, known, record.started_at, record.ended_at)

    def _look_again(self, record: Record, evidence: Evidence | None, *, stopping: bool) -> float:
        if record.state not in ENDED:
            return self._timing.check * random.uniform(0.9, 1.1)  # noqa: S311
        if stopping and self._timing.check:
            # The list may be behind the stop; or it left one of two recordings running, as will be known by then.
            return self._timing.settle
        return self._files_due(record, evidence)

    def _files_due(self, record: Record, evidence: Evidence | None) -> float:
        """Return when to look for the files of what has ended: ever more seldom, and not for ever."""
        age = (self._coordinator.now_ms() - record.ended_at) / 1000
        complete = evidence is not None and evidence.ended and evidence.files
        missing = evidence is None and age > self._timing.quiet
        if not self._timing.check or complete or missing or record.state == Status.FAILED or age > _FILES_FOR_SECONDS:
            return 0
        return max(_FILES_EVERY_SECONDS, age)
