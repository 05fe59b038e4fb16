"""The service in a few happy paths: living documentation over HTTP."""

import pytest

from gateway.sandbox.simulator import Simulator
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio


async def test_start_again_show_and_stop_is_one_recording(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Start, start again, look, stop: one start and one stop reach VideoSDK."""
    track = new_track()

    started = await gateway.start(track)
    assert started.status_code == 201
    assert started.json()["outcome"] == "started"
    assert started.json()["status"] == "recording"

    again = await gateway.start(track)
    assert again.status_code == 200
    assert again.json()["outcome"] == "already_recording"
    assert again.json()["id"] == started.json()["id"]

    seen = await gateway.get(started.headers["location"])
    assert seen.json()["status"] == "recording"
    assert seen.json()["requestedBy"] == "demo"

    stopped = await gateway.stop(track)
    assert stopped.status_code == 200
    assert stopped.json()["outcome"] == "stopped"
    assert stopped.json()["id"] == started.json()["id"]

    assert [call.endpoint for call in simulator.calls if call.method == "POST"] == ["start", "stop"]
