"""A whole participant is recorded beside its tracks, under the same rules."""

import asyncio
from pathlib import Path

import pytest

from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.shapes import Target
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack, Track

pytestmark = pytest.mark.anyio

START, STOP = "/v1/recordings/participant/start", "/v1/recordings/participant/stop"


def whole(track: Track) -> Track:
    """Return the participant that a track is of."""
    return {name: track[name] for name in ("roomId", "participantId")}


def address(participant: Track) -> str:
    """Return where a participant's recording is shown."""
    return f"/v1/recordings/participant/{participant['roomId']}/{participant['participantId']}"


def posts(simulator: Simulator) -> list[str]:
    """Return which commands VideoSDK got."""
    return [call.path.removeprefix("/v2/recordings/participant/") for call in simulator.calls if call.method == "POST"]


async def test_start_show_list_and_stop_of_a_participant_beside_its_track(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Start twice, look, list it beside a track of the same participant, stop: one start and one stop."""
    track = new_track()
    participant = whole(track)

    started = await gateway.post(START, json={**participant, "bucketDirPath": "lessons/1"})
    assert (started.status_code, started.json()["outcome"]) == (201, "started"), started.text
    assert (started.json()["mode"], "kind" in started.json()) == ("participant", False)
    assert started.headers["location"] == address(participant)
    again = await gateway.post(START, json={**participant, "bucketDirPath": "lessons/1"})
    assert (again.json()["outcome"], again.json()["id"]) == ("already_recording", started.json()["id"])
    other = await gateway.post(START, json=participant)
    assert (other.status_code, other.json()["fields"]) == (409, ["bucketDirPath"])
    assert (await gateway.get(address(participant))).json()["id"] == started.json()["id"]

    beside = await gateway.start(track)
    assert (beside.status_code, beside.json()["mode"]) == (201, "track")
    assert beside.json()["id"] != started.json()["id"]
    room = participant["roomId"]
    pages = [(await gateway.list(room, limit="1")).json()]
    pages.append((await gateway.list(room, limit="1", cursor=pages[0]["nextCursor"])).json())
    assert [page["recordings"][0]["mode"] for page in pages] == ["participant", "track"]
    assert pages[1]["nextCursor"] is None
    for query, modes in (
        ({"mode": "participant"}, ["participant"]),
        ({"mode": "track"}, ["track"]),
        ({"kind": "video"}, ["track"]),
        ({"mode": "participant", "kind": "video"}, []),
    ):
        assert [one["mode"] for one in (await gateway.list(room, **query)).json()["recordings"]] == modes

    stopped = await gateway.post(STOP, json=participant)
    assert (stopped.json()["outcome"], stopped.json()["id"]) == ("stopped", started.json()["id"])
    assert (await gateway.show(track)).json()["status"] == "recording"
    assert (await gateway.post(STOP, json=participant)).json()["outcome"] == "not_recording"
    assert posts(simulator) == ["start", "track/start", "stop"]
    sent = [call.body for call in simulator.calls if call.path.endswith("/participant/start")]
    assert sent == [{**participant, "bucketDirPath": "lessons/1"}]


async def test_list_with_a_wrong_mode_names_it(gateway: ApiClient) -> None:
    """A mode that does not exist is refused by name."""
    answer = await gateway.list("room", mode="composite")
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, ["mode"])


async def test_equal_starts_of_a_participant_in_flight_join_and_its_track_does_not(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Twenty starts of a participant are one; a start of its track meanwhile is another recording."""
    track = new_track()
    simulator.inject(harness.delay("participant-start", 0.5))
    answers = await asyncio.gather(gateway.start(track), *(gateway.post(START, json=whole(track)) for _ in range(20)))
    assert sorted(answer.json()["outcome"] for answer in answers) == ["joined"] * 19 + ["started"] * 2
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert sorted(posts(simulator)) == ["start", "track/start"]


async def test_idempotent_start_of_a_participant_is_replayed(gateway: ApiClient, new_track: NewTrack) -> None:
    """The retry of a start gets the stored answer, also after a stop; a track's start is not it."""
    track, headers = new_track(), {"idempotency-key": "participant-1"}
    first = await gateway.post(START, json=whole(track), headers=headers)
    assert (await gateway.post(STOP, json=whole(track))).json()["outcome"] == "stopped"
    retried = await gateway.post(START, json=whole(track), headers=headers)
    assert retried.headers["idempotency-replayed"] == "true"
    assert retried.json()["id"] == first.json()["id"]
    assert (await gateway.start(track, headers=headers)).json()["type"] == "/problems/idempotency-key-reused"


async def test_participant_recording_that_ends_by_itself_is_found_to_have_ended(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """The list shows the end; a track of the same participant goes on."""
    track = new_track()
    await hasty.post(START, json=whole(track))
    await hasty.start(track)
    simulator.account.end(Target("participant", *whole(track).values()), reason="ended-by-itself")
    ended = await harness.until(
        lambda: hasty.get(address(whole(track))), lambda answer: answer.json()["status"] == "stopped"
    )
    assert ended.json()["endedAt"]
    assert (await hasty.show(track)).json()["status"] == "recording"


async def test_participant_started_beside_the_gateway_is_adopted(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A recording of a participant that no record shows appears in the list of its room, and can be stopped."""
    participant = whole(new_track())
    async with harness.client(simulator.url) as videosdk:
        videosdk.headers["authorization"] = harness.management_token()
        assert (await videosdk.post("/v2/recordings/participant/start", json=participant)).status_code == 200
    listed = await harness.until(
        lambda: gateway.list(participant["roomId"]),
        lambda answer: [one["status"] for one in answer.json()["recordings"]] == ["recording"],
    )
    (found,) = listed.json()["recordings"]
    assert (found["origin"], found["mode"]) == ("videosdk", "participant")
    assert (await gateway.post(STOP, json=participant)).json()["outcome"] == "stopped"


async def test_events_of_a_participants_recording_name_its_mode(gateway: ApiClient, new_track: NewTrack) -> None:
    """The stream of the room shows the participant's recording with its mode."""
    participant = whole(new_track())
    await gateway.post(START, json=participant)
    async with gateway.stream("GET", f"/v1/rooms/{participant['roomId']}/events") as stream:
        text = ""
        async for part in stream.aiter_text():
            text += part
            if '"status":"recording"' in text:
                break
    assert '"mode":"participant"' in text


async def test_join_token_acts_on_participants_only_with_allow_mod(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Without it every command is refused by the rule `mode`, the list hides it, and tracks are as before."""
    track = new_track()
    room, name = track["roomId"], track["participantId"]
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    settings |= {
        "GATEWAY_JOIN_TOKENS": "on",
        "GATEWAY_VIDEOSDK_API_KEY": harness.API_KEY,
        "GATEWAY_VIDEOSDK_SECRET": harness.SECRET,
    }

    def shows(*permissions: str) -> dict[str, str]:
        token = demo_join_token(
            harness.API_KEY, harness.SECRET, room=room, participant=name, permissions=["allow_join", *permissions]
        )
        return {"authorization": f"Bearer {token}"}

    async with harness.serve(settings) as url, harness.client(url) as client:
        for command in (START, STOP):
            refused = await client.post(command, json=whole(track), headers=shows())
            assert (refused.status_code, refused.json()["rule"]) == (403, "mode")
        assert (await client.get(address(whole(track)), headers=shows())).json()["rule"] == "mode"
        assert posts(simulator) == []
        assert (await client.start(track, headers=shows())).status_code == 201

        started = await client.post(START, json=whole(track), headers=shows("allow_mod"))
        assert (started.status_code, started.json()["requestedBy"]) == (201, f"moderator:{name}")
        for permissions, modes in (((), ["track"]), (("allow_mod",), ["participant", "track"])):
            seen = await client.get("/v1/recordings", params={"roomId": room}, headers=shows(*permissions))
            assert [one["mode"] for one in seen.json()["recordings"]] == modes
        stopped = await client.post(STOP, json=whole(track), headers=shows("allow_mod"))
        assert stopped.json()["outcome"] == "stopped"


async def test_fifty_starts_of_a_participant_over_two_processes_are_one(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """50 at once over two processes, while VideoSDK takes its time: one start upstream, one id."""
    participant = whole(new_track())
    simulator.inject(harness.delay("participant-start", 2))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    processes = [harness.GatewayProcess(settings, tmp_path / f"{number}.log") for number in range(2)]
    try:
        for process in processes:
            await process.ready()
        async with (
            harness.client(processes[0].url, demo.key) as one,
            harness.client(processes[1].url, demo.key) as other,
        ):
            answers = await asyncio.gather(
                *(client.post(START, json=participant) for client in (one, other) for _ in range(25))
            )
    finally:
        for process in processes:
            await asyncio.to_thread(process.stop)
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert posts(simulator) == ["start"]
