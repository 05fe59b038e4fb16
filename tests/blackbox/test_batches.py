"""Batches and the end of a room over two processes, which know each other through one Valkey alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]


@pytest.fixture
async def replicas(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> AsyncGenerator[list[ApiClient]]:
    """Two gateway processes, and a client of each."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with AsyncExitStack() as stack:
        processes: list[harness.GatewayProcess] = []
        for number in range(2):
            processes.append(harness.GatewayProcess(settings, tmp_path / f"gateway-{number}.log"))
            stack.callback(processes[-1].stop)
        for process in processes:
            await process.ready()
        clients = [await stack.enter_async_context(harness.client(process.url, demo.key)) for process in processes]
        await harness.until_ready(*clients)
        yield clients


async def test_batch_sent_by_ten_clients_over_two_processes_starts_each_once(
    replicas: list[ApiClient], simulator: Simulator, new_track: NewTrack
) -> None:
    """A hundred starts of which thirty are doubled, ten times at once: seventy starts, and every caller gets them."""
    tracks = [new_track() for _ in range(70)]
    items = [{"action": "start", "mode": "track", **track} for track in (*tracks, *tracks[:30])]

    async def send(number: int) -> list[dict[str, Any]]:
        answer = await replicas[number % 2].post("/v1/recordings/batch", json={"items": items})
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    batches = await asyncio.gather(*map(send, range(10)))
    assert Counter(result["status"] for results in batches for result in results) == {201: 70, 200: 930}
    ids = [[result["recording"]["id"] for result in results] for results in batches]
    assert all(of_one == ids[0] for of_one in ids)
    assert sum(call.endpoint == "start" for call in simulator.calls) == 70
    assert len(simulator.rows) == 70


async def test_room_stop_ends_what_another_process_has_just_started(
    replicas: list[ApiClient], simulator: Simulator, new_track: NewTrack
) -> None:
    """Recordings of one process, one of them only just starting, end by both at once: one stop each."""
    tracks = [new_track() for _ in range(3)]
    slow = harness.delay("start", 1, participant_id=tracks[2]["participantId"])
    simulator.inject(slow)
    for track in tracks[:2]:
        assert (await replicas[0].start(track)).status_code == 201
    starting = asyncio.create_task(replicas[0].start(tracks[2]))
    await harness.eventually(lambda: sum(call.endpoint == "start" for call in simulator.calls) == 3)
    path = f"/v1/rooms/{tracks[0]['roomId']}/recordings/stop"
    ended = await asyncio.gather(*(replica.post(path, json={}) for replica in replicas))
    for answer in ended:
        assert answer.json()["complete"] is True
        shown = {one["target"]["participantId"]: one["recording"]["status"] for one in answer.json()["results"]}
        assert shown[tracks[2]["participantId"]] == "stopped"
        assert set(shown.values()) == {"stopped"}
    assert (await starting).status_code == 201
    assert [row for row in simulator.rows if row.end is None] == []
    of_room = harness.calls_for(simulator, tracks[0]["roomId"])
    assert sum(call.endpoint == "stop" for call in of_room) == 3
