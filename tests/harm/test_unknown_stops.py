"""A caller that stops what never was, to fill a room with it until nobody sees what really records."""

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import NewTrack
from tests.harm.costs import attacked, refused
from tests.listener import listening

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

PER_MINUTE = 40


async def test_stops_of_what_never_was_cost_what_they_cause_and_leave_nothing(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """A token each, since each reaches VideoSDK; no event, no place in the room, and a record that is soon gone."""
    track = new_track()
    room = track["roomId"]
    settings = {"GATEWAY_CALLER_STARTS_PER_MINUTE": str(PER_MINUTE)}
    async with (
        Redis.from_url(valkey.url, decode_responses=True) as redis,
        attacked(valkey.url, simulator.url, tmp_path, settings, ("attacker", "service")) as (attacker, service),
        listening(service, room) as reader,
    ):
        assert (await service.start(track)).status_code == 201
        before = await _left(redis, room)
        statuses = Counter[int]()
        for _ in range(PER_MINUTE + 15):
            made_up = {**track, "participantId": f"made-up-{uuid.uuid4().hex[:12]}"}
            answer = await attacker.stop(made_up)
            statuses[answer.status_code] += 1
            assert answer.status_code == 429 or answer.json()["outcome"] == "not_recording"
        # Two come back in three seconds.
        assert PER_MINUTE - 1 <= statuses[200] <= PER_MINUTE + 8
        assert await refused(attacker, "starts-per-caller") == statuses[429]
        assert _posts(simulator, room) == 1 + statuses[200]
        # What the room shows is what it was: one target, and the events of its start.
        assert await _left(redis, room) == before
        assert [one["participantId"] for one in (await service.list(room)).json()["recordings"]] == ["person-0001"]
        for key in [key async for key in redis.scan_iter(match=f"*:{room}:track:made-up-*", count=1000)]:
            assert await redis.pttl(key) <= 61_000
        stopped = await service.stop(track)
        assert stopped.json()["outcome"] == "stopped"
        await reader.until_statuses("starting", "recording", "stopping", "stopped")


def _posts(simulator: Simulator, room: str) -> int:
    return sum(call.method == "POST" for call in harness.calls_for(simulator, room))


async def _left(redis: Any, room: str) -> tuple[int, int]:
    """Return how many targets and events the room has."""
    (targets,) = [key async for key in redis.scan_iter(match=f"*:{room}:targets", count=1000)]
    (events,) = [key async for key in redis.scan_iter(match=f"*:{room}:events", count=1000)]
    return await redis.zcard(targets), await redis.xlen(events)
