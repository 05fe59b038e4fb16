"""Which attempt sent what: VideoSDK's logs and Redis's records name it alike."""

from typing import Any, cast

import pytest
from redis.asyncio import Redis

from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, STOP, NewTrack

pytestmark = pytest.mark.anyio


async def test_start_and_stop_name_their_attempt_upstream(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """`X-Rec-Attempt` is the attempt that the record says has finished; a call that is repeated keeps it."""
    track = new_track()
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_VERIFY_ABSENT="never")
    async with (
        harness.serve(settings) as url,
        harness.client(url, demo.key) as gateway,
        Redis.from_url(valkey.url, decode_responses=True) as redis,
    ):
        for path, endpoint in ((START, "start"), (STOP, "stop")):
            # The first token is refused, also by a harmless call, and the call sent once more with another.
            simulator.inject(
                Fault(action="refuse", endpoint=endpoint, status=401),  # pyright: ignore[reportArgumentType]
                Fault(action="refuse", endpoint="list", status=401),
            )
            assert (await gateway.post(path, json=track)).is_success
            (key,) = await redis.keys(f"*:{track['roomId']}:track:{track['participantId']}:{track['kind']}")
            finished_by = await cast("Any", redis.hget(key, "finished_by"))
            sent = [call.attempt for call in simulator.calls if call.endpoint == endpoint]
            assert finished_by
            assert sent == [finished_by] * 2
    first, second = ({call.attempt for call in simulator.calls if call.endpoint == one} for one in ("start", "stop"))
    assert not first & second
