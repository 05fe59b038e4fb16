"""Two versions side by side: what the later one has written is not for the earlier one to read."""

import json
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from gateway.coordinator.protocol import VERSION
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.listener import listening

pytestmark = pytest.mark.anyio


async def test_start_stop_and_show_of_a_newer_record_are_answered_503(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """Start, stop and read are answered 503 `newer-record`; VideoSDK is not asked. Then all works again."""
    track = new_track()
    await gateway.start(track)
    calls = len(harness.calls_for(simulator, track["roomId"]))
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        (key,) = await redis.keys(f"*:{track['roomId']}:track:{track['participantId']}:{track['kind']}")
        record: dict[Any, Any] = await cast("Any", redis.hgetall(key))
        assert record["v"] == str(VERSION)
        await cast("Any", redis.hset(key, mapping={"v": str(VERSION + 1), "state": "a word of tomorrow's"}))
        address = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
        for answer in (
            await gateway.start(track),
            await gateway.stop(track),
            await gateway.get(address),
        ):
            assert answer.status_code == 503
            assert answer.json()["type"] == "/problems/newer-record"
            assert answer.headers["retry-after"] == "2"
        assert len(harness.calls_for(simulator, track["roomId"])) == calls
        await cast("Any", redis.hset(key, mapping=record))
    assert (await gateway.stop(track)).json()["outcome"] == "stopped"


async def test_event_of_a_later_version_sends_its_readers_to_that_version(
    gateway: ApiClient, valkey: EmbeddedValkey, new_track: NewTrack
) -> None:
    """In a rolling upgrade a room's change cannot be read here: the stream ends, instead of going on without it.

    Reading on from the last event is refused for as long, so that nothing is skipped; a later version will tell it.
    """
    track = new_track()
    async with listening(gateway, track["roomId"]) as reader:
        await gateway.start(track)
        await reader.until(lambda reader: "recording" in reader.statuses)
        known = len(reader.received)
        async with Redis.from_url(valkey.url, decode_responses=True) as redis:
            (name,) = cast("list[str]", await redis.keys(f"*:{track['roomId']}:events"))
            key = name.removesuffix("events") + f"track:{track['participantId']}:{track['kind']}"
            record = json.dumps({"v": str(VERSION + 1), "state": "a word of tomorrow's"})
            event = cast("str", await redis.xadd(name, {"key": key, "record": record}))
            await redis.publish(name, event)
        await reader.until(lambda reader: reader.ended)
        assert not [heard for heard in reader.received[known:] if heard.data and event in heard.id]
        resumed = await gateway.get(f"/v1/rooms/{track['roomId']}/events", headers={"last-event-id": reader.last})
    assert (resumed.status_code, resumed.json()["type"]) == (503, "/problems/newer-record")


async def test_webhook_about_a_later_versions_track_is_acted_on_once_it_can_be(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK tells of an end while a later version holds the record: it is heard again, and not dropped."""
    track = new_track()
    # Nothing is compared by itself and what is known is believed: only the webhook can bring it about.
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST, GATEWAY_TRUST_SECONDS="3600")
    async with harness.serve(settings, public=True) as url, harness.client(url, demo.key) as gateway:
        assert (await gateway.start(track)).status_code == 201
        async with Redis.from_url(valkey.url, decode_responses=True) as redis:
            (key,) = await redis.keys(f"*:{track['roomId']}:track:{track['participantId']}:{track['kind']}")
            await cast("Any", redis.hset(key, "v", str(VERSION + 1)))
            simulator.end_recording(track["roomId"], track["participantId"], track["kind"])
            await harness.eventually(
                lambda: any(one.webhook_type.endswith("-stopped") and one.status == 204 for one in simulator.deliveries)
            )
            await cast("Any", redis.hset(key, "v", str(VERSION)))
        address = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
        await harness.until(lambda: gateway.get(address), lambda answer: answer.json()["status"] == "stopped")
