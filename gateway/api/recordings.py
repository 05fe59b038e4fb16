"""The routes that start, stop and show recordings. Each calls one method of the domain and shapes the answer."""

from typing import Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Struct

from gateway.api import openapi_texts
from gateway.api.guards import BEARER, GuardedRoutes, asked_seconds, takes
from gateway.api.openapi_texts import OPERATION_IDS, answers, problems
from gateway.api.pagination import RecordingsPage
from gateway.api.pipeline import RequestPipeline
from gateway.api.response import ReadyResponse
from gateway.api.wire import BODIES, RecordingBody, path_parts, read_target
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import Scope
from gateway.recordings import MODES, Mode, Outcome, Status

__all__ = ["recording_routes", "routes"]

_Request = Request[Any, Any, Any]

_IDENTITY = ("unauthenticated", "forbidden", "identity-unavailable", "headers-too-large")
_COORDINATION = ("coordination-unavailable", "newer-record")
_ALWAYS = (
    *_IDENTITY,
    "invalid-request",
    "idempotency-key-reused",
    "too-many-requests",
    *_COORDINATION,
    "too-many-waiting",
    "deadline-exceeded",
    "internal",
)
_UPSTREAM = ("upstream-refused", "upstream-credentials-refused", "upstream-limited", "upstream-unavailable")
_BODY = ("malformed-request", "payload-too-large", "unsupported-media-type")


def recording_routes(authenticator: Authenticator, pipeline: RequestPipeline, deadline: float) -> GuardedRoutes:
    """Build the routes: those of each mode, and the list.

    Args:
        authenticator: Identifies the caller.
        pipeline: Takes in what is asked.
        deadline: Longest wait of one caller, in seconds.
    """
    by_mode = [handler for mode in MODES for handler in routes(mode, pipeline, deadline)]
    return GuardedRoutes("/v1", [*by_mode, _list(pipeline)], authenticator)


def routes(mode: Mode, pipeline: RequestPipeline, deadline: float) -> list[HTTPRouteHandler]:
    """Build the routes that start, stop and show the recordings of one mode."""
    handlers = [_start(mode, pipeline, deadline), _stop(mode, pipeline, deadline), _get(mode, pipeline)]
    if len(ids := list(MODES[mode].ids)) == 1:
        # A room may be called `start`, and then its address is also that of the command.
        handlers += [_get_named(mode, pipeline, ids[0], name) for name in ("start", "stop")]
    return handlers


def _start(mode: Mode, pipeline: RequestPipeline, deadline: float) -> HTTPRouteHandler:
    async def start(request: _Request, data: JSONBody[Struct]) -> ReadyResponse:
        return await pipeline.start(request, mode, data, min(asked_seconds(request) or deadline, deadline))

    return post(
        f"/recordings/{mode}/start",
        operation_id=OPERATION_IDS[mode].start,
        summary=f"Start recording a {mode}",
        description=openapi_texts.START.format(mode=mode),
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.START, "mode": mode, "examples": openapi_texts.start_examples(mode)},
        status_code=201,
        responses={
            201: answers(mode, "This request started it.", Outcome.STARTED),
            200: answers(
                mode,
                "It records, and this request did not start it.",
                Outcome.JOINED,
                Outcome.ALREADY_RECORDING,
                Status.STOPPED,
            ),
            **problems(*_BODY, *_ALWAYS, *_UPSTREAM, "parameters-differ", "still-stopping", "outcome-unknown"),
        },
    )(takes(BODIES[mode].start, start))


def _stop(mode: Mode, pipeline: RequestPipeline, deadline: float) -> HTTPRouteHandler:
    async def stop(request: _Request, data: JSONBody[Struct]) -> ReadyResponse:
        return await pipeline.stop(request, mode, data, min(asked_seconds(request) or deadline, deadline))

    return post(
        f"/recordings/{mode}/stop",
        operation_id=OPERATION_IDS[mode].stop,
        summary=f"Stop recording a {mode}",
        description=openapi_texts.STOP.format(mode=mode),
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.STOP, "mode": mode, "examples": openapi_texts.stop_examples(mode)},
        status_code=200,
        responses={
            200: answers(mode, "Nothing records.", Outcome.STOPPED, Outcome.JOINED, Outcome.NOT_RECORDING),
            202: answers(mode, "The stop is on its way, and is repeated until it is known.", Outcome.STOP_REQUESTED),
            **problems(*_BODY, *_ALWAYS, *_UPSTREAM),
        },
    )(takes(BODIES[mode].stop, stop))


def _get(mode: Mode, pipeline: RequestPipeline) -> HTTPRouteHandler:
    async def show(request: _Request) -> RecordingBody:
        return await pipeline.show(request, read_target(mode, request.path_params))

    return get(
        f"/recordings/{mode}/{path_parts(mode)}",
        operation_id=OPERATION_IDS[mode].get,
        summary=f"Show what is known of a {mode}",
        description=openapi_texts.GET,
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.READ, "mode": mode},
        responses={
            200: answers(mode, "What is known.", *Status),
            **problems(*_IDENTITY, "not-found", "invalid-request", "too-many-requests", *_COORDINATION, "internal"),
        },
    )(show)


def _get_named(mode: Mode, pipeline: RequestPipeline, part: str, name: str) -> HTTPRouteHandler:
    async def show(request: _Request) -> RecordingBody:
        return await pipeline.show(request, read_target(mode, {part: name}))

    return get(
        f"/recordings/{mode}/{name}",
        include_in_schema=False,
        security=BEARER,
        opt={"scope": Scope.READ, "mode": mode},
    )(show)


def _list(pipeline: RequestPipeline) -> HTTPRouteHandler:
    @get(
        "/recordings",
        operation_id="listRecordings",
        summary="List a room's recordings",
        description=openapi_texts.LIST,
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.READ},
        responses={
            200: openapi_texts.listed("The room's recordings."),
            **problems(*_IDENTITY, "invalid-request", "too-many-requests", "coordination-unavailable", "internal"),
        },
    )
    async def list_recordings(request: _Request) -> RecordingsPage:
        return await pipeline.list(request)

    return list_recordings
