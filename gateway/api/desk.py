"""What lies between a route and the domain: what the caller may ask for, how often, and whether it was answered before.

The order matters. Nothing of a request that is not valid or not allowed reaches Redis; a replay is counted like any
other request; and what is kept or charged is what really came of it.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from litestar import Request, Response

from gateway.api.callers import Caller
from gateway.api.limiter import Admission, Limiter
from gateway.api.policy import Scope, check
from gateway.api.replays import Replay, Replays, read_key
from gateway.api.wire import StartTrackRecording, StopTrackRecording, TrackRecording
from gateway.errors import GatewayError, NotFound
from gateway.recordings import Answer, Outcome, Recording, Recordings, Status, Track, Watcher

__all__ = ["Desk"]

_STATUS = {Outcome.STARTED: 201, Outcome.STOP_REQUESTED: 202}
_ENDED = frozenset({Status.STOPPING, Status.STOPPED})

_Request = Request[Any, Any, Any]
_Work = Callable[[], Awaitable[Answer]]


class Desk:
    """Takes in starts and stops, and questions.

    Args:
        recordings: Who starts and stops.
        watcher: Who tells.
        limiter: How often callers may ask.
        replays: What they were answered.
    """

    def __init__(self, recordings: Recordings, watcher: Watcher, limiter: Limiter, replays: Replays) -> None:
        self._recordings = recordings
        self._watcher = watcher
        self._limiter = limiter
        self._replays = replays

    async def start(self, request: _Request, asked: StartTrackRecording, within: float) -> Response[TrackRecording]:
        """Have a track recorded, for at most `within` seconds of waiting."""
        caller, parameters = _caller(request), asked.parameters
        check(caller.policy, Scope.START, asked.track, parameters.webhook_url, parameters.bucket_dir_path)
        return await self._take_in(
            request,
            Scope.START,
            asked,
            lambda: self._recordings.start(asked.track, parameters, caller=caller.name, within=within),
        )

    async def stop(self, request: _Request, asked: StopTrackRecording, within: float) -> Response[TrackRecording]:
        """Have a track not recorded, for at most `within` seconds of waiting."""
        caller = _caller(request)
        check(caller.policy, Scope.STOP, asked.track)
        return await self._take_in(
            request,
            Scope.STOP,
            asked,
            lambda: self._recordings.stop(asked.track, caller=caller.name, within=within),
        )

    async def show(self, request: _Request, track: Track) -> TrackRecording:
        """Show what is known of a track."""
        check(_caller(request).policy, Scope.READ, track)
        return TrackRecording.of(await self._watcher.get(track))

    async def _take_in(
        self, request: _Request, scope: Scope, asked: StartTrackRecording | StopTrackRecording, work: _Work
    ) -> Response[TrackRecording]:
        track, state = asked.track, request.scope["state"]
        state["track_path"] = f"/v1/recordings/track/{track.room_id}/{track.participant_id}/{track.kind}"
        key = read_key(request)
        admission = await self._limiter.admit(_caller(request), track, starts=scope is Scope.START)
        try:
            state["headers"] = dict(admission.headers)
            admission.check()
            replay = await self._replays.begin(_caller(request), scope, key, asked) if key else None
            if replay is not None and replay.kept is not None:
                return _replayed(request, replay)
            if replay is not None and replay.begun is not None and scope is Scope.START:
                ended = await self._ended_since(track, replay.begun)
                if ended is not None:
                    await self._replays.keep(replay, 200, TrackRecording.of(ended))
                    return _answered(request, TrackRecording.of(ended), 200)
            return await self._carry_out(request, admission, replay, work)
        finally:
            admission.leave()

    async def _carry_out(
        self, request: _Request, admission: Admission, replay: Replay | None, work: _Work
    ) -> Response[TrackRecording]:
        state = request.scope["state"]
        try:
            answer = await work()
        except GatewayError as error:
            await admission.charge(error)
            state["headers"] |= admission.headers
            await self._replays.keep(replay, error.status, error)
            raise
        await admission.charge(answer.outcome)
        state["headers"] |= admission.headers
        status, body = _STATUS.get(answer.outcome, 200), TrackRecording.answering(answer)
        await self._replays.keep(replay, status, body)
        return _answered(request, body, status)

    async def _ended_since(self, track: Track, begun: int) -> Recording | None:
        """Return the track's recording if it began when this was first asked, or later, and has ended since.

        A retry that comes that late has had its recording. What it was answered got lost, with its process perhaps;
        what it is told now is how that recording stands, and not to start another.
        """
        try:
            recording = await self._watcher.get(track)
        except NotFound:
            return None
        at = recording.requested_at
        return recording if recording.status in _ENDED and at is not None and _ms(at) >= begun else None


def _caller(request: _Request) -> Caller:
    return request.scope["state"]["identity"]


def _replayed(request: _Request, replay: Replay) -> Response[TrackRecording]:
    kept, state = replay.kept, request.scope["state"]
    assert kept is not None  # noqa: S101 - whoever calls this has looked
    state["headers"]["idempotency-replayed"] = "true"
    state["replayed"] = True
    if kept.problem is not None:
        raise kept.problem.error()
    assert kept.recording is not None  # noqa: S101 - it is the one or the other
    return _answered(request, kept.recording, kept.status)


def _answered(request: _Request, body: TrackRecording, status: int) -> Response[TrackRecording]:
    state = request.scope["state"]
    state["outcome"], state["recording"] = body.outcome, body.id
    headers = {"location": state["track_path"]} if status in {201, 202} else {}
    return Response(body, status_code=status, headers=headers)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
