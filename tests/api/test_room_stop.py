"""The end of a room: all that records there is stopped, and what is not known is not said."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.auth.api_keys import new_key
from gateway.recordings import MODES
from gateway.sandbox.calls import Call
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack, Track

pytestmark = pytest.mark.anyio

CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]


async def end(gateway: ApiClient, room: str, *, foreign: bool | None = None, **options: Any) -> dict[str, Any]:
    """End a room and return what became of it."""
    body = {} if foreign is None else {"includeForeign": foreign}
    answer = await gateway.post(f"/v1/rooms/{room}/recordings/stop", json=body, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def upstream(simulator: Simulator, endpoint: str, room: str) -> int:
    """Count the calls that VideoSDK got of a room: of others, a gateway may have something left to find out."""
    return sum(call.endpoint == endpoint for call in harness.calls_for(simulator, room))


def recording(simulator: Simulator) -> list[str]:
    """Return whose recordings VideoSDK has open."""
    return sorted(row.target.participant_id or "" for row in simulator.rows if row.end is None)


async def outside(simulator: Simulator, track: Track) -> None:
    """Start beside the gateway."""
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}) as somebody:
        answer = await somebody.post(f"{simulator.url}/v2/recordings/participant/track/start", json=track)
        assert answer.is_success


def outcomes(ended: dict[str, Any]) -> list[tuple[int, str | None]]:
    """Return status and outcome of each result."""
    return [(result["status"], result.get("recording", {}).get("outcome")) for result in ended["results"]]


async def test_room_stop_ends_every_mode_and_no_other_room(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """All that was started in the room is stopped, each in a result of its own; a repeat finds nothing."""
    track, room = new_track(), new_track()["roomId"]
    elsewhere = NewTrack()()
    await gateway.start(elsewhere)
    for mode, spec in MODES.items():
        ids = {name: track[name] for name in spec.ids}
        assert (await gateway.post(f"/v1/recordings/{mode}/start", json=ids)).status_code == 201
    ended = await end(gateway, room)
    assert outcomes(ended) == [(200, "stopped")] * len(MODES)
    assert {result["target"]["mode"] for result in ended["results"]} == set(MODES)
    assert all(result["target"]["roomId"] == room for result in ended["results"])
    assert (ended["complete"], ended["foreignLeft"]) == (True, 0)
    assert recording(simulator) == [elsewhere["participantId"]]
    assert await end(gateway, room) == {"results": [], "complete": True, "foreignLeft": 0}
    assert (await gateway.show(elsewhere)).json()["status"] == "recording"


async def test_room_stop_leaves_or_includes_what_was_begun_beside_the_gateway(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """One that no record shows and one that a list has shown go on, and are counted; both end where they are meant."""
    ours, shown, hidden = new_track(), new_track(), new_track()
    room = ours["roomId"]
    await outside(simulator, shown)
    assert (await gateway.show(shown)).json()["origin"] == "videosdk"
    await outside(simulator, hidden)
    await gateway.start(ours)
    first = await end(gateway, room)
    assert [result["target"]["participantId"] for result in first["results"]] == [ours["participantId"]]
    assert (first["complete"], first["foreignLeft"]) == (True, 2)
    assert recording(simulator) == sorted([shown["participantId"], hidden["participantId"]])
    second = await end(gateway, room, foreign=True)
    assert outcomes(second) == [(200, "stopped")] * 2
    assert second["foreignLeft"] == 0
    assert recording(simulator) == []


async def test_room_stop_waits_for_what_is_only_just_starting(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A start in flight is awaited and then stopped; its own caller is answered that it started."""
    track = new_track()
    simulator.inject(harness.delay("start", 1))
    starting = asyncio.create_task(gateway.start(track))
    await harness.eventually(lambda: upstream(simulator, "start", track["roomId"]))
    ended = await end(gateway, track["roomId"])
    assert [status for status, _ in outcomes(ended)] == [200]
    assert ended["results"][0]["recording"]["status"] == "stopped"
    assert (await starting).status_code == 201
    assert recording(simulator) == []


async def test_room_stop_past_its_deadline_still_happens(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """The caller waits no longer than it wants: the stop is promised, and noted behind the start in flight."""
    track = new_track()
    simulator.inject(harness.delay("start", 2))
    starting = asyncio.create_task(gateway.start(track))
    await harness.eventually(lambda: upstream(simulator, "start", track["roomId"]))
    ended = await end(gateway, track["roomId"], headers={"x-request-timeout-ms": "500"})
    assert outcomes(ended) == [(202, "stop_requested")]
    assert ended["results"][0]["location"] == (
        f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
    )
    assert (await starting).status_code == 201
    await harness.eventually(lambda: upstream(simulator, "stop", track["roomId"]) == 1 and recording(simulator) == [])


@pytest.mark.parametrize("fault", ["error", "hang_before"])
async def test_room_stop_without_the_list_stops_what_redis_knows(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, fault: Any
) -> None:
    """Started on another replica a moment ago: stopped, without a wait for the list, and nothing more is claimed."""
    track = new_track()
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
    async with harness.serve(settings) as other, harness.client(other, demo.key) as elsewhere:
        for mode, spec in MODES.items():
            ids = {name: track[name] for name in spec.ids}
            assert (await elsewhere.post(f"/v1/recordings/{mode}/start", json=ids)).status_code == 201
        await outside(simulator, hidden := new_track())
        for endpoint in LISTS:
            simulator.inject(Fault(action=fault, endpoint=endpoint, status=503, times=None))  # pyright: ignore
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            lists = sum(call.endpoint in LISTS for call in simulator.calls)
            ended = await end(gateway, track["roomId"], foreign=True)
    assert outcomes(ended) == [(200, "stopped")] * len(MODES)
    assert ended["complete"] is False
    assert recording(simulator) == [hidden["participantId"]]
    if fault == "hang_before":
        await harness.eventually(lambda: (first := asked(simulator, LISTS)[lists]).gone or first.answered)
        given_up = asked(simulator, LISTS)[lists]
        assert all(call.received < (given_up.gone or given_up.answered or 0) for call in asked(simulator, STOPS))


LISTS = ("list", "participant-list", "room-list")
STOPS = ("stop", "participant-stop", "room-stop")


def asked(simulator: Simulator, endpoints: tuple[str, ...]) -> list[Call]:
    """Return the calls of some endpoints, in order."""
    return [call for call in simulator.calls if call.endpoint in endpoints]


async def test_room_stop_of_more_than_a_hundred_recordings_ends_all(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A hundred and twenty tracks: each is stopped once, and the answer has a result for each."""
    tracks = [new_track() for _ in range(120)]
    for some in (tracks[:60], tracks[60:]):
        items = [{"action": "start", "mode": "track", **track} for track in some]
        await gateway.post("/v1/recordings/batch", json={"items": items})
    ended = await end(gateway, tracks[0]["roomId"])
    assert Counter(outcomes(ended)) == {(200, "stopped"): 120}
    shown = [result["target"]["participantId"] for result in ended["results"]]
    assert shown == sorted(track["participantId"] for track in tracks)
    assert ended["complete"] is True
    assert upstream(simulator, "stop", tracks[0]["roomId"]) == 120


async def test_room_stop_twenty_times_at_once_stops_each_recording_once(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A storm of ends: every caller is answered, and VideoSDK gets one stop for each recording."""
    tracks = [new_track() for _ in range(5)]
    await asyncio.gather(*(gateway.start(track) for track in tracks))
    simulator.inject(harness.delay("stop", 0.5))
    ended = await asyncio.gather(*(end(gateway, tracks[0]["roomId"]) for _ in range(20)))
    assert all(one["complete"] for one in ended)
    assert {status for one in ended for status, _ in outcomes(one)} == {200}
    assert Counter(outcome for one in ended for _, outcome in outcomes(one))["stopped"] == 5
    assert upstream(simulator, "stop", tracks[0]["roomId"]) == 5


async def test_room_stop_finds_a_start_that_still_looks_what_records(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The record still tells of the end before; the start looks at the list first: it is awaited, and then stopped."""
    track = new_track()
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    settings["GATEWAY_VERIFY_ABSENT"] = "always"
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        await gateway.start(track)
        await gateway.stop(track)
        simulator.inject(harness.delay("list", 1.5))
        lists = upstream(simulator, "list", track["roomId"])
        starting = asyncio.create_task(gateway.start(track))
        await harness.eventually(lambda: upstream(simulator, "list", track["roomId"]) > lists)
        assert upstream(simulator, "start", track["roomId"]) == 1
        ended = await end(gateway, track["roomId"])
        assert (await starting).status_code == 201
    assert [result["recording"]["status"] for result in ended["results"]] == ["stopped"]
    assert recording(simulator) == []


async def test_room_stop_does_not_believe_a_list_that_is_behind(
    valkey: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """What was stopped a moment ago is still listed as open: it is not stopped again, nor taken for another's."""
    async with harness.simulator(list_lag_seconds=2.0) as simulator:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
        settings["GATEWAY_SETTLE_SECONDS"] = "5"
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            track = new_track()
            await gateway.start(track)
            await harness.until(lambda: listed(simulator, track["roomId"]))
            await gateway.stop(track)
            assert await listed(simulator, track["roomId"])
            ended = await end(gateway, track["roomId"], foreign=True)
            assert ended == {"results": [], "complete": True, "foreignLeft": 0}
            assert upstream(simulator, "stop", track["roomId"]) == 1


async def listed(simulator: Simulator, room: str) -> bool:
    """Tell whether VideoSDK's list shows something open in a room."""
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}) as somebody:
        answer = await somebody.get(f"{simulator.url}/v2/recordings/participant/track", params={"roomId": room})
    return any(row["end"] is None for row in answer.json()["data"])


# --- who may --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def callers(
    valkey: EmbeddedValkey, simulator: Simulator, folder: Path, **tables: str
) -> AsyncGenerator[dict[str, ApiClient]]:
    """Serve a gateway to callers with these tables, each with a client of its own."""
    keys: dict[str, str] = {}
    with (folder / "callers.toml").open("w") as file:
        for name, table in tables.items():
            keys[name], entry = new_key(f"{name}-{folder.name}"[:64].strip("-"))
            file.write(entry + table)
    settings = harness.environment(valkey.url, simulator.url, folder / "callers.toml", **harness.CALM)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(harness.serve(settings))
        yield {name: await stack.enter_async_context(harness.client(url, key)) for name, key in keys.items()}


async def test_room_stop_leaves_out_what_is_not_seen_and_refuses_what_may_not_be_stopped(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """Its own is stopped, another caller's is 403 by its rule, and what it may not see is nowhere.

    What only the list shows, which is looked at after all that Redis knows, is counted as foreign.
    """
    own, others, unseen, foreign = (new_track() for _ in range(4))
    shown = [track["participantId"] for track in (own, others, foreign)]
    seen = f"participants = {json.dumps(shown)}\n"
    async with callers(valkey, simulator, tmp_path, all="", few=f"{seen}stop_others = false\n") as clients:
        await clients["few"].start(own)
        await clients["all"].start(others)
        await clients["all"].start(unseen)
        await outside(simulator, foreign)
        answer = await clients["few"].post(f"/v1/rooms/{own['roomId']}/recordings/stop", json={})
    results = {result["target"]["participantId"]: result for result in answer.json()["results"]}
    assert results.keys() == {own["participantId"], others["participantId"]}
    assert unseen["participantId"] not in answer.text
    assert results[own["participantId"]]["recording"]["outcome"] == "stopped"
    refused = results[others["participantId"]]
    assert (refused["status"], refused["problem"]["rule"]) == (403, "starter")
    assert answer.json()["foreignLeft"] == 1
    assert recording(simulator) == sorted(track["participantId"] for track in (others, unseen, foreign))


async def test_room_stop_costs_a_token_of_its_caller(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """It makes VideoSDK list the room: a caller whose limit is used up has to wait, and is not charged for reading."""
    room = new_track()["roomId"]
    async with callers(valkey, simulator, tmp_path, few="starts_per_minute = 2\n") as clients:
        for _ in range(2):
            assert await end(clients["few"], room) == {"results": [], "complete": True, "foreignLeft": 0}
        calls = len(simulator.calls)
        refused = await clients["few"].post(f"/v1/rooms/{room}/recordings/stop", json={})
        assert check_problem(refused, "too-many-requests")["bound"] == "starts-per-caller"
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["ratelimit-policy"] == '"caller";q=2;w=60'
        assert len(simulator.calls) == calls


@pytest.mark.parametrize(
    ("room", "body", "fields"),
    [
        ("a%5Cb", {}, ["roomId"]),
        ("x" * 129, {}, ["roomId"]),
        ("room-bad", {"includeForeign": "yes"}, ["includeForeign"]),
        ("room-bad", {"includeForeign": 1}, ["includeForeign"]),
        ("room-bad", {"roomId": "room-bad", "foo": None}, ["roomId", "foo"]),
    ],
)
async def test_room_stop_with_bad_input_names_the_fields(
    gateway: ApiClient, simulator: Simulator, check_problem: CheckProblem, room: str, body: Any, fields: list[str]
) -> None:
    """Every wrong field is named, and VideoSDK is not asked."""
    answer = await gateway.post(f"/v1/rooms/{room}/recordings/stop", json=body)
    assert [error["field"] for error in check_problem(answer, "invalid-request")["errors"]] == fields
    assert simulator.calls == []


async def test_room_stop_without_redis_stops_all_or_refuses(
    simulator: Simulator, demo: harness.Demo, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """What is foreign is not known then: 503, unless all is meant; then the list says what, and no more is claimed."""
    track = new_track()
    path = f"/v1/rooms/{track['roomId']}/recordings/stop"
    with harness.AgedValkey() as server:
        settings = harness.environment(server.url, simulator.url, demo.file, **harness.FAST)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
            await client.start(track)
            server.kill()
            check_problem(await client.post(path, json={}), "coordination-unavailable")
            assert recording(simulator) == [track["participantId"]]
            ended = await end(client, track["roomId"], foreign=True)
            assert outcomes(ended) == [(200, "stopped")]
            assert ended["results"][0]["recording"]["coordinated"] is False
            assert ended["complete"] is False
            assert recording(simulator) == []
            simulator.inject(Fault(action="error", endpoint="*", status=503, times=None))
            check_problem(await client.post(path, json={"includeForeign": True}), "coordination-unavailable")
