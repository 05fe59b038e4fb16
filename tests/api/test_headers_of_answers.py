"""Which headers a problem carries, and which it must not."""

from collections.abc import Callable

import httpx
import pytest

from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator

pytestmark = pytest.mark.anyio

NewTrack = Callable[..., dict[str, str]]


async def test_problem_that_leaves_nothing_unknown_has_no_link(
    gateway: httpx.AsyncClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Only a command whose outcome is unknown points to where the outcome can be found out."""
    track = new_track()
    simulator.inject(Fault(action="refuse", endpoint="start", status=422, text="no"))
    refused = await gateway.post("/v1/recordings/track/start", json=track)
    assert refused.status_code == 422
    assert "link" not in refused.headers
    assert "location" not in refused.headers
