"""What VideoSDK's list proves of the target that a leader holds: whether it records, and whether to believe absence."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

from gateway.coordinator import Coordinator
from gateway.errors import CoordinationUnavailable, NewerRecord, Refused, UpstreamError
from gateway.recordings.evidence import (
    SKEW_MS,
    Evidence,
    milliseconds,
    open_rows,
    own_row,
    report_dead,
    report_deliveries,
    report_duplicates,
    row_name,
)
from gateway.recordings.listings import Listing, ListingCache
from gateway.recordings.model import ENDED, EndReason, Status
from gateway.recordings.operation import Operation, begun_by, is_foreign
from gateway.store.clock import clock
from gateway.videosdk.rows import ListedRow

__all__ = ["LOOK_PAUSES", "MISSES_APART_SECONDS", "NONE_RUNS", "Probe", "noted"]

LOOK_PAUSES: Final = (0.25, 0.5, 1.0, 2.0)
"""Between one look at the list and the next, in seconds."""
MISSES_APART_SECONDS: Final = 1.0
"""How far apart two lists must be that together end a recording."""
_NOTHING_TO_STOP: Final = frozenset({400, 404, 409})
NONE_RUNS: Final = frozenset({"", *ENDED})
"""The states in which nothing was known to record."""


class Probe:
    """Asks the list for a leader, and says what follows from it. It sends nothing and writes nothing.

    Args:
        coordinator: Whose clock and times count.
        listings: VideoSDK's lists of what records.
    """

    def __init__(self, coordinator: Coordinator, listings: ListingCache) -> None:
        self._coordinator = coordinator
        self._listings = listings
        self._timing = coordinator.timing

    async def open_row(self, operation: Operation) -> ListedRow | None:
        """Return what VideoSDK lists as recording this target now, None where nothing does.

        Raises:
            UpstreamError: VideoSDK did not return the list: the state is unknown.
        """
        with noted(operation, "list"):
            listed = await self._listings.ask(
                operation.target.room_id, operation.target.participant_id, operation.target.mode
            )
        operation.looked_at = listed.asked_at
        rows, found = listed.of(operation.target), operation.claim.record
        open_now = open_rows(rows, found.ended_at, self._coordinator.now_ms(), self._timing.settle, operation.dead)
        open_now = [row for row in open_now if not await self._bury_if_dead(operation, row, listed)]
        report_duplicates(operation.key, open_now)
        row = next(iter(open_now), None)
        known = operation.evidence
        own = own_row(rows, known, operation.record.started_at, found.ended_at)
        operation.stop_missed = row is not None and _was_open_at_stop(operation, row, rows)
        shown = own if row is None or operation.stop_missed else row
        if shown is not None:
            now = Evidence.of(operation.record.generation, shown, known, rivals=len(open_now) > 1)
            report_deliveries(known, now, operation.target.label)
            operation.learn(now)
        return row

    async def _bury_if_dead(self, operation: Operation, row: ListedRow, listed: Listing) -> bool:
        """Tell whether an open row is dead, and have the record remember it."""
        if not await self._session_is_over(operation, row, listed):
            return False
        self.bury(operation, row, "session_over")
        return True

    def bury(self, operation: Operation, row: ListedRow, reason: str) -> None:
        """Have the record remember that a row is dead."""
        operation.bury(row_name(row))
        report_dead(operation.key, row, reason)

    async def _session_is_over(self, operation: Operation, row: ListedRow, listed: Listing) -> bool:
        if not row.session_id:
            return False
        if listed.is_superseded(row):
            return True
        return await self._listings.is_over(operation.target.room_id, row)

    def is_unstoppable(self, operation: Operation, row: ListedRow, error: Refused) -> bool:
        """Count a stop of an open row that VideoSDK refused, and tell whether the row is dead by that.

        Only of a row that was open before any start of ours: what we started ourselves is stopped until it ends. And
        only by refusals that are about the recording: those of the other families may be about who asks.
        """
        known = operation.evidence
        if error.status not in _NOTHING_TO_STOP or known is None or known.videosdk_id != row.id:
            return False
        now = self._coordinator.now_ms()
        known = known.refused(now)
        operation.learn(known)
        return not begun_by(operation.record, row) and known.cannot_be_stopped(now, 4 * self._timing.settle)

    async def look_for(self, operation: Operation, seconds: float) -> ListedRow | None:
        """Look whether a start without an answer was carried out, for a short while."""
        until = clock() + seconds
        for pause in LOOK_PAUSES:
            try:
                if row := await self.open_row(operation):
                    return row
            except UpstreamError:
                pass
            if clock() + pause > until:
                break
            await asyncio.sleep(pause)
        return None

    def age(self, operation: Operation) -> float:
        """Return how many seconds ago the last start was sent, 0 where the record knows of none."""
        started_at = operation.record.started_at
        return (self._coordinator.now_ms() - started_at) / 1000 if started_at else 0.0

    def refusals_age(self, operation: Operation) -> float:
        """Return for how many seconds stops have been refused of what the list shows as open."""
        known = operation.evidence
        since = known.refused_since if known is not None else 0
        return (self._coordinator.now_ms() - since) / 1000 if since else 0.0

    def stop_age(self, operation: Operation) -> float:
        """Return how many seconds ago the stop that is carried out was requested."""
        return max(self._coordinator.now_ms() - operation.record.stop_requested_at / 1000, 0) / 1000

    def is_behind(self, operation: Operation) -> bool:
        """Tell whether the list may not yet show what the record tells of.

        A start lands at the latest when its result is written, which may be long after it was sent; and never later
        than it may be sent and be waited for, whatever was written since.
        """
        now, started_at = self._coordinator.now_ms(), operation.record.started_at
        latest = started_at + (self._timing.quiet - self._timing.settle) * 1000 if started_at else now
        return now - min(operation.claim.written, latest) < self._timing.settle * 1000

    def stops_land_until(self, operation: Operation) -> float:
        """Return until when (`clock`) a stop that was sent before the claim may land, and end what a list shows."""
        return operation.begun_at + operation.claim.stop_may_land_ms / 1000

    def certain_from(self, operation: Operation) -> float:
        """Return from when on (`clock`) a list without the target proves that nothing records, or can any more."""
        claim = operation.claim
        starts_land_until = operation.begun_at + claim.start_may_land_ms / 1000
        # Until then rows are hidden that may have been stopped, and may have begun just before the stop was written.
        trusted_from = operation.begun_at + self._timing.settle - (claim.now - claim.record.ended_at) / 1000
        return max(starts_land_until, self.stops_land_until(operation), trusted_from)

    def seen_to_end(self, operation: Operation) -> bool:
        """Tell whether the very recording is seen closed: a row that was seen open before the claim, or that is ours.

        A row is that began with our start, after the recording before it had ended by more than the clocks may differ.
        """
        found = operation.claim.record
        known = Evidence.decode(found.evidence, found.generation)
        now = Evidence.decode(operation.record.evidence, found.generation)
        if now is None or not now.ended:
            return False
        return known is not None or (
            not is_foreign(found)
            and bool(found.started_at)
            and milliseconds(now.start) > max(found.started_at - SKEW_MS, found.ended_at + SKEW_MS)
        )

    def is_missed(self, operation: Operation, first: float, last: float) -> bool:
        """Tell whether lists without the target are believed: one about what never ran, two about what recorded.

        One miss may be the list's, and a list may be behind a start. Two some time apart end a recording, and one
        does where the very row that was seen open is now seen closed.

        Args:
            operation: Whose.
            first: When (`clock`) the first of them was asked.
            last: The same of the last.
        """
        if operation.claim.before != Status.RECORDING or self.seen_to_end(operation):
            return True
        return last - first >= MISSES_APART_SECONDS and not self.is_behind(operation)

    def nothing_lands(self, operation: Operation) -> bool:
        """Tell whether nothing that was sent before the claim can land any more."""
        return operation.claim.start_may_land_ms == 0 and operation.claim.stop_may_land_ms == 0

    async def read_reports(self, operation: Operation) -> None:
        """Take in what webhooks proved of the recording since the claim."""
        with suppress(CoordinationUnavailable, NewerRecord):
            record = await self._coordinator.records.read(operation.key)
            proof = record and Evidence.decode(record.evidence, operation.record.generation)
            if proof is not None:
                operation.learn(proof)

    def end_of(self, operation: Operation) -> Status:
        """Return what nothing recording means: that it stopped, or that it never was."""
        before, known = operation.claim.before, operation.evidence
        if before == Status.FAILED and known is not None and known.ended:
            return Status.STOPPED  # it had begun after all
        if before in NONE_RUNS:
            return Status(before or Status.STOPPED)
        was = before == Status.STOPPING or known is not None
        return Status.STOPPED if was else Status.FAILED


def _was_open_at_stop(operation: Operation, row: ListedRow, rows: list[ListedRow]) -> bool:
    """Tell whether a row is open that a stop should have ended which VideoSDK confirmed.

    VideoSDK's own clock tells, where it shows what the stop has ended. Without that a row has to be older by more than
    the clocks may differ: rather one too many runs on than that a newer one is stopped.
    """
    found = operation.claim.record
    if operation.claim.before != Status.STOPPED or found.because != EndReason.STOPPED:
        return False
    ends = [milliseconds(other.end) for other in rows if other.end is not None]
    stopped_at = [end for end in ends if abs(end - found.ended_at) <= SKEW_MS]
    # As it was at the claim: this operation's own looks may have learnt of a newer one.
    known = Evidence.decode(found.evidence, found.generation)
    itself = known is not None and known.videosdk_id == row.id
    return itself or milliseconds(row.start) < max(stopped_at, default=found.ended_at - SKEW_MS)


@contextmanager
def noted(operation: Operation, call: str) -> Generator[None]:
    """Keep for operators what VideoSDK answered."""
    try:
        yield
    except UpstreamError as error:
        operation.upstream = f"{call} {error.status or type(error).__name__}"
        raise
    operation.upstream = f"{call} 200"
