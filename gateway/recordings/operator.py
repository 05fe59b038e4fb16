"""What an operator may do beyond looking: have a track looked at now, and take a claim away from its holder."""

import structlog

from gateway.coordinator import Backlog, Coordinator, PendingTrack
from gateway.errors import GatewayError, NotFound, UpstreamError
from gateway.recordings.failures import problem_for
from gateway.recordings.listings import ListingCache
from gateway.recordings.model import Recording
from gateway.recordings.reconciler import Reconciler
from gateway.recordings.recordings import Recordings
from gateway.recordings.targets import Track

__all__ = ["Operator"]

_log = structlog.get_logger("gateway.audit")


class Operator:
    """Serves people who look after the gateway.

    Args:
        coordinator: Where claims are.
        backlog: Where they are read.
        listings: Whom to ask what records.
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

    async def pending_tracks(self, most: int) -> tuple[int, list[PendingTrack]]:
        """Return Redis's clock (ms), and the tracks that are held or due, the soonest due first.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        pending_tracks = await self._backlog.look(most)
        return await self._backlog.now(), pending_tracks

    async def reconcile(self, track: Track, *, by: str) -> Recording:
        """Ask VideoSDK now, whatever is believed, and return what is known after it.

        Raises:
            NotFound: Nothing is known of the track.
            CoordinationUnavailable: Redis does not answer.
        """
        recording = await self._recordings.get(track)
        key = self._key(track)
        await self._coordinator.records.invalidate(key)
        await self._recordings.briefly(self._reconciler.reconcile_all([key]))
        _log.warning("audit.settled", by=by, track=key, recording=recording.id)
        return await self._recordings.get(track)

    async def release(self, track: Track, *, reason: str, by: str) -> tuple[bool, Recording]:
        """Take the track's claim away, after a look at VideoSDK; the next leader then finds out what is true.

        Nothing is sent again before its quiet time is over: what the holder sent may still land.

        Returns:
            Whether a claim was taken away, and what is known now.

        Raises:
            NotFound: Nothing is known of the track.
            GatewayError: VideoSDK could not be asked: nothing was taken away. Or Redis does not answer.
        """
        key = self._key(track)
        pending_tracks = await self._backlog.read(key)
        if pending_tracks is None or not pending_tracks.state:
            raise NotFound("The gateway knows of no recording of this track.")
        try:
            listed = await self._listings.ask(track.room_id, track.participant_id, track.mode)
        except UpstreamError as error:
            raise _unseen(problem_for(error)) from None
        records = sum(row.end is None for row in listed.of(track))
        taken = bool(pending_tracks.holder) and await self._coordinator.records.revoke(key, pending_tracks.holder)
        _log.warning(
            "audit.claim_released",
            by=by, reason=reason, track=key, taken=taken, attempt=pending_tracks.holder, owner=pending_tracks.owner,
            action=pending_tracks.action, records=records,
        )  # fmt: skip
        await self._recordings.briefly(self._reconciler.reconcile_all([key]))
        return taken, await self._recordings.get(track)

    def _key(self, track: Track) -> str:
        return self._coordinator.key(track.room_id, *track.parts)


def _unseen(problem: GatewayError) -> GatewayError:
    return type(problem)(
        "VideoSDK could not be asked what records, so no claim was taken away.", retry_after=problem.retry_after
    )
