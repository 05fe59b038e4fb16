"""How long a start or a stop is waited for: as the caller says."""

import pytest

from gateway.sandbox.simulator import Simulator
from tests import harness
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("command", "status"), [("start", 504), ("stop", 202)])
async def test_wait_that_a_caller_shortens_ends_then(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, command: str, status: int
) -> None:
    """Long before VideoSDK's own time is over."""
    track = new_track()
    if command == "stop":
        await gateway.start(track)
    simulator.inject(harness.delay(command, 3))
    ask = gateway.start if command == "start" else gateway.stop
    answer = await ask(track, headers={"x-request-timeout-ms": "100"})
    assert answer.status_code == status
    assert not any(call.answered or call.gone for call in simulator.calls if call.endpoint == command)
