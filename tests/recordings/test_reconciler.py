"""What is read is what is: records are compared with VideoSDK's list, and webhooks are heard but not believed."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio

OFTEN = {**harness.FAST, "GATEWAY_CHECK_SECONDS": "1", "GATEWAY_TRUST_SECONDS": "1"}
SELDOM = {**harness.FAST, "GATEWAY_CHECK_SECONDS": "3600", "GATEWAY_TRUST_SECONDS": "3600"}
"""So seldom that whatever is found out was heard."""


def key_of(track: dict[str, str]) -> tuple[str, str, str]:
    """Return how the simulator names a track."""
    return track["roomId"], track["participantId"], track["kind"]


def listings(simulator: Simulator) -> int:
    """Count how often the list was asked for."""
    return sum(call.endpoint == "list" for call in simulator.calls)


@pytest.fixture
def valkey() -> Generator[EmbeddedValkey]:
    """A server of the test's own: what another left there would be looked after here."""
    with harness.PatientValkey() as server:
        yield server


@asynccontextmanager
async def serving(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    times: dict[str, str],
    *,
    public: bool = False,
    **more: str,
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway with these times, known to VideoSDK or not."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **{**times, **more})
    async with harness.serve(settings, public=public) as url, harness.client(url, demo.key) as gateway:
        yield gateway


@pytest.fixture
async def watchful(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo) -> AsyncGenerator[ApiClient]:
    """A gateway that no webhook reaches, and that looks often."""
    async with serving(valkey, simulator, demo, OFTEN) as gateway:
        yield gateway


@pytest.fixture
async def hearing(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo) -> AsyncGenerator[ApiClient]:
    """A gateway that hears webhooks, and hardly ever looks by itself."""
    async with serving(valkey, simulator, demo, SELDOM, public=True) as gateway:
        yield gateway


async def seen(gateway: ApiClient, track: dict[str, str], **expected: object) -> dict[str, Any]:
    """Wait until the track reads like this, and return it."""
    answer = await harness.until(
        lambda: gateway.show(track),
        lambda answer: answer.is_success and expected.items() <= answer.json().items(),
    )
    return answer.json()


async def outside(simulator: Simulator, action: str, track: dict[str, str]) -> None:
    """Start or stop outside the gateway."""
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}) as somebody:
        answer = await somebody.post(f"{simulator.url}/v2/recordings/participant/track/{action}", json=track)
        assert answer.is_success


# --- by looking -------------------------------------------------------------------------------------------------------


async def test_reconciler_without_a_webhook_finds_an_end(
    watchful: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Nobody tells and nobody asks; the record is right all the same, with VideoSDK's id and the files."""
    track = new_track()
    await watchful.start(track)
    running = await seen(watchful, track, status="recording", confirmedBy="list")
    assert running["videosdkRecordingId"] == simulator.rows[0].id
    simulator.end_recording(*key_of(track), webhook=False)
    ended = await seen(watchful, track, status="stopped")
    assert ended["id"] == running["id"]
    assert ended["endedAt"]
    assert ended["endedBecause"] == "videosdk"
    assert [file["filePath"] for file in ended["files"]] == [simulator.rows[0].file_path]


async def test_reconciler_after_one_empty_list_keeps_the_recording(
    watchful: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A list that is empty once is a list that is empty once."""
    track = new_track()
    started = await watchful.start(track)
    before = listings(simulator)
    simulator.inject(Fault(action="empty_once", endpoint="list", room_id=track["roomId"]))
    await harness.eventually(lambda: listings(simulator) >= before + 3)
    told = await seen(watchful, track, status="recording")
    assert told["id"] == started.json()["id"]


async def test_reconciler_after_a_stop_finds_the_files(
    watchful: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """The stop's answer knows none; a moment later they are there, and who asked for the end."""
    track = new_track()
    await watchful.start(track)
    stopped = (await watchful.stop(track)).json()
    assert stopped["outcome"] == "stopped"
    ended = await harness.until(lambda: watchful.show(track), lambda answer: answer.json()["files"])
    assert ended.json()["endedBecause"] == "stopped"
    assert ended.json()["id"] == stopped["id"]


async def test_list_shows_a_recording_begun_beside_the_gateway(
    watchful: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Started outside the gateway: listed with its origin, joined by a start, stopped by a stop."""
    track = new_track()
    await outside(simulator, "start", track)
    page = await harness.until(
        lambda: watchful.get("/v1/recordings", params={"roomId": track["roomId"]}),
        lambda answer: answer.json()["recordings"],
    )
    (recording,) = page.json()["recordings"]
    assert (recording["origin"], recording["status"]) == ("videosdk", "recording")
    assert recording["requestedBy"] is recording["requestedAt"] is None
    again = await watchful.start(track)
    assert again.json()["outcome"] == "already_recording"
    assert (await watchful.stop(track)).json()["outcome"] == "stopped"


async def test_show_within_the_trust_asks_videosdk_nothing(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Within the trust the record answers, after it the list; a hundred who ask at once share the question."""
    track = new_track()
    times = {**harness.FAST, "GATEWAY_TRUST_SECONDS": "4"}
    async with serving(valkey, simulator, demo, times) as gateway:
        await gateway.start(track)
        before = listings(simulator)
        first = await gateway.show(track)
        assert listings(simulator) == before
        confirmed = first.json()["confirmedAt"]
        await harness.until(lambda: gateway.show(track), lambda answer: answer.json()["confirmedAt"] > confirmed)
        asked = listings(simulator)
        assert asked - before <= 2
        answers = await asyncio.gather(*(gateway.show(track) for _ in range(100)))
        assert all(answer.json()["status"] == "recording" for answer in answers)
        assert listings(simulator) - asked < 20


async def test_reconciler_compares_a_room_by_one_list(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """300 tracks of one room, all of them old: a question per page of the list, not per track."""
    room = new_track()["roomId"]
    tracks = [{"roomId": room, "participantId": f"p{number}", "kind": "video"} for number in range(300)]
    quiet = {**harness.CALM, "GATEWAY_TRUST_SECONDS": "0", "GATEWAY_VERIFY_ABSENT": "never"}
    async with serving(valkey, simulator, demo, quiet) as gateway:
        for lot in range(0, 300, 50):
            answers = await asyncio.gather(*(gateway.start(track) for track in tracks[lot : lot + 50]))
            assert {answer.status_code for answer in answers} == {201}
        before = listings(simulator)
        told: set[str] = set()
        query: dict[str, str] = {"roomId": room, "limit": "200"}
        pages = 0
        while query.get("cursor") != "":
            page = (await gateway.get("/v1/recordings", params=query)).json()
            assert all(recording["confirmedBy"] == "list" for recording in page["recordings"])
            told |= {recording["participantId"] for recording in page["recordings"]}
            query["cursor"] = page["nextCursor"] or ""
            pages += 1
        assert told == {track["participantId"] for track in tracks}
        # Two pages of ours, each refreshed by one walk over the three pages of VideoSDK's.
        assert listings(simulator) - before <= 3 * pages


async def test_reconciler_leaves_a_track_that_is_not_due(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Two tracks are compared by the list of their room; a third, which the list shows too, is known to record."""
    async with serving(valkey, simulator, demo, SELDOM) as gateway:
        bystander, *others = (new_track() for _ in range(3))
        await gateway.start(bystander)
        # The first comparison comes soon after a start, the next in an hour.
        await seen(gateway, bystander, status="recording", confirmedBy="list")
        async with Redis.from_url(valkey.url, decode_responses=True) as redis:
            (key,) = [key async for key in redis.scan_iter(match=f"rec:*:{bystander['roomId']}:*:video")]
            before = await redis.hgetall(key)
            await asyncio.gather(*(gateway.start(track) for track in others))
            for track in others:
                await seen(gateway, track, status="recording", confirmedBy="list")
            assert await redis.hgetall(key) == before


async def test_reconciler_finds_three_hundred_ends_by_few_lists(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """All tracks of a room end behind the gateway's back at once: found out together."""
    room = new_track()["roomId"]
    tracks = [{"roomId": room, "participantId": f"p{number}", "kind": "video"} for number in range(300)]
    times = {**OFTEN, **harness.CALM, "GATEWAY_CHECK_SECONDS": "4", "GATEWAY_VERIFY_ABSENT": "never"}
    async with serving(valkey, simulator, demo, times) as gateway:
        for lot in range(0, 300, 50):
            await asyncio.gather(*(gateway.start(track) for track in tracks[lot : lot + 50]))
        for track in tracks:
            simulator.end_recording(*key_of(track), webhook=False)
        before = listings(simulator)

        async def running() -> int:
            page = await gateway.get("/v1/recordings", params={"roomId": room, "status": "recording"})
            return len(page.json()["recordings"])

        await harness.until(running, lambda left: left == 0)
        # A walk is 3 pages. By the track it would be at least 300 questions.
        assert listings(simulator) - before < 100


# --- by hearing -------------------------------------------------------------------------------------------------------


async def test_webhook_about_an_end_updates_the_record(
    hearing: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A webhook is enough: the record is right although nobody looks for an hour."""
    track = new_track()
    started = await hearing.start(track)
    simulator.end_recording(*key_of(track))
    assert (await seen(hearing, track, status="stopped"))["id"] == started.json()["id"]


async def test_webhook_about_a_failure_updates_the_record(
    hearing: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """VideoSDK accepted the start and reports a failure later: that is the reason."""
    track = new_track()
    await hearing.start(track)
    simulator.fail_recording(*key_of(track))
    ended = await harness.until(
        lambda: hearing.show(track), lambda answer: answer.json()["status"] in {"failed", "stopped"}
    )
    assert ended.json()["endedBecause"] == "failed"


@pytest.mark.parametrize("event", ["left", "ended"])
async def test_webhook_about_a_leaver_ends_all_their_tracks(
    hearing: ApiClient, simulator: Simulator, new_track: NewTrack, event: str
) -> None:
    """The room tells that a participant left, or that the session ended; the tracks' own events are lost."""
    simulator.inject(Fault(action="webhook_lost", event="participant-track-recording-stopped", times=None))
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}) as somebody:
        webhook = {"endPoint": f"{hearing.base_url}/v1/webhooks/videosdk", "events": ["*"]}
        made = await somebody.post(f"{simulator.url}/v2/rooms", json={"webhook": webhook})
    room = made.json()["roomId"]
    tracks = [{**new_track(), "roomId": room} for _ in range(2)]
    for track in tracks:
        assert (await hearing.start(track)).status_code == 201
    if event == "left":
        simulator.leave(room, tracks[0]["participantId"])
    else:
        simulator.end_session(room)
    reason = {"left": "participant_left", "ended": "session_ended"}[event]
    assert (await seen(hearing, tracks[0], status="stopped"))["endedBecause"] == reason
    await seen(hearing, tracks[1], status="recording" if event == "left" else "stopped")


async def test_webhook_about_an_earlier_recording_changes_nothing(
    hearing: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Every event of an earlier recording, once more and in any order, while the next one runs: it goes on."""
    track = new_track()
    await hearing.start(track)
    await hearing.stop(track)
    data = {"meetingId": track["roomId"], "sessionId": "s", "participantId": track["participantId"], "kind": "video"}
    events = ("starting", "started", "stopping", "stopped", "failed")
    echoes = [
        msgspec.json.encode({"webhookType": f"participant-track-recording-{event}", "data": data}) for event in events
    ]
    started = await hearing.start(track)
    assert started.status_code == 201, started.text
    random.shuffle(echoes)
    for body in [*echoes, *echoes]:
        headers = {"videosdk-signature": simulator.sign(body)}
        answer = await hearing.post("/v1/webhooks/videosdk", content=body, headers=headers)
        assert answer.status_code == 204
    asked = listings(simulator)
    await harness.eventually(lambda: listings(simulator) > asked or asked > 1)
    assert (await seen(hearing, track, status="recording", confirmedBy="list"))["id"] == started.json()["id"]
    again = await hearing.start(track)
    assert again.json()["outcome"] == "already_recording"
    assert sum(call.endpoint == "start" for call in simulator.calls) == 2


async def test_webhook_about_an_unknown_start_creates_a_record(
    hearing: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Somebody else starts, with the gateway's address for the webhooks: the record appears."""
    track = new_track()
    await outside(simulator, "start", {**track, "webhookUrl": f"{hearing.base_url}/v1/webhooks/videosdk"})
    assert (await seen(hearing, track, status="recording"))["origin"] == "videosdk"


async def test_reconciler_reports_failed_webhook_deliveries(
    watchful: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """VideoSDK's own counters say that a caller's webhooks do not arrive."""
    track = new_track(webhookUrl="http://127.0.0.1:9/nobody-listens?key=hunter2")
    await watchful.start(track)
    told = await harness.until(
        lambda: watchful.show(track),
        lambda answer: (answer.json()["webhookDeliveries"] or {"total": 0})["total"] > 0,
    )
    deliveries = told.json()["webhookDeliveries"]
    assert deliveries["succeeded"] < deliveries["total"]
    assert "hunter2" not in told.text


# --- what must not disturb --------------------------------------------------------------------------------------------


async def test_stop_of_an_ended_recording_keeps_its_end(
    watchful: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Asked again long after, a stop that finds nothing to stop is told so; the recording ended when it ended."""
    track = new_track()
    await watchful.start(track)
    await watchful.stop(track)
    ended = (await watchful.show(track)).json()
    again = await harness.until(
        lambda: watchful.stop(track),
        lambda _: sum(call.endpoint == "stop" for call in simulator.calls) > 1,
    )
    assert again.json()["outcome"] == "not_recording"
    told = (await watchful.show(track)).json()
    ends = [(body["endedAt"], body["endedBecause"]) for body in (again.json(), told)]
    assert ends == [(ended["endedAt"], "stopped")] * 2


async def test_start_that_was_refused_shows_no_files(
    watchful: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Not even those of the recording a moment before it."""
    track = new_track()
    await watchful.start(track)
    await watchful.stop(track)
    simulator.inject(Fault(action="error", endpoint="start", status=404, room_id=track["roomId"]))
    assert (await watchful.start(track)).status_code == 422
    refused = await seen(watchful, track, status="failed", endedBecause="refused")
    confirmed = refused["confirmedAt"]
    told = await harness.until(lambda: watchful.show(track), lambda answer: answer.json()["confirmedAt"] > confirmed)
    assert (told.json()["videosdkRecordingId"], told.json()["files"]) == (None, [])


async def test_webhook_about_an_end_while_the_list_fails_is_kept(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK tells of an end and cannot be asked for a while: then it is asked, and the reason is still known."""
    track = new_track()
    async with serving(valkey, simulator, demo, SELDOM, public=True) as gateway:
        assert (await gateway.start(track)).status_code == 201
        simulator.inject(Fault(action="error", endpoint="list", status=500, room_id=track["roomId"], times=None))
        simulator.fail_recording(*key_of(track))
        settle = float(SELDOM["GATEWAY_SETTLE_SECONDS"])
        asked = listings(simulator)
        await harness.eventually(lambda: listings(simulator) > asked)
        # The list is down for longer than SETTLE, for which alone what was heard outweighs a list that says otherwise.
        first = time.monotonic()
        await harness.eventually(lambda: listings(simulator) > asked + 1 and time.monotonic() > first + 2 * settle)
        failing = listings(simulator)
        simulator.clear_faults()
        await harness.eventually(lambda: listings(simulator) > failing + 1)
        ended = await harness.until(
            lambda: gateway.show(track), lambda answer: answer.json()["status"] in {"failed", "stopped"}
        )
        assert ended.json()["endedBecause"] == "failed"


# --- the list's route -------------------------------------------------------------------------------------------------


async def test_list_is_filtered_and_paged(watchful: ApiClient, new_track: NewTrack) -> None:
    """By participant, kind and status; pages neither skip nor repeat."""
    tracks = [new_track(kind) for kind in ("video", "audio", "video")]
    for track in tracks:
        await watchful.start(track)
    await watchful.stop(tracks[2])
    room = tracks[0]["roomId"]

    async def listed(**query: str) -> list[str]:
        page = await watchful.get("/v1/recordings", params={"roomId": room, **query})
        assert page.status_code == 200, page.text
        return [recording["participantId"] for recording in page.json()["recordings"]]

    first, second, third = (track["participantId"] for track in tracks)
    assert await listed() == [first, second, third]
    assert await listed(kind="video") == [first, third]
    assert await listed(status="stopped") == [third]
    assert await listed(participantId=second) == [second]
    found: list[str] = []
    cursor = None
    while True:
        query = {"roomId": room, "limit": "1", **({"cursor": cursor} if cursor else {})}
        page = (await watchful.get("/v1/recordings", params=query)).json()
        found += [recording["participantId"] for recording in page["recordings"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert found == [first, second, third]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("", ["roomId"]),
        ("roomId=a&roomId=b", ["roomId"]),
        ("roomId=a%2Fb&kind=smell&limit=0&status=gone&cursor=x&colour=red", [
            "roomId", "kind", "limit", "status", "cursor", "colour",
        ]),
        ("roomId=a&limit=201", ["limit"]),
        ("roomId=a&cursor=%E2%82%AC", ["cursor"]),
    ],
)  # fmt: skip
async def test_query_that_is_wrong_is_refused(watchful: ApiClient, query: str, fields: list[str]) -> None:
    """Everything that is wrong is named, at once."""
    refused = await watchful.get(f"/v1/recordings?{query}")
    assert refused.status_code == 422
    assert sorted(error["field"] for error in refused.json()["errors"]) == sorted(fields)


async def test_reconciler_ignores_a_participant_with_an_impossible_id(
    watchful: ApiClient, simulator: Simulator, new_track: NewTrack, valkey: EmbeddedValkey
) -> None:
    """A participant whose id is no part of any key here records outside the gateway: the room is listed without it."""
    track = new_track()
    for participant in ("a:b/c d", track["participantId"]):
        await outside(simulator, "start", {**track, "participantId": participant})
    # The one that can be named is found by the same look.
    page = await harness.until(
        lambda: watchful.get("/v1/recordings", params={"roomId": track["roomId"]}),
        lambda answer: answer.json()["recordings"],
    )
    assert [recording["participantId"] for recording in page.json()["recordings"]] == [track["participantId"]]
    async with Redis.from_url(valkey.url) as redis:
        assert not [key async for key in redis.scan_iter("*b/c*")]
