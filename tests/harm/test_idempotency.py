"""A caller that sends every request under a new Idempotency-Key, to fill Redis with what has to be remembered of it."""

import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.harm.costs import attacked, keys_forgotten, refused

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

PER_MINUTE, KEYS = 60, 20
FILES = 100
"""What a recording shows at most: each is some 300 bytes of an answer."""


async def test_new_keys_cost_a_whole_token_and_take_a_bounded_room(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """Starts of what records, each under a new key: a token each, twenty remembered, and none of the 100 files."""
    settings = {
        "GATEWAY_CALLER_STARTS_PER_MINUTE": str(PER_MINUTE),
        "GATEWAY_MOST_IDEMPOTENCY_KEYS": str(KEYS),
        "GATEWAY_TRUST_SECONDS": "600",
    }
    async with (
        Redis.from_url(valkey.url, decode_responses=True) as redis,
        attacked(valkey.url, simulator.url, tmp_path, settings) as (attacker,),
    ):
        track = new_track()
        assert (await attacker.start(track)).status_code == 201
        await _show_files(redis, track)
        before = await _room(redis)
        statuses = Counter[int]()
        for _ in range(PER_MINUTE + 15):
            answer = await attacker.start(track, headers={"idempotency-key": uuid.uuid4().hex})
            statuses[answer.status_code] += 1
            assert answer.status_code == 429 or len(answer.json()["files"]) == FILES
        # One token is gone for the start, and one comes back in each second that this takes.
        assert statuses[200] <= PER_MINUTE + 10
        assert statuses[429] > 0
        room = await _room(redis)
        assert sum(room.values()) - sum(before.values()) < KEYS * 2_000
        (entries,) = [count for name, count in (await _counts(redis)).items() if name not in before]
        assert entries == KEYS
        assert await keys_forgotten(attacker) >= statuses[200] - KEYS
        assert await refused(attacker, "starts-per-caller") == statuses[429]
        await _retries_are_replayed(attacker, track)


async def _retries_are_replayed(attacker: ApiClient, track: dict[str, str]) -> None:
    """Check that what a bound takes is the past: a retry gets its answer, and costs a tenth."""
    key = {"idempotency-key": uuid.uuid4().hex}
    first, again = [
        await harness.until(lambda: attacker.stop(track, headers=key), lambda answer: answer.status_code != 429)
        for _ in range(2)
    ]
    assert (again.content, again.headers.get("idempotency-replayed")) == (first.content, "true")


async def _show_files(redis: Any, track: dict[str, str]) -> None:
    (key,) = [key async for key in redis.scan_iter(match=f"*:{track['roomId']}:track:*")]
    files = [{"filePath": f"{'folder/' * 20}{number}.webm", "fileUrl": "https://cdn.example/" + "x" * 120}
             for number in range(FILES)]  # fmt: skip
    evidence = {"generation": await redis.hget(key, "generation"), "files": files}
    await redis.hset(key, "evidence", json.dumps(evidence))


async def _room(redis: Any) -> dict[str, int]:
    """Return the bytes of everything that is remembered under keys."""
    return {name: await redis.memory_usage(name) async for name in redis.scan_iter(match="*:answer*", count=1000)}


async def _counts(redis: Any) -> dict[str, int]:
    return {name: await redis.zcard(name) async for name in redis.scan_iter(match="*:answered:*", count=1000)}
