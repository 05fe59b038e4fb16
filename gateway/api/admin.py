"""For operators: what is held or uncertain, asking VideoSDK now, and taking a claim away. Each needs its own scope."""

from typing import Annotated, Any, Final, cast

from litestar import Request, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from gateway.api import openapi_texts
from gateway.api.context import RequestContext
from gateway.api.guards import BEARER, JsonRequest, authenticate
from gateway.api.openapi_texts import problems
from gateway.api.pagination import Parameter, read_query
from gateway.api.wire import TrackRecording, read_track
from gateway.auth.api_keys import Caller
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import Scope, check, covers
from gateway.coordinator import PendingTarget
from gateway.recordings import Kind, Operator, Status, target_of

__all__ = ["PENDING_QUERY", "PendingRecordings", "ReleaseClaim", "ReleasedClaim", "admin"]

_DEFAULT_LIMIT: Final = 100
PENDING_QUERY: Final[dict[str, Parameter]] = {
    "limit": (False, "Most of them.", {"type": "integer", "minimum": 1, "maximum": 1_000, "default": _DEFAULT_LIMIT}),
}
_ALWAYS = (
    "unauthenticated",
    "forbidden",
    "identity-unavailable",
    "coordination-unavailable",
    "newer-record",
    "internal",
)
_BODY = ("malformed-request", "payload-too-large", "unsupported-media-type", "invalid-request")


class HeldClaim(Struct, frozen=True, kw_only=True, rename="camel"):
    """Who carries out an operation on a track."""

    action: Annotated[str, Meta(description="`start`, `stop` or `probe`.")]
    attempt: Annotated[str, Meta(description="Goes along to VideoSDK as `X-Rec-Attempt`.")]
    owner: Annotated[str, Meta(description="The process.")]
    age_seconds: float
    lease_seconds: Annotated[float, Meta(description="Until it lapses without being renewed; below 0 it has.")]


class PendingRecording(Struct, frozen=True, kw_only=True, rename="camel"):
    """A track with a claim, or one that the reconciler has to check."""

    room_id: str
    participant_id: str
    kind: Kind
    status: Status | None
    claim: HeldClaim | None
    due_in_seconds: Annotated[float, Meta(description="When the reconciler checks it next; below 0 it is overdue.")]
    tries: Annotated[int, Meta(description="How often the reconciler took it up since it last agreed with VideoSDK.")]
    last_upstream_answer: Annotated[str, Meta(description="`start 200`, `list 503`, `stop NeverSent`.")] | None
    uncertain_for_seconds: float | None
    stop_wanted: bool
    doubted: bool

    @classmethod
    def of(cls, pending: PendingTarget, now: int) -> "PendingRecording":
        """Build the body for a record read at `now` (ms)."""
        target = target_of(pending.key)
        claim = HeldClaim(
            action=pending.action,
            attempt=pending.holder,
            owner=pending.owner,
            age_seconds=(now - pending.granted) / 1000,
            lease_seconds=(pending.lease - now) / 1000,
        )
        return cls(
            room_id=target.room_id,
            participant_id=target.participant_id,
            kind=cast("Kind", target.kind),
            status=Status(pending.state) if pending.state else None,
            claim=claim if pending.holder else None,
            due_in_seconds=(pending.due - now) / 1000,
            tries=pending.tries,
            last_upstream_answer=pending.upstream or None,
            uncertain_for_seconds=(now - pending.uncertain_since) / 1000 if pending.uncertain_since else None,
            stop_wanted=pending.stop_due,
            doubted=pending.suspect_since > 0,
        )


class PendingRecordings(Struct, frozen=True, kw_only=True):
    """The soonest due first."""

    tracks: list[PendingRecording]


class ReleaseClaim(Struct, frozen=True, kw_only=True, rename="camel"):
    """Why a claim is taken away."""

    reason: Annotated[str, Meta(min_length=1, max_length=500, description="Goes to the audit log.")]


class ReleasedClaim(Struct, frozen=True, kw_only=True):
    """What became of it."""

    released: Annotated[bool, Meta(description="False where the claim had ended already.")]
    recording: TrackRecording


def admin(authenticator: Authenticator | None) -> Router:
    """Build the routes.

    Args:
        authenticator: Who asks.
    """

    @get(
        "/tracks",
        operation_id="listPendingRecordings",
        summary="List what is held or has to be looked at",
        description=openapi_texts.PENDING,
        tags=["operations"],
        security=BEARER,
        opt={"scope": Scope.ADMIN},
        responses={200: openapi_texts.pending(PendingRecordings), **problems(*_ALWAYS, "invalid-request")},
    )
    async def list_pending(request: Request[Any, Any, Any], operator: NamedDependency[Operator]) -> PendingRecordings:
        query = read_query(request.query_params.multi_items(), PENDING_QUERY)
        now, pending = await operator.pending(int(query.get("limit", _DEFAULT_LIMIT)))
        policy = _caller(request).policy
        return PendingRecordings(
            tracks=[PendingRecording.of(one, now) for one in pending if covers(policy, target_of(one.key))]
        )

    @post(
        "/tracks/{roomId:str}/{participantId:str}/{kind:str}/settle",
        operation_id="reconcileRecording",
        summary="Ask VideoSDK now",
        description=openapi_texts.SETTLE,
        tags=["operations"],
        security=BEARER,
        opt={"scope": Scope.ADMIN},
        status_code=200,
        responses={
            200: openapi_texts.answers("What is known after it.", *Status),
            **problems(*_ALWAYS, *_BODY, "not-found"),
        },
    )
    async def reconcile_recording(
        request: Request[Any, Any, Any],
        roomId: FromPath[str],  # noqa: N803 - the contract's name, as in a body
        participantId: FromPath[str],  # noqa: N803
        kind: FromPath[str],
        operator: NamedDependency[Operator],
    ) -> TrackRecording:
        target = read_track(roomId, participantId, kind)
        check(_caller(request).policy, Scope.ADMIN, target)
        return TrackRecording.of(await operator.reconcile(target, by=_caller(request).name))

    @post(
        "/tracks/{roomId:str}/{participantId:str}/{kind:str}/release",
        operation_id="releaseClaim",
        summary="Take a claim away",
        description=openapi_texts.RELEASE,
        tags=["operations"],
        security=BEARER,
        opt={"scope": Scope.ADMIN},
        status_code=200,
        responses={
            200: openapi_texts.released(ReleasedClaim),
            **problems(
                *_ALWAYS, *_BODY, "not-found", "upstream-credentials-refused", "upstream-limited",
                "upstream-unavailable", "outcome-unknown",
            ),
        },
    )  # fmt: skip
    async def release_claim(
        request: Request[Any, Any, Any],
        roomId: FromPath[str],  # noqa: N803
        participantId: FromPath[str],  # noqa: N803
        kind: FromPath[str],
        data: JSONBody[ReleaseClaim],
        operator: NamedDependency[Operator],
    ) -> ReleasedClaim:
        target = read_track(roomId, participantId, kind)
        check(_caller(request).policy, Scope.ADMIN, target)
        released, recording = await operator.release(target, reason=data.reason, by=_caller(request).name)
        return ReleasedClaim(released=released, recording=TrackRecording.of(recording))

    return Router(
        "/v1/admin",
        route_handlers=[list_pending, reconcile_recording, release_claim],
        guards=[authenticate(authenticator)],
        request_class=JsonRequest,
    )


def _caller(request: Request[Any, Any, Any]) -> Caller:
    return RequestContext.of(request.scope).sender
