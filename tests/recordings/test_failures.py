"""What VideoSDK did, and what that means to a caller."""

import pytest

from gateway.errors import (
    CredentialsRefused,
    Limited,
    ListIncomplete,
    MayHaveHappened,
    NeverSent,
    Refused,
    SendWindowClosed,
    UpstreamError,
)
from gateway.recordings.failures import list_unavailable, problem_for, stop_refused

WORDS = "no such room"


@pytest.mark.parametrize(
    ("error", "slug", "retry_after", "extensions"),
    [
        (NeverSent(WORDS), "upstream-unavailable", 2, {}),
        (SendWindowClosed(WORDS), "upstream-unavailable", 2, {}),
        (CredentialsRefused(WORDS, status=401), "upstream-credentials-refused", None, {}),
        (Limited(WORDS, status=429), "upstream-limited", 5, {"upstreamStatus": 429}),
        (Limited(WORDS, status=503, retry_after=7), "upstream-limited", 7, {"upstreamStatus": 503}),
        (Refused(WORDS, status=404), "upstream-refused", None, {"upstreamStatus": 404, "upstreamMessage": WORDS}),
        (MayHaveHappened(WORDS), "outcome-unknown", 5, {}),
        (MayHaveHappened(WORDS, status=502), "outcome-unknown", 5, {"upstreamStatus": 502}),
        (ListIncomplete(WORDS), "outcome-unknown", 5, {}),
        (UpstreamError(WORDS, status=302), "outcome-unknown", 5, {"upstreamStatus": 302}),
    ],
)
def test_failure_of_videosdk_means_one_problem_to_a_caller(
    error: UpstreamError, slug: str, retry_after: float | None, extensions: dict[str, object]
) -> None:
    """What proves nothing is an unknown outcome; VideoSDK's words are passed on only with a refusal."""
    problem = problem_for(error)
    assert (problem.slug, problem.retry_after, problem.extensions) == (slug, retry_after, extensions)
    assert WORDS not in problem.detail


@pytest.mark.parametrize(("told", "retry_after"), [(None, 2), (7, 7)])
def test_refused_stop_says_that_the_recording_goes_on(told: float | None, retry_after: float) -> None:
    """The same stop may be accepted later."""
    problem = stop_refused(Refused(WORDS, status=404, retry_after=told))
    assert (problem.slug, problem.retry_after) == ("upstream-refused", retry_after)
    assert problem.extensions == {"upstreamStatus": 404, "upstreamMessage": WORDS}
    assert problem.detail == "VideoSDK refused the stop with status 404; the recording goes on."


@pytest.mark.parametrize(
    ("error", "retry_after"), [(None, 1), (NeverSent(), 2), (Limited(retry_after=9), 9), (ListIncomplete(), 5)]
)
def test_list_that_cannot_be_had_is_an_unknown_outcome(error: UpstreamError | None, retry_after: float) -> None:
    """Come again when VideoSDK can be asked again."""
    problem = list_unavailable(error)
    assert (problem.slug, problem.retry_after) == ("outcome-unknown", retry_after)
