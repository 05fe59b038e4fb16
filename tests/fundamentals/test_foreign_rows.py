"""What VideoSDK brings into its lists by itself: shown where it is of a mode, and otherwise in no one's way."""

from typing import Any, Final

import pytest

from gateway.sandbox.shapes import Target
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio

SESSION: Final = "61d6e823783d6b03a026ac05"


def composite(room: str, number: int, **more: Any) -> dict[str, Any]:
    """Return the documented row of a composite recording that runs, with whatever it shall say beside that."""
    return {
        "id": f"c{number:023x}",
        "meetingId": room,
        "sessionId": SESSION,
        "participants": [{"participantId": "ada", "kind": ["audio", "video"]}],
        "fileFormat": "webm",
        "start": "2026-01-01T12:00:00.000Z",
        "end": None,
        "fileId": None,
        "file": None,
        **more,
    }


def unknown_rows(room: str, participant: str) -> list[dict[str, Any]]:
    """Return rows that run, are of the room, and are of no mode or kind that the gateway knows."""
    shapes: list[dict[str, Any]] = [
        {},
        {"roomId": room, "mode": "composite"},
        {"roomId": room, "mode": "composite", "participantId": participant, "kind": "video"},
        {"roomId": room, "mode": "composite", "participantId": participant, "kind": ["audio", "video"]},
        {"roomId": room, "mode": ["track"], "participantId": participant, "kind": "video"},
        {"roomId": room, "mode": 7, "kind": {"audio": True}, "participantId": participant},
        {"roomId": room, "mode": "hls", "files": {"a": 1}, "file": ["b"], "webhook": 1, "createdAt": 5},
    ]
    return [composite(room, number, **shape) for number, shape in enumerate(shapes)]


async def test_rows_of_unknown_modes_break_nothing_and_start_nothing(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """In whichever list they stand: starts are really sent, stops stop, and the list shows what is ours alone."""
    track = new_track()
    room, participant = track["roomId"], track["participantId"]
    for row in unknown_rows(room, participant):
        for mode in ("track", "participant", "room"):
            simulator.account.add_row(mode, row)
    # A kind that no caller can name, and a mode that is null: the one is no track of ours, the other says nothing.
    simulator.account.add_row(
        "track", composite(room, 90, roomId=room, mode="track", participantId=participant, kind="avatar")
    )
    assert (await gateway.list(room)).json()["recordings"] == []
    assert simulator.rows == []

    bodies = {"track": track, "participant": {"roomId": room, "participantId": participant}, "room": {"roomId": room}}
    for mode, body in bodies.items():
        started = await gateway.post(f"/v1/recordings/{mode}/start", json=body)
        assert (started.status_code, started.json()["outcome"]) == (201, "started"), started.text
    listed = (await gateway.list(room)).json()["recordings"]
    assert {one["mode"]: (one["origin"], one["status"]) for one in listed} == dict.fromkeys(
        bodies, ("gateway", "recording")
    )
    for mode, body in bodies.items():
        settled = await gateway.post(f"/v1/recordings/{mode}/stop", json=body)
        assert settled.json()["outcome"] == "stopped", settled.text
        assert (await gateway.post(f"/v1/recordings/{mode}/stop", json=body)).json()["outcome"] == "not_recording"
    assert len(simulator.rows) == 3
    assert sum(call.endpoint.endswith("start") for call in simulator.calls) == 3


@pytest.mark.parametrize(("mode", "bare"), [("participant", False), ("room", False), ("room", True)])
async def test_recording_that_videosdk_starts_by_itself_is_shown_and_goes_with_its_session(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack, mode: str, bare: bool
) -> None:
    """As `autoStartConfig` makes them: with its mode, `origin: videosdk`, joined by no start, and ended by the list."""
    track = new_track()
    body = {"roomId": track["roomId"]} | ({"participantId": track["participantId"]} if mode == "participant" else {})
    async with harness.simulator(signer=signer, bare_room_rows=bare) as simulator:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
        settings["GATEWAY_TRUST_SECONDS"] = "0"
        async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
            simulator.account.start(Target(mode, body["roomId"], body.get("participantId")), {}, None)  # pyright: ignore[reportArgumentType]

            async def shown() -> list[dict[str, Any]]:
                return (await client.list(track["roomId"])).json()["recordings"]

            (found,) = await harness.until(shown, lambda seen: [one["status"] for one in seen] == ["recording"])
            assert (found["mode"], found["origin"], found["requestedBy"]) == (mode, "videosdk", None)
            again = await client.post(f"/v1/recordings/{mode}/start", json=body)
            assert (again.status_code, again.json()["outcome"]) == (200, "already_recording")
            assert (await client.start(track)).status_code == 201

            simulator.end_session(track["roomId"])
            ended = await harness.until(shown, lambda seen: [one["status"] for one in seen] == ["stopped", "stopped"])
            (gone,) = [one for one in ended if one["mode"] == mode]
            assert (gone["id"], gone["origin"], len(gone["files"])) == (found["id"], "videosdk", 1)
        assert [call.endpoint for call in simulator.calls if call.method == "POST"] == ["start"]


async def test_room_with_rows_as_documented_is_started_stopped_and_recorded_again(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Rows that say neither start nor end: what has a file has ended, and stands in no later start's way."""
    body = {"roomId": new_track()["roomId"]}
    async with harness.simulator(signer=signer, bare_room_rows=True) as simulator:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
        settings["GATEWAY_TRUST_SECONDS"] = "0"
        async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
            ids: set[str] = set()
            for _ in range(2):
                started = await client.post("/v1/recordings/room/start", json=body)
                assert started.json()["outcome"] == "started", started.text
                ids.add(started.json()["id"])
                stopped = await client.post("/v1/recordings/room/stop", json=body)
                assert stopped.json()["outcome"] == "stopped"
            shown = await harness.until(
                lambda: client.get(f"/v1/recordings/room/{body['roomId']}"), lambda answer: answer.json()["files"]
            )
            assert len(ids) == 2
            assert shown.json()["id"] in ids
            assert shown.json()["videosdkRecordingId"] == simulator.rows[-1].id
            assert [file["filePath"] for file in shown.json()["files"]] == [simulator.rows[-1].file_path]
