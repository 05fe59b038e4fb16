"""How a process ends, and what the others do about it."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, NewTrack
from tests.listener import listening

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

HEALING = {**harness.CALM, "GATEWAY_SEND_WINDOW_SECONDS": "2", "GATEWAY_LEASE_SECONDS": "3"}
"""Of these only the lease runs out."""


async def test_sigterm_during_a_start_answers_its_caller(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """The caller whose start is under way gets its answer; the process accepts no new caller; the exit is clean."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    process = await harness.GatewayProcess(settings, tmp_path / "log").ready()
    simulator.inject(harness.delay("start", 3))
    async with harness.client(process.url, demo.key) as gateway:
        start = asyncio.create_task(gateway.start(new_track()))
        await harness.eventually(lambda: simulator.calls)
        process.signal(signal.SIGTERM)
        assert (await start).status_code == 201
    assert process.stop() == 0
    assert sum(call.endpoint == "start" for call in simulator.calls) == 1


async def test_sigterm_ends_event_streams_at_once(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """Every worker sends its readers a reconnect and ends without waiting for them."""
    more = {"GATEWAY_REQUEST_DEADLINE_SECONDS": "300", "GATEWAY_WORKERS": "2"}
    settings = harness.environment(valkey.url, simulator.url, demo.file, **more)
    room = new_track()["roomId"]
    process = await harness.GatewayProcess(settings, tmp_path / "log").ready()
    async with harness.client(process.url, demo.key) as gateway:
        async with listening(gateway, room) as reader, listening(gateway, room) as other:
            process.signal(signal.SIGTERM)
            for one in (reader, other):
                await one.until(lambda one: one.ended)
                assert one.received[-1].data == {"reason": "restart"}
        # Sooner than any stream would end by itself: `stop` waits for less than a request may take.
        assert await asyncio.to_thread(process.stop) == 0
    assert "returned without completing" not in process.log.read_text()


async def test_sigterm_waits_no_longer_than_the_grace_period_for_half_a_request(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """One client has sent half of its headers, another half of its body; the process ends cleanly without the rest."""
    short = {
        "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "0.3",
        "GATEWAY_SEND_WINDOW_SECONDS": "0.3",
        "GATEWAY_SETTLE_SECONDS": "0.2",
        "GATEWAY_LEASE_SECONDS": "1.5",
        "GATEWAY_REQUEST_DEADLINE_SECONDS": "1",
    }
    settings = harness.environment(valkey.url, simulator.url, demo.file, **short)
    process = await harness.GatewayProcess(settings, tmp_path / "log").ready()
    head = f"POST {START} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {demo.key}\r\n"
    body = "content-type: application/json\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
    async with contextlib.AsyncExitStack() as stack:
        for half in (head, head + body):
            reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
            stack.callback(writer.close)
            writer.write(half.encode())
            await writer.drain()
        # The body is being waited for: the gateway says so when it begins to read.
        assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        writer.write(b'{"roomId":')
        await writer.drain()
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
    assert "Traceback" not in process.log.read_text()


async def test_sigkill_of_the_leader_is_recovered_by_a_waiter(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """The leader dies with its call under way; a joiner on another replica gets the recording, started once."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **HEALING)
    leader = await harness.GatewayProcess(settings, tmp_path / "leader").ready()
    other = await harness.GatewayProcess(settings, tmp_path / "other").ready()
    track = new_track()
    simulator.inject(harness.delay("start", 0.6))
    async with harness.client(leader.url, demo.key) as dying, harness.client(other.url, demo.key) as gateway:
        start = asyncio.create_task(dying.start(track))
        await harness.eventually(lambda: any(call.endpoint == "start" for call in simulator.calls))
        join = asyncio.create_task(gateway.start(track))
        leader.kill()
        answer = await join
        assert answer.json()["outcome"] == "already_recording", answer.text
        assert answer.json()["confirmedBy"] == "list"
        await asyncio.gather(start, return_exceptions=True)
    assert other.stop() == 0
    assert sum(call.endpoint == "start" for call in simulator.calls) == 1


async def test_sigkill_of_the_only_process_is_recovered_by_the_next(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """No caller waits or asks: the reconciler of a process started later finds out what became of the start."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **HEALING)
    first = await harness.GatewayProcess(settings, tmp_path / "first").ready()
    track = new_track()
    simulator.inject(harness.delay("start", 0.6))
    async with harness.client(first.url, demo.key) as dying:
        start = asyncio.create_task(dying.start(track))
        await harness.eventually(lambda: any(call.endpoint == "start" for call in simulator.calls))
        first.kill()
        await asyncio.gather(start, return_exceptions=True)
    second = await harness.GatewayProcess(settings, tmp_path / "second").ready()
    path = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
    async with harness.client(second.url, demo.key) as gateway:
        seen = await harness.until(lambda: gateway.get(path), lambda answer: answer.json()["status"] == "recording")
        assert seen.json()["confirmedBy"] == "list"
        assert seen.json()["requestedBy"] == "demo"
    assert second.stop() == 0


async def test_sigterm_after_an_accepted_webhook_writes_it_first(
    simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """SIGTERM right after the 204, while Redis does not answer: the process stays until it has written what it update.

    Whichever replica settles what is due then goes on with it.
    """
    with harness.AgedValkey() as valkey:
        settings = harness.environment(
            valkey.url, simulator.url, demo.file, **{**HEALING, "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "3"}
        )
        process = await harness.GatewayProcess(settings, tmp_path / "log", public=True).ready()
        track = new_track()
        async with harness.client(process.url, demo.key) as gateway, Redis.from_url(valkey.url) as redis:
            assert (await gateway.start(track)).status_code == 201
            await simulator.settle()
            (key,) = [key async for key in redis.scan_iter(f"rec:*:{track['roomId']}:track:{track['participantId']}:*")]
            await redis.execute_command("CLIENT", "PAUSE", 1500, "ALL")
            simulator.end_recording(track["roomId"], track["participantId"], track["kind"])
            await harness.eventually(lambda: [found.status for found in simulator.deliveries].count(204) == 3)
            process.signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.stop) == 0
            state, doubt = await redis.hmget(key, "state", "suspect_since")
            assert state == b"stopped" or int(doubt or 0) > 0, (state, doubt)
        path = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            await harness.until(lambda: gateway.get(path), lambda answer: answer.json()["status"] == "stopped")


async def test_sigterm_makes_the_process_unready_and_still_serving(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """After SIGTERM it is not ready, yet serves newcomers, and closes connections; a second SIGTERM ends it."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_DRAIN_SECONDS="120")
    process = await harness.GatewayProcess(settings, tmp_path / "log").ready()
    async with harness.client(process.url, demo.key) as gateway:
        before = await gateway.get("/readyz")
        assert (before.status_code, before.headers.get("connection")) == (200, None)
        process.signal(signal.SIGTERM)
        answer = await harness.until(lambda: gateway.get("/readyz"), lambda answer: answer.status_code == 503)
        assert answer.json()["type"] == "/problems/shutting-down"
        assert answer.headers["retry-after"] == "1"
        assert (await gateway.get("/livez")).status_code == 200
        async with harness.client(process.url, demo.key) as newcomer:
            started = await newcomer.start(new_track())
        assert (started.status_code, started.headers["connection"]) == (201, "close")
    assert process.stop() == 0


async def test_drain_ends_by_itself_after_its_seconds(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """With several workers all drain at once, and when the time is over the process ends without another signal."""
    more = {"GATEWAY_DRAIN_SECONDS": "0.5", "GATEWAY_WORKERS": "2"}
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, **more)
    process = await harness.GatewayProcess(settings, tmp_path / "log").ready()
    await harness.eventually(lambda: process.log.read_text().count("Application startup complete") == 2)
    process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait) == 0
    log = (tmp_path / "log").read_text()
    assert log.count('"drain.begun"') == 2
    assert "Traceback" not in log
