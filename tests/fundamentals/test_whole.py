"""A participant and a room are recorded as a whole, beside tracks and each other, under the same rules."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from gateway.auth.api_keys import new_key
from gateway.recordings import MODES, Mode
from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.shapes import Target
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack, Track

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Whole:
    """How recordings of one mode are spoken of.

    Attributes:
        mode: Which.
        folder: VideoSDK's name of bucketDirPath.
        stop: The last part of the path that stops one there.
    """

    mode: Mode
    folder: str
    stop: str

    def of(self, track: Track) -> Track:
        """Return the participant, or the room, that a track is of."""
        return {name: track[name] for name in MODES[self.mode].ids}

    def command(self, verb: str) -> str:
        """Return where the gateway takes a start or stop."""
        return f"/v1/recordings/{self.mode}/{verb}"

    def address(self, body: Track) -> str:
        """Return where the gateway shows it."""
        return f"/v1/recordings/{self.mode}/" + "/".join(quote(body[name], safe="") for name in MODES[self.mode].ids)

    @property
    def root(self) -> str:
        """Where VideoSDK has recordings of this mode."""
        return MODES[self.mode].path

    def target(self, body: Track) -> Target:
        """Return what the simulator calls it."""
        return Target(self.mode.value, body["roomId"], body.get("participantId"))


PARTICIPANT: Final = Whole(Mode.PARTICIPANT, "bucketDirPath", "stop")
ROOM: Final = Whole(Mode.ROOM, "awsDirPath", "end")
EACH: Final = pytest.mark.parametrize("whole", [PARTICIPANT, ROOM], ids=lambda whole: whole.mode.value)


def posts(simulator: Simulator, room: str) -> list[str]:
    """Return which commands VideoSDK got of a room."""
    calls = harness.calls_for(simulator, room)
    return [call.path.removeprefix("/v2/recordings/") for call in calls if call.method == "POST"]


def sent(simulator: Simulator, whole: Whole) -> list[Any]:
    """Return the bodies of the starts that VideoSDK got."""
    return [call.body for call in simulator.calls if call.path == f"{whole.root}/start"]


@EACH
async def test_start_show_list_and_stop_of_a_whole_beside_a_track(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, whole: Whole
) -> None:
    """Start twice, look, list it beside a track of the same person, stop: one start and one stop."""
    track = new_track()
    body = whole.of(track)

    started = await gateway.post(whole.command("start"), json={**body, "bucketDirPath": "lessons/1"})
    assert (started.status_code, started.json()["outcome"]) == (201, "started"), started.text
    assert started.json()["mode"] == whole.mode
    assert started.json().keys() & {"roomId", "participantId", "kind"} == body.keys()
    assert started.json()["fileFormat"] == MODES[whole.mode].file_format
    assert started.headers["location"] == whole.address(body)
    again = await gateway.post(whole.command("start"), json={**body, "bucketDirPath": "lessons/1"})
    assert (again.json()["outcome"], again.json()["id"]) == ("already_recording", started.json()["id"])
    other = await gateway.post(whole.command("start"), json=body)
    assert (other.status_code, other.json()["fields"]) == (409, ["bucketDirPath"])
    assert (await gateway.get(whole.address(body))).json()["id"] == started.json()["id"]

    beside = await gateway.start(track)
    assert (beside.status_code, beside.json()["mode"]) == (201, "track")
    assert beside.json()["id"] != started.json()["id"]
    room, mode = body["roomId"], whole.mode.value
    pages = [(await gateway.list(room, limit="1")).json()]
    pages.append((await gateway.list(room, limit="1", cursor=pages[0]["nextCursor"])).json())
    assert [page["recordings"][0]["mode"] for page in pages] == [mode, "track"]
    assert pages[1]["nextCursor"] is None
    of_person = [mode, "track"] if whole is PARTICIPANT else ["track"]
    for query, modes in (
        ({"mode": mode}, [mode]),
        ({"mode": "track"}, ["track"]),
        ({"kind": "video"}, ["track"]),
        ({"mode": mode, "kind": "video"}, []),
        ({"participantId": track["participantId"]}, of_person),
    ):
        assert [one["mode"] for one in (await gateway.list(room, **query)).json()["recordings"]] == modes, query

    stopped = await gateway.post(whole.command("stop"), json=body)
    assert (stopped.json()["outcome"], stopped.json()["id"]) == ("stopped", started.json()["id"])
    assert (await gateway.show(track)).json()["status"] == "recording"
    assert (await gateway.post(whole.command("stop"), json=body)).json()["outcome"] == "not_recording"
    root = whole.root.removeprefix("/v2/recordings").removeprefix("/")
    commands = [f"{root}/start", "participant/track/start", f"{root}/{whole.stop}"]
    assert posts(simulator, room) == [command.removeprefix("/") for command in commands]
    assert sent(simulator, whole) == [{**body, whole.folder: "lessons/1"}]


async def test_list_with_a_wrong_mode_names_it(gateway: ApiClient) -> None:
    """A mode that does not exist is refused by name."""
    answer = await gateway.list("room", mode="composite")
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, ["mode"])


async def test_equal_starts_in_flight_join_and_those_of_other_modes_do_not(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Twenty starts each of a participant and its room are one each; a start of its track is a third recording."""
    track = new_track()
    simulator.inject(harness.delay("participant-start", 0.5), harness.delay("room-start", 0.5))
    answers = await asyncio.gather(
        gateway.start(track),
        *(gateway.post(one.command("start"), json=one.of(track)) for one in (PARTICIPANT, ROOM) for _ in range(20)),
    )
    assert sorted(answer.json()["outcome"] for answer in answers) == ["joined"] * 38 + ["started"] * 3
    assert len({(answer.json()["id"], answer.json()["mode"]) for answer in answers}) == 3
    # The two processes also look after what other tests left behind.
    of_room = sorted(posts(simulator, track["roomId"]))
    assert of_room == ["participant/start", "participant/track/start", "start"]


@EACH
async def test_idempotent_start_of_a_whole_is_replayed(gateway: ApiClient, new_track: NewTrack, whole: Whole) -> None:
    """The retry of a start gets the stored answer, also after a stop; a track's start is not it."""
    track, headers = new_track(), {"idempotency-key": f"{whole.mode}-1"}
    first = await gateway.post(whole.command("start"), json=whole.of(track), headers=headers)
    assert (await gateway.post(whole.command("stop"), json=whole.of(track))).json()["outcome"] == "stopped"
    retried = await gateway.post(whole.command("start"), json=whole.of(track), headers=headers)
    assert retried.headers["idempotency-replayed"] == "true"
    assert retried.json()["id"] == first.json()["id"]
    assert (await gateway.start(track, headers=headers)).json()["type"] == "/problems/idempotency-key-reused"


@EACH
async def test_whole_recording_that_ends_by_itself_is_found_to_have_ended(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, whole: Whole
) -> None:
    """VideoSDK's lists show the end and the file; a track of the same person, and the other whole, go on."""
    track = new_track()
    other = ROOM if whole is PARTICIPANT else PARTICIPANT
    body = whole.of(track)
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
    settings["GATEWAY_TRUST_SECONDS"] = "0"
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        await client.post(whole.command("start"), json=body)
        await client.start(track)
        await client.post(other.command("start"), json=other.of(track))
        simulator.account.end(whole.target(body), reason="ended-by-itself")

        async def stand() -> dict[str, Any]:
            listed = (await client.list(body["roomId"])).json()["recordings"]
            return {one["mode"]: one for one in listed}

        seen = await harness.until(
            stand, lambda seen: seen[whole.mode]["status"] == "stopped" and seen[whole.mode]["files"]
        )
        assert seen[whole.mode]["endedAt"]
        (file,) = seen[whole.mode]["files"]
        assert file["filePath"]
        assert (seen["track"]["status"], seen[other.mode]["status"]) == ("recording", "recording")


@EACH
async def test_whole_started_beside_the_gateway_is_adopted(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, whole: Whole
) -> None:
    """A recording that no record shows appears in the list of its room with its mode, and can be stopped."""
    body = whole.of(new_track())
    async with harness.client(simulator.url) as videosdk:
        videosdk.headers["authorization"] = harness.management_token()
        assert (await videosdk.post(f"{whole.root}/start", json=body)).status_code == 200
    listed = await harness.until(
        lambda: gateway.list(body["roomId"]),
        lambda answer: [one["status"] for one in answer.json()["recordings"]] == ["recording"],
    )
    (found,) = listed.json()["recordings"]
    assert (found["origin"], found["mode"]) == ("videosdk", whole.mode)
    assert found["fileFormat"] == MODES[whole.mode].file_format
    assert (await gateway.post(whole.command("stop"), json=body)).json()["outcome"] == "stopped"


@EACH
async def test_events_of_a_whole_recording_name_its_mode(gateway: ApiClient, new_track: NewTrack, whole: Whole) -> None:
    """The stream of the room shows the recording with its mode."""
    body = whole.of(new_track())
    await gateway.post(whole.command("start"), json=body)
    async with gateway.stream("GET", f"/v1/rooms/{body['roomId']}/events") as stream:
        text = ""
        async for part in stream.aiter_text():
            text += part
            if '"status":"recording"' in text:
                break
    assert f'"mode":"{whole.mode}"' in text


@EACH
async def test_webhook_of_a_whole_moves_its_recording_on_and_no_other(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, whole: Whole
) -> None:
    """A signed report of an end has the gateway ask the list, which alone decides; other modes stay as they are."""
    track = new_track()
    body = whole.of(track)
    others = [one for one in (PARTICIPANT, ROOM) if one is not whole]
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with harness.serve(settings, public=True) as url, harness.client(url, demo.key) as client:
        assert (await client.start(track)).status_code == 201
        for one in (PARTICIPANT, ROOM):
            assert (await client.post(one.command("start"), json=one.of(track))).status_code == 201
        # An event that is not true: the list shows that it goes on.
        await simulator.settle()
        said = {"meetingId": body["roomId"], "sessionId": "s", "participantId": track["participantId"]}
        forged = json.dumps({"webhookType": f"{MODES[whole.mode].events}-stopped", "data": said}).encode()
        sign = {"videosdk-signature": simulator.sign(forged)}
        looks = len([call for call in simulator.calls if call.path == whole.root])
        assert (await client.post("/v1/webhooks/videosdk", content=forged, headers=sign)).status_code == 204
        await harness.eventually(lambda: len([call for call in simulator.calls if call.path == whole.root]) > looks)
        checked = await harness.until(
            lambda: client.get(whole.address(body)), lambda answer: answer.json()["confirmedBy"] == "list"
        )
        assert checked.json()["status"] == "recording"

        simulator.account.end(whole.target(body), reason="ended-by-itself")
        ended = await harness.until(
            lambda: client.get(whole.address(body)), lambda answer: answer.json()["status"] == "stopped"
        )
        assert (ended.json()["endedBecause"], ended.json()["confirmedBy"]) == ("videosdk", "list")
        assert (await client.show(track)).json()["status"] == "recording"
        for one in others:
            assert (await client.get(one.address(one.of(track)))).json()["status"] == "recording"
    delivered = [each.webhook_type for each in simulator.deliveries if each.status == 204]
    events = MODES[whole.mode].events
    assert [name for name in delivered if name.startswith(f"{events}-st")] == [
        f"{events}-{stage}" for stage in ("starting", "started", "stopped")
    ]


@EACH
async def test_join_token_acts_on_a_whole_only_with_allow_mod(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, whole: Whole
) -> None:
    """Without it every command is refused by the rule `mode`, the list hides it, and tracks are as before."""
    track = new_track()
    body, room, name = whole.of(track), track["roomId"], track["participantId"]
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
        for verb in ("start", "stop"):
            refused = await client.post(whole.command(verb), json=body, headers=shows())
            assert (refused.status_code, refused.json()["rule"]) == (403, "mode")
        assert (await client.get(whole.address(body), headers=shows())).json()["rule"] == "mode"
        assert posts(simulator, room) == []
        assert (await client.start(track, headers=shows())).status_code == 201

        if whole is ROOM:
            page = {**body, "templateUrl": TEMPLATE}
            refused = await client.post(whole.command("start"), json=page, headers=shows("allow_mod"))
            assert (refused.status_code, refused.json()["rule"]) == (403, "template-hosts")
        started = await client.post(whole.command("start"), json=body, headers=shows("allow_mod"))
        assert (started.status_code, started.json()["requestedBy"]) == (201, f"moderator:{name}")
        for permissions, modes in (((), ["track"]), (("allow_mod",), [whole.mode, "track"])):
            seen = await client.get("/v1/recordings", params={"roomId": room}, headers=shows(*permissions))
            assert [one["mode"] for one in seen.json()["recordings"]] == modes
        stopped = await client.post(whole.command("stop"), json=body, headers=shows("allow_mod"))
        assert stopped.json()["outcome"] == "stopped"


async def test_two_hundred_starts_of_each_mode_over_two_processes_are_three(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """A person's track, the person and the room, 200 starts each at once while VideoSDK takes its time: one each."""
    track = new_track()
    bodies = {"track": track, "participant": PARTICIPANT.of(track), "room": ROOM.of(track)}
    simulator.inject(*(harness.delay(endpoint, 2) for endpoint in ("start", "participant-start", "room-start")))
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
                *(
                    client.post(f"/v1/recordings/{mode}/start", json=body)
                    for client in (one, other)
                    for _ in range(100)
                    for mode, body in bodies.items()
                )
            )
    finally:
        for process in processes:
            await asyncio.to_thread(process.stop)
    for mode in bodies:
        of_mode = [answer for answer in answers if answer.url.path == f"/v1/recordings/{mode}/start"]
        assert sorted(answer.status_code for answer in of_mode) == [200] * 199 + [201]
        assert len({answer.json()["id"] for answer in of_mode}) == 1
    # The two processes also look after what other tests left behind.
    of_room = sorted(posts(simulator, track["roomId"]))
    assert of_room == ["participant/start", "participant/track/start", "start"]


async def test_participant_recording_in_a_format_that_the_operator_allows(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """It is sent, shown, and a parameter like others; where it is not allowed the start is refused by name."""
    body, track = PARTICIPANT.of(new_track()), new_track(fileFormat="mp4")
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    settings["GATEWAY_FILE_FORMATS"] = "webm,mp4"
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        refused = await client.post(PARTICIPANT.command("start"), json={**body, "fileFormat": "m3u8"})
        assert (refused.status_code, [error["field"] for error in refused.json()["errors"]]) == (422, ["fileFormat"])
        assert (await client.start(track)).status_code == 422, "tracks are webm"
        assert simulator.calls == []
        started = await client.post(PARTICIPANT.command("start"), json={**body, "fileFormat": "mp4"})
        assert (started.status_code, started.json()["fileFormat"]) == (201, "mp4")
        other = await client.post(PARTICIPANT.command("start"), json={**body, "fileFormat": "webm"})
        assert (other.status_code, other.json()["fields"]) == (409, ["fileFormat"])
    assert sent(simulator, PARTICIPANT) == [{**body, "fileFormat": "mp4"}]


# --- what rooms alone have ---------------------------------------------------------------------------------------

CONFIG: Final[dict[str, Any]] = {
    "theme": "DARK",
    "layout": {"type": "SIDEBAR", "priority": "PIN", "gridSize": 4},
    "mode": "video-and-audio",
    "quality": "high",
    "orientation": "landscape",
}
TRANSCRIPTION: Final = {"enabled": True, "summary": {"enabled": True, "prompt": "Zusammenfassung:\n\t„kürzer“ \u2028"}}
TEMPLATE: Final = "https://app.example.com/rec%20order?token=t0ken-7&x=ü"


async def test_start_of_a_room_passes_everything_on_as_sent(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Objects keep their members, in their order; what was null or left out is not sent."""
    body = ROOM.of(new_track())
    everything = {"config": CONFIG, "transcription": TRANSCRIPTION, "templateUrl": TEMPLATE, "webhookUrl": None}
    started = await gateway.post(ROOM.command("start"), json={**body, "bucketDirPath": "/a b/", **everything})
    assert started.status_code == 201, started.text
    (call,) = [call for call in simulator.calls if call.endpoint == "room-start"]
    expected = {**body, "awsDirPath": "/a b/", **everything}
    del expected["webhookUrl"]
    assert call.body == expected
    assert list(call.body["config"]) == list(CONFIG)


async def test_starts_of_a_room_that_differ_name_the_fields_and_no_values(
    gateway: ApiClient, new_track: NewTrack
) -> None:
    """Whatever differs, on whichever side it stands; the order of members is no difference."""
    body = ROOM.of(new_track())
    given = {"config": CONFIG, "transcription": TRANSCRIPTION, "templateUrl": TEMPLATE}
    assert (await gateway.post(ROOM.command("start"), json={**body, **given})).status_code == 201
    bare = {"roomId": f"{body['roomId']}-bare"}
    assert (await gateway.post(ROOM.command("start"), json=bare)).status_code == 201
    more = await gateway.post(ROOM.command("start"), json={**bare, "templateUrl": TEMPLATE})
    assert (more.status_code, more.json()["fields"]) == (409, ["templateUrl"])
    turned = {**CONFIG, "layout": dict(reversed(CONFIG["layout"].items()))}
    same = await gateway.post(ROOM.command("start"), json={**body, **given, "config": dict(reversed(turned.items()))})
    assert same.json()["outcome"] == "already_recording"
    for change, fields in (
        ({"config": {**CONFIG, "theme": "LIGHT"}}, ["config"]),
        ({"config": None}, ["config"]),
        ({"transcription": {"enabled": False}}, ["transcription"]),
        ({"templateUrl": f"{TEMPLATE}1"}, ["templateUrl"]),
        ({"webhookUrl": "https://hooks.example.com/?key=s3cret"}, ["webhookUrl"]),
        ({"bucketDirPath": "a"}, ["bucketDirPath"]),
        (dict.fromkeys(given), ["config", "transcription", "templateUrl"]),
    ):
        other = await gateway.post(ROOM.command("start"), json={**body, **given, **change})
        assert (other.status_code, other.json()["fields"]) == (409, fields)
        assert not any(value in other.text for value in ("LIGHT", "t0ken-7", "s3cret", "Zusammenfassung"))


@pytest.mark.parametrize("name", ["start", "stop"])
async def test_room_that_is_called_like_a_command_is_shown(simulator: Simulator, demo: harness.Demo, name: str) -> None:
    """The address of its recording is also that of a command; it can be started, shown and stopped all the same."""
    # A server of its own: others ask for a room of this name too, and expect none.
    with harness.AgedValkey() as server:
        settings = harness.environment(server.url, simulator.url, demo.file, **harness.CALM)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
            started = await client.post(ROOM.command("start"), json={"roomId": name})
            assert started.json()["status"] == "recording"
            shown = await client.get(ROOM.address({"roomId": name}))
            assert (shown.json()["roomId"], shown.json()["id"]) == (name, started.json()["id"])
            assert (await client.post(ROOM.command("stop"), json={"roomId": name})).json()["outcome"] == "stopped"


async def test_list_for_a_caller_of_rooms_alone_shows_the_room_and_asks_for_no_participant(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """It sees what is recorded of the room and nothing else. Of one participant it may see nothing: none is asked."""
    track = new_track()
    key, entry = new_key("rooms-only")
    with demo.file.open("a") as callers:
        callers.write(f'{entry}participants = []\nmodes = ["room"]\n')
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with (
        harness.serve(settings) as url,
        harness.client(url, demo.key) as client,
        harness.client(url, key) as narrow,
    ):
        of_person = await narrow.list(track["roomId"], participantId=track["participantId"])
        assert of_person.json()["recordings"] == []
        assert simulator.calls == []
        await client.start(track)
        await client.post(ROOM.command("start"), json=ROOM.of(track))
        seen = (await narrow.list(track["roomId"])).json()["recordings"]
        assert [one["mode"] for one in seen] == ["room"]
