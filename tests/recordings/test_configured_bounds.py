"""Bounds that an operator sets, told by what the gateway then does."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.recordings.parts import settled_valkey

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000


@asynccontextmanager
async def serving(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, **more: str
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway with settings of the test's own."""
    times = {**harness.FAST, "GATEWAY_VERIFY_ABSENT": "never"}
    settings = harness.environment(valkey.url, simulator.url, demo.file, **{**times, **more})
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        yield gateway


async def test_upstream_calls_keep_their_rate(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """At six a second the last of four starts that come together is sent half a second after the first."""
    async with serving(valkey, simulator, demo, GATEWAY_UPSTREAM_CALLS_PER_SECOND="6") as gateway:
        begun = time.monotonic()
        answers = await asyncio.gather(*(gateway.start(new_track()) for _ in range(4)))
        assert time.monotonic() - begun >= 3 / 6
        assert {answer.status_code for answer in answers} == {201}


async def test_reconciler_checks_keep_their_rate(
    simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """At one in a hundred seconds one of two rooms is compared; the other is overdue, and stays so."""
    often = {"GATEWAY_CHECK_SECONDS": "0.1", "GATEWAY_CHECKS_PER_SECOND": "0.01", "GATEWAY_TRUST_SECONDS": "60"}
    with settled_valkey() as valkey:
        async with serving(valkey, simulator, demo, **often) as gateway, Redis.from_url(valkey.url) as redis:
            for room in ("one", "two"):
                await gateway.start({**new_track(), "roomId": room})

            async def overdue() -> float:
                """Return for how long (ms) the track that is due last has been due."""
                seconds, micros = await redis.time()
                now = int(seconds) * 1000 + int(micros) // 1000
                names = [key async for key in redis.scan_iter("rec:*:due")]
                scores = [float(at) for name in names for _, at in await redis.zrange(name, 0, -1, withscores=True)]
                return now - max(scores) if len(scores) == 2 else 0

            def listings() -> int:
                return sum(call.endpoint == "list" for call in simulator.calls)

            await harness.eventually(listings)
            # Longer than the settler takes for a round.
            await harness.until(overdue, lambda late: late > 1_400)
            assert listings() == 1


async def test_ended_recording_is_kept_for_so_many_hours(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Two hours after its end Redis forgets it; while it records it is kept for a day."""
    async with (
        serving(valkey, simulator, demo, GATEWAY_KEEP_ENDED_HOURS="2") as gateway,
        Redis.from_url(valkey.url) as redis,
    ):
        track = new_track()
        await gateway.start(track)
        (key,) = [key async for key in redis.scan_iter(f"rec:*:{track['roomId']}:track:{track['participantId']}:video")]
        assert 23 * HOUR_MS < await redis.pttl(key) <= 24 * HOUR_MS
        await gateway.stop(track)
        assert HOUR_MS < await redis.pttl(key) <= 2 * HOUR_MS
