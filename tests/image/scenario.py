"""What is tried on whatever is to be shipped: a start, two that join it, a repeated one, a stop."""

import asyncio
import uuid

import httpx

from gateway.sandbox.simulator import Simulator
from tests import harness

__all__ = ["try_out"]

_START, _STOP = "/v1/recordings/track/start", "/v1/recordings/track/stop"


async def try_out(gateway: httpx.AsyncClient, simulator: Simulator) -> None:
    """Record a track through a new gateway, and check every answer."""
    track = {"roomId": f"shipped-{uuid.uuid4().hex[:8]}", "participantId": "p", "kind": "audio"}
    simulator.inject(harness.delay("start", 0.5))
    answers = await asyncio.gather(*(gateway.post(_START, json=track) for _ in range(3)))
    assert sorted(answer.json()["outcome"] for answer in answers) == ["joined", "joined", "started"], answers
    assert len({answer.json()["id"] for answer in answers}) == 1
    again = await gateway.post(_START, json=track)
    assert again.json()["outcome"] == "already_recording", again.text
    stopped = await gateway.post(_STOP, json=track)
    assert stopped.json()["outcome"] == "stopped", stopped.text
    calls = [call.endpoint for call in simulator.calls if call.room_id == track["roomId"]]
    assert (calls.count("start"), calls.count("stop")) == (1, 1)
