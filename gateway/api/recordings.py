"""The routes that start, stop and show recordings. Each calls one method of the domain and shapes the answer."""

from typing import Any

from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from gateway.api import openapi_texts
from gateway.api.guards import BEARER, JsonRequest, asked_seconds, authenticate
from gateway.api.openapi_texts import answers, problems
from gateway.api.pagination import TrackRecordings
from gateway.api.pipeline import RequestPipeline
from gateway.api.wire import StartTrackRecording, StopTrackRecording, TrackRecording, read_track
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import Scope
from gateway.recordings import Outcome, Status

__all__ = ["routes"]

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
        request_class=JsonRequest,
    )
