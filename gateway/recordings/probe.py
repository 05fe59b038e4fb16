"""What VideoSDK's list proves of the target that a leader holds: whether it records, and whether to believe absence."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from gateway.coordinator import Coordinator
from gateway.errors import UpstreamError
from gateway.recordings.evidence import Evidence, open_rows, own_row, report_deliveries, report_duplicates
from gateway.recordings.listings import ListingCache
from gateway.recordings.model import ENDED, Status
from gateway.recordings.operation import Operation
from gateway.store.clock import clock
from gateway.videosdk.client import ListedRow

__all__ = ["LOOK_PAUSES", "MISSES_APART_SECONDS", "NONE_RUNS", "Probe", "noted"]

LOOK_PAUSES: Final = (0.25, 0.5, 1.0, 2.0)
"""Between one look at the list and the next, in seconds."""
MISSES_APART_SECONDS: Final = 1.0
"""How far apart two lists must be that together end a recording."""
NONE_RUNS: Final = frozenset({"", *ENDED})
"""The states in which nothing was known to record."""


class Probe:
    """Asks the list for a leader, and says what follows from it. It sends nothing and writes nothing.

    Args:
        coordinator: Whose clock and times count.
        listings: Whom to ask what records.
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
        records = open_rows(rows, found.ended_at, self._coordinator.now_ms(), self._timing.settle)
        report_duplicates(operation.key, records)
        row = next(iter(records), None)
        known = operation.evidence
        if shown := row or own_row(rows, known, operation.record.started_at, found.ended_at):
            now = Evidence.of(operation.record.generation, shown)
            report_deliveries(known, now, operation.target.label)
            operation.learn(now.encode())
        return row

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
        """Tell whether the very row that was seen open before the claim is now seen closed."""
        found = operation.claim.record
        known = Evidence.decode(found.evidence, found.generation)
        now = Evidence.decode(operation.record.evidence, found.generation)
        return known is not None and now is not None and now.ended

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

    def end_of(self, operation: Operation) -> Status:
        """Return what nothing recording means: that it stopped, or that it never was."""
        before = operation.claim.before
        if before in NONE_RUNS:
            return Status(before or Status.STOPPED)
        was = before == Status.STOPPING or operation.evidence is not None
        return Status.STOPPED if was else Status.FAILED


@contextmanager
def noted(operation: Operation, call: str) -> Generator[None]:
    """Keep for operators what VideoSDK answered."""
    try:
        yield
    except UpstreamError as error:
        operation.upstream = f"{call} {error.status or type(error).__name__}"
        raise
    operation.upstream = f"{call} 200"
