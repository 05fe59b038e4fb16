"""What an operator may do beyond looking: have a track looked at now, and take a claim away from whoever holds it."""

import structlog

from gateway.coordinator import Attended, Coordinator, Overview
from gateway.errors import GatewayError, NotFound, UpstreamError
from gateway.recordings.lists import Lists
from gateway.recordings.model import Recording, Track
from gateway.recordings.translation import meaning
from gateway.recordings.watcher import Watcher

__all__ = ["Operator"]

_log = structlog.get_logger("gateway.audit")


class Operator:
    """Serves people who look after the gateway.

    Args:
        coordinator: Where claims are.
        overview: Where they are read.
        lists: Whom to ask what records.
        watcher: Who settles.
    """

    def __init__(self, coordinator: Coordinator, overview: Overview, lists: Lists, watcher: Watcher) -> None:
        self._coordinator = coordinator
        self._overview = overview
        self._lists = lists
        self._watcher = watcher

    async def attended(self, most: int) -> tuple[int, list[Attended]]:
        """Return Redis's clock (ms), and the tracks that somebody holds or has to look at, the soonest due first.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        attended = await self._overview.look(most)
        return await self._overview.now(), attended

    async def settle(self, track: Track, *, by: str) -> Recording:
        """Ask VideoSDK now, whatever is believed, and return what is known after it.

        Raises:
            NotFound: Nothing is known of the track.
            CoordinationUnavailable: Redis does not answer.
        """
        recording = await self._watcher.get(track)
        key = self._key(track)
        await self._coordinator.doubt(key)
        await self._watcher.settle(key)
        _log.warning("audit.settled", by=by, track=key, recording=recording.id)
        return await self._watcher.get(track)

    async def release(self, track: Track, *, reason: str, by: str) -> tuple[bool, Recording]:
        """Take the track's claim away, after a look at VideoSDK; the track is then settled by whoever comes.

        Nothing is sent again before its quiet time is over: what the holder sent may still land.

        Returns:
            Whether a claim was taken away, and what is known now.

        Raises:
            NotFound: Nothing is known of the track.
            GatewayError: VideoSDK could not be asked: nothing was taken away. Or Redis does not answer.
        """
        key = self._key(track)
        attended = await self._overview.read(key)
        if attended is None or not attended.state:
            raise NotFound("The gateway knows of no recording of this track.")
        try:
            listed = await self._lists.ask(track.room_id, track.participant_id)
        except UpstreamError as error:
            raise _unseen(meaning(error)) from None
        records = sum(row.end is None for row in listed.of(track))
        taken = bool(attended.holder) and await self._coordinator.take_away(key, attended.holder)
        _log.warning(
            "audit.claim_released",
            by=by, reason=reason, track=key, taken=taken, attempt=attended.holder, owner=attended.owner,
            doing=attended.doing, records=records,
        )  # fmt: skip
        await self._watcher.settle(key)
        return taken, await self._watcher.get(track)

    def _key(self, track: Track) -> str:
        return self._coordinator.key(track.room_id, track.participant_id, track.kind)


def _unseen(problem: GatewayError) -> GatewayError:
    return type(problem)(
        "VideoSDK could not be asked what records, so no claim was taken away.", retry_after=problem.retry_after
    )
