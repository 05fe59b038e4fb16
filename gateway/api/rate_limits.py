"""How often callers may ask: a token bucket per caller, and one per target and sort of callers; shared by all replicas.

What costs VideoSDK nothing must cost a caller little: any number of equal starts are promised to become one. So a
request takes a tenth of a token from the caller's bucket when it arrives, and the rest only if it, or the operation it
was part of, reached VideoSDK: `joined`, `already_recording` and replays cost a tenth, and so does a `not_recording` of
which the record tells. Not nothing, since each of them costs the gateway and Redis some work; and a whole token under a
new `Idempotency-Key`, which Redis remembers for hours. What was spent is owed even where it is not there: many requests
may arrive before the first is answered.

A target's bucket holds real starts and nothing else, since a storm of tabs on one target is what the gateway is for.

A ticket for live events costs a token of a bucket of the caller's own, so that no number of them keeps it from
starting: as many can be in Redis at a time as it gets in their half minute.

A stop is refused by the caller's bucket alone. Who may stop at all must be able to end a recording whatever others did
to the target; and a caller over its own limit can be asked to wait.

Reads have a bucket of their own (`questions`), so that no one who reads too much is kept from stopping. What Redis
answers, or a list of a moment ago, is free; each call to VideoSDK that a read causes costs a token.
"""

import asyncio
import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Final

from msgspec import Struct

from gateway.auth.api_keys import Caller
from gateway.errors import (
    CoordinationUnavailable,
    DeadlineExceeded,
    GatewayError,
    OutcomeUnknown,
    TooManyRequests,
    UpstreamCredentialsRefused,
    UpstreamLimited,
    UpstreamRefused,
)
from gateway.observability import metrics
from gateway.recordings import Answer, Outcome, Target
from gateway.store.scripts import key_of
from gateway.store.token_buckets import Quota, TokenBuckets

__all__ = ["Admission", "CallBudget", "RateLimiter", "Standing"]

_ARRIVAL: Final = 0.1
_REST: Final = 0.9
_LEAST: Final = 1e-6
"""What floating point lost of a token must not show as a whole one less."""
_WINDOW_SECONDS: Final = 60
_PATIENCE_SECONDS: Final = 0.5
"""How long Redis may take to say whether a request is within its limits: the rest of the time in which a caller has to
get that Redis does not answer is for what cannot be done without it."""
_CALLERS: Final = "starts-per-caller"
_TOO_MANY: Final = "You have sent more requests in a minute than the gateway allows you."
_TICKETS: Final = "tickets-per-caller"
_QUESTIONS: Final = "questions-per-caller"
_TOO_MANY_CALLS: Final = "Your reads have caused more calls to VideoSDK in a minute than the gateway allows you."
_OWN: Final = frozenset({Outcome.STARTED, Outcome.STOPPED})
"""Answers that only one request of an operation gets."""
_SHARED: Final = (UpstreamRefused, UpstreamCredentialsRefused, UpstreamLimited, OutcomeUnknown, DeadlineExceeded)
"""Problems that tell of a call to VideoSDK, or of one that may still come, to all who shared the operation."""


class RateLimiter:
    """Keeps callers within their limits.

    Args:
        limits: The buckets.
        project: Separates the projects that share a Redis.
        caller_per_minute: Starts and stops of a caller that has no limit of its own; 0 is no limit.
        target_per_minute: Real starts of a target; 0 is no limit.
        tickets_per_minute: Tickets of a caller; 0 is no limit.
    """

    def __init__(
        self,
        limits: TokenBuckets,
        project: str,
        *,
        caller_per_minute: int,
        target_per_minute: int,
        questions_per_minute: int = 0,
        tickets_per_minute: int = 0,
    ) -> None:
        self._limits = limits
        self._project = project
        self._caller_per_minute = caller_per_minute
        self._target_per_minute = target_per_minute
        self._questions_per_minute = questions_per_minute
        self._tickets_per_minute = tickets_per_minute
        self._groups: dict[tuple[Target, bool], _Group] = {}

    async def admit(self, caller: Caller, target: Target, *, starts: bool) -> "Admission":
        """Take what a request costs on its arrival."""
        buckets = [self._commands_of(caller)]
        if starts:
            # Of its own sort: what participants use up, services have left.
            name = key_of(self._project, "target", caller.sort, target.room_id, *target.parts)
            buckets.append(_Bucket(target.mode, name, self._target_per_minute, 0, 1))
        group = self._groups.setdefault((target, starts), _Group())
        group.members += 1
        admission = Admission(self, [bucket for bucket in buckets if bucket.per_minute], (target, starts), group)
        await admission.take_arrival()
        return admission

    def stop_of_room(self, caller: Caller) -> "CallBudget":
        """Take in that a caller stops a whole room, for which VideoSDK is asked what records there.

        Of what starts and stops cost, and not of what reads do: who reads too much can still stop.
        """
        return CallBudget(self, self._commands_of(caller, 1, 0), _CALLERS, _TOO_MANY)

    def read(self, caller: Caller) -> "CallBudget":
        """Take a caller's read in: it costs nothing until it causes a call to VideoSDK."""
        return CallBudget(self, self._reads_of(caller), _QUESTIONS, _TOO_MANY_CALLS)

    async def take_ticket(self, caller: Caller) -> None:
        """Take what a ticket for live events costs.

        Raises:
            TooManyRequests: The caller has had too many in a minute.
        """
        if not self._tickets_per_minute:
            return
        detail = "You have asked for more tickets in a minute than the gateway allows you."
        await self.pay(self._tickets_of(caller), _TICKETS, detail)

    async def standing(self, caller: Caller) -> "list[Standing]":
        """Say how a caller's own limits stand, and take nothing: what is left is for what the caller came for."""
        every = (self._commands_of(caller), self._reads_of(caller), self._tickets_of(caller))
        buckets = [bucket for bucket in every if bucket.per_minute]
        await asyncio.gather(*(self._look(bucket) for bucket in buckets))
        return [
            Standing(bucket.policy, bucket.per_minute)
            if (quota := bucket.quota) is None
            else Standing(bucket.policy, bucket.per_minute, _whole(quota.remaining), math.ceil(quota.full))
            for bucket in buckets
        ]

    async def pay(self, bucket: "_Bucket", bound: str, detail: str) -> None:
        """Take what something costs that is charged at once.

        Raises:
            TooManyRequests: The bucket does not hold it.
        """
        if not self.take_at_once(bucket):
            await self.take(bucket)
        if bucket.quota is not None and not bucket.quota.allowed:
            metrics.refused(bound)
            raise TooManyRequests(detail, retry_after=bucket.quota.wait, extensions={"bound": bound})

    def take_at_once(self, bucket: "_Bucket") -> bool:
        """Take what arriving costs, if this process can say whether that is there."""
        bucket.quota = self._limits.take_at_once(
            bucket.name, per_minute=bucket.per_minute, burst=bucket.per_minute, cost=bucket.arrival
        )
        return bucket.quota is not None

    async def take(self, bucket: "_Bucket") -> None:
        """Take what arriving costs. Without Redis there is no limit: it refuses starts, and stops must go on."""
        try:
            # What was asked for is taken all the same, if Redis gets to it.
            async with asyncio.timeout(_PATIENCE_SECONDS):
                bucket.quota = await self._limits.take(
                    bucket.name, per_minute=bucket.per_minute, burst=bucket.per_minute, cost=bucket.arrival
                )
        except TimeoutError:
            pass
        except CoordinationUnavailable:
            bucket.limited = False

    def spend(self, bucket: "_Bucket") -> None:
        """Take the rest of what a request costs, if there was a limit when it arrived."""
        if not bucket.limited:
            return
        quota = self._limits.spend(bucket.name, per_minute=bucket.per_minute, burst=bucket.per_minute, cost=bucket.rest)
        if bucket.quota is not None:
            bucket.quota = quota

    def spend_calls(self, bucket: "_Bucket", calls: int) -> None:
        """Take what was spent beyond what was asked for."""
        self._limits.spend(bucket.name, per_minute=bucket.per_minute, burst=bucket.per_minute, cost=calls)

    async def _look(self, bucket: "_Bucket") -> None:
        """See what a bucket holds, if Redis says so in time."""
        with suppress(TimeoutError, CoordinationUnavailable):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                bucket.quota = await self._limits.look(
                    bucket.name, per_minute=bucket.per_minute, burst=bucket.per_minute
                )

    def _commands_of(self, caller: Caller, arrival: float = _ARRIVAL, rest: float = _REST) -> "_Bucket":
        per_minute = self._caller_per_minute if caller.starts_per_minute is None else caller.starts_per_minute
        return _Bucket("caller", f"{self._project}:caller:{_hash(caller.account)}", per_minute, arrival, rest)

    def _reads_of(self, caller: Caller) -> "_Bucket":
        return _Bucket(
            "questions", f"{self._project}:questions:{_hash(caller.account)}", self._questions_per_minute, 1, 1
        )

    def _tickets_of(self, caller: Caller) -> "_Bucket":
        return _Bucket("tickets", f"{self._project}:tickets:{_hash(caller.account)}", self._tickets_per_minute, 1, 0)

    def close_group(self, key: tuple[Target, bool], group: "_Group") -> None:
        """Let those who come from now on be a group of their own."""
        if self._groups.get(key) is group:
            del self._groups[key]


class Standing(Struct, frozen=True):
    """How one limit of a caller stands."""

    policy: str
    """As the `RateLimit` headers name it."""
    per_minute: int
    remaining: int | None = None
    """Whole tokens; None where Redis did not say."""
    full_in_seconds: int | None = None
    """Seconds until nothing is missing."""


class Admission:
    """One request's way past the limits; `leave` ends it."""

    def __init__(
        self, rate_limiter: RateLimiter, buckets: list["_Bucket"], key: tuple[Target, bool], group: "_Group"
    ) -> None:
        self._rate_limiter = rate_limiter
        self._buckets = buckets
        self._key = key
        self._group = group

    async def take_arrival(self) -> None:
        """Take what arriving costs."""
        asked = [bucket for bucket in self._buckets if not self._rate_limiter.take_at_once(bucket)]
        if asked:
            await asyncio.gather(*(self._rate_limiter.take(bucket) for bucket in asked))

    def check(self) -> None:
        """Let the request pass.

        Raises:
            TooManyRequests: A bucket does not hold what it costs.
        """
        empty = [bucket for bucket in self._buckets if bucket.quota is not None and not bucket.quota.allowed]
        if empty:
            wait = max(bucket.quota.wait for bucket in empty if bucket.quota is not None)
            own = empty[0].policy == "caller"
            who = "You have sent" if own else "All callers of your sort together have sent"
            whom = "you" if own else f"for this {self._key[0].mode}"
            bound = _CALLERS if own else "starts-per-target"
            metrics.refused(bound)
            raise TooManyRequests(
                f"{who} more requests in a minute than the gateway allows {whom}.",
                retry_after=wait,
                extensions={"bound": bound},
            )

    def charge(self, ended: Answer | GatewayError) -> None:
        """Take the rest if this was not free."""
        if isinstance(ended, GatewayError) or ended.outcome not in _OWN:
            if not _tells_of_a_call(ended) or self._group.charged:
                return
            # Any number of callers hear of one call that failed; one of them pays for it.
            self._group.charged = True
            self._rate_limiter.close_group(self._key, self._group)
        for bucket in self._buckets:
            if not bucket.paid:
                self._rate_limiter.spend(bucket)

    def charge_key(self) -> None:
        """Take the rest from the caller, whatever becomes of the request: what it is remembered by takes room."""
        for bucket in self._buckets:
            if bucket.policy == "caller":
                self._rate_limiter.spend(bucket)
                bucket.paid = True

    def leave(self) -> None:
        """Say that the request is over."""
        self._group.members -= 1
        if not self._group.members:
            self._rate_limiter.close_group(self._key, self._group)

    @property
    def headers(self) -> Mapping[str, str]:
        """What the caller gets (draft-ietf-httpapi-ratelimit-headers-10): the policies, and what is left of each."""
        return _headers(self._buckets)


def _tells_of_a_call(ended: Answer | GatewayError) -> bool:
    """Tell whether VideoSDK was, or may be, called for all who are answered so."""
    if isinstance(ended, GatewayError):
        return isinstance(ended, _SHARED)
    # A stop of what does not record may have found that in the record.
    return ended.outcome is Outcome.STOP_REQUESTED or (ended.outcome is Outcome.NOT_RECORDING and ended.was_sent)


class CallBudget:
    """What a request pays with for each call to VideoSDK that is made for it: a bucket of its caller."""

    def __init__(self, rate_limiter: RateLimiter, bucket: "_Bucket", bound: str, detail: str) -> None:
        self._rate_limiter = rate_limiter
        self._bucket = bucket
        self._bound = bound
        self._detail = detail

    async def admit(self) -> None:
        """Pay for one call.

        Raises:
            TooManyRequests: The caller's bucket does not hold what it costs.
        """
        if self._bucket.per_minute:
            await self._rate_limiter.pay(self._bucket, self._bound, self._detail)

    def spend(self, calls: int) -> None:
        """Pay for calls that were made beyond that one."""
        if self._bucket.per_minute and self._bucket.limited:
            self._rate_limiter.spend_calls(self._bucket, calls)

    @property
    def headers(self) -> Mapping[str, str]:
        """What the caller gets whose request is refused."""
        return _headers([self._bucket])


def _headers(buckets: list["_Bucket"]) -> dict[str, str]:
    if not buckets:
        return {}
    policies = [f'"{bucket.policy}";q={bucket.per_minute};w={_WINDOW_SECONDS}' for bucket in buckets]
    left = [
        f'"{bucket.policy}";r={_whole(quota.remaining)};t={math.ceil(quota.wait or quota.full)}'
        for bucket in buckets
        if (quota := bucket.quota) is not None
    ]
    return {"ratelimit-policy": ", ".join(policies)} | ({"ratelimit": ", ".join(left)} if left else {})


def _whole(tokens: float) -> int:
    return max(0, math.floor(tokens + _LEAST))


@lru_cache(maxsize=1024)
def _hash(account: str) -> str:
    return hashlib.blake2b(account.encode(), digest_size=12).hexdigest()


class _Bucket:
    """A bucket, as one request sees it."""

    def __init__(self, policy: str, name: str, per_minute: int, arrival: float, rest: float) -> None:
        self.policy = policy
        self.name = name
        self.per_minute = per_minute
        self.arrival = arrival
        self.rest = rest
        self.limited = True
        """Redis was there to count."""
        self.paid = False
        """The rest was taken."""
        self.quota: Quota | None = None
        """What the caller gets to know; nothing where Redis did not answer in time."""


class _Group:
    """Requests for one target that are under way in this process at the same time."""

    def __init__(self) -> None:
        self.members = 0
        self.charged = False
