"""The routes that start, stop and show recordings. Each calls one method of the domain and shapes the answer."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api import examples
from gateway.api.callers import ANYONE, Callers
from gateway.api.problems import PROBLEM_JSON
from gateway.api.wire import (
    ProblemDocument,
    StartTrackRecording,
    StopTrackRecording,
    TrackRecording,
    read_body,
    read_track,
)
from gateway.errors import PROBLEMS, InvalidRequest, UnsupportedMediaType
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


def _problems(*slugs: str) -> dict[int, ResponseSpec]:
    """Describe the error responses of a route: one per status, an example for each problem."""
    by_status: dict[int, list[str]] = {}
    for slug in slugs:
        by_status.setdefault(PROBLEMS[slug].status, []).append(slug)
    return {
        status: ResponseSpec(
            ProblemDocument,
            generate_examples=False,
            description=". Or: ".join(PROBLEMS[slug].title for slug in found) + ".",
            media_type=PROBLEM_JSON,
            examples=[Example(id=slug, summary=PROBLEMS[slug].title, value=examples.problem(slug)) for slug in found],
        )
        for status, found in sorted(by_status.items())
    }


def _answers(description: str, *outcomes: Outcome) -> ResponseSpec:
    return ResponseSpec(
        TrackRecording,
        generate_examples=False,
        description=description,
        examples=[Example(id=outcome, value=examples.recording(outcome)) for outcome in outcomes],
    )


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
        read_body(await request.body(), model)

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
        response_headers=[
            ResponseHeader("Location", description="The recording's own address.", documentation_only=True)
        ],
        responses={
            201: _answers("This request started it.", Outcome.STARTED),
            200: _answers("It records, and this request did not start it.", Outcome.JOINED, Outcome.ALREADY_RECORDING),
            **_problems(*_BODY, *_ALWAYS, *_UPSTREAM, "parameters-differ", "outcome-unknown"),
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
            200: _answers("Nothing records.", Outcome.STOPPED, Outcome.JOINED, Outcome.NOT_RECORDING),
            202: _answers("The stop is on its way, and is repeated until it is known.", Outcome.STOP_REQUESTED),
            **_problems(*_BODY, *_ALWAYS, *_UPSTREAM),
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
        "/recordings/track/{room_id:str}/{participant_id:str}/{kind:str}",
        operation_id="getTrackRecording",
        summary="Show what is known of a track",
        description=examples.GET,
        tags=["recordings"],
        security=_BEARER,
        responses={
            200: _answers("What is known.", Outcome.STARTED),
            **_problems("unauthenticated", "not-found", "invalid-request", "coordination-unavailable", "internal"),
        },
    )
    async def get_track_recording(
        room_id: FromPath[str],
        participant_id: FromPath[str],
        kind: FromPath[str],
        recordings: NamedDependency[Recordings],
    ) -> TrackRecording:
        return TrackRecording.of(await recordings.get(read_track(room_id, participant_id, kind)))

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
