"""How an application ends: what it has begun comes to its end, and nothing goes on."""

import asyncio
from pathlib import Path

import jwt
import pytest
from redis.asyncio import Redis

import gateway
from gateway.app import _project_name
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.settings.load import load
from tests import harness
from tests.api_client import NewTrack

pytestmark = pytest.mark.anyio

PACKAGE = Path(gateway.__file__).parent
SANDBOX = PACKAGE / "sandbox"


def working() -> set[asyncio.Task[object]]:
    """Return the tasks of the gateways in this process; the simulator's are not theirs."""
    found: set[asyncio.Task[object]] = set()
    for task in asyncio.all_tasks():
        code = getattr(task.get_coro(), "cr_code", None)
        file = Path(code.co_filename) if code else Path()
        if file.is_relative_to(PACKAGE) and not file.is_relative_to(SANDBOX):
            found.add(task)
    return found


@pytest.mark.parametrize(("one", "other", "same"), [("k1", "k1", True), ("k1", "k2", False), ("", "", False)])
def test_project_is_named_by_the_api_key_of_its_token(one: str, other: str, same: bool) -> None:
    """Replicas with an old and a renewed token know of each other; tokens that name no key share nothing."""
    names: list[str] = []
    for key, expires in ((one, 1), (other, 2)):
        token = jwt.encode({"apikey": key, "exp": expires}, "x" * 32)
        given = {"GATEWAY_REDIS_URL": "redis://r", "GATEWAY_AUTH": "none", "GATEWAY_VIDEOSDK_TOKEN": token}
        names.append(_project_name(load(given)))
    assert (names[0] == names[1]) is same


async def test_end_waits_for_an_operation_whose_caller_has_gone(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """No request waits for the start any more; its result is written all the same before the process ends."""
    track = new_track()
    simulator.inject(harness.delay("start", 0.5))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        await client.start(track, headers={"x-request-timeout-ms": "100"})
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        (key,) = [key async for key in redis.scan_iter(f"rec:*:{track['roomId']}:track:*")]
        assert await redis.hmget(key, "state", "holder") == ["recording", None]


async def test_end_leaves_no_task_behind(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Neither what runs for ever nor the lists that VideoSDK is being asked for, and will be asked for next."""
    before, room = working(), new_track()["roomId"]
    simulator.inject(Fault(action="hang_before", endpoint="*", times=None))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        for _ in range(2):
            headers = {"x-request-timeout-ms": "100"}
            answer = await client.post(f"/v1/rooms/{room}/recordings/stop", json={}, headers=headers)
            assert answer.json()["complete"] is False
        assert "list" in {task.get_name() for task in working() - before}
    assert {task.get_name() for task in working() - before} == set()
