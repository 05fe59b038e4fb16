"""The protocol's times that follow from others."""

import pytest

from gateway.coordinator import Timing


@pytest.mark.parametrize(
    ("timing", "quiet", "renewal", "grace"),
    [
        (Timing(), 17.0, 1.0, 4.0),
        (Timing(send_window=0.5, upstream_timeout=20, settle=3, lease=8), 23.5, 2.0, 6.0),
        (Timing(lease=2), 17.0, 0.5, 3.0),
    ],
)
def test_times_follow_from_those_that_are_set(timing: Timing, quiet: float, renewal: float, grace: float) -> None:
    """Q is W, D and S; a lease is renewed four times; two renewals and one slow call fit into the grace."""
    assert (timing.quiet, timing.renewal, timing.grace) == (quiet, renewal, grace)
