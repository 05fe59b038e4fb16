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

from gateway.api import openapi_texts
from gateway.api.openapi_texts import answers, problems
from gateway.api.pagination import TrackRecordings
from gateway.api.pipeline import RequestPipeline
from gateway.api.wire import StartTrackRecording, StopTrackRecording, TrackRecording, read_body, read_track
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import RULES, Scope
from gateway.errors import Forbidden, InvalidRequest, MalformedRequest, UnsupportedMediaType
from gateway.recordings import Outcome, Status

__all__ = ["BEARER", "DEADLINE_HEADER", "asked_seconds", "authenticate", "checked", "routes"]

DEADLINE_HEADER = "x-request-timeout-ms"
"""A caller's own limit on its waiting, in milliseconds."""

BEARER: list[dict[str, list[str]]] = [{name: []} for name in openapi_texts.IDENTITIES]
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


def authenticate(
    authenticator: Authenticator | None,
) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]:
    """Make the guard that knows who asks and whether the route is for that caller, before a body is read."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        assert authenticator is not None  # noqa: S101 - only the contract is drawn without
        caller = await authenticator.identify(connection.headers.get("authorization"))
        state = connection.scope["state"]
        state["identity"], state["caller"] = caller, caller.name
        # Litestar answers OPTIONS by itself, for which nobody needs a scope.
        if "scope" in handler.opt and handler.opt["scope"] not in caller.policy.scopes:
            raise Forbidden(RULES["scope"], extensions={"rule": "scope"})

    return guard


def checked(model: type[Struct]) -> Callable[[Request[Any, Any, Any]], Awaitable[None]]:
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


def asked_seconds(request: Request[Any, Any, Any]) -> float | None:
    """Return how long the caller wants to wait, None where it does not say.

    Raises:
        InvalidRequest: It says something else.
    """
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return None
    if not given.isascii() or not given.isdecimal() or not int(given[:9]) > 0 or len(given) > 9:
        raise InvalidRequest.of([(DEADLINE_HEADER, "must be a whole number of milliseconds, above 0")])
    return int(given) / 1000


def routes(authenticator: Authenticator | None, deadline: float) -> Router:
    """Build the routes.

    Args:
        authenticator: Who asks.
        deadline: Longest wait of one caller, in seconds.
    """

    def timeout(request: Request[Any, Any, Any]) -> float:
        return min(asked_seconds(request) or deadline, deadline)

    @post(
        "/recordings/track/start",
        operation_id="startTrackRecording",
        summary="Start recording a track",
        description=openapi_texts.START,
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.START},
        before_request=checked(StartTrackRecording),
        status_code=201,
        responses={
            201: answers("This request started it.", Outcome.STARTED),
            200: answers(
                "It records, and this request did not start it.",
                Outcome.JOINED,
                Outcome.ALREADY_RECORDING,
                Status.STOPPED,
            ),
            **problems(*_BODY, *_ALWAYS, *_UPSTREAM, "parameters-differ", "still-stopping", "outcome-unknown"),
        },
    )
    async def start_track_recording(
        request: Request[Any, Any, Any],
        data: JSONBody[StartTrackRecording],
        pipeline: NamedDependency[RequestPipeline],
    ) -> Response[TrackRecording]:
        return await pipeline.start(request, data, timeout(request))

    @post(
        "/recordings/track/stop",
        operation_id="stopTrackRecording",
        summary="Stop recording a track",
        description=openapi_texts.STOP,
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.STOP},
        before_request=checked(StopTrackRecording),
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
        pipeline: NamedDependency[RequestPipeline],
    ) -> Response[TrackRecording]:
        return await pipeline.stop(request, data, timeout(request))

    @get(
        "/recordings/track/{roomId:str}/{participantId:str}/{kind:str}",
        operation_id="getTrackRecording",
        summary="Show what is known of a track",
        description=openapi_texts.GET,
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.READ},
        responses={
            200: answers("What is known.", *Status),
            **problems(*_IDENTITY, "not-found", "invalid-request", *_COORDINATION, "internal"),
        },
    )
    async def get_track_recording(
        request: Request[Any, Any, Any],
        roomId: FromPath[str],  # noqa: N803 - the contract's name, as in a body
        participantId: FromPath[str],  # noqa: N803
        kind: FromPath[str],
        pipeline: NamedDependency[RequestPipeline],
    ) -> TrackRecording:
        return await pipeline.show(request, read_track(roomId, participantId, kind))

    @get(
        "/recordings",
        operation_id="listRecordings",
        summary="List a room's recordings",
        description=openapi_texts.LIST,
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.READ},
        responses={
            200: openapi_texts.listed("The latest recording of each track."),
            **problems(*_IDENTITY, "invalid-request", "coordination-unavailable", "internal"),
        },
    )
    async def list_recordings(
        request: Request[Any, Any, Any], pipeline: NamedDependency[RequestPipeline]
    ) -> TrackRecordings:
        return await pipeline.list(request)

    return Router(
        "/v1",
        route_handlers=[start_track_recording, stop_track_recording, get_track_recording, list_recordings],
        guards=[authenticate(authenticator)],
    )
