"""Keeps records true, and tells what they say: compares them with VideoSDK's list, and hears its webhooks.

A list that agrees with a record confirms it. One that disagrees changes nothing by itself: the track is marked as
doubtful and settled by whoever claims it, as everything uncertain is. A webhook is a hint of where to look: it carries
no id and no time, so it may be an echo of an earlier recording.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from gateway.coordinator import Coordinator, Record
from gateway.errors import CoordinationUnavailable, NewerRecord, NotFound, UpstreamError
from gateway.recordings.evidence import Evidence, open_rows, own_row, report_deliveries, report_duplicates
from gateway.recordings.listings import ListingCache, TrackListing
from gateway.recordings.model import ENDED, EndReason, Kind, Recording, Status, Track, recording_of, track_of
from gateway.recordings.webhook_events import EventType, WebhookEvent
from gateway.videosdk.client import Pace, TrackRow

__all__ = ["Watcher"]

_ANSWER_SECONDS: Final = 1.5
"""How long a question waits for VideoSDK's answer before what is known is told."""
_MAX_SETTLING: Final = 200
"""Tracks that are settled at the same time because of what was heard; the others are due, and come to their turn."""
_NAMEABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FILES_EVERY_SECONDS: Final = 2.0
_FILES_FOR_SECONDS: Final = 600.0
_REST_SECONDS: Final = 5.0
"""How long what is due in a room is left alone after its list could not be had."""
_MAX_CONCURRENT_ROOMS: Final = 64
"""Rooms in which something uncertain is settled; and just as many, which do not keep those waiting, are compared."""
_HINTS: Final = {
    EventType.STOPPED: "ended",
    EventType.FAILED: "failed",
    EventType.LEFT: "participant_left",
    EventType.ENDED: "session_ended",
}
"""What is remembered of what was heard: the reason, if it turns out to be true."""

_log = structlog.get_logger("gateway.recordings")


class Watcher:
    """Compares, hears and tells, for one process.

    Args:
        coordinator: Where records are.
        listings: Whom to ask what records.
        reconcile: Who finds out what is uncertain of a record, by its key.
        checks_per_second: Most rooms that are compared in a second because it is time.
        max_concurrent_rooms: Rooms in which something uncertain is settled at the same time, and as many that are
            compared.
        max_settling: Tracks that are settled at the same time because of what was heard.
        answer_within: Seconds after which a question is answered with what is known.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        listings: ListingCache,
        reconcile: Callable[[str], Awaitable[None]],
        *,
        checks_per_second: float = 0,
        max_concurrent_rooms: int = _MAX_CONCURRENT_ROOMS,
        max_settling: int = _MAX_SETTLING,
        answer_within: float = _ANSWER_SECONDS,
    ) -> None:
        self._coordinator = coordinator
        self._timing = coordinator.timing
        self._listings = listings
        self._reconcile = reconcile
        self._reconciling: dict[str, asyncio.Task[None]] = {}
        self._pace = Pace(checks_per_second)
        self._places = asyncio.Semaphore(max_concurrent_rooms)
        self._comparing = asyncio.Semaphore(max_concurrent_rooms)
        self._max_settling = max_settling
        self._answer_within = answer_within
        self._tasks: set[asyncio.Future[object]] = set()

    async def close(self) -> None:
        """Leave what is under way to other replicas."""
        tasks = [*self._reconciling.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- telling -------------------------------------------------------------------------------------------------

    async def get(self, track: Track) -> Recording:
        """Return what is known of the track, compared with VideoSDK's list where that was long ago.

        Raises:
            NotFound: Nothing is known to have recorded it, or that is long ago.
            CoordinationUnavailable: Redis does not answer.
        """
        key = self._key(track)
        record = await self._coordinator.read(key)
        if self._is_stale(record):
            records = {} if record is None else {key: record}
            # Of what is not known the whole room is asked: one answer then does for whoever tries others in it.
            whole = record is None
            await self._patiently(self._refresh(track.room_id, records, track, whole=whole, max_age=self._timing.trust))
            record = await self._coordinator.read(key)
        if record is None or record.generation == "0":
            raise NotFound("The gateway knows of no recording of this track.")
        return recording_of(key, track, record)

    async def list(self, room: str) -> list[Recording]:
        """Return what is known of the room's tracks, by participant and kind, compared with VideoSDK's list like `get`.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        records = (await self._coordinator.room(room)).records
        if not records or any(self._is_stale(record) for record in records.values()):
            await self._patiently(self._refresh(room, records, max_age=self._timing.trust))
            records = (await self._coordinator.room(room)).records
        known = {key: record for key, record in records.items() if record.generation != "0"}
        return [recording_of(key, track_of(key), known[key]) for key in sorted(known)]

    def _is_stale(self, record: Record | None) -> bool:
        if record is None:
            return True
        if record.holder:
            return False  # whoever holds it finds out
        if record.state != Status.RECORDING and record.state not in ENDED:
            return True
        return self._coordinator.now_ms() - record.confirmed > self._timing.trust * 1000

    async def _patiently(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(TimeoutError, CoordinationUnavailable, NewerRecord):
            async with asyncio.timeout(self._answer_within):
                await asyncio.shield(task)

    async def reconcile(self, key: str) -> None:
        """Have what is uncertain of a record found out, and wait a moment for it."""
        await self._patiently(self._reconcile_all([key]))

    # --- hearing -------------------------------------------------------------------------------------------------

    async def handle(self, hint: WebhookEvent) -> None:
        """Look where VideoSDK says that something happened.

        When this returns it will be looked at: if not here, then by whichever replica settles what is due.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        if hint.happened in {EventType.STARTING, EventType.STOPPING}:
            return  # what is about to happen is not so yet
        track = Track(hint.room_id, hint.participant_id, hint.kind) if hint.participant_id and hint.kind else None
        concerned = await self._concerned(hint, track)
        if reason := _HINTS.get(hint.happened):
            running = [key for key, record in concerned.items() if record.state not in ENDED]
            suspect = [key for key in running if await self._coordinator.invalidate(key, hint=reason)]
        else:
            suspect = [key for key, record in concerned.items() if record.state == Status.UNKNOWN]
        for key in suspect[: max(self._max_settling - len(self._reconciling), 0)]:
            self._reconcile_once(key)
        # An end that is known may have files now; a beginning may be one that nobody here knows of.
        if track is not None and all(record.state in ENDED for record in concerned.values()):
            await self._refresh(hint.room_id, concerned, track)

    async def _concerned(self, hint: WebhookEvent, track: Track | None) -> dict[str, Record]:
        if track is not None:
            record = await self._coordinator.read(self._key(track))
            return {} if record is None else {self._key(track): record}
        records = (await self._coordinator.room(hint.room_id)).records
        return {key: record for key, record in records.items() if hint.concerns(track_of(key))}

    # --- comparing -----------------------------------------------------------------------------------------------

    async def check(self, keys: Iterable[str]) -> None:
        """Look after tracks of one room that are due.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        keys = list(keys)
        room = track_of(keys[0]).room_id
        async with self._places:
            read = await asyncio.gather(*(self._coordinator.read(key) for key in keys))
        # What was compared with the list and then doubted, or left unfinished, needs somebody who claims it.
        certain = {
            key: record
            for key, record in zip(keys, read, strict=True)
            if record is not None and not record.holder and not record.intent
            and (record.state in ENDED or (record.state == Status.RECORDING and record.confirmed))
        }  # fmt: skip
        await asyncio.gather(
            self._reconcile_in_place([key for key in keys if key not in certain]), self._compare_in_turn(room, certain)
        )

    async def _reconcile_in_place(self, keys: Sequence[str]) -> None:
        if keys:
            async with self._places:
                await self._reconcile_all(keys)

    async def _compare_in_turn(self, room: str, records: dict[str, Record]) -> None:
        if not records:
            return
        async with self._comparing:
            await self._pace.turn()
            track = track_of(next(iter(records))) if len(records) == 1 else None
            if not await self._refresh(room, records, track):
                rest = _REST_SECONDS * random.uniform(1.0, 1.5)  # noqa: S311
                await asyncio.gather(
                    *(self._coordinator.postpone(key, record, due_in=rest) for key, record in records.items())
                )

    async def _refresh(
        self,
        room: str,
        records: dict[str, Record],
        track: Track | None = None,
        *,
        whole: bool = False,
        max_age: float = 0,
    ) -> bool:
        """Compare records with the list of their room, or of one track. Return whether the list could be had."""
        participant = None if track is None or whole else track.participant_id
        try:
            listed = await self._listings.ask(room, participant, max_age=max_age)
        except UpstreamError:
            return False
        agreed = await asyncio.gather(*(self._compare(key, record, listed) for key, record in records.items()))
        differing = [key for key, agrees in zip(records, agreed, strict=True) if not agrees]
        await self._reconcile_all({*differing, *await self._strangers(room, records, track, listed)})
        return True

    async def _strangers(
        self, room: str, records: dict[str, Record], track: Track | None, listed: TrackListing
    ) -> set[str]:
        """Return what records although nobody here knows of it, of what was not compared."""
        begun = {(row.participant_id or "", row.kind or "") for row in listed.rows if row.end is None}
        # VideoSDK may know participants and kinds that no caller here could name.
        nameable = [(who, kind) for who, kind in begun if _NAMEABLE.fullmatch(who) and kind in set(Kind)]
        tracks = [Track(room, participant, Kind(kind)) for participant, kind in nameable]
        found = {self._key(one) for one in tracks if track in {None, one}} - records.keys()
        # Those of the room that are not due are known all the same.
        known = (await self._coordinator.room(room)).records if found and track is None else {}
        strangers: set[str] = set()
        for key in found:
            record = known.get(key) or await self._coordinator.read(key)
            if record is None:
                await self._coordinator.invalidate(key)
                strangers.add(key)
            elif record.state in ENDED and not await self._compare(key, record, listed):
                strangers.add(key)
        return strangers

    async def _compare(self, key: str, record: Record, listed: TrackListing) -> bool:
        """Return whether nothing is left to find out; where list and record agree, that is written down."""
        if record.holder:
            return True
        rows = listed.of(track_of(key))
        records = open_rows(rows, record.ended_at, self._coordinator.now_ms(), self._timing.reconcile)
        over = record.state in ENDED
        if not over and (record.state != Status.RECORDING or not records):
            return False
        if over and records:
            await self._coordinator.invalidate(key)
            return False
        report_duplicates(key, records)
        known = Evidence.decode(record.evidence, record.generation)
        row = self._row_of_ended(record, rows, known) if over else records[0]
        evidence = Evidence.of(record.generation, row) if row is not None else None
        if evidence is not None:
            report_deliveries(known, evidence, track_of(key).kind)
        return await self._coordinator.confirm(
            key,
            record,
            seen_at=listed.asked_at,
            evidence=evidence.encode() if evidence is not None else "",
            due_in=self._files_due(record, evidence) if over else self._timing.check * random.uniform(0.9, 1.1),  # noqa: S311
        )

    def _row_of_ended(self, record: Record, rows: Sequence[TrackRow], known: Evidence | None) -> TrackRow | None:
        settled = self._coordinator.now_ms() - record.ended_at >= self._timing.reconcile * 1000
        if record.because == EndReason.REFUSED or (known is None and not settled):
            # It never was; or the list may not show it yet, and show the one before it.
            return None
        return own_row(rows, known, record.started_at, record.ended_at)

    def _files_due(self, record: Record, evidence: Evidence | None) -> float:
        """Return when to look for the files of what has ended: ever more seldom, and not for ever."""
        age = (self._coordinator.now_ms() - record.ended_at) / 1000
        complete = evidence is not None and evidence.ended and evidence.files
        missing = evidence is None and age > self._timing.quiet
        if not self._timing.check or complete or missing or record.state == Status.FAILED or age > _FILES_FOR_SECONDS:
            return 0
        return max(_FILES_EVERY_SECONDS, age)

    async def _reconcile_all(self, keys: Iterable[str]) -> None:
        tasks = [self._reconcile_once(key) for key in keys]
        if tasks:
            await asyncio.gather(*(asyncio.shield(task) for task in tasks), return_exceptions=True)

    def _reconcile_once(self, key: str) -> asyncio.Task[None]:
        task = self._reconciling.get(key)
        if task is None:
            task = self._reconciling[key] = asyncio.create_task(self._reconcile_quietly(key), name="reconcile")
            task.add_done_callback(lambda _: self._reconciling.pop(key, None))
        return task

    async def _reconcile_quietly(self, key: str) -> None:
        try:
            await self._reconcile(key)
        except (CoordinationUnavailable, NewerRecord):
            pass
        except Exception:  # noqa: BLE001 - one track's trouble must not end the settling of the others
            _log.exception("settle.failed", track=key)

    def _key(self, track: Track) -> str:
        return self._coordinator.key(track.room_id, track.participant_id, track.kind)
