"""The simulator's webhooks: what they say, where they go, how they are signed, and how they can go wrong."""

import asyncio
import base64

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

pytestmark = pytest.mark.anyio

ROOM = "abcd-efgh-ijkl"


def check_signature(public_key, request):
    """Verify a webhook as a receiver would, from the served key and the raw bytes."""
    key = serialization.load_pem_public_key(public_key.strip().encode())
    assert isinstance(key, rsa.RSAPublicKey)
    signature = base64.b64decode(request.headers["videosdk-signature"], validate=True)
    key.verify(signature, request.body, padding.PKCS1v15(), hashes.SHA256())


async def test_simulator_sends_four_signed_webhooks_of_a_recording(client, simulator, listener, document, validate):
    """Four events in order, signed over the raw bytes, of the documented form, to the address the call named."""
    await client.start(webhookUrl=listener.url("/hook/a?key=1%2F2"))
    await client.stop()
    await simulator.settle()
    assert listener.stages == ["starting", "started", "stopping", "stopped"]
    key = (await client.get("/v2/public/rsa-public-key")).json()["publicKey"]
    for request in listener.taken:
        check_signature(key, request)
        assert (request.method, request.path, request.query) == ("POST", "/hook/a", {"key": "1/2"})
        content = msgspec.json.decode(request.body)
        name = content["webhookType"]
        validate(
            content,
            document["webhooks"][name]["post"]["requestBody"]["content"]["application/json"]["schema"],
        )


async def test_stopped_event_is_byte_for_byte_in_the_documented_form(client, simulator, listener):
    """Same fields, same order, no blanks: what a receiver hashes must not depend on luck."""
    await client.start(webhookUrl=listener.url())
    await client.stop()
    await simulator.settle()
    (row,) = simulator.rows
    file = f'{{"filePath":"{row.file_path}","fileUrl":"{row.file_url}"}}'
    data = f'"meetingId":"{ROOM}","sessionId":"{row.session_id}","participantId":"alice","kind":"video"'
    text = f'{{"webhookType":"participant-track-recording-stopped","data":{{{data},"fileDetails":[{file}]}}}}'
    assert listener.taken[-1].body == text.encode()


async def test_two_started_events_of_a_track_are_the_same_bytes(client, simulator, listener):
    """There is nothing in an event to tell two recordings of one session apart."""
    for _ in range(2):
        await client.start(webhookUrl=listener.url())
        await client.stop()
    await simulator.settle()
    started = [request.body for request in listener.taken if b"-started" in request.body]
    assert len(started) == 2
    assert len(set(started)) == 1


async def test_file_in_the_customers_bucket_has_no_public_address(client, simulator, listener):
    """With a prefix the stopped event says null."""
    await client.start(webhookUrl=listener.url(), bucketDirPath="mine")
    await client.stop()
    await simulator.settle()
    (file,) = msgspec.json.decode(listener.taken[-1].body)["data"]["fileDetails"]
    assert file["filePath"].startswith("mine/")
    assert file["fileUrl"] is None


@pytest.mark.parametrize(
    ("patterns", "count"),
    [(["participant-track-recording-*"], 2), (["participant-track-recording-started"], 1), (["recording-*"], 0)],
)
async def test_room_may_register_an_endpoint(client, simulator, listener, patterns, count):
    """The registered address gets the events its patterns cover, and the call's own gets all."""
    made = await client.post("/v2/rooms", json={"webhook": {"endPoint": listener.url("/room"), "events": patterns}})
    await client.start(roomId=made.json()["roomId"], webhookUrl=listener.url("/call"))
    await simulator.settle()
    paths = [request.path for request in listener.taken]
    assert (paths.count("/room"), paths.count("/call")) == (count, 2)


async def test_simulator_sends_webhooks_about_participants_and_sessions(client, simulator, listener):
    """The simulator sends joining, leaving and the end of a session, with what they ended."""
    made = await client.post("/v2/rooms", json={"webhook": {"endPoint": listener.url(), "events": ["*"]}})
    room = made.json()["roomId"]
    await client.start(roomId=room, participantId="alice")
    await client.start(roomId=room, participantId="bob")
    await simulator.settle()
    assert listener.types.count("session-started") == 1
    assert listener.types.count("participant-joined") == 2
    listener.taken.clear()
    simulator.leave(room, "alice")
    await simulator.settle()
    assert sorted(listener.types) == ["participant-left", "participant-track-recording-stopped"]
    listener.taken.clear()
    simulator.end_session(room)
    await simulator.settle()
    assert sorted(listener.types) == ["participant-track-recording-stopped", "session-ended"]
    (session,) = [request for request in listener.taken if b"session-ended" in request.body]
    assert list(msgspec.json.decode(session.body)["data"]) == ["meetingId", "sessionId", "start", "end"]


@pytest.mark.parametrize("webhook", [True, False])
async def test_recording_may_end_by_itself(client, simulator, listener, webhook):
    """With a webhook or silently, the row ends all the same."""
    await client.start(webhookUrl=listener.url())
    ended = await client.control("end", roomId=ROOM, participantId="alice", kind="video", webhook=webhook)
    assert ended == {"ended": 1}
    await simulator.settle()
    assert listener.stages == ["starting", "started"] + ["stopped"] * webhook
    assert (await client.list(roomId=ROOM))[0]["end"]
    assert await client.control("end", roomId=ROOM, participantId="alice", kind="video") == {"ended": 0}


async def test_recording_may_fail(client, simulator, listener):
    """The failed event carries no reason."""
    await client.start(webhookUrl=listener.url())
    await client.control("fail", roomId=ROOM, participantId="alice", kind="video")
    await simulator.settle()
    assert listener.stages == ["starting", "started", "failed"]
    failed = msgspec.json.decode(listener.taken[-1].body)
    assert list(failed["data"]) == ["meetingId", "sessionId", "participantId", "kind"]


async def test_rows_count_their_deliveries(client, simulator, listener):
    """What arrived and what did not shows in the row, after the recording too."""
    await client.start(webhookUrl=listener.url())
    await simulator.settle()
    listener.status = 500
    await client.stop()
    await simulator.settle()
    (row,) = await client.list(roomId=ROOM)
    names = [f"participant-track-recording-{stage}" for stage in ("starting", "started", "stopping", "stopped")]
    assert row["webhook"] == {
        "totalCount": 4,
        "successCount": 2,
        "data": [{"type": name, "success": number < 2} for number, name in enumerate(names)],
    }
    assert [delivery.status for delivery in simulator.deliveries] == [200, 200, 500, 500]
    shown = (await client.get("/_control/deliveries")).json()
    assert [entry["webhookType"] for entry in shown] == names


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "ftp://127.0.0.1/", "nonsense", "http://127.0.0.1:99999/"])
async def test_address_that_cannot_be_reached_harms_nothing(client, simulator, url):
    """The start succeeds, and the row counts what was lost."""
    assert (await client.start(webhookUrl=url)).status_code == 200
    await simulator.settle()
    assert (await client.list(roomId=ROOM))[0]["webhook"]["successCount"] == 0
    assert [delivery.status for delivery in simulator.deliveries] == [None, None]


async def test_listener_that_hangs_delays_no_answer(running, listener):
    """Deliveries happen beside the answers, and are given up after their time."""
    async with running(webhook_timeout_seconds=0.2) as (simulator, client):
        listener.hold.clear()
        await client.start(webhookUrl=listener.url())
        assert simulator.deliveries == []
        assert (await client.stop()).status_code == 200
        await simulator.settle()
        assert [delivery.status for delivery in simulator.deliveries] == [None] * 4
        assert all(delivery.ended - delivery.sent > 0.15 for delivery in simulator.deliveries)


async def test_stopping_gives_up_deliveries(running, listener):
    """A simulator that is stopped leaves no delivery behind."""
    async with running() as (simulator, client):
        listener.hold.clear()
        await client.inject({"action": "webhook_late", "seconds": 60})
        await client.start(webhookUrl=listener.url())
        async with asyncio.timeout(30):
            await simulator.stop()
        assert simulator.deliveries == []


@pytest.mark.parametrize(
    ("rule", "stages"),
    [
        ({"action": "webhook_lost"}, ["started", "stopping", "stopped"]),
        (
            {"action": "webhook_lost", "event": "participant-track-recording-started"},
            ["starting", "stopping", "stopped"],
        ),
        ({"action": "webhook_lost", "times": None}, []),
        ({"action": "webhook_lost", "kind": "audio"}, ["starting", "started", "stopping", "stopped"]),
        ({"action": "webhook_doubled"}, ["starting", "starting", "started", "stopping", "stopped"]),
        ({"action": "webhook_reordered"}, ["started", "starting", "stopping", "stopped"]),
        ({"action": "webhook_late", "seconds": 0.3}, ["started", "stopping", "stopped", "starting"]),
    ],
)
async def test_webhooks_can_go_astray(client, simulator, listener, rule, stages):
    """Lost, doubled, late or overtaken; only those the rule names."""
    await client.inject(rule)
    await client.start(webhookUrl=listener.url())
    await client.stop()
    await simulator.settle()
    assert listener.stages == stages
    row = (await client.list(roomId=ROOM))[0]["webhook"]
    assert row["successCount"] == len(stages)
    assert row["totalCount"] == max(len(stages), 4), "a lost one counts as sent"


async def test_webhook_that_nothing_follows_is_not_held_for_ever(client, simulator, listener):
    """Where no later event comes, the reordered one goes out alone."""
    await client.inject(
        {"action": "webhook_reordered", "event": "participant-track-recording-stopped", "seconds": 0.05}
    )
    await client.start(webhookUrl=listener.url())
    await client.stop()
    await simulator.settle()
    assert listener.stages[-1] == "stopped"


async def test_webhook_can_come_without_its_signature(client, simulator, listener):
    """One unsigned, the next signed again."""
    await client.inject({"action": "webhook_unsigned"})
    await client.start(webhookUrl=listener.url())
    await simulator.settle()
    assert ["videosdk-signature" in request.headers for request in listener.taken] == [False, True]


async def test_webhook_can_come_before_the_answer(client, simulator, listener):
    """With a delay after the effect, the listener knows before the caller does."""
    await client.inject({"action": "delay", "endpoint": "start", "seconds": 1, "when": "after"})
    await client.start(webhookUrl=listener.url())
    assert simulator.deliveries[-1].ended < simulator.calls[0].answered


async def test_another_key_does_not_verify(client, simulator, listener):
    """The check of these tests is a real one."""
    from gateway.sandbox.webhooks import Signer

    await client.start(webhookUrl=listener.url())
    await simulator.settle()
    with pytest.raises(InvalidSignature):
        check_signature(Signer().public_key, listener.taken[0])
