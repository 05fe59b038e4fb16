"""Two versions side by side: what the later one has written is not for the earlier one to read."""

from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest
from redis.asyncio import Redis

from gateway.coordinator.protocol import VERSION
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey

pytestmark = pytest.mark.anyio

NewTrack = Callable[..., dict[str, str]]
START, STOP = "/v1/recordings/track/start", "/v1/recordings/track/stop"


async def test_a_later_versions_track_is_left_alone(
    gateway: httpx.AsyncClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """Start, stop and question are answered 503 `newer-record`; VideoSDK is not asked. Then all works again."""
    track = new_track()
    await gateway.post(START, json=track)
    calls = len(simulator.calls)
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        (key,) = await redis.keys(f"*:{track['roomId']}:{track['participantId']}:{track['kind']}")
        record: dict[Any, Any] = await cast("Any", redis.hgetall(key))
        assert record["v"] == str(VERSION)
        await cast("Any", redis.hset(key, mapping={"v": str(VERSION + 1), "state": "a word of tomorrow's"}))
        address = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
        for answer in (
            await gateway.post(START, json=track),
            await gateway.post(STOP, json=track),
            await gateway.get(address),
        ):
            assert answer.status_code == 503
            assert answer.json()["type"] == "/problems/newer-record"
            assert answer.headers["retry-after"] == "2"
        assert len(simulator.calls) == calls
        await cast("Any", redis.hset(key, mapping=record))
    assert (await gateway.post(STOP, json=track)).json()["outcome"] == "stopped"
