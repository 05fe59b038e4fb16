"""The routes that start, stop and show recordings. Each calls one method of the domain and shapes the answer."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api import examples
from gateway.api.callers import ANYONE, Callers
from gateway.api.examples import answers, problems
from gateway.api.wire import (
    StartTrackRecording,
    StopTrackRecording,
    TrackRecording,
    read_body,
    read_track,
)
from gateway.errors import InvalidRequest, MalformedRequest, UnsupportedMediaType
from gateway.recordings import Answer, Outcome, Recordings, Track

__all__ = ["DEADLINE_HEADER", "routes"]

DEADLINE_HEADER = "x-request-timeout-ms"
"""A caller's own limit on its waiting, in milliseconds."""

_BEARER: list[dict[str, list[str]]] = [{"apiKey": []}]
_ALWAYS = (
    "unauthenticated",
    "invalid-request",
    "coordination-unavailable",
    "too-many-waiting",
    "deadline-exceeded",
    "internal",
)
_UPSTREAM = ("upstream-refused", "upstream-credentials-refused", "upstream-limited", "upstream-unavailable")
_BODY = ("malformed-request", "payload-too-large", "unsupported-media-type")


def authenticate(callers: Callers | None) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], None]:
    """Make the guard that knows who asks, before a body is read; `None` lets in everybody as `anyone`."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        caller = ANYONE if callers is None else callers.identify(connection.headers.get("authorization"))
        connection.scope["state"]["caller"] = caller.name

    return guard


def _checked(model: type[Struct]) -> Callable[[Request[Any, Any, Any]], Awaitable[None]]:
    """Make the hook that reads the body before Litestar does, since Litestar would name one wrong field at most."""

    async def check(request: Request[Any, Any, Any]) -> None:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType("The body must be `application/json`.")
        try:
            body = await request.body()
        except InternalServerException:
            # What Litestar makes of a caller that hangs up within its body: nobody's mistake here.
            raise MalformedRequest("The body ended early.") from None
        read_body(body, model)

    return check


def routes(callers: Callers | None, deadline: float) -> Router:
    """Build the routes.

    Args:
        callers: Who may ask; None lets in everybody.
        deadline: Longest wait of one caller, in seconds.
    """

    def within(request: Request[Any, Any, Any]) -> float:
        given = request.headers.get(DEADLINE_HEADER)
        if given is None:
            return deadline
        if not given.isascii() or not given.isdecimal() or not int(given[:9]) > 0 or len(given) > 9:
            raise InvalidRequest.of([(DEADLINE_HEADER, "must be a whole number of milliseconds, above 0")])
        return min(int(given) / 1000, deadline)

    @post(
        "/recordings/track/start",
        operation_id="startTrackRecording",
        summary="Start recording a track",
        description=examples.START,
        tags=["recordings"],
        security=_BEARER,
        before_request=_checked(StartTrackRecording),
        status_code=201,
        responses={
            201: answers("This request started it.", Outcome.STARTED),
            200: answers("It records, and this request did not start it.", Outcome.JOINED, Outcome.ALREADY_RECORDING),
            **problems(*_BODY, *_ALWAYS, *_UPSTREAM, "parameters-differ", "still-stopping", "outcome-unknown"),
        },
    )
    async def start_track_recording(
        request: Request[Any, Any, Any],
        data: JSONBody[StartTrackRecording],
        recordings: NamedDependency[Recordings],
    ) -> Response[TrackRecording]:
        _locate(request, data.track)
        caller = request.scope["state"]["caller"]
        answer = await recordings.start(data.track, data.parameters, caller=caller, within=within(request))
        return _respond(request, answer, 201 if answer.outcome is Outcome.STARTED else 200)

    @post(
        "/recordings/track/stop",
        operation_id="stopTrackRecording",
        summary="Stop recording a track",
        description=examples.STOP,
        tags=["recordings"],
        security=_BEARER,
        before_request=_checked(StopTrackRecording),
        status_code=200,
        responses={
            200: answers("Nothing records.", Outcome.STOPPED, Outcome.JOINED, Outcome.NOT_RECORDING),
            202: answers("The stop is on its way, and is repeated until it is known.", Outcome.STOP_REQUESTED),
            **problems(*_BODY, *_ALWAYS, *_UPSTREAM),
        },
    )
    async def stop_track_recording(
        request: Request[Any, Any, Any],
        data: JSONBody[StopTrackRecording],
        recordings: NamedDependency[Recordings],
    ) -> Response[TrackRecording]:
        _locate(request, data.track)
        answer = await recordings.stop(data.track, caller=request.scope["state"]["caller"], within=within(request))
        return _respond(request, answer, 202 if answer.outcome is Outcome.STOP_REQUESTED else 200)

    @get(
        "/recordings/track/{roomId:str}/{participantId:str}/{kind:str}",
        operation_id="getTrackRecording",
        summary="Show what is known of a track",
        description=examples.GET,
        tags=["recordings"],
        security=_BEARER,
        responses={
            200: answers("What is known.", Outcome.STARTED),
            **problems("unauthenticated", "not-found", "invalid-request", "coordination-unavailable", "internal"),
        },
    )
    async def get_track_recording(
        roomId: FromPath[str],  # noqa: N803 - the contract's name, as in a body
        participantId: FromPath[str],  # noqa: N803
        kind: FromPath[str],
        recordings: NamedDependency[Recordings],
    ) -> TrackRecording:
        return TrackRecording.of(await recordings.get(read_track(roomId, participantId, kind)))

    return Router(
        "/v1",
        route_handlers=[start_track_recording, stop_track_recording, get_track_recording],
        guards=[authenticate(callers)],
    )


def _locate(request: Request[Any, Any, Any], track: Track) -> None:
    request.scope["state"]["track_path"] = f"/v1/recordings/track/{track.room_id}/{track.participant_id}/{track.kind}"


def _respond(request: Request[Any, Any, Any], answer: Answer, status: int) -> Response[TrackRecording]:
    state = request.scope["state"]
    state["outcome"], state["recording"] = answer.outcome, answer.recording.id
    headers = {"location": state["track_path"]} if status in {201, 202} else {}
    return Response(TrackRecording.answering(answer), status_code=status, headers=headers)
