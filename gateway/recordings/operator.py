"""What an operator may do beyond looking: have a target looked at now, and take a claim away from its holder."""

from collections.abc import Callable

import structlog

from gateway.coordinator import Backlog, Coordinator, PendingTarget
from gateway.errors import GatewayError, NotFound, UpstreamError
from gateway.recordings.decoding import key_of
from gateway.recordings.evidence import Evidence, dead_rows, report_dead, row_name, with_dead
from gateway.recordings.failures import problem_for
from gateway.recordings.listings import ListingCache
from gateway.recordings.model import Recording
from gateway.recordings.operation import begun_by
from gateway.recordings.reconciler import Reconciler
from gateway.recordings.recordings import Recordings
from gateway.recordings.targets import Target, target_of
from gateway.videosdk.rows import ListedRow

__all__ = ["Operator"]

_log = structlog.get_logger("gateway.audit")


class Operator:
    """Serves people who look after the gateway.

    Args:
        coordinator: Where claims are.
        backlog: Where they are read.
        listings: VideoSDK's lists of what records.
        reconciler: Finds out what is uncertain.
        recordings: Shows what is known.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        backlog: Backlog,
        listings: ListingCache,
        reconciler: Reconciler,
        recordings: Recordings,
    ) -> None:
        self._coordinator = coordinator
        self._backlog = backlog
        self._listings = listings
        self._reconciler = reconciler
        self._recordings = recordings

    async def pending(self, most: int, covered: Callable[[Target], bool]) -> tuple[int, list[PendingTarget]]:
        """Return Redis's clock (ms), and up to `most` of the covered targets that are held or due, the soonest first.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        pending = await self._backlog.pending(most, lambda key: covered(target_of(key)))
        return await self._backlog.now(), pending

    async def reconcile(self, target: Target, *, by: str) -> Recording:
        """Ask VideoSDK now, whatever is believed, and return what is known after it.

        Raises:
            NotFound: Nothing is known of the target.
            CoordinationUnavailable: Redis does not answer.
        """
        recording = await self._recordings.get(target)
        key = key_of(self._coordinator, target)
        await self._coordinator.records.invalidate(key)
        await self._recordings.briefly(self._reconciler.reconcile_all([key]))
        _log.warning("audit.settled", by=by, target=key, recording=recording.id)
        return await self._recordings.get(target)

    async def release(self, target: Target, *, reason: str, by: str) -> tuple[bool, Recording]:
        """Take the target's claim away, after a look at VideoSDK; the next leader then finds out what is true.

        Nothing is sent again before its quiet time is over: what the holder sent may still land. What VideoSDK lists as
        open and no start of the gateway began, or VideoSDK has refused to stop, is dead from then on by the operator's
        word, so that a start is really sent: VideoSDK refuses it if it records all the same.

        Returns:
            Whether a claim was taken away, and what is known now.

        Raises:
            NotFound: Nothing is known of the target.
            GatewayError: VideoSDK could not be asked: nothing was taken away. Or Redis does not answer.
        """
        key = key_of(self._coordinator, target)
        pending = await self._backlog.read(key)
        if pending is None or not pending.state:
            raise NotFound(f"The gateway knows of no recording of this {target.mode}.")
        try:
            listed = await self._listings.ask(target.room_id, target.participant_id, target.mode)
        except UpstreamError as error:
            raise _unseen(problem_for(error)) from None
        open_now = [row for row in listed.of(target) if row.end is None]
        taken = bool(pending.holder) and await self._coordinator.records.revoke(key, pending.holder)
        _log.warning(
            "audit.claim_released",
            by=by, reason=reason, target=key, taken=taken, attempt=pending.holder, owner=pending.owner,
            action=pending.action, records=len(open_now),
        )  # fmt: skip
        await self._bury(key, open_now)
        await self._recordings.briefly(self._reconciler.reconcile_all([key]))
        return taken, await self._recordings.get(target)

    async def _bury(self, key: str, open_now: list[ListedRow]) -> None:
        record = await self._coordinator.records.read(key)
        if record is None or record.holder:
            return
        known = Evidence.decode(record.evidence, record.generation)
        refused = known.videosdk_id if known is not None and known.stops_refused else ""
        dead = [
            row for row in open_now
            if row_name(row) not in dead_rows(record.evidence)
            and (row_name(row) == refused or not begun_by(record, row))
        ]  # fmt: skip
        for row in dead:
            report_dead(key, row, "released")
        if dead:
            evidence = with_dead(record.evidence, *map(row_name, dead))
            await self._coordinator.records.invalidate(key, evidence=evidence)


def _unseen(problem: GatewayError) -> GatewayError:
    return type(problem)(
        "VideoSDK could not be asked what records, so no claim was taken away.", retry_after=problem.retry_after
    )
