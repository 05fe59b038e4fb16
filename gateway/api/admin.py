"""For operators: what is held or uncertain, asking VideoSDK now, and taking a claim away. Each needs its own scope."""

from typing import Annotated, Any, Final

from litestar import Request, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from gateway.api import examples
from gateway.api.callers import Caller
from gateway.api.examples import problems
from gateway.api.identities import Identities
from gateway.api.listing import Parameter, read_query
from gateway.api.policy import Scope, check, covers
from gateway.api.recordings import BEARER, authenticate, checked
from gateway.api.wire import TrackRecording, read_track
from gateway.coordinator import Attended
from gateway.recordings import Kind, Operator, Status, track_of

__all__ = ["ATTENDED_QUERY", "AttendedTracks", "ReleaseClaim", "ReleasedClaim", "admin"]

_USUAL: Final = 100
ATTENDED_QUERY: Final[dict[str, Parameter]] = {
    "limit": (False, "Most of them.", {"type": "integer", "minimum": 1, "maximum": 1_000, "default": _USUAL}),
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

    doing: Annotated[str, Meta(description="`start`, `stop`, `verify` or `recover`.")]
    attempt: Annotated[str, Meta(description="Goes along to VideoSDK as `X-Rec-Attempt`.")]
    owner: Annotated[str, Meta(description="The process.")]
    age_seconds: float
    lease_seconds: Annotated[float, Meta(description="Until it lapses without being renewed; below 0 it has.")]


class AttendedTrack(Struct, frozen=True, kw_only=True, rename="camel"):
    """A track that somebody holds or has to look at."""

    room_id: str
    participant_id: str
    kind: Kind
    status: Status | None
    claim: HeldClaim | None
    due_in_seconds: Annotated[float, Meta(description="When somebody looks at it next; below 0 it is overdue.")]
    tries: Annotated[int, Meta(description="How often it was taken up since it was settled last.")]
    last_upstream_answer: Annotated[str, Meta(description="`start 200`, `list 503`, `stop NeverSent`.")] | None
    uncertain_for_seconds: float | None
    stop_wanted: bool
    doubted: bool

    @classmethod
    def of(cls, attended: Attended, now: int) -> "AttendedTrack":
        """Build the body for a record read at `now` (ms)."""
        track = track_of(attended.key)
        claim = HeldClaim(
            doing=attended.doing,
            attempt=attended.holder,
            owner=attended.owner,
            age_seconds=(now - attended.granted) / 1000,
            lease_seconds=(attended.lease - now) / 1000,
        )
        return cls(
            room_id=track.room_id,
            participant_id=track.participant_id,
            kind=track.kind,
            status=Status(attended.state) if attended.state else None,
            claim=claim if attended.holder else None,
            due_in_seconds=(attended.due - now) / 1000,
            tries=attended.tries,
            last_upstream_answer=attended.upstream or None,
            uncertain_for_seconds=(now - attended.unsure) / 1000 if attended.unsure else None,
            stop_wanted=bool(attended.intent),
            doubted=attended.doubt > 0,
        )


class AttendedTracks(Struct, frozen=True, kw_only=True):
    """The soonest due first."""

    tracks: list[AttendedTrack]


class ReleaseClaim(Struct, frozen=True, kw_only=True, rename="camel"):
    """Why a claim is taken away."""

    reason: Annotated[str, Meta(min_length=1, max_length=500, description="Goes to the audit log.")]


class ReleasedClaim(Struct, frozen=True, kw_only=True):
    """What became of it."""

    released: Annotated[bool, Meta(description="False where nobody held it any more.")]
    recording: TrackRecording


def admin(identities: Identities | None) -> Router:
    """Build the routes.

    Args:
        identities: Who asks.
    """

    @get(
        "/tracks",
        operation_id="listAttendedTracks",
        summary="List what is held or has to be looked at",
        description=examples.ATTENDED,
        tags=["operations"],
        security=BEARER,
        opt={"scope": Scope.ADMIN},
        responses={200: examples.attended(AttendedTracks), **problems(*_ALWAYS, "invalid-request")},
    )
    async def list_attended_tracks(
        request: Request[Any, Any, Any], operator: NamedDependency[Operator]
    ) -> AttendedTracks:
        query = read_query(request.query_params.multi_items(), ATTENDED_QUERY)
        now, attended = await operator.attended(int(query.get("limit", _USUAL)))
        policy = _caller(request).policy
        return AttendedTracks(
            tracks=[AttendedTrack.of(one, now) for one in attended if covers(policy, track_of(one.key))]
        )

    @post(
        "/tracks/{roomId:str}/{participantId:str}/{kind:str}/settle",
        operation_id="settleTrack",
        summary="Ask VideoSDK now",
        description=examples.SETTLE,
        tags=["operations"],
        security=BEARER,
        opt={"scope": Scope.ADMIN},
        status_code=200,
        responses={
            200: examples.answers("What is known after it.", *Status),
            **problems(*_ALWAYS, *_BODY, "not-found"),
        },
    )
    async def settle_track(
        request: Request[Any, Any, Any],
        roomId: FromPath[str],  # noqa: N803 - the contract's name, as in a body
        participantId: FromPath[str],  # noqa: N803
        kind: FromPath[str],
        operator: NamedDependency[Operator],
    ) -> TrackRecording:
        track = read_track(roomId, participantId, kind)
        check(_caller(request).policy, Scope.ADMIN, track)
        return TrackRecording.of(await operator.settle(track, by=_caller(request).name))

    @post(
        "/tracks/{roomId:str}/{participantId:str}/{kind:str}/release",
        operation_id="releaseClaim",
        summary="Take a claim away",
        description=examples.RELEASE,
        tags=["operations"],
        security=BEARER,
        opt={"scope": Scope.ADMIN},
        before_request=checked(ReleaseClaim),
        status_code=200,
        responses={
            200: examples.released(ReleasedClaim),
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
        track = read_track(roomId, participantId, kind)
        check(_caller(request).policy, Scope.ADMIN, track)
        released, recording = await operator.release(track, reason=data.reason, by=_caller(request).name)
        return ReleasedClaim(released=released, recording=TrackRecording.of(recording))

    return Router(
        "/v1/admin",
        route_handlers=[list_attended_tracks, settle_track, release_claim],
        guards=[authenticate(identities)],
    )


def _caller(request: Request[Any, Any, Any]) -> Caller:
    return request.scope["state"]["identity"]
