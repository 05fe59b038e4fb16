"""What operators are alarmed by: a suspected duplicate and a webhook that does not arrive, each counted and logged."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.coordinator import Completion, Coordinator, Record, Timing
from gateway.coordinator.protocol import Command
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from gateway.sandbox.wire import Exchange, Reply, Request, Server
from gateway.store.connection import Connection
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.leaks import EVIDENCE
from tests.observability.numbers import scrape

pytestmark = pytest.mark.anyio

DOUBTFUL = {**harness.FAST, "GATEWAY_TRUST_SECONDS": "0"}
"""Nothing is believed for longer than a moment, so each read is a look at the list; nothing looks by itself."""


@asynccontextmanager
async def serving(valkey: EmbeddedValkey, videosdk: str, demo: harness.Demo, **more: str) -> AsyncGenerator[ApiClient]:
    """Serve a gateway that looks at the list whenever it is asked."""
    settings = harness.environment(valkey.url, videosdk, demo.file, **{**DOUBTFUL, **more})
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        yield gateway


def logged(event: str, room: str) -> list[dict[str, Any]]:
    """Return the log lines of an event that name the room."""
    EVIDENCE.log.flush()
    lines = harness.log_lines(Path(EVIDENCE.log.name))
    return [json.loads(line) for line in lines if f'"{event}"' in line and room in line]


async def start_beside(simulator: Simulator, track: dict[str, str]) -> None:
    """Start a recording at VideoSDK without the gateway."""
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}) as outsider:
        answer = await outsider.post(f"{simulator.url}/v2/recordings/participant/track/start", json=track)
        assert answer.status_code == 200


# --- suspected duplicates ---------------------------------------------------------------------------------------------


async def test_start_that_finds_two_open_recordings_counts_a_suspected_duplicate(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack
) -> None:
    """One open recording is no suspicion; with a second one beside it a look counts one and logs the track."""
    async with (
        harness.simulator(signer=signer, duplicates="accept") as simulator,
        serving(valkey, simulator.url, demo) as gateway,
    ):
        track = new_track()
        await gateway.start(track)
        before = await scrape(gateway)
        assert (await gateway.start(track)).json()["outcome"] == "already_recording"
        alone = await scrape(gateway)
        assert alone.get("duplicates_suspected_total") == before.get("duplicates_suspected_total")
        assert logged("duplicate.suspected", track["roomId"]) == []

        await start_beside(simulator, track)
        assert (await gateway.start(track)).json()["outcome"] == "already_recording"
        after = await scrape(gateway)
        assert after.total("duplicates_suspected_total") - before.total("duplicates_suspected_total") == 1
        (line,) = logged("duplicate.suspected", track["roomId"])
        assert (line["level"], line["rows"]) == ("error", 2)
        assert line["target"].endswith(f":{track['roomId']}:track:{track['participantId']}:{track['kind']}")


@pytest.mark.parametrize("looks", ["a read", "the reconciler"])
async def test_look_that_finds_two_open_recordings_counts_a_suspected_duplicate(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack, looks: str
) -> None:
    """The comparison with the list notices a duplicate too, also where no caller asks for the track again."""
    more = {"GATEWAY_CHECK_SECONDS": "0.5", "GATEWAY_SETTLE_SECONDS": "0"} if looks == "the reconciler" else {}
    async with (
        harness.simulator(signer=signer, duplicates="accept") as simulator,
        serving(valkey, simulator.url, demo, **more) as gateway,
    ):
        track = new_track()
        before = await scrape(gateway)
        await gateway.start(track)
        await start_beside(simulator, track)
        if looks == "a read":
            assert (await gateway.show(track)).json()["status"] == "recording"
        await harness.until(
            lambda: scrape(gateway),
            lambda seen: seen.total("duplicates_suspected_total") > before.total("duplicates_suspected_total"),
        )
        assert logged("duplicate.suspected", track["roomId"])


async def test_start_whose_track_was_taken_over_counts_a_suspected_duplicate(
    valkey: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK confirms a start after another replica has settled that nothing runs: both may have started one."""
    held = asyncio.Event()
    starts: list[Request] = []

    async def videosdk(exchange: Exchange) -> None:
        if exchange.request.method == "POST":
            starts.append(exchange.request)
            await held.wait()
            exchange.reply(Reply(200, b'"track recording started successfully."'))
        else:
            exchange.reply(Reply(200, b'{"pageInfo":{"lastPage":1},"data":[]}'))

    server, track = Server(videosdk, host="127.0.0.1", port=0), new_track()
    await server.start()
    slow = {"GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "30", "GATEWAY_REQUEST_DEADLINE_SECONDS": "60"}
    try:
        async with serving(valkey, server.url, demo, **slow) as gateway:
            before = await scrape(gateway)
            caller = asyncio.create_task(gateway.start(track))
            await harness.eventually(lambda: starts)
            await take_over(valkey, track["roomId"])
            held.set()
            assert (await caller).is_success
            after = await scrape(gateway)
            assert after.total("duplicates_suspected_total") - before.total("duplicates_suspected_total") == 1
            (line,) = logged("duplicate.suspected", track["roomId"])
            assert line["level"] == "error"
            assert line["attempt"] == starts[0].headers["x-rec-attempt"]
    finally:
        held.set()
        await server.stop()


async def take_over(valkey: EmbeddedValkey, room: str) -> None:
    """Revoke the claim that is held in the room, as another replica that settles it as failed."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        (record,) = [key async for key in redis.scan_iter(match=f"rec:*:{room}:*:video")]
        holder = await redis.hget(record, "holder")
    connection = Connection(lambda: valkey.url)
    other = Coordinator(connection, Timing(), record.split(":")[2])
    key = other.key(room, *record.split(":")[-3:])
    assert await other.records.revoke(key, str(holder))
    _, lease = await other.claim(key, Command.RECONCILE)
    assert lease is not None
    finished = await other.finish(lease, Completion(record=Record(state="failed", confirmed_by="list")), settled=True)
    assert finished.how == "ok"
    await connection.aclose()


# --- webhooks that do not arrive --------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["a read", "a start"])
async def test_failed_webhook_delivery_is_counted_once_however_often_it_is_seen(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, first: str
) -> None:
    """The first look that sees it counts, whichever kind of look that is; every later one sees the same again."""
    mark = uuid.uuid4().hex
    track = new_track(webhookUrl=f"http://127.0.0.1:9/{mark}")
    async with serving(valkey, simulator.url, demo) as gateway:
        before = await scrape(gateway)
        await gateway.start(track)
        await simulator.settle()

        async def read() -> None:
            told = (await gateway.show(track)).json()["webhookDeliveries"]
            assert told["succeeded"] < told["total"]

        async def start() -> None:
            assert (await gateway.start(track)).json()["outcome"] == "already_recording"

        looks = [read, start, read, start] if first == "a read" else [start, read, start, read]
        for number, look in enumerate(looks):
            asked = sum(call.endpoint == "list" for call in simulator.calls)
            await look()
            assert sum(call.endpoint == "list" for call in simulator.calls) > asked, number
            seen = await scrape(gateway)
            grown = seen.total("webhook_deliveries_failed_total") - before.total("webhook_deliveries_failed_total")
            assert grown == 1, number
        assert mark not in (await scrape(gateway)).text


async def test_webhook_deliveries_that_arrive_are_not_counted_as_failed(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK's counters that agree with each other are no failure."""
    received: list[Any] = []

    async def listener(exchange: Exchange) -> None:
        received.append(exchange.request)
        exchange.reply(Reply(200))

    server = Server(listener, host="127.0.0.1", port=0)
    await server.start()
    try:
        async with serving(valkey, simulator.url, demo) as gateway:
            before, track = await scrape(gateway), new_track(webhookUrl=server.url)
            await gateway.start(track)
            await simulator.settle()
            told = (await gateway.show(track)).json()["webhookDeliveries"]
            assert told["succeeded"] == told["total"] == len(received) > 0
            after = await scrape(gateway)
            assert after.total("webhook_deliveries_failed_total") == before.total("webhook_deliveries_failed_total")
    finally:
        await server.stop()
