"""The simulator's endpoints answer as VideoSDK documents them."""

import asyncio
import re
import time

import httpx
import msgspec
import pytest

from gateway.sandbox.calls import route
from tests import harness

pytestmark = pytest.mark.anyio

TRACKS = "/v2/recordings/participant/track"
SAMPLE_KEYS = [
    "sessionId",
    "participantId",
    "kind",
    "fileFormat",
    "start",
    "end",
    "mode",
    "region",
    "files",
    "roomId",
    "webhook",
    "id",
]


async def test_recording_is_started_listed_stopped_fetched_and_deleted(client, conforms):
    """The five calls answer the documented texts and shapes."""
    started = await client.start()
    assert (started.status_code, started.content) == (200, b'"track recording started successfully."')
    conforms(started, "post", f"{TRACKS}/start")
    listed = await client.get(TRACKS, params={"roomId": "abcd-efgh-ijkl"})
    conforms(listed, "get", TRACKS)
    assert listed.json()["data"][0]["end"] is None
    stopped = await client.stop()
    assert (stopped.status_code, stopped.content) == (200, b'"track recording ended successfully."')
    conforms(stopped, "post", f"{TRACKS}/stop")
    (row,) = await client.list(roomId="abcd-efgh-ijkl")
    fetched = await client.get(f"{TRACKS}/{row['id']}")
    conforms(fetched, "get", f"{TRACKS}/{{id}}")
    assert fetched.json() == row
    deleted = await client.delete(f"{TRACKS}/{row['id']}")
    assert deleted.content == b'"Track Recording deleted successfully."'
    conforms(deleted, "delete", f"{TRACKS}/{{id}}")
    assert await client.list(roomId="abcd-efgh-ijkl") == []
    assert (await client.get(f"{TRACKS}/{row['id']}")).status_code == 404


async def test_row_has_the_fields_of_the_documented_sample(client):
    """Running or ended, a row has the sample's fields, in its order; a file appears at the end."""
    await client.start()
    (running,) = await client.list(roomId="abcd-efgh-ijkl")
    assert list(running) == SAMPLE_KEYS
    assert (running["end"], running["files"], running["mode"]) == (None, [], "track")
    assert running["webhook"] == {"totalCount": 0, "successCount": 0, "data": []}
    await client.stop()
    (ended,) = await client.list(roomId="abcd-efgh-ijkl")
    assert list(ended) == SAMPLE_KEYS
    (file,) = ended["files"]
    assert list(file) == ["meta", "filePath", "fileUrl", "type", "size", "ratio"]
    place = rf"individual-recordings/{ended['sessionId']}/alice/video/track_recording_alice_video_\d{{13}}\.webm"
    assert re.fullmatch(place, file["filePath"])
    assert file["fileUrl"] == f"https://cdn.videosdk.live/{file['filePath']}"


async def test_prefix_leads_the_path_and_takes_the_public_address_away(client):
    """With bucketDirPath the file lies in the customer's bucket."""
    await client.start(bucketDirPath="tenant=7/räume und mehr")
    await client.stop()
    (row,) = await client.list(roomId="abcd-efgh-ijkl")
    assert row["files"][0]["filePath"].startswith("tenant=7/räume und mehr/")
    assert row["files"][0]["fileUrl"] is None


async def test_lists_are_paged_newest_first(client):
    """Twenty to a page unless asked otherwise, and the envelope counts them all."""
    for number in range(25):
        await client.start(participantId=f"p{number}")
    first = (await client.get(TRACKS, params={"roomId": "abcd-efgh-ijkl"})).json()
    assert first["pageInfo"] == {"currentPage": 1, "perPage": 20, "lastPage": 2, "total": 25}
    assert first["data"][0]["participantId"] == "p24"
    second = (await client.get(TRACKS, params={"page": 2})).json()
    assert [row["participantId"] for row in second["data"]] == ["p4", "p3", "p2", "p1", "p0"]
    small = (await client.get(TRACKS, params={"page": 9, "perPage": 10})).json()
    assert small["data"] == []
    assert small["pageInfo"] == {"currentPage": 9, "perPage": 10, "lastPage": 3, "total": 25}
    assert (await client.get(TRACKS, params={"perPage": "many"})).status_code == 400


async def test_unknown_and_empty_filters_answer_the_whole_account(client):
    """Only three names filter; everything else is ignored, as on the live service."""
    await client.start(roomId="one", participantId="alice", kind="audio")
    await client.start(roomId="two", participantId="bob", kind="video")
    (one,) = await client.list(roomId="one")
    assert [row["roomId"] for row in await client.list(participantId="bob")] == ["two"]
    assert await client.list(sessionId=one["sessionId"]) == [one]
    assert await client.list(roomId="one", participantId="bob") == []
    for query in ({"kind": "video"}, {"status": "ongoing"}, {"room": "one"}, {"roomId": ""}, {}):
        assert len(await client.list(**query)) == 2


async def test_second_start_is_refused(client, simulator):
    """By default the track that records cannot be started again; other kinds can."""
    await client.start()
    assert (await client.start()).status_code == 409
    assert (await client.start(kind="audio")).status_code == 200
    assert [row.kind for row in simulator.rows] == ["video", "audio"]


async def test_duplicates_can_be_made_visible(running):
    """With duplicates accepted each start makes a row, and one stop ends them all."""
    async with running(duplicates="accept") as (simulator, client):
        for _ in range(3):
            assert (await client.start()).status_code == 200
        assert len([row for row in await client.list(roomId="abcd-efgh-ijkl") if row["end"] is None]) == 3
        assert (await client.stop()).status_code == 200
        assert {row.reason for row in simulator.rows} == {"stop"}
        assert {row.stopped_by for row in simulator.rows} == {simulator.calls[-1].seq}
        assert (await client.stop()).status_code == 400


async def test_stop_of_nothing_is_refused(client, simulator):
    """Where nothing records a stop changes nothing."""
    assert (await client.stop()).status_code == 400
    assert not simulator.calls[-1].took_effect


async def test_recording_is_processed_for_a_while(running):
    """Right after a stop the same track cannot be started; later it can."""
    async with running(processing_seconds=0.2) as (_, client):
        await client.start()
        await client.stop()
        assert (await client.start()).status_code == 409

        async def starts():
            return (await client.start()).status_code == 200

        await harness.until(starts)


async def test_lists_can_lag(running):
    """A lagging list shows neither a start nor an end at once; a fetch by id does."""
    async with running(list_lag_seconds=0.3) as (simulator, client):
        await client.start()
        assert await client.list(roomId="abcd-efgh-ijkl") == []

        async def shown():
            return await client.list(roomId="abcd-efgh-ijkl")

        await harness.until(shown)
        await client.stop()
        (row,) = await shown()
        assert (row["end"], row["files"]) == (None, [])
        assert (await client.get(f"{TRACKS}/{simulator.rows[0].id}")).json()["end"] is not None

        async def ended():
            return (await shown())[0]["end"]

        await harness.until(ended)


@pytest.mark.parametrize(("answers", "body"), [("text", b"track recording started successfully."), ("empty", b"")])
async def test_answers_may_be_plain_text_or_nothing(running, answers, body):
    """The vendor's own client accepts both in place of the JSON string."""
    async with running(answers=answers) as (_, client):
        started = await client.start()
        assert (started.status_code, started.content) == (200, body)


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({}, 200),
        ({"roles": None}, 200),
        ({"roles": ["crawler", "rtc"]}, 200),
        ({"roles": ["rtc"]}, 403),
        ({"permissions": None}, 403),
        ({"version": 1}, 401),
        ({"version": None}, 401),
        ({"apikey": "another"}, 401),
        ({"apikey": None}, 401),
        ({"exp": 1_700_000_000}, 401),
        ({"exp": None}, 401),
        ({"secret": "f" * 64}, 401),
    ],
)
async def test_tokens_are_checked(client, mint, claims, status):
    """Signature, key, version, expiry: 401. A token that may not use REST: 403."""
    answer = await client.get(TRACKS, headers={"authorization": mint(**claims)})
    assert answer.status_code == status


@pytest.mark.parametrize("prefix", ["Bearer ", "", "nonsense"])
async def test_token_stands_alone_in_its_header(client, mint, prefix):
    """The header holds the token itself: a scheme before it, nothing or nonsense is refused."""
    answer = await client.get(TRACKS, headers={"authorization": prefix + mint() if "B" in prefix else prefix})
    assert answer.status_code == 401
    assert mint() not in answer.text


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "hologram"},
        {"roomId": ""},
        {"participantId": 7},
        {"webhookUrl": None},
        {"fileFormat": "avi"},
    ],
)
async def test_wrong_fields_are_refused(client, simulator, fields):
    """A field that is missing, of a wrong type or null is a validation error, and starts nothing."""
    assert (await client.start(**fields)).status_code == 400
    assert simulator.rows == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"text"'])
async def test_body_must_be_an_object(client, body):
    """Anything else than a JSON object is a validation error."""
    assert (await client.post(f"{TRACKS}/start", content=body)).status_code == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("PUT", f"{TRACKS}/start"), ("POST", f"{TRACKS}/end")])
async def test_unknown_paths_are_not_found(client, method, path):
    """What the simulator does not play it does not pretend to."""
    assert (await client.request(method, path)).status_code == 404


async def test_strict_live_wants_a_participant_who_joined(running):
    """With strict_live a start needs a session, and in it the participant."""
    async with running(strict_live=True) as (_, client):
        assert (await client.start()).status_code == 402
        await client.control("join", roomId="abcd-efgh-ijkl", participantId="bob")
        assert (await client.start()).status_code == 400
        await client.control("join", roomId="abcd-efgh-ijkl", participantId="alice")
        assert (await client.start()).status_code == 200
        left = await client.control("leave", roomId="abcd-efgh-ijkl", participantId="alice")
        assert left == {"ended": 1}
        assert (await client.start()).status_code == 400
        await client.control("session-end", roomId="abcd-efgh-ijkl")
        assert (await client.start(participantId="bob")).status_code == 403


async def test_sessions_tell_who_is_live(client, conforms):
    """A start makes its room and participant live; leaving takes them out of the list of active ones."""
    await client.start(participantId="alice")
    await client.start(participantId="bob")
    await client.control("leave", roomId="abcd-efgh-ijkl", participantId="bob")
    listed = await client.get("/v2/sessions", params={"roomId": "abcd-efgh-ijkl", "status": "ongoing"})
    conforms(listed, "get", "/v2/sessions")
    (session,) = listed.json()["data"]
    assert len(session["participants"]) == 2
    active = await client.get(f"/v2/sessions/{session['id']}/participants/active")
    conforms(active, "get", "/v2/sessions/{id}/participants/active")
    assert [entry["participantId"] for entry in active.json()["data"][0]["participants"]] == ["alice"]
    assert await client.control("session-end", roomId="abcd-efgh-ijkl") == {"ended": 1}
    ended = await client.get("/v2/sessions", params={"roomId": "abcd-efgh-ijkl", "status": "ended"})
    assert ended.json()["data"][0]["id"] == session["id"]
    assert (await client.get("/v2/sessions/unknown/participants/active")).status_code == 404


async def test_rooms_are_made_once_for_a_name(client, conforms):
    """A room has the documented form of id, and a customRoomId finds it again."""
    made = await client.post("/v2/rooms", json={"customRoomId": "lesson", "webhook": {"endPoint": "u", "events": []}})
    conforms(made, "post", "/v2/rooms")
    assert re.fullmatch(r"[a-z]{4}-[a-z]{4}-[a-z]{4}", made.json()["roomId"])
    again = await client.post("/v2/rooms", json={"customRoomId": "lesson"})
    assert again.json() == made.json()
    assert (await client.get(f"/v2/rooms/{made.json()['roomId']}")).json() == made.json()
    assert (await client.get("/v2/rooms/none")).status_code == 402


@pytest.mark.parametrize(
    ("root", "stop", "fields", "texts"),
    [
        (
            "/v2/recordings/participant",
            "stop",
            {"roomId": "r", "participantId": "p"},
            [
                "participant recording started successfully.",
                "participant recording ended successfully.",
                "Participant Recording deleted successfully.",
            ],
        ),
        (
            "/v2/recordings",
            "end",
            {"roomId": "r"},
            [
                "Recording started successfully",
                "Recording ended successfully",
                "Room recording deleted successfully",
            ],
        ),
    ],
)
async def test_other_kinds_of_recording(
    client, simulator, listener, conforms, document, validate, root, stop, fields, texts
):
    """Participants and rooms are recorded apart from each other, in the documented words, rows and events."""
    await client.start(roomId="r", participantId="p")
    started = await client.post(f"{root}/start", json={**fields, "webhookUrl": listener.url()})
    conforms(started, "post", f"{root}/start")
    running = await client.get(root, params={"roomId": "r"})
    conforms(running, "get", root)
    stopped = await client.post(f"{root}/{stop}", json=fields)
    conforms(stopped, "post", f"{root}/{stop}")
    listed = await client.get(root, params={"roomId": "r"})
    conforms(listed, "get", root)
    (before,), (row,) = running.json()["data"], listed.json()["data"]
    assert before["end"] is None
    assert not before.get("files")
    assert not before.get("file")
    assert row["end"]
    fetched = await client.get(f"{root}/{row['id']}")
    conforms(fetched, "get", f"{root}/{{id}}")
    assert {**fetched.json(), "webhook": None} == {**row, "webhook": None}
    deleted = await client.delete(f"{root}/{row['id']}")
    conforms(deleted, "delete", f"{root}/{{id}}")
    assert [started.json(), stopped.json(), deleted.json()] == texts
    assert [entry["mode"] for entry in await client.list(roomId="r")] == ["track"]

    await simulator.settle()
    assert listener.stages == ["starting", "started", "stopping", "stopped"]
    for request in listener.taken:
        content = msgspec.json.decode(request.body)
        described = document["webhooks"][content["webhookType"]]["post"]["requestBody"]
        validate(content, described["content"]["application/json"]["schema"])
    # A room has one file, which is an object in its row, and stands by itself in the event.
    file = row["file"] if "file" in row else row["files"][0]
    told = msgspec.json.decode(listener.taken[-1].body)["data"]
    (said,) = told.get("fileDetails", [told])
    assert {name: said[name] for name in ("filePath", "fileUrl")} == {
        name: file[name] for name in ("filePath", "fileUrl")
    }


async def test_row_of_a_room_without_what_the_package_types_is_the_documented_one(running, conforms):
    """A bare row says neither start nor end nor webhook: it has a file once it has ended."""
    async with running(bare_room_rows=True) as (_, client):
        await client.post("/v2/recordings/start", json={"roomId": "r"})
        (before,) = (await client.get("/v2/recordings", params={"roomId": "r"})).json()["data"]
        await client.post("/v2/recordings/end", json={"roomId": "r"})
        listed = await client.get("/v2/recordings", params={"roomId": "r"})
        conforms(listed, "get", "/v2/recordings")
    (row,) = listed.json()["data"]
    assert list(row) == ["userId", "roomId", "sessionId", "createdAt", "updatedAt", "fileId", "file", "id"]
    assert (before["file"], before["fileId"]) == (None, None)
    assert row["file"]["id"] == row["fileId"]


async def test_public_key_needs_no_token(simulator, conforms):
    """Everyone may fetch the webhook key."""
    async with httpx.AsyncClient(base_url=simulator.url) as stranger:
        answer = await stranger.get("/v2/public/rsa-public-key")
    conforms(answer, "get", "/v2/public/rsa-public-key")
    assert answer.json()["publicKey"].startswith("\n-----BEGIN RSA PUBLIC KEY-----\n")


async def test_calls_are_kept_as_they_came(client, simulator, mint):
    """The history has the raw bytes, the attempt and the times, and no token, in Python and through the control."""
    before = time.monotonic()
    raw = b'{ "roomId":"r","participantId":"p", "kind":"audio","bucketDirPath":"\xc3\xa4" }'
    await client.post(f"{TRACKS}/start", content=raw, headers={"X-Rec-Attempt": "boot.7"})
    (call,) = simulator.calls
    assert (call.raw, call.body["bucketDirPath"], call.attempt) == (raw, "ä", "boot.7")
    assert (call.endpoint, call.room_id, call.participant_id, call.kind) == ("start", "r", "p", "audio")
    assert before < call.received <= call.applied <= call.answered < time.monotonic()
    assert (call.status, call.fault, call.took_effect) == (200, None, True)
    assert simulator.rows[0].started_by == call.seq
    shown = await client.get("/_control/calls")
    assert shown.json()[0]["raw"] == raw.decode()
    assert shown.json()[0]["roomId"] == "r"
    assert mint()[:30] not in shown.text + repr(simulator.calls)


async def test_rows_tell_when_and_why_they_ended(client, simulator):
    """Each way of ending has its reason, and times of the monotonic clock."""
    before = time.monotonic()
    for number in range(5):
        await client.start(participantId=f"p{number}")
    await client.stop(participantId="p0")
    await client.control("end", roomId="abcd-efgh-ijkl", participantId="p1", kind="video")
    await client.control("fail", roomId="abcd-efgh-ijkl", participantId="p2", kind="video")
    await client.control("leave", roomId="abcd-efgh-ijkl", participantId="p3")
    await client.control("session-end", roomId="abcd-efgh-ijkl")
    rows = (await client.get("/_control/recordings")).json()
    assert [row["reason"] for row in rows] == ["stop", "ended-by-itself", "failed", "left", "session-ended"]
    assert all(before < row["opened"] <= row["closed"] < time.monotonic() for row in rows)
    assert all(row["row"]["id"] == row["id"] for row in rows)
    assert [row.reason for row in simulator.rows] == [row["reason"] for row in rows]


async def test_reset_forgets_everything_but_the_key(client, simulator):
    """After a reset the simulator is as new, at the same address and with the same key."""
    key = simulator.public_key
    await client.start()
    await client.inject({"action": "refuse", "endpoint": "start", "times": None})
    await client.control("reset")
    assert (simulator.calls, simulator.rows, simulator.faults, simulator.deliveries) == ([], [], [], [])
    assert (await client.start()).status_code == 200
    assert simulator.public_key == key


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("end", {"roomId": "r"}),
        ("leave", {"roomId": "r", "participantId": "p"}),
        ("faults", [{"action": "explode"}]),
        ("faults", [{"action": "delay"}]),
        ("faults", [{"action": "refuse", "probability": 2}]),
        ("faults", [{"action": "refuse", "status": 42}]),
        ("faults", [{"action": "refuse", "times": 0}]),
        ("faults", [{"action": "refuse", "endpoint": "begin"}]),
        ("faults", [{"action": "refuse", "rooms": "r"}]),
    ],
)
async def test_control_routes_refuse_what_they_do_not_understand(client, simulator, action, body):
    """A mistake in a test's own rule must not pass unseen."""
    answer = await client.post(f"/_control/{action}", json=body)
    assert answer.status_code in {400, 403}
    assert answer.json()["message"]
    assert simulator.faults == []


async def test_connections_are_kept_alive_and_may_be_pipelined(simulator):
    """One connection carries many requests, even ones sent before the answer to the first."""
    reader, writer = await asyncio.open_connection(*simulator.url.removeprefix("http://").split(":"))
    writer.write(b"GET /v2/public/rsa-public-key HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        length = head.lower().partition(b"content-length: ")[2].split()[0]
        assert b"publicKey" in await reader.readexactly(int(length))
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "sent", [b"this is not HTTP\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n"]
)
async def test_unparsable_request_to_the_simulator_is_answered_400(simulator, sent):
    """The simulator answers a broken client 400 and closes the connection."""
    reader, writer = await asyncio.open_connection(*simulator.url.removeprefix("http://").split(":"))
    writer.write(sent)
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()


async def test_body_may_wait_for_leave_and_must_not_be_huge(simulator):
    """`Expect: 100-continue` is honoured; beyond one MiB the answer is 413."""
    reader, writer = await asyncio.open_connection(*simulator.url.removeprefix("http://").split(":"))
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\nExpect: 100-continue\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"x" * 1_100_000)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_it_can_be_stopped_and_started_again_at_its_address(running):
    """A stop keeps history and address: an upstream that goes away and comes back."""
    async with running() as (simulator, client):
        url = simulator.url
        await client.start()
        await simulator.stop()
        with pytest.raises(httpx.TransportError):
            await client.stop()
        await simulator.start()
        assert simulator.url == url
        assert (await client.stop()).status_code == 200
        assert len(simulator.calls) == 2


def test_every_described_operation_has_a_route(document):
    """What the description promises the simulator plays."""
    for path, operations in document["paths"].items():
        for method in set(operations) - {"parameters"}:
            assert route(method.upper(), path.replace("{id}", "0" * 24)).endpoint != "unknown"


def test_description_is_valid_openapi(document):
    """The description itself follows OpenAPI 3.1."""
    from openapi_spec_validator import validate

    validate(document)


def test_every_error_shape_is_described(document, validate):
    """The shapes errors can be given fit the description of an error."""
    from gateway.sandbox.faults import error_reply

    schema = document["components"]["responses"]["Refused"]["content"]["application/json"]["schema"]
    for shape in ("string", "message", "error", "msg", "statusMessage", "code"):
        validate(msgspec.json.decode(error_reply(418, "no", shape=shape).body), schema)
