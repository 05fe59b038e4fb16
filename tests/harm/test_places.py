"""One participant that takes every place it can get: others in its room find one, and a stop always does."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import httpx
import pytest

from gateway.sandbox.faults import Fault
from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, STOP, ApiClient, NewTrack

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

READERS, WAITING, TICKETS = 20, 80, 10
KINDS = ("audio", "video", "screen_audio", "screen_video")


@pytest.fixture(scope="module")
async def stage(
    valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[ApiClient, Simulator]]:
    """A gateway process that lets join tokens in, with few places; its client is a service."""
    folder = tmp_path_factory.mktemp("places")
    demo = harness.Demo(folder)
    few = {
        "GATEWAY_JOIN_TOKENS": "on",
        "GATEWAY_MOST_EVENT_READERS": str(READERS),
        "GATEWAY_MOST_WAITING": str(WAITING),
        "GATEWAY_CALLER_TICKETS_PER_MINUTE": str(TICKETS),
        "GATEWAY_VERIFY_ABSENT": "never",
    }
    async with harness.simulator() as simulator:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, **few)
        process = await harness.GatewayProcess(settings, folder / "log").ready()
        try:
            async with harness.client(process.url, demo.key) as client:
                await harness.until_ready(client)
                yield client, simulator
        finally:
            process.kill()


def joins(room: str, participant: str) -> dict[str, str]:
    """Return what a participant's page shows."""
    token = demo_join_token(harness.API_KEY, harness.SECRET, room=room, participant=participant)
    return {"authorization": f"Bearer {token}"}


def refused_by(answer: httpx.Response) -> str:
    """Return the bound that refused a request; empty where none did."""
    return answer.json()["bound"] if answer.headers.get("content-type", "").startswith("application/problem") else ""


async def test_participant_that_opens_streams_leaves_places_to_its_room(
    stage: tuple[ApiClient, Simulator], new_track: NewTrack
) -> None:
    """As many streams as it gets: a quarter of the places; another participant and the service still get one.

    Bounded by: a caller gets no more places than its room may still take.
    """
    client, _ = stage
    room = new_track()["roomId"]
    path = f"/v1/rooms/{room}/events"

    async with AsyncExitStack() as stack:

        async def open_stream(headers: dict[str, str]) -> httpx.Response:
            answer = await stack.enter_async_context(client.stream("GET", path, headers=headers))
            if answer.status_code != 200:
                await answer.aread()
            return answer

        greedy = [await open_stream(joins(room, "greedy")) for _ in range(READERS)]
        assert Counter(answer.status_code for answer in greedy) == {200: READERS // 4, 503: READERS - READERS // 4}
        assert refused_by(greedy[-1]) == "event-readers-per-caller"
        assert (await open_stream(joins(room, "modest"))).status_code == 200
        assert (await open_stream({})).status_code == 200


async def test_participant_that_has_starts_waiting_keeps_no_stop_and_no_start_out(
    stage: tuple[ApiClient, Simulator], new_track: NewTrack
) -> None:
    """VideoSDK hangs, and a participant starts all its tracks again and again, as far as it is let in.

    The service's stop of one of them is accepted at once, and so is its start of another. Bounded by: places of a
    target and of all for each caller, and places of their own for stops.
    """
    client, simulator = stage
    room = new_track()["roomId"]
    simulator.inject(Fault(action="hang_before", endpoint="start", room_id=room, times=None))
    tracks = [{"roomId": room, "participantId": "greedy", "kind": kind} for kind in KINDS]

    async def start(track: dict[str, str]) -> str:
        return refused_by(await client.post(START, json=track, headers=joins(room, "greedy")))

    waiting = [asyncio.create_task(start(track)) for track in tracks * WAITING]
    # All but those that have a place are answered.
    share = WAITING // 10 // 2 * len(KINDS)
    await harness.eventually(lambda: sum(task.done() for task in waiting) == len(waiting) - share)
    refused = {task.result() for task in waiting if task.done()}
    assert refused <= {"waiting-per-caller", "waiting-for-target-per-caller"}

    briefly = {"x-request-timeout-ms": "300"}
    stop = await client.post(STOP, json=tracks[0], headers=briefly)
    assert (stop.status_code, stop.json()["outcome"]) == (202, "stop_requested"), stop.text
    start_too = await client.post(START, json=tracks[1], headers=briefly)
    # It joined the start that hangs, and its own time ran out.
    assert start_too.json()["type"] == "/problems/deadline-exceeded"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    simulator.clear_faults()


async def test_participant_that_makes_tickets_is_refused_and_another_is_not(
    stage: tuple[ApiClient, Simulator], new_track: NewTrack
) -> None:
    """A ticket costs one of those that a caller has in a minute; what others have is left alone."""
    client, _ = stage
    room = new_track()["roomId"]
    path = f"/v1/rooms/{room}/events/tickets"
    answers = [await client.post(path, headers=joins(room, "greedy")) for _ in range(TICKETS + 5)]
    made = Counter(answer.status_code for answer in answers)
    # Some come back while this runs.
    assert made[429] >= 1
    assert made[201] >= TICKETS
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused_by(refused) == "tickets-per-caller"
    assert int(refused.headers["retry-after"]) > 0
    assert (await client.post(path, headers=joins(room, "modest"))).status_code == 201
