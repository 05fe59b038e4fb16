"""What a request costs in the end, by what became of it."""

import pytest

from gateway.api.rate_limits import Admission, RateLimiter, _Bucket, _Group
from gateway.coordinator import Record
from gateway.errors import (
    CoordinationUnavailable,
    DeadlineExceeded,
    Forbidden,
    GatewayError,
    OutcomeUnknown,
    ParametersDiffer,
    UpstreamCredentialsRefused,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from gateway.recordings import Answer, Kind, Mode, Outcome, Target, recording_of
from gateway.store.connection import Connection
from gateway.store.token_buckets import TokenBuckets

TARGET = Target(Mode.TRACK, "room", "ada", Kind.VIDEO)
OWN, SHARED, FREE = "its own", "once for all who shared it", "free"
Ended = Outcome | type[GatewayError] | tuple[Outcome, bool] | None
"""What became of a request; of an outcome also whether an operation was carried out for it."""
COSTS: list[tuple[Ended, str]] = [
    (Outcome.STARTED, OWN),
    (Outcome.STOPPED, OWN),
    (Outcome.STOP_REQUESTED, SHARED),
    (Outcome.JOINED, FREE),
    (Outcome.ALREADY_RECORDING, FREE),
    (Outcome.NOT_RECORDING, FREE),
    ((Outcome.NOT_RECORDING, True), SHARED),
    ((Outcome.ALREADY_RECORDING, True), FREE),
    ((Outcome.JOINED, True), FREE),
    (None, FREE),
    (UpstreamRefused, SHARED),
    (UpstreamCredentialsRefused, SHARED),
    (UpstreamLimited, SHARED),
    (OutcomeUnknown, SHARED),
    (DeadlineExceeded, SHARED),
    (UpstreamUnavailable, FREE),
    (CoordinationUnavailable, FREE),
    (ParametersDiffer, FREE),
    (Forbidden, FREE),
]


def answer(outcome: Outcome | None, *, was_sent: bool = False) -> Answer:
    """Return what a request is answered."""
    return Answer(outcome, recording_of("", TARGET, Record()), was_sent)


class Noting(RateLimiter):
    """Notes what is spent, of buckets that no Redis holds."""

    def __init__(self) -> None:
        super().__init__(TokenBuckets(Connection("redis://nowhere")), "t", caller_per_minute=1, target_per_minute=1)
        self.spent: list[str] = []

    def spend(self, bucket: _Bucket) -> None:
        """Note it."""
        self.spent.append(bucket.name)


@pytest.mark.parametrize(("ended", "cost"), COSTS)
def test_request_is_charged_by_what_became_of_it(ended: Ended, cost: str) -> None:
    """A call to VideoSDK is paid by the request that made it, or by one of those that hear of its failure."""
    limiter, group, key = Noting(), _Group(), (TARGET, True)
    limiter._groups[key] = group
    group.members = 2
    first, second = (Admission(limiter, [_Bucket(name, name, 1, 0.1, 0.9)], key, group) for name in ("first", "second"))
    became, was_sent = ended if isinstance(ended, tuple) else (ended, False)
    for admission in (first, second):
        admission.charge(became("") if isinstance(became, type) else answer(became, was_sent=was_sent))
    assert limiter.spent == {OWN: ["first", "second"], SHARED: ["first"], FREE: []}[cost]
    # Those who come after it are charged for what comes after it.
    assert (key in limiter._groups) is (cost != SHARED)


@pytest.mark.parametrize("ended", [answer(Outcome.STARTED), answer(Outcome.ALREADY_RECORDING), UpstreamRefused("")])
def test_request_under_a_new_key_is_charged_whole_and_once(ended: Answer | GatewayError) -> None:
    """Whatever becomes of it, its caller pays for what is remembered of it; the target pays for a real start alone."""
    limiter, group, key = Noting(), _Group(), (TARGET, True)
    buckets = [_Bucket("caller", "of the caller", 1, 0.1, 0.9), _Bucket("track", "of the track", 1, 0, 1)]
    admission = Admission(limiter, buckets, key, group)
    admission.charge_key()
    assert limiter.spent == ["of the caller"]
    admission.charge(ended)
    free = isinstance(ended, Answer) and ended.outcome is Outcome.ALREADY_RECORDING
    assert limiter.spent == ["of the caller"] + ([] if free else ["of the track"])
