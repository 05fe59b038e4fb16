"""The webhook intake over real sockets: what is let in, what it is taken to mean, and what forgeries achieve."""

import asyncio
import base64
import json
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar import Litestar

from gateway.api.middleware import RequestMiddleware
from gateway.api.problems import answer_problem
from gateway.api.webhooks import EVENTS, MAX_WEBHOOK_BYTES, WEBHOOK_PATH, WebhookReceiver, webhook_route
from gateway.errors import CoordinationUnavailable, GatewayError, NewerRecord
from gateway.lifecycle import Drain
from gateway.recordings import EventType, Kind, Mode, RecordedFile, WebhookEvent, WebhookQueue
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from gateway.secrets import Secret
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.signatures import Signatures
from gateway.videosdk.tokens import MintedTokens
from gateway.videosdk.webhook_keys import FetchedKeys
from tests import harness
from tests.api_client import NewTrack

pytestmark = pytest.mark.anyio

ROOM = "jvsg-8rjn-j304"
SAMPLE = (
    b'{"webhookType":"participant-track-recording-stopped","data":{"meetingId":"jvsg-8rjn-j304",'
    b'"sessionId":"613731342f27f56e4fc4b6d0","participantId":"abcd","kind":"audio","fileDetails":[{"filePath":'
    b'"/encoded/videos/62d148951a1eb20029fc9b05.mp4","fileUrl":'
    b'"https://cdn.videosdk.live/encoded/videos/62d148951a1eb20029fc9b05.mp4"}]}}'
)
"""As documented, byte for byte."""


def event(name: str, **data: object) -> bytes:
    """Return the body of an event."""
    return json.dumps({"webhookType": name, "data": data}, separators=(",", ":")).encode()


def told(name: str, track: dict[str, str]) -> bytes:
    """Return the body of an event of a track, which is the same for every recording of it."""
    return event(
        f"participant-track-recording-{name}",
        meetingId=track["roomId"],
        sessionId="613731342f27f56e4fc4b6d0",
        participantId=track["participantId"],
        kind=track["kind"],
    )


def left_of(participant: str, room: str = ROOM) -> bytes:
    """Return the body of an event that a participant left, different for each."""
    return event("participant-left", meetingId=room, participantId=participant)


def key_calls(simulator: Simulator) -> int:
    """Return how often VideoSDK was asked for its key."""
    return sum(call.endpoint == "key" for call in simulator.calls)


class Door:
    """An intake on a socket of its own, and all that came of it."""

    def __init__(self, simulator: Simulator, videosdk: VideoSDK, **bounds: Any) -> None:
        self.simulator = simulator
        self.now = 0.0
        self.heard: list[WebhookEvent] = []
        self.counted: Counter[tuple[str, str]] = Counter()
        self.deaf_for = 0
        """How many more hints meet a Redis that does not answer."""
        self.deaf_because: type[GatewayError] = CoordinationUnavailable
        self.hold = asyncio.Event()
        self.hold.set()
        self.client = httpx.AsyncClient()
        self.hearing = 0
        """How many hints are being acted on."""
        signatures = Signatures(FetchedKeys(videosdk.public_key, lambda: self.now))
        bounds = {"rest": 0.01, "max_waiting": 20_000} | bounds
        queue = WebhookQueue(self._handle, **bounds)
        self.webhook_receiver = WebhookReceiver(signatures, queue, self._count)

    async def _handle(self, hint: WebhookEvent) -> None:
        self.hearing += 1
        await self.hold.wait()
        self.hearing -= 1
        if self.deaf_for:
            self.deaf_for -= 1
            raise self.deaf_because("not now")
        self.heard.append(hint)

    def _count(self, name: str, verdict: str) -> None:
        self.counted[name, verdict] += 1

    async def send(self, body: bytes, signature: str | None = None, **headers: str) -> httpx.Response:
        """Send a body as VideoSDK does, with its own signature where none is given."""
        signature = self.simulator.sign(body) if signature is None else signature
        signed = {"videosdk-signature": signature, "content-type": "application/json"} | headers
        return await self.client.post(WEBHOOK_PATH, content=body, headers=signed)


@asynccontextmanager
async def opened(simulator: Simulator, **bounds: Any) -> AsyncGenerator[Door]:
    """Serve an intake."""
    videosdk = VideoSDK(simulator.url, MintedTokens(harness.API_KEY, Secret(harness.SECRET)), timeout=harness.BOUND)
    door = Door(simulator, videosdk, **bounds)
    app = Litestar(
        route_handlers=[webhook_route(door.webhook_receiver)],
        exception_handlers={Exception: answer_problem},
        logging_config=None,
        openapi_config=None,
    )
    async with harness.serve_app(RequestMiddleware(app, Drain())) as url, harness.client(url) as client:
        await door.client.aclose()
        door.client = client
        try:
            yield door
        finally:
            door.hold.set()
            await door.webhook_receiver.close(5)
            await videosdk.aclose()


@pytest.fixture
async def door(simulator: Simulator) -> AsyncGenerator[Door]:
    """An intake whose hints are kept."""
    async with opened(simulator) as opened_door:
        yield opened_door


# --- what it means ------------------------------------------------------------------------------------------------


async def test_webhook_of_the_documented_sample_is_handled(door: Door) -> None:
    """204 without a body, and a hint with the track."""
    answer = await door.send(SAMPLE)
    assert (answer.status_code, answer.content) == (204, b"")
    await harness.eventually(lambda: door.heard)
    path = "/encoded/videos/62d148951a1eb20029fc9b05.mp4"
    files = (RecordedFile(file_path=path, file_url=f"https://cdn.videosdk.live{path}"),)
    assert door.heard == [WebhookEvent(ROOM, "abcd", Kind.AUDIO, EventType.STOPPED, Mode.TRACK, files)]
    assert door.counted == {("participant-track-recording-stopped", "accepted"): 1}


STOPPED = "participant-track-recording-stopped"
WHO = {"meetingId": ROOM, "sessionId": "s", "participantId": "ada"}


HINTS = [
    *(
        (
            event(f"participant-track-recording-{happened}", **WHO, kind="screen_video"),
            WebhookEvent(ROOM, "ada", Kind.SCREEN_VIDEO, happened, Mode.TRACK),
        )
        for happened in list(EventType)[:5]
    ),
    *(
        (
            event(f"participant-recording-{happened}", **WHO, fileFormat="webm"),
            WebhookEvent(ROOM, "ada", None, happened, Mode.PARTICIPANT),
        )
        for happened in list(EventType)[:5]
    ),
    *(
        (
            event(f"recording-{happened}", meetingId=ROOM, sessionId="s"),
            WebhookEvent(ROOM, None, None, happened, Mode.ROOM),
        )
        for happened in list(EventType)[:5]
    ),
    (
        event("recording-stopped", meetingId=ROOM, sessionId="s", filePath="a.mp4", fileUrl="https://cdn/a.mp4"),
        WebhookEvent(
            ROOM,
            None,
            None,
            EventType.STOPPED,
            Mode.ROOM,
            (RecordedFile(file_path="a.mp4", file_url="https://cdn/a.mp4"),),
        ),
    ),
    (
        event("recording-stopped", meetingId=ROOM, filePath="a.mp4", fileUrl=None),
        WebhookEvent(ROOM, None, None, EventType.STOPPED, Mode.ROOM, (RecordedFile(file_path="a.mp4"),)),
    ),
    (
        event("recording-stopped", meetingId=ROOM, filePath=["a.mp4"], fileUrl=7),
        WebhookEvent(ROOM, None, None, EventType.STOPPED, Mode.ROOM),
    ),
    (event("participant-left", **WHO, participantName="A"), WebhookEvent(ROOM, "ada", None, EventType.LEFT)),
    (event("session-ended", meetingId=ROOM, start="x", end="y"), WebhookEvent(ROOM, None, None, EventType.ENDED)),
    (
        event(STOPPED, **WHO, kind="video", fileDetails=[{"filePath": "a", "fileUrl": None}]),
        WebhookEvent(ROOM, "ada", Kind.VIDEO, EventType.STOPPED, Mode.TRACK, (RecordedFile(file_path="a"),)),
    ),
    # What is not as documented about the files does not make the rest less true.
    (
        event(STOPPED, **WHO, kind="video", fileDetails={"filePath": 7}),
        WebhookEvent(ROOM, "ada", Kind.VIDEO, EventType.STOPPED, Mode.TRACK),
    ),
    (
        event(STOPPED, **WHO, kind="video", fileDetails=None, more=[1]),
        WebhookEvent(ROOM, "ada", Kind.VIDEO, EventType.STOPPED, Mode.TRACK),
    ),
]


async def test_webhook_about_a_track_is_handled(door: Door) -> None:
    """The five events of a track's, a participant's and a room's recording, one who left, a session that ended."""
    for number, (body, hint) in enumerate(HINTS, 1):
        assert (await door.send(body)).status_code == 204
        await harness.eventually(lambda number=number: len(door.heard) == number)
        assert door.heard[-1] == hint


OTHERS = [
    (event("participant-joined", **WHO), "participant-joined"),
    (event("session-started", **WHO), "session-started"),
    (event("recording-stopped", filePath="a"), "recording-stopped"),
    (event("recording-failed", meetingId="a/b"), "recording-failed"),
    (event("participant-recording-started", meetingId=ROOM), "participant-recording-started"),
    (event("something-new", **WHO), "other"),
    (event("participant-track-recording-paused", **WHO, kind="video"), "other"),
    (b"{}", "other"),
    (b'{"webhookType":null}', "other"),
    (b'{"webhookType":["participant-left"]}', "other"),
    (b'{"webhookType":"participant-left"}', "participant-left"),
    (b'{"webhookType":"participant-left","data":[]}', "participant-left"),
    (event("participant-left", meetingId=ROOM), "participant-left"),
    (event("participant-left", meetingId="../x", participantId="ada"), "participant-left"),
    (event("participant-left", meetingId=ROOM, participantId="a/b"), "participant-left"),
    (event("participant-left", meetingId=ROOM, participantId="a\n"), "participant-left"),
    (event("participant-left", meetingId=ROOM, participantId="a" * 129), "participant-left"),
    (event("participant-left", meetingId=7, participantId="ada"), "participant-left"),
    (event("session-ended", meetingId=""), "session-ended"),
    (event("participant-track-recording-started", **WHO), "participant-track-recording-started"),
    (event("participant-track-recording-started", **WHO, kind="smell"), "participant-track-recording-started"),
]


async def test_webhook_about_no_track_is_accepted_and_counted(door: Door) -> None:
    """What is of no track, not known, or names nothing that can be a track here: 204 and no hint."""
    for body, counted in OTHERS:
        assert (await door.send(body)).status_code == 204
        assert door.counted == {(counted, "accepted"): 1}, body
        door.counted.clear()
    await door.webhook_receiver.close(5)
    assert door.heard == []


def test_webhook_event_types_are_the_documented_ones() -> None:
    """The names are the vendor's; five of each mode, a leaver and an end are about targets."""
    assert len(EVENTS) == 19
    assert sum(happened is not None for happened in EVENTS.values()) == 17
    assert EVENTS["participant-track-recording-failed"] is EventType.FAILED


async def test_webhook_with_any_content_type_is_handled(door: Door) -> None:
    """The signature counts, and nothing else of the request does."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "x"):
        assert (await door.send(SAMPLE, **{"content-type": content_type})).status_code == 204
    assert (await door.send(SAMPLE, authorization="Bearer nonsense")).status_code == 204


async def test_webhook_received_twice_is_handled_twice(door: Door) -> None:
    """Two starts of one track tell the same bytes: the second is no copy of the first."""
    for count in (1, 2):
        assert (await door.send(told("started", {"roomId": ROOM, "participantId": "p", "kind": "video"}))).is_success
        await harness.eventually(lambda count=count: len(door.heard) == count)
    assert door.heard[0] == door.heard[1]


# --- what is not let in -------------------------------------------------------------------------------------------


async def test_webhook_that_is_no_json_object_is_malformed(
    door: Door, check_problem: Callable[..., dict[str, Any]]
) -> None:
    """Signed by VideoSDK, and all the same not an object in JSON."""
    bodies = [b"", b"x", b"[]", b"7", b'"a"', b"null", b"{", b'{"a":"\xff"}', b"[" * 100_000, b"{}{}"]
    for body in bodies:
        check_problem(await door.send(body), "malformed-request")
    assert door.counted == {("other", "malformed"): len(bodies)}


async def test_webhook_unsigned_or_forged_is_answered_401(
    door: Door, check_problem: Callable[..., dict[str, Any]]
) -> None:
    """401, how to say who one is, and not a word about what was wrong."""
    answers = [
        await door.client.post(WEBHOOK_PATH, content=SAMPLE),
        await door.send(SAMPLE, ""),
        await door.send(SAMPLE, "nonsense"),
        await door.send(SAMPLE, door.simulator.sign(SAMPLE + b" ")),
        await door.send(b"not json", door.simulator.sign(SAMPLE)),
    ]
    documents = [check_problem(answer, "unauthenticated") for answer in answers]
    assert {document["detail"] for document in documents} == {"VideoSDK did not sign this body."}
    assert {answer.headers["www-authenticate"] for answer in answers} == {
        'VideoSDK-Signature realm="recording-gateway"'
    }
    assert door.counted == {("other", "unsigned"): 2, ("other", "forged"): 3}
    assert door.heard == []


@pytest.mark.parametrize("signature", [None, b"nonsense", b"A" * 344], ids=["none", "no base64", "too short"])
async def test_webhook_without_a_signature_is_refused_before_its_body_is_read(
    door: Door, signature: bytes | None
) -> None:
    """Where no body could make it genuine, the answer comes before one is sent, and what comes later is dropped."""
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n" % WEBHOOK_PATH.encode()
    if signature is not None:
        head += b"videosdk-signature: %s\r\n" % signature[:340]
    url = door.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head + b"\r\n")
    async with asyncio.timeout(harness.BOUND):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.write(b"x" * 1000 + b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"HTTP/1.1 404" in await reader.read()
    writer.close()


async def test_webhook_with_a_body_beyond_the_bound_is_refused(
    door: Door, check_problem: Callable[..., dict[str, Any]]
) -> None:
    """The longest is read to its end; one byte more is refused, whether or not its length was said before."""
    longest = SAMPLE + b" " * (MAX_WEBHOOK_BYTES - len(SAMPLE))
    assert (await door.send(longest)).status_code == 204
    detail = check_problem(await door.send(longest + b" "), "payload-too-large")["detail"]
    assert str(MAX_WEBHOOK_BYTES) in detail

    async def parts() -> AsyncGenerator[bytes]:
        for _ in range(5):
            yield b" " * (MAX_WEBHOOK_BYTES // 4)

    signed = {"videosdk-signature": door.simulator.sign(longest)}
    check_problem(await door.client.post(WEBHOOK_PATH, content=parts(), headers=signed), "payload-too-large")
    assert door.counted["other", "too_large"] == 2


async def test_webhook_without_a_key_is_answered_503_with_retry_after(
    door: Door, check_problem: Callable[..., dict[str, Any]]
) -> None:
    """503 with Retry-After, nothing heard; a minute later the same event is taken."""
    door.simulator.inject(Fault(action="refuse", endpoint="key", status=500, times=1))
    answer = await door.send(SAMPLE)
    check_problem(answer, "identity-unavailable")
    assert answer.headers["retry-after"] == "60"
    assert door.counted == {("other", "postponed"): 1}
    door.now += 60
    assert (await door.send(SAMPLE)).status_code == 204
    await harness.eventually(lambda: len(door.heard) == 1)


async def test_webhook_signed_with_a_new_key_costs_one_fetch(door: Door) -> None:
    """The simulator signs with another key; what it sends then is accepted after one fetch."""
    assert (await door.send(SAMPLE)).status_code == 204
    async with httpx.AsyncClient(base_url=door.simulator.url, trust_env=False) as control:
        shown = (await control.post("/_control/rotate-key")).json()["publicKey"]
        assert (await control.get("/v2/public/rsa-public-key")).json()["publicKey"] == shown
    fetched = key_calls(door.simulator)
    door.now += 61
    answers = await asyncio.gather(*(door.send(SAMPLE) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {204}
    assert key_calls(door.simulator) == fetched + 1


async def test_webhook_forgeries_cost_one_fetch_a_minute(door: Door, signer: Signer) -> None:
    """Sixty of them in each of three minutes: three calls, and a genuine one passes in the middle."""
    forged = Signer().sign(SAMPLE)
    for minute in range(1, 4):
        for _ in range(3):
            answers = await asyncio.gather(*(door.send(SAMPLE, forged) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {401}
        assert (await door.send(SAMPLE, signer.sign(SAMPLE))).status_code == 204
        assert key_calls(door.simulator) == minute
        door.now += 60
    await harness.eventually(lambda: len(door.heard) == 3)


async def test_webhook_of_any_signed_body_is_answered_as_documented(door: Door) -> None:
    """Any JSON and any bytes behind a good signature: 204 for objects, else 400, and never a mistake of ours."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    names = st.sampled_from([*EVENTS, "other", "", "data"]) | st.text()
    values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
    data = st.dictionaries(
        st.sampled_from(["meetingId", "participantId", "kind", "fileDetails", "x"]),
        values | st.sampled_from([ROOM, "video", [{"filePath": "a"}]]),
    )
    bodies = (
        st.fixed_dictionaries({}, optional={"webhookType": names | values, "data": data | values}).map(
            lambda made: json.dumps(made).encode()
        )
        | values.map(lambda made: json.dumps(made).encode())
        | st.binary(max_size=200)
    )
    made: list[bytes] = []

    @settings(max_examples=100, deadline=None, database=None)
    @given(bodies)
    def collect(body: bytes) -> None:
        made.append(body)

    collect()
    for body in made:
        answer = await door.send(body)
        try:
            good = isinstance(json.loads(body), dict)
        except ValueError:
            good = False
        # Python's reader takes some things that are not JSON, such as halves of surrogate pairs.
        assert answer.status_code == 204 if good and b"\\ud" not in body else answer.status_code in {204, 400}, body


# --- afterwards ----------------------------------------------------------------------------------------------------


async def test_webhook_is_answered_before_it_is_acted_on(door: Door) -> None:
    """VideoSDK is answered while the hint is still being acted on, and so are the next hundred."""
    door.hold.clear()
    answers = await asyncio.gather(*(door.send(left_of(f"p{number}")) for number in range(100)))
    assert {answer.status_code for answer in answers} == {204}
    assert door.heard == []
    door.hold.set()
    await harness.eventually(lambda: len(door.heard) == 100)


async def test_webhook_sent_a_hundred_times_is_handled_once_more_at_most(door: Door) -> None:
    """While it is handled, and while it waits, equal ones stand for nothing: it is handled now, and once afterwards."""
    door.hold.clear()
    answers = await asyncio.gather(*(door.send(SAMPLE) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {204}
    assert door.counted == {(STOPPED, "accepted"): 2, (STOPPED, "repeated"): 98}
    door.hold.set()
    await door.webhook_receiver.close(20)
    assert len(door.heard) == 2


async def test_webhook_sent_again_rests_before_it_is_handled_again(simulator: Simulator) -> None:
    """What was just handled waits for a while, and any number of equal ones with it; none is lost at the end."""
    async with opened(simulator, rest=3600) as door:
        assert (await door.send(SAMPLE)).status_code == 204
        await harness.eventually(lambda: door.heard)
        for _ in range(3):
            assert (await door.send(SAMPLE)).status_code == 204
        other = left_of("somebody-else")
        assert (await door.send(other)).status_code == 204
        await harness.eventually(lambda: len(door.heard) == 2)
        assert door.heard[1].type is EventType.LEFT, "it did not wait for what rests"
        assert door.counted[STOPPED, "repeated"] == 2
        await door.webhook_receiver.close(20)
        assert [hint.type for hint in door.heard] == [EventType.STOPPED, EventType.LEFT, EventType.STOPPED]


@pytest.mark.parametrize("max_concurrent", [1, 2], ids=["one task", "two tasks"])
async def test_webhooks_of_a_room_that_sends_many_leave_another_rooms_its_turn(
    simulator: Simulator, max_concurrent: int
) -> None:
    """A room gets half of the tasks, and every second turn: that of another is not handled after all of them."""
    async with opened(simulator, max_concurrent=max_concurrent) as door:
        door.hold.clear()
        for number in range(20):
            assert (await door.send(left_of(f"p{number}"))).status_code == 204
        await harness.eventually(lambda: door.hearing == 1)
        for participant in ("ada", "bob"):
            assert (await door.send(left_of(participant, "another-room"))).status_code == 204
        await harness.eventually(lambda: door.hearing == max_concurrent)
        door.hold.set()
        await harness.eventually(lambda: len(door.heard) == 22)
        assert [hint.room_id for hint in door.heard[:5]].count("another-room") == 2


async def test_close_waits_for_accepted_webhooks(door: Door) -> None:
    """Everything answered with 204 is heard before the intake is closed."""
    door.hold.clear()
    await asyncio.gather(*(door.send(left_of(f"p{number}")) for number in range(40)))

    async def heard_when_closed() -> int:
        await door.webhook_receiver.close(20)
        return len(door.heard)

    closing = asyncio.create_task(heard_when_closed())
    door.hold.set()
    assert await closing == 40


async def test_close_gives_up_a_hanging_webhook_after_the_grace(door: Door) -> None:
    """What hangs is given up after the grace."""
    door.hold.clear()
    await door.send(SAMPLE)
    async with asyncio.timeout(harness.BOUND):
        await door.webhook_receiver.close(0.1)
    assert door.heard == []


async def test_webhook_beyond_the_bound_is_refused_with_retry_after(
    simulator: Simulator, check_problem: Callable[..., dict[str, Any]]
) -> None:
    """Four wait, of which one is acted on; another is refused with Retry-After, and accepted when there is room.

    One address has no more of the places than are free, and one room no more than that address may still take.
    """
    async with opened(simulator, max_waiting=8, max_concurrent=1) as door:
        door.hold.clear()
        for participant in ("ada", "bob"):
            assert (await door.send(left_of(participant))).status_code == 204
        refused = await door.send(left_of("eve"))
        assert check_problem(refused, "too-many-waiting")["bound"] == "webhooks-per-room"
        assert int(refused.headers["retry-after"]) > 0
        assert door.counted["participant-left", "postponed"] == 1
        for room in ("second-room", "third-room"):
            assert (await door.send(left_of("ada", room))).status_code == 204
        refused = await door.send(left_of("ada", "fourth-room"))
        assert check_problem(refused, "too-many-waiting")["bound"] == "webhooks-per-sender"
        await harness.eventually(lambda: door.hearing)
        assert door.hearing == 1
        door.hold.set()
        await harness.eventually(lambda: len(door.heard) == 4)
        assert (await door.send(left_of("eve"))).status_code == 204
        await harness.eventually(lambda: len(door.heard) == 5)


async def test_webhook_that_joins_an_earlier_one_has_tries_of_its_own(simulator: Simulator) -> None:
    """It is not given up with the earlier one, which met a Redis that did not answer for long."""
    async with opened(simulator, pauses=(0.01, 0.5), rest=3600) as door:
        door.deaf_for = 3
        await door.send(SAMPLE)
        await harness.eventually(lambda: door.deaf_for == 1)
        await door.send(SAMPLE)
        await harness.eventually(lambda: not door.deaf_for)
        await door.webhook_receiver.close(20)
        assert len(door.heard) == 1


@pytest.mark.parametrize("reason", [CoordinationUnavailable, NewerRecord])
async def test_webhook_during_a_redis_outage_is_retried(door: Door, reason: type[GatewayError]) -> None:
    """It is tried again, also when the process is told to stop meanwhile.

    So is one about a record that a later version holds at the moment, in the middle of a rolling upgrade.
    """
    door.deaf_for, door.deaf_because = 1, reason
    await door.send(SAMPLE)
    await harness.eventually(lambda: not door.deaf_for)
    await door.webhook_receiver.close(20)
    assert len(door.heard) == 1


async def test_webhook_is_given_up_after_the_last_try(simulator: Simulator) -> None:
    """Redis does not answer three times: nothing is tried a fourth time, and the next event is heard."""
    async with opened(simulator, pauses=(0, 0)) as door:
        door.deaf_for = 4
        await door.send(SAMPLE)
        await harness.eventually(lambda: door.deaf_for == 1)
        await door.webhook_receiver.close(20)
        assert (door.deaf_for, door.heard) == (1, [])
        await door.send(SAMPLE)
        await harness.eventually(lambda: door.heard)


# --- the whole gateway ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def hearing(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, **more: str):
    """Serve a whole gateway that VideoSDK can reach; yields a client of it."""
    environment = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, **more)
    async with harness.serve(environment, public=True) as url, harness.client(url, demo.key) as client:
        yield client


async def test_webhook_about_an_end_reaches_a_start_without_a_url(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Nobody gave a webhookUrl: the gateway gave its own, and knows of an end that nobody asked for."""
    async with hearing(valkey, simulator, demo) as gateway:
        track = new_track()
        assert (await gateway.start(track)).status_code == 201
        simulator.end_recording(track["roomId"], track["participantId"], track["kind"])
        await harness.until(lambda: gateway.show(track), lambda answer: answer.json()["status"] == "stopped")
    (start,) = (call for call in simulator.calls if call.endpoint == "start")
    assert isinstance(start.body, dict)
    assert start.body["webhookUrl"] == f"{gateway.base_url}{WEBHOOK_PATH}"
    delivered = [delivery for delivery in simulator.deliveries if delivery.room_id == track["roomId"]]
    assert {delivery.status for delivery in delivered} == {204}
    assert [delivery.webhook_type.rpartition("-")[2] for delivery in delivered] == ["starting", "started", "stopped"]


async def test_start_with_a_webhook_url_sends_it_unchanged(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """It reaches VideoSDK byte for byte, whether or not the gateway has an address of its own."""
    url = "http://127.0.0.1:9/h%2Fook/?key=a%20b&c=%E2%82%AC&&=+~"
    async with hearing(valkey, simulator, demo) as gateway:
        assert (await gateway.start(new_track(webhookUrl=url))).status_code == 201
    (start,) = (call for call in simulator.calls if call.endpoint == "start")
    assert isinstance(start.body, dict)
    assert start.body["webhookUrl"] == url


async def test_start_without_a_webhook_url_is_equal_under_any_gateway_url(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Gateways with one address, with another and with none, as during a roll-out: no 409, and one start.

    Whoever writes the gateway's address into the request has asked for something else.
    """
    track = new_track()
    environment = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with (
        hearing(valkey, simulator, demo) as one,
        hearing(valkey, simulator, demo) as other,
        harness.serve(environment) as url,
        harness.client(url, demo.key) as third,
    ):
        answers = await asyncio.gather(*(gateway.start(track) for gateway in (one, other, third)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 201]
        own = {**track, "webhookUrl": f"{one.base_url}{WEBHOOK_PATH}"}
        assert (await one.start(own)).status_code == 409
    assert sum(call.endpoint == "start" for call in simulator.calls) == 1


def standing(answer: httpx.Response) -> dict[str, Any]:
    """Return what an answer says of a recording, without when it was last looked at."""
    return {name: value for name, value in answer.json().items() if name not in {"confirmedAt", "confirmedBy"}}


class Forger:
    """Makes what is not genuine of what is."""

    def __init__(self, signer: Signer, seed: int) -> None:
        self._signer = signer
        self._other = Signer()
        self._random = random.Random(seed)
        self._genuine: dict[bytes, str] = {}

    def forge(self, body: bytes) -> tuple[bytes, list[str]]:
        """Return a body and its signature headers."""
        genuine = self._genuine[body] = self._genuine.get(body) or self._signer.sign(body)
        choices = [self._other_body, self._other_signature, self._other_method]
        return self._random.choice(choices)(body, genuine)

    def _other_body(self, body: bytes, genuine: str) -> tuple[bytes, list[str]]:
        at = self._random.randrange(len(body))
        flipped = body[:at] + bytes([body[at] ^ (1 << self._random.randrange(8))]) + body[at + 1 :]
        same = json.dumps(json.loads(body)).encode()
        choices = [
            flipped,
            body[:at],
            body[at:] + b" ",
            body + b"\n",
            b" " + body,
            body + body,
            b"",
            same,
            b"\xef\xbb\xbf" + body,
        ]
        return self._random.choice([choice for choice in choices if choice != body]), [genuine]

    def _other_signature(self, body: bytes, genuine: str) -> tuple[bytes, list[str]]:
        raw = bytearray(base64.b64decode(genuine))
        raw[self._random.randrange(256)] ^= 1 << self._random.randrange(8)
        at = self._random.randrange(344)
        swapped = genuine[:at] + self._random.choice("ABCxyz019+/=-_ ") + genuine[at + 1 :]
        choices = [
            [base64.b64encode(raw).decode()],
            [swapped if swapped != genuine else genuine[1:]],
            [genuine[:at]],
            [genuine, genuine],
            [genuine, ""],
            ["", genuine],
            [f"{genuine}, {genuine}"],
            [f'"{genuine}"'],
            [f"sha256={genuine}"],
            [base64.b64decode(genuine).hex()],
            [genuine.swapcase()],
            [base64.b64encode(bytes(256)).decode()],
            [],
            [""],
        ]
        return body, self._random.choice(choices)

    def _other_method(self, body: bytes, _genuine: str) -> tuple[bytes, list[str]]:
        key, sha256 = self._signer._key, hashes.SHA256()
        made = self._random.choice(
            [
                lambda: key.sign(body, padding.PKCS1v15(), hashes.SHA1()),
                lambda: key.sign(body, padding.PKCS1v15(), hashes.SHA512()),
                lambda: key.sign(body, padding.PSS(padding.MGF1(sha256), 32), sha256),
                lambda: key.sign(b"", padding.PKCS1v15(), sha256),
                lambda: base64.b64decode(self._other.sign(body)),
            ]
        )
        return body, [base64.b64encode(made()).decode()]


async def test_webhook_forgeries_change_nothing(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, signer: Signer
) -> None:
    """Mutated bodies and signatures, of events that would end what records: 401 each, and everything stands."""
    forger = Forger(signer, seed := random.randrange(2**32))
    # Neither a read nor the time makes it look, however long this takes.
    patient = {"GATEWAY_TRUST_SECONDS": "3600", "GATEWAY_CHECK_SECONDS": "0"}
    async with hearing(valkey, simulator, demo, **patient) as gateway:
        track = new_track(webhookUrl="http://127.0.0.1:9/")
        await gateway.start(track)
        # VideoSDK has ended it, and the gateway was not told: a forgery that gets through makes it look.
        simulator.end_recording(track["roomId"], track["participantId"], track["kind"], webhook=False)
        before = standing(await gateway.show(track))
        assert before["status"] == "recording"
        calls = len(simulator.calls)
        bodies = [told(name, track) for name in ("stopped", "failed", "started")]
        bodies.append(event("session-ended", meetingId=track["roomId"]))

        async def send(number: int) -> tuple[int, str]:
            body, signatures = forger.forge(bodies[number % len(bodies)])
            # No header can end in a blank: HTTP takes it away, and what is left may be the genuine one.
            sendable = [re.sub(r"^\s|\s$", "A", signature) for signature in signatures]
            headers = [("videosdk-signature", signature) for signature in sendable]
            answer = await gateway.post(WEBHOOK_PATH, content=body, headers=[*headers, ("authorization", "")])
            return answer.status_code, answer.json().get("detail", "") if answer.content else ""

        answers: Counter[tuple[int, str]] = Counter()
        for start in range(0, 1000, 8):
            answers.update(await asyncio.gather(*(send(number) for number in range(start, start + 8))))
        assert answers == {(401, "VideoSDK did not sign this body."): 1000}, seed
        assert standing(await gateway.show(track)) == before, seed
        # Of other rooms the settler may still have something to find out.
        mine = [call for call in simulator.calls[calls:] if call.room_id in {None, track["roomId"]}]
        assert Counter(call.endpoint for call in mine) == {"key": 1}

        # The same body, genuine: so it was the signature that kept the others out.
        await gateway.post(WEBHOOK_PATH, content=bodies[0], headers={"videosdk-signature": signer.sign(bodies[0])})
        await harness.until(lambda: gateway.show(track), lambda answer: answer.json()["status"] == "stopped")


async def test_webhook_replays_change_nothing(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    new_track: NewTrack,
    signer: Signer,
    tmp_path: Path,
) -> None:
    """Events of a track's first recording, again and in any order, during its second and after it.

    The second stands, then stays ended; nothing is started or stopped because of them.
    """
    events = ("starting", "started", "stopping", "stopped", "failed")
    pinned = tmp_path / "key.pem"
    pinned.write_text(simulator.public_key)

    async with hearing(valkey, simulator, demo, GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE=str(pinned)) as gateway:
        track = new_track()

        async def replay() -> None:
            for name in random.sample(events, len(events)) * 4:
                body = told(name, track)
                sent = await gateway.post(WEBHOOK_PATH, content=body, headers={"videosdk-signature": signer.sign(body)})
                assert sent.status_code == 204

        await gateway.start(track)
        await gateway.stop(track)
        started = await gateway.start(track)
        assert started.json()["outcome"] == "started"
        listings = sum(call.endpoint == "list" for call in simulator.calls)
        await replay()
        await harness.eventually(lambda: sum(call.endpoint == "list" for call in simulator.calls) > listings)
        running = await harness.until(
            lambda: gateway.show(track), lambda answer: answer.json()["confirmedBy"] == "list"
        )
        assert (running.json()["status"], running.json()["id"]) == ("recording", started.json()["id"])
        again = await gateway.start(track)
        assert (again.json()["outcome"], again.json()["id"]) == ("already_recording", started.json()["id"])

        # Where a look that an event caused is under way, the stop is carried out behind it.
        assert (await gateway.stop(track)).json()["outcome"] in {"stopped", "joined"}
        await replay()
    # Closed: whatever was accepted has been heard to its end.
    async with hearing(valkey, simulator, demo) as gateway:
        ended = (await gateway.show(track)).json()
        assert (ended["status"], ended["id"]) == ("stopped", started.json()["id"])
    assert Counter(call.endpoint for call in simulator.calls if call.endpoint in {"start", "stop"}) == {
        "start": 2,
        "stop": 2,
    }
    assert key_calls(simulator) == 0, "the key is pinned"


@pytest.mark.parametrize(
    "recording",
    ["participant-track-recording", "participant-recording", "recording"],
    ids=["track", "participant", "room"],
)
def test_webhook_of_every_documented_name_is_known(recording: str) -> None:
    """What begins, runs, ends or fails of each mode, and what happens to participants and sessions."""
    names = {f"{recording}-{happened}" for happened in ("starting", "started", "stopping", "stopped", "failed")}
    names |= {"participant-joined", "participant-left", "session-started", "session-ended"}
    assert names <= EVENTS.keys()
    assert len(EVENTS) == 3 * 5 + 4
