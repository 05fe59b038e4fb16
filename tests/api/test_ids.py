"""Ids as people have them: told apart everywhere, and passed on byte for byte."""

from urllib.parse import quote

import pytest

from gateway.coordinator.scripts import record_key
from gateway.recordings.targets import Kind, Mode, Target, target_of
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.listener import listening

pytestmark = pytest.mark.anyio

IDS = [
    "user@example.com",
    "auth0|5f7c",
    "user:42",
    "agent.bot",
    "zoë",
    "zoe\u0308",
    "a b+c&d=e?f#g",
    "100%",
    "%2F%252e",
    "*a",
    "a*b",
    "{00}:x}",
    "...",
    ".-_~",
    "🎻" * 128,
    "'\"<>;,`$()[]",
    "null",
]
"""Separators of every language that an id passes through, and two spellings of one name. No other test records them."""


def path_of(room: str, participant: str) -> str:
    """Return the address of a video track."""
    return f"/v1/recordings/track/{quote(room, safe='')}/{quote(participant, safe='')}/video"


@pytest.mark.parametrize("name", IDS)
async def test_recording_of_ids_as_people_have_them_is_started_shown_listed_and_stopped(
    name: str, gateway: ApiClient, simulator: Simulator
) -> None:
    """As the room's id and the participant's: VideoSDK gets what the caller wrote, and so does every reader."""
    track = {"roomId": name, "participantId": name, "kind": "video"}
    async with listening(gateway, quote(name, safe="")) as reader:
        started = await gateway.start(track)
        assert started.status_code == 201, started.text
        await reader.until_statuses("starting", "recording")
    again = await gateway.start(track)
    assert again.json()["outcome"] == "already_recording"
    shown = await gateway.get(path_of(name, name))
    listed = await gateway.get("/v1/recordings", params={"roomId": name, "participantId": name})
    for recording in (started.json(), shown.json(), *listed.json()["recordings"]):
        assert {field: recording[field] for field in track} == track
        assert recording["id"] == started.json()["id"]
    simulator.inject(Fault(action="error", endpoint="stop", status=500, room_id=name))
    stopping = await gateway.stop(track)
    assert (stopping.status_code, stopping.headers["location"]) == (202, path_of(name, name))
    await harness.until(lambda: gateway.get(path_of(name, name)), lambda answer: answer.json()["status"] == "stopped")
    # Of this room: the gateway also ends what other tests left behind on the shared server.
    sent = [call for call in harness.calls_for(simulator, name) if call.method == "POST"]
    assert [call.endpoint for call in sent][:2] == ["start", "stop"]
    assert {call.participant_id for call in sent} == {name}


def test_key_of_every_target_is_its_own_and_reads_back() -> None:
    """No id can pass for two parts of a key, nor name another bucket; plain ids stand there as they are."""
    targets = [Target(Mode.TRACK, room, participant, Kind.AUDIO) for room in IDS for participant in IDS]
    keys = [record_key("project", target.room_id, *target.parts) for target in targets]
    assert len(set(keys)) == len(targets)
    assert [target_of(key) for key in keys] == targets
    assert all(key.count("{") == 1 and key.isascii() and "\n" not in key for key in keys)
    assert record_key("project", "abcd-efgh", "track", "person_1", "video").endswith(":abcd-efgh:track:person_1:video")


@pytest.mark.parametrize(
    "wrong", ["", ".", "..", "a/b", "a\\b", "a\nb", "a\x7fb", "a\u0085b", "a\u2028b", "x" * 129, None, 5]
)
async def test_start_of_what_is_no_id_names_each_field(wrong: object, gateway: ApiClient) -> None:
    """Refused by name, with what is wrong, before anything is asked of VideoSDK."""
    answer = await gateway.start({"roomId": wrong, "participantId": wrong, "kind": "video"})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["roomId", "participantId"]


async def test_problem_of_a_path_names_it_as_a_url(gateway: ApiClient) -> None:
    """`instance` is a reference (RFC 9457): what stood encoded in the path stands so there."""
    answer = await gateway.get(path_of("zoë:%", "nobody") + "x")
    assert answer.json()["instance"] == "/v1/recordings/track/zo%C3%AB:%25/nobody/videox"


async def test_start_with_null_for_optional_fields_is_as_without_them(gateway: ApiClient, simulator: Simulator) -> None:
    """They are not sent upstream, the start is the same as one without them, and so is its idempotency key."""
    track = {"roomId": "nulls", "participantId": "p", "kind": "video"}
    nothing = {"fileFormat": None, "webhookUrl": None, "bucketDirPath": None}
    first = await gateway.start({**track, **nothing}, headers={"idempotency-key": "null-1"})
    again = await gateway.start(track, headers={"idempotency-key": "null-1"})
    assert (first.status_code, again.json()["id"]) == (201, first.json()["id"])
    (call,) = [call for call in simulator.calls if call.method == "POST"]
    assert set(nothing).isdisjoint(call.body)


@pytest.mark.parametrize("path", ["/recordings/a/", "recordings/a/", "/recordings/a", "/a"])
async def test_start_with_slashes_around_its_folder_passes_it_on(
    path: str, gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """As VideoSDK's own samples have them, byte for byte."""
    assert (await gateway.start({**new_track(), "bucketDirPath": path})).status_code == 201
    (call,) = [call for call in simulator.calls if call.method == "POST"]
    assert call.body["bucketDirPath"] == path


@pytest.mark.parametrize("path", ["/", "//", "//a", "a//", "/a//b/", "/../a", "/./"])
async def test_start_with_an_empty_segment_in_its_folder_is_refused(
    path: str, gateway: ApiClient, new_track: NewTrack
) -> None:
    """One slash at an end is none of a segment; two are."""
    answer = await gateway.start({**new_track(), "bucketDirPath": path})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["bucketDirPath"]
