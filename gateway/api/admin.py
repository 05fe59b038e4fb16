"""For operators: what is held or uncertain, asking VideoSDK now, and taking a claim away. Each needs its own scope."""

from functools import partial
from typing import Annotated, Any, Final

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api import openapi_texts
from gateway.api.context import RequestContext
from gateway.api.guards import BEARER, GuardedRoutes
from gateway.api.openapi_texts import OPERATION_IDS, problems
from gateway.api.pagination import Parameter, read_query
from gateway.api.wire import RecordingBody, path_parts, read_target
from gateway.auth.api_keys import Caller
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import Scope, check, covers
from gateway.coordinator import PendingTarget
from gateway.recordings import MODES, Kind, Mode, Operator, Status, target_of

__all__ = ["PENDING_QUERY", "PendingRecordings", "ReleaseClaim", "ReleasedClaim", "admin_routes"]

_Request = Request[Any, Any, Any]

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
    """Who carries out an operation on a target."""

    action: Annotated[str, Meta(description="`start`, `stop` or `probe`.")]
    attempt: Annotated[str, Meta(description="Goes along to VideoSDK as `X-Rec-Attempt`.")]
    owner: Annotated[str, Meta(description="The process.")]
    age_seconds: float
    lease_seconds: Annotated[float, Meta(description="Until it lapses without being renewed; below 0 it has.")]


class PendingRecording(Struct, frozen=True, kw_only=True, rename="camel"):
    """A target with a claim, or one that the reconciler has to check."""

    mode: Mode
    room_id: str
    participant_id: str | UnsetType = UNSET
    kind: Kind | UnsetType = UNSET
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
            mode=target.mode,
            room_id=target.room_id,
            participant_id=target.participant_id or UNSET,
            kind=target.kind or UNSET,
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
    recording: RecordingBody


def admin_routes(authenticator: Authenticator, operator: Operator) -> GuardedRoutes:
    """Build the routes.

    Args:
        authenticator: Identifies the caller.
        operator: Carries out what is asked.
    """
    by_mode = [handler for mode in MODES for handler in (_reconcile(mode, operator), _release(mode, operator))]
    return GuardedRoutes("/v1/admin", [_list(operator), *by_mode], authenticator)


def _list(operator: Operator) -> HTTPRouteHandler:
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
    async def list_pending(request: _Request) -> PendingRecordings:
        query = read_query(request.query_params.multi_items(), PENDING_QUERY)
        covered = partial(covers, _caller(request).policy)
        now, pending = await operator.pending(int(query.get("limit", _DEFAULT_LIMIT)), covered)
        return PendingRecordings(tracks=[PendingRecording.of(one, now) for one in pending])

    return list_pending


def _reconcile(mode: Mode, operator: Operator) -> HTTPRouteHandler:
    @post(
        f"/{mode}s/{path_parts(mode)}/settle",
        operation_id=OPERATION_IDS[mode].reconcile,
        summary="Ask VideoSDK now",
        description=openapi_texts.SETTLE,
        tags=["operations"],
        security=BEARER,
        opt={"scope": Scope.ADMIN, "mode": mode},
        status_code=200,
        responses={
            200: openapi_texts.answers(mode, "What is known after it.", *Status),
            **problems(*_ALWAYS, *_BODY, "not-found"),
        },
    )
    async def reconcile_recording(request: _Request) -> RecordingBody:
        target = read_target(mode, request.path_params)
        check(_caller(request).policy, Scope.ADMIN, target)
        return RecordingBody.of(await operator.reconcile(target, by=_caller(request).name))

    return reconcile_recording


def _release(mode: Mode, operator: Operator) -> HTTPRouteHandler:
    @post(
        f"/{mode}s/{path_parts(mode)}/release",
        operation_id=OPERATION_IDS[mode].release,
        summary="Take a claim away",
        description=openapi_texts.RELEASE.format(mode=mode),
        tags=["operations"],
        security=BEARER,
        opt={"scope": Scope.ADMIN, "mode": mode, "examples": openapi_texts.RELEASE_EXAMPLES},
        status_code=200,
        responses={
            200: openapi_texts.released(mode, ReleasedClaim),
            **problems(
                *_ALWAYS, *_BODY, "not-found", "upstream-credentials-refused", "upstream-limited",
                "upstream-unavailable", "outcome-unknown",
            ),
        },
    )  # fmt: skip
    async def release_claim(request: _Request, data: JSONBody[ReleaseClaim]) -> ReleasedClaim:
        target = read_target(mode, request.path_params)
        check(_caller(request).policy, Scope.ADMIN, target)
        released, recording = await operator.release(target, reason=data.reason, by=_caller(request).name)
        return ReleasedClaim(released=released, recording=RecordingBody.of(recording))

    return release_claim


def _caller(request: _Request) -> Caller:
    return RequestContext.of(request.scope).sender
