"""What a caller is and may: for pages and tools that offer what their user may do, and nothing else."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from msgspec import Meta, Struct

from gateway.api.context import RequestContext
from gateway.api.guards import BEARER, GuardedRoutes
from gateway.api.openapi_texts import problems
from gateway.api.rate_limits import RateLimiter, Standing
from gateway.auth.api_keys import Caller, Sort
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import Scope, modes_of
from gateway.recordings import Kind, Mode

__all__ = ["CallerProfile", "me_routes"]

_DESCRIPTION: Final = """\
Who you are to the gateway, and what the operator and your token allow you: a page asks this to know which buttons to
show. Needs no scope, and takes nothing from the limits that it shows.
"""
_PATTERNS: Final = "ids, or the beginning of ids with a `*` at the end; an asterisk of an id itself is written `\\*`"


class CallerSort(StrEnum):
    """How a caller proves who it is."""

    API_KEY = "api_key"
    JOIN_TOKEN = "join_token"  # noqa: S105 - the name of a sort
    JWT = "jwt"
    ANYONE = "anyone"


_SORTS: Final = {
    Sort.KEY: CallerSort.API_KEY,
    Sort.JOIN_TOKEN: CallerSort.JOIN_TOKEN,
    Sort.JWT: CallerSort.JWT,
    Sort.ANYONE: CallerSort.ANYONE,
}


class CallerLimit(Struct, frozen=True, kw_only=True, rename="camel"):
    """One limit of the caller's own, and what is left of it."""

    policy: Annotated[
        str,
        Meta(
            description="As in the `RateLimit` headers: `caller` (starts and stops), `questions` (calls to VideoSDK "
            "that reads cause), `tickets` (for live events)."
        ),
    ]
    per_minute: int
    remaining: Annotated[int, Meta(description="What is left now; null where Redis did not say in time.")] | None
    full_in_seconds: Annotated[int, Meta(description="In how many seconds all of it is there again.")] | None

    @classmethod
    def of(cls, standing: Standing) -> "CallerLimit":
        """Build the body for a limit."""
        return cls(
            policy=standing.policy,
            per_minute=standing.per_minute,
            remaining=standing.remaining,
            full_in_seconds=standing.full_in_seconds,
        )


class CallerProfile(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the caller is and may. What is null is not restricted; an empty list allows nothing."""

    name: Annotated[str, Meta(description="As recordings name it in `requestedBy`.")]
    sort: Annotated[CallerSort, Meta(description="`anyone` where the gateway asks for no identity.")]
    scopes: list[Scope]
    modes: Annotated[list[Mode], Meta(description="The modes whose recordings it may act on.")]
    kinds: Annotated[list[Kind], Meta(description="The kinds of tracks that it may act on.")]
    rooms: Annotated[list[str], Meta(description=f"The rooms it is limited to: {_PATTERNS}.")] | None
    participants: Annotated[list[str], Meta(description=f"The participants it is limited to: {_PATTERNS}.")] | None
    stops_others: Annotated[
        bool,
        Meta(
            description="Whether it may stop what it did not start. False: only what it started itself; a join token: "
            "what one of the same participant (`participant:…`) or a moderator (`moderator:…`) started."
        ),
    ]
    max_duration_seconds: (
        Annotated[int, Meta(description="How long a recording that it starts may last at most; a start may say less.")]
        | None
    )
    lengthens: Annotated[
        bool,
        Meta(
            description="Whether a start that joins a recording may put its end off. False: it only brings the end "
            "forward. Either only of what the caller itself started, unless it may stop what others started."
        ),
    ]
    bucket_dir_prefix: (
        Annotated[str, Meta(description="The folder in which its starts must put recordings (`bucketDirPath`).")] | None
    )
    expires_at: (
        Annotated[datetime, Meta(description="Until when what it showed is valid; null: for as long as it is listed.")]
        | None
    )
    limits: Annotated[list[CallerLimit], Meta(description="Those that hold for it. What is not here is not limited.")]

    @classmethod
    def of(cls, caller: Caller, limits: list[Standing], max_duration: float) -> "CallerProfile":
        """Build the body for a caller; `max_duration` is the setting's."""
        policy = caller.policy
        return cls(
            name=caller.name,
            sort=_SORTS[caller.sort],
            scopes=[scope for scope in Scope if scope in policy.scopes],
            modes=modes_of(policy),
            kinds=[kind for kind in Kind if policy.kinds is None or kind in policy.kinds],
            rooms=None if policy.rooms is None else list(policy.rooms),
            participants=None if policy.participants is None else list(policy.participants),
            stops_others=policy.stop_others,
            max_duration_seconds=min(filter(None, (policy.max_duration_seconds, int(max_duration))), default=None),
            lengthens=policy.lengthen,
            bucket_dir_prefix=policy.bucket_dir_prefix,
            expires_at=None if caller.expires is None else _moment(caller.expires),
            limits=[CallerLimit.of(standing) for standing in limits],
        )


_SERVICE: Final = {
    "name": "lesson-service",
    "sort": "api_key",
    "scopes": ["recordings:start", "recordings:stop", "recordings:read"],
    "modes": ["track", "participant", "room"],
    "kinds": ["audio", "video", "screen_audio", "screen_video"],
    "rooms": ["lesson-*"],
    "participants": None,
    "stopsOthers": True,
    "maxDurationSeconds": 7200,
    "lengthens": True,
    "bucketDirPrefix": None,
    "expiresAt": None,
    "limits": [{"policy": "caller", "perMinute": 600, "remaining": 598, "fullInSeconds": 1}],
}
_PARTICIPANT: Final = {
    **_SERVICE,
    "name": "participant:participant-1",
    "sort": "join_token",
    "modes": ["track"],
    "rooms": ["abcd-efgh-ijkl"],
    "participants": ["participant-1"],
    "stopsOthers": False,
    "lengthens": False,
    "expiresAt": "2026-01-01T18:00:00Z",
}


def me_routes(authenticator: Authenticator, rate_limiter: RateLimiter, max_duration: float) -> GuardedRoutes:
    """Build the route.

    Args:
        authenticator: Identifies the caller.
        rate_limiter: Knows what is left of each caller's limits.
        max_duration: Seconds that any recording may last at most; 0 is not bounded.
    """

    @get(
        "/me",
        operation_id="getCaller",
        summary="Show what you are and may",
        description=_DESCRIPTION,
        tags=["callers"],
        security=BEARER,
        responses={
            200: ResponseSpec(
                CallerProfile,
                generate_examples=False,
                description="What you are and may.",
                examples=[Example(id="service", value=_SERVICE), Example(id="participant", value=_PARTICIPANT)],
            ),
            **problems("unauthenticated", "identity-unavailable", "headers-too-large", "internal"),
        },
    )
    async def get_caller(request: Request[Any, Any, Any]) -> CallerProfile:
        caller = RequestContext.of(request.scope).sender
        return CallerProfile.of(caller, await rate_limiter.standing(caller), max_duration)

    return GuardedRoutes("/v1", [get_caller], authenticator)


def _moment(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None  # a token may name a year that no calendar has: as good as never
