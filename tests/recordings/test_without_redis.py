"""While Redis does not answer: starts are refused or degraded, stops are done, and nothing needs a restart."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from gateway.coordinator import Coordinator, Timing
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from tests import harness
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio


@pytest.fixture
def fragile() -> Generator[EmbeddedValkey]:
    """A server of the test's own, to be harmed."""
    with harness.AgedValkey() as server:
        yield server


@asynccontextmanager
async def serving(
    server: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, **more: str
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway that has spoken to its Redis."""
    settings = harness.environment(server.url, simulator.url, demo.file, **{**harness.FAST, **more})
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        yield gateway


async def recovered(gateway: ApiClient) -> None:
    """Wait until the gateway is ready again."""
    await harness.until(lambda: gateway.get("/readyz"), lambda answer: answer.is_success)


@pytest.fixture
def unknown() -> Generator[EmbeddedValkey]:
    """A server that has just begun."""
    with EmbeddedValkey() as server:
        yield server


async def test_readiness_on_a_server_without_a_mark_waits_until_everything_has_landed(
    unknown: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """A first deployment looks like a Redis that forgot: 503 until Q has passed; a later epoch takes no process out."""
    connection = Connection(unknown.url)
    with redis.Redis.from_url(unknown.url) as admin:
        # Longer than a busy machine takes to ask, and shorter than the age of the mark below.
        async with serving(unknown, simulator, demo, **{**harness.CALM, "GATEWAY_SETTLE_SECONDS": "30"}) as gateway:
            early = await gateway.get("/readyz")
            assert (early.status_code, early.json()["type"]) == (503, "/problems/coordination-unavailable")
            assert "has landed" in early.json()["detail"]
            assert int(early.headers["retry-after"]) in range(1, 49)
            admin.flushall()
            await Coordinator(connection, Timing(), "").records.mark(age=60)
            assert (await gateway.get("/readyz")).status_code == 200
            admin.flushall()
            assert (await gateway.get("/readyz")).status_code == 200
        assert await Coordinator(connection, Timing(), "").records.ready_in() > 0
    await connection.aclose()


@pytest.mark.parametrize("outage", ["down", "frozen"])
async def test_start_without_redis_is_refused_and_stop_is_done(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, outage: str
) -> None:
    """503 before the deadline, never `already_recording`; the stop reaches VideoSDK and says how it was done."""
    async with serving(fragile, simulator, demo) as gateway:
        track = new_track()
        assert (await gateway.start(track)).status_code == 201
        if outage == "down":
            fragile.kill()
        else:
            fragile.pause()
        refused = await gateway.start(track)
        assert refused.status_code == 503
        # And not that the request's deadline has passed, which is some times longer.
        assert refused.json()["type"] == "/problems/coordination-unavailable"
        assert int(refused.headers["retry-after"]) > 0
        stopped = await gateway.stop(track)
        assert stopped.status_code == 200
        assert stopped.json()["outcome"] == "stopped"
        assert stopped.json()["coordinated"] is False
        assert all(row.closed for row in simulator.rows)
        assert (await gateway.get("/readyz")).status_code == 503
        assert (await gateway.get("/livez")).status_code == 200
        if outage == "frozen":
            fragile.resume()
        else:
            fragile.restart()
        await recovered(gateway)
        again = await gateway.start(track)
        assert again.status_code == 201, again.text


async def test_start_after_a_stop_without_redis_distrusts_the_record(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The record says `recording`, fresh; but it was stopped behind its back, and that is remembered."""
    async with serving(fragile, simulator, demo, GATEWAY_TRUST_SECONDS="60") as gateway:
        track = new_track()
        await gateway.start(track)
        fragile.pause()
        await gateway.stop(track)
        fragile.resume()
        await recovered(gateway)
        path = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
        await harness.until(lambda: gateway.get(path), lambda seen: seen.json()["status"] == "stopped")
        assert (await gateway.start(track)).status_code == 201


@asynccontextmanager
async def behind(
    server: EmbeddedValkey, demo: harness.Demo, **more: str
) -> AsyncGenerator[tuple[ApiClient, Simulator]]:
    """Serve a gateway of a VideoSDK whose list is behind, though not by more than S, and which accepts every start."""
    async with (
        harness.simulator(list_lag_seconds=1.5, duplicates="accept") as simulator,
        serving(server, simulator, demo, **{"GATEWAY_SETTLE_SECONDS": "3", **more}) as gateway,
    ):
        yield gateway, simulator


@contextmanager
def refusing_writes(server: EmbeddedValkey) -> Generator[None]:
    """Have a server refuse all writes for a while. It forgets nothing, and carries out nothing later."""
    with redis.Redis.from_url(server.url) as admin:
        admin.replicaof("127.0.0.1", 1)
        yield
        admin.replicaof("NO", "ONE")


async def listed(simulator: Simulator, track: dict[str, str]) -> None:
    """Wait until VideoSDK's list shows a room's recording."""
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}, trust_env=False) as outsider:
        path = f"{simulator.url}/v2/recordings/participant/track?roomId={track['roomId']}"
        await harness.until(lambda: outsider.get(path), lambda answer: answer.json()["data"])


def starts(simulator: Simulator) -> int:
    """Count the starts that VideoSDK got."""
    return sum(call.endpoint == "start" for call in simulator.calls)


STOPS = {"answered": None, "landing late": Fault(action="apply_late", endpoint="stop", seconds=2)}


@pytest.mark.parametrize("fault", STOPS.values(), ids=STOPS)
async def test_start_after_a_stop_without_redis_waits_until_the_stop_is_in_the_list(
    fragile: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack, fault: Fault | None
) -> None:
    """The list still shows what was stopped: the start is not swallowed by it, and the late stop does not end it."""
    async with behind(fragile, demo) as (gateway, simulator):
        track = new_track()
        assert (await gateway.start(track)).status_code == 201
        await listed(simulator, track)
        with refusing_writes(fragile):
            if fault is not None:
                simulator.inject(fault)
            stopped = await gateway.stop(track)
            assert stopped.is_success == (fault is None), stopped.text
        answer = await harness.until(lambda: gateway.start(track), lambda answer: answer.status_code != 503)
        assert (answer.status_code, answer.json()["outcome"]) == (201, "started")
        assert [row.closed is None for row in simulator.rows].count(True) == 1


async def test_start_after_a_start_without_redis_waits_until_that_is_in_the_list(
    fragile: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Redis knows of no recording and the list of none yet: nothing is sent a second time."""
    async with behind(fragile, demo, GATEWAY_WITHOUT_REDIS="degrade") as (gateway, simulator):
        track = new_track()
        with refusing_writes(fragile):
            assert (await gateway.start(track)).json()["coordinated"] is False
            assert (await gateway.start(track)).json()["outcome"] == "already_recording"
        answer = await harness.until(lambda: gateway.start(track), lambda answer: answer.json().get("coordinated"))
        assert answer.json()["outcome"] == "already_recording"
        assert starts(simulator) == 1


async def test_start_after_one_without_an_answer_and_without_redis_is_unknown(
    fragile: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """It may have been carried out, and the list is behind: the repeated start sends nothing until that is known."""
    async with behind(fragile, demo, GATEWAY_WITHOUT_REDIS="degrade") as (gateway, simulator):
        track = new_track()
        fragile.pause()
        simulator.inject(Fault(action="apply_late", endpoint="start", seconds=2))
        first, second = await gateway.start(track), await gateway.start(track)
        for unknown in (first, second):
            assert (unknown.status_code, unknown.json()["type"]) == (504, "/problems/outcome-unknown")
        assert 1 <= int(second.headers["retry-after"]) <= 3
        found = await harness.until(lambda: gateway.start(track), lambda answer: answer.is_success)
        assert found.json()["outcome"] == "already_recording"
        assert starts(simulator) == 1


async def test_stop_refused_without_redis_is_believed_when_the_list_has_had_time(
    fragile: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK refuses to stop what is only just starting: that it records is said, and not that nothing does."""
    async with behind(fragile, demo) as (gateway, simulator):
        track = new_track()
        assert (await gateway.start(track)).status_code == 201
        fragile.pause()
        simulator.inject(Fault(action="refuse", endpoint="stop", status=404))
        refused = await gateway.stop(track)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/upstream-refused")
        assert "the recording goes on" in refused.json()["detail"]
        assert "retry-after" in refused.headers
        assert (await gateway.stop(track)).json()["outcome"] == "stopped"
        assert (await gateway.stop(track)).json()["outcome"] == "not_recording"


async def test_start_whose_caller_leaves_before_redis_answers_may_still_be_sent(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The operation does not depend on its caller, and the answer does not say that nothing was sent."""
    async with serving(fragile, simulator, demo) as gateway:
        fragile.pause()
        late = await gateway.start(new_track(), headers={"x-request-timeout-ms": "50"})
        assert (late.status_code, late.json()["type"]) == (504, "/problems/deadline-exceeded")
        assert "may still be carried out" in late.json()["detail"]


async def test_start_twenty_times_without_redis_is_one_per_process(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """By the operator's choice: one start of twenty, every answer marked, and known when Redis is back."""
    async with serving(fragile, simulator, demo, GATEWAY_WITHOUT_REDIS="degrade") as gateway:
        fragile.pause()
        track = new_track()
        simulator.inject(harness.delay("start", 0.3))
        answers = await asyncio.gather(*(gateway.start(track) for _ in range(20)))
        assert {answer.json()["coordinated"] for answer in answers} == {False}
        outcomes = sorted(answer.json()["outcome"] for answer in answers)
        assert outcomes.count("started") == 1
        assert set(outcomes) <= {"started", "joined", "already_recording"}
        other = await gateway.start({**track, "bucketDirPath": "elsewhere"})
        assert other.json()["fields"] == ["bucketDirPath"]
        fragile.resume()
        await recovered(gateway)
        found = await harness.until(lambda: gateway.start(track), lambda answer: answer.json()["coordinated"])
        assert found.json()["outcome"] == "already_recording"
        assert sum(call.endpoint == "start" for call in simulator.calls) == 1


async def test_start_of_each_mode_without_redis_is_one_start(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """A track, its participant and its room are told apart without Redis too, and a composite recording is none."""
    track = new_track()
    room = {"roomId": track["roomId"]}
    bodies = {"track": track, "participant": {**room, "participantId": track["participantId"]}, "room": room}
    simulator.account.add_row("room", {**room, "id": "c" * 24, "mode": "composite", "start": None, "end": None})
    async with serving(fragile, simulator, demo, GATEWAY_WITHOUT_REDIS="degrade") as gateway:
        fragile.pause()
        for outcome in ("started", "already_recording"):
            for mode, body in bodies.items():
                answer = await gateway.post(f"/v1/recordings/{mode}/start", json=body)
                assert (answer.json()["outcome"], answer.json()["mode"]) == (outcome, mode), answer.text
                assert answer.json()["coordinated"] is False
        for mode, body in bodies.items():
            stopped = await gateway.post(f"/v1/recordings/{mode}/stop", json=body)
            assert stopped.json()["outcome"] == "stopped"
        fragile.resume()
        await recovered(gateway)
    ended = {row.target for row in simulator.rows if row.closed is not None}
    assert len(simulator.rows) == len(ended) == 3


async def test_start_after_redis_came_back_empty_finds_the_recording(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The record is gone, the recording is not: a start finds it and sends nothing."""
    async with serving(fragile, simulator, demo) as gateway:
        track = new_track()
        await gateway.start(track)
        fragile.restart()
        await recovered(gateway)
        # On a busy machine Redis or VideoSDK may once answer too late, and a start is then honestly refused.
        answer = await harness.until(lambda: gateway.start(track), lambda answer: answer.is_success)
        assert answer.json()["outcome"] == "already_recording", answer.text
        assert sum(call.endpoint == "start" for call in simulator.calls) == 1
        assert (await gateway.stop(track)).json()["outcome"] == "stopped"


async def test_start_while_redis_forgets_joins_the_live_leader(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Redis is emptied during the call: whoever comes next joins the leader and does not start a second time."""
    async with serving(fragile, simulator, demo, **harness.BRIEF) as gateway:
        track = new_track()
        await gateway.start(new_track())
        simulator.inject(harness.delay("start", 1.5))
        first = asyncio.create_task(gateway.start(track))
        await harness.eventually(lambda: sum(call.endpoint == "start" for call in simulator.calls) == 2)
        fragile.restart()
        await recovered(gateway)
        second = await gateway.start(track)
        assert (await first).json()["outcome"] == "started"
        assert second.json()["outcome"] in {"joined", "already_recording"}
        assert second.json()["id"] == (await first).json()["id"]
        assert sum(call.endpoint == "start" for call in simulator.calls) == 2


async def test_redis_password_replaced_needs_no_restart(
    simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """The URL's file is replaced while the old connections are thrown out: the next ones use what stands there."""
    with EmbeddedValkey(port=0) as server, redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "gateway", "on", ">first", "~*", "&*", "+@all")
        urls = {word: server.url.replace("redis://", f"redis://gateway:{word}@") for word in ("first", "second")}
        file = tmp_path / "redis-url"
        file.write_text(urls["first"])
        settings = harness.environment("", simulator.url, demo.file, **harness.FAST, GATEWAY_REDIS_URL_FILE=str(file))
        del settings["GATEWAY_REDIS_URL"]
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            assert (await gateway.start(new_track())).status_code == 201
            admin.execute_command("ACL", "SETUSER", "gateway", "resetpass", ">second")
            file.write_text(urls["second"])
            admin.execute_command("CLIENT", "KILL", "USER", "gateway")
            await harness.until(lambda: gateway.start(new_track()), lambda answer: answer.is_success)
