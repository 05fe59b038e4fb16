"""What VideoSDK's list proves of the target that a leader holds: whether it records, and whether to believe absence."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from gateway.coordinator import Coordinator, Lease
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
        lease = operation.lease
        with noted(lease, "list"):
            listed = await self._listings.ask(
                operation.target.room_id, operation.target.participant_id, operation.target.mode
            )
        lease.looked_at = listed.asked_at
        rows = listed.of(operation.target)
        records = open_rows(rows, operation.claim.ended_at, self._coordinator.now_ms(), self._timing.settle)
        report_duplicates(operation.key, records)
        row = next(iter(records), None)
        known = Evidence.decode(lease.evidence, lease.generation)
        if shown := row or own_row(rows, known, lease.started_at, operation.claim.ended_at):
            now = Evidence.of(lease.generation, shown)
            report_deliveries(known, now, operation.target.label)
            lease.evidence = now.encode()
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
        return (self._coordinator.now_ms() - operation.lease.started_at) / 1000 if operation.lease.started_at else 0.0

    def is_behind(self, operation: Operation) -> bool:
        """Tell whether the list may not yet show what the record tells of.

        A start lands at the latest when its result is written, which may be long after it was sent; and never later
        than it may be sent and be waited for, whatever was written since.
        """
        now, started_at = self._coordinator.now_ms(), operation.lease.started_at
        latest = started_at + (self._timing.quiet - self._timing.settle) * 1000 if started_at else now
        return now - min(operation.claim.written, latest) < self._timing.settle * 1000

    def seen_to_end(self, operation: Operation) -> bool:
        """Tell whether the very row that was seen open before the claim is now seen closed."""
        known = Evidence.decode(operation.claim.evidence, operation.claim.generation)
        now = Evidence.decode(operation.lease.evidence, operation.claim.generation)
        return known is not None and now is not None and now.ended

    def is_missed(self, operation: Operation, first: float, last: float) -> bool:
        """Tell whether a list without the target is believed: once about what never ran, twice about what recorded."""
        recorded = operation.claim.before == Status.RECORDING and not self.seen_to_end(operation)
        return not recorded or last - first >= MISSES_APART_SECONDS

    def may_give_up(self, operation: Operation, tries: int) -> bool:
        """Tell whether a look that is refused may end in that refusal: nothing was sent that could land."""
        claim = operation.claim
        return tries > 0 and claim.before in NONE_RUNS and claim.start_may_land_ms == 0 and claim.stop_may_land_ms == 0

    def end_of(self, operation: Operation) -> Status:
        """Return what nothing recording means: that it stopped, or that it never was."""
        before = operation.claim.before
        if before in NONE_RUNS:
            return Status(before or Status.STOPPED)
        was = (
            before == Status.STOPPING
            or Evidence.decode(operation.lease.evidence, operation.lease.generation) is not None
        )
        return Status.STOPPED if was else Status.FAILED


@contextmanager
def noted(lease: Lease, operation: str) -> Generator[None]:
    """Keep for operators what VideoSDK answered."""
    try:
        yield
    except UpstreamError as error:
        lease.upstream = f"{operation} {error.status or type(error).__name__}"
        raise
    lease.upstream = f"{operation} 200"
