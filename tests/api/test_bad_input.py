"""What is wrong with a request is said all at once and goes no further; what is honest arrives whole."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.sandbox.calls import Call
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.api_client import START, STOP, ApiClient, NewTrack

pytestmark = pytest.mark.anyio

TRACK = {"roomId": "abcd-efgh-ijkl", "participantId": "p_1", "kind": "video"}
JSON = {"content-type": "application/json"}
LONG = 64 * 1024

CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]
NothingReaches = Callable[[], AbstractAsyncContextManager[None]]

BAD_ID = {
    "empty": "",
    "too long": "x" * 129,
    "a slash": "a/b",
    "a backslash": "a\\b",
    "a dot alone": ".",
    "two dots": "..",
    "a control character beyond ASCII": "a\x85b",
    "the end of a line": "a\u2028b",
    "a line break at the end": "abcd\n",
    "NUL": "ab\0cd",
    "null": None,
    "a number": 7,
    "a truth": True,
    "a list": ["abcd"],
    "an object": {"id": "abcd"},
}
BAD_KIND = {
    "unknown": "smell",
    "capital letters": "VIDEO",
    "padded": " video ",
    "empty": "",
    "null": None,
    "a number": 1,
    "a list": ["video"],
    "an object": {},
}
BAD_FORMAT = {"mp4": "mp4", "capital letters": "WEBM", "empty": "", "a number": 0, "a list": ["webm"]}
BAD_URL = {
    "empty": "",
    "relative": "/hooks",
    "without a scheme": "app.example.com/hooks",
    "without slashes": "https:app.example.com",
    "protocol-relative": "//app.example.com/hooks",
    "ftp": "ftp://app.example.com/hooks",
    "file": "file:///etc/passwd",
    "javascript": "javascript:alert(1)",
    "without a host": "https:///hooks",
    "a port alone": "https://:443/hooks",
    "a query alone": "https://?a=b",
    "a port that is no number": "https://app.example.com:https/",
    "a port too high": "https://app.example.com:65536/",
    "half an address": "https://[::1/hooks",
    "a blank": "https://app.example.com/a b",
    "a blank before": " https://app.example.com/",
    "a no-break space": "https://app.example.com/a\u00a0b",
    "a tab": "https://app.example.com/a\tb",
    "a line break": "https://app.example.com/a\r\nX-Evil: 1",
    "a line separator": "https://app.example.com/a\u2028b",
    "NUL": "https://app.example.com/\0",
    "DEL": "https://app.example.com/\x7f",
    "C1": "https://app.example.com/\x85",
    "a backslash": "https://app.example.com\\@evil.example/",
    "a bracket in the host": "https://app<b>.example.com/",
    "too long": "https://app.example.com/" + "a" * 2048,
    "a number": 80,
    "a list": ["https://app.example.com"],
}
BAD_PATH = {
    "empty": "",
    "up": "..",
    "up at the beginning": "../lessons",
    "up in the middle": "lessons/../../secrets",
    "up at the end": "lessons/..",
    "here": "lessons/./1",
    "two leading slashes": "//lessons",
    "two trailing slashes": "lessons//",
    "an empty segment": "lessons//1",
    "a slash alone": "/",
    "a backslash": "lessons\\1",
    "up, the other way": "..\\lessons",
    "a line break": "lessons\n1",
    "a tab": "lessons\t1",
    "NUL": "lessons\0",
    "DEL": "lessons\x7f",
    "C1": "lessons\x9f",
    "a paragraph separator": "lessons\u20291",
    "too long": "a" * 513,
    "a number": 1,
    "a list": ["lessons"],
    "an object": {},
}
BAD_DURATION = {
    "nothing": 0,
    "a moment too short": 59,
    "a moment too long": 86_401,
    "below nothing": -60,
    "more than a machine word": 10**30,
    "a text": "3600",
    "a text with a unit": "1h",
    "a decimal": 3600.5,
    "true": True,
    "a list": [3600],
    "an object": {},
}
WRONG_VALUES = [
    pytest.param({field: value}, [field], id=f"{field}: {name}")
    for field, values in {
        "roomId": BAD_ID,
        "participantId": BAD_ID,
        "kind": BAD_KIND,
        "fileFormat": BAD_FORMAT,
        "webhookUrl": BAD_URL,
        "bucketDirPath": BAD_PATH,
        "maxDurationSeconds": BAD_DURATION,
    }.items()
    for name, value in values.items()
]
WRONG_TOGETHER = [
    pytest.param({"token": "eyJ0b2tlbg"}, ["token"], id="an unknown field"),
    pytest.param({"room_id": "a", "": 1, "RoomId": "b"}, ["", "RoomId", "room_id"], id="unknown fields"),
    pytest.param({"webhookURL": "https://a.example"}, ["webhookURL"], id="a known field in other letters"),
    pytest.param({"bucketDirPath": "/../a\\b//\n"}, ["bucketDirPath"], id="one field wrong in every way"),
    pytest.param(
        {
            "roomId": "a/b",
            "participantId": None,
            "kind": "smell",
            "fileFormat": "mp4",
            "webhookUrl": "ftp://a.example",
            "bucketDirPath": "../a",
            "transcription": {"enabled": True},
        },
        ["bucketDirPath", "fileFormat", "kind", "participantId", "roomId", "transcription", "webhookUrl"],
        id="every field at once",
    ),
]


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    """A server of these tests' own: what others left to be looked after would count as having reached it."""
    with harness.AgedValkey() as server:
        yield server


@pytest.fixture(scope="module")
async def simulator(signer: Signer) -> AsyncIterator[Simulator]:
    """One VideoSDK for all of them, which most must not reach."""
    async with harness.simulator(signer=signer) as videosdk:
        yield videosdk


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> harness.Demo:
    """A caller with a key."""
    return harness.Demo(tmp_path_factory.mktemp("callers"))


@pytest.fixture(scope="module")
async def gateway(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo) -> AsyncIterator[ApiClient]:
    """One gateway for all of them: nothing of a bad request may stay behind in it either."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        yield client


def sent(simulator: Simulator, track: dict[str, str]) -> list[Call]:
    """Return the starts and stops of a track that VideoSDK got."""
    return [call for call in simulator.calls if call.method == "POST" and call.room_id == track["roomId"]]


def fields(document: dict[str, Any]) -> list[str]:
    """Return the fields that a problem names, in order of the alphabet."""
    return sorted(error["field"] for error in document["errors"])


@pytest.mark.parametrize(("wrong", "named"), [*WRONG_VALUES, *WRONG_TOGETHER])
async def test_start_with_wrong_fields_names_each_and_sends_nothing(
    gateway: ApiClient,
    nothing_reaches: NothingReaches,
    check_problem: CheckProblem,
    wrong: dict[str, Any],
    named: list[str],
) -> None:
    """A wrong body is answered with every field that is wrong, once, in words that do not repeat the value."""
    async with nothing_reaches():
        document = check_problem(await gateway.start({**TRACK, **wrong}), "invalid-request")
    assert fields(document) == named
    for value in wrong.values():
        if isinstance(value, str) and len(value) > 4:
            assert all(value not in error["message"] for error in document["errors"])
            assert value not in document["detail"]
    assert all(name in document["detail"] for name in named)


@pytest.mark.parametrize("route", [START, STOP])
async def test_start_with_an_empty_body_names_the_missing_fields(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, route: str
) -> None:
    """An empty object is answered with all that a track needs."""
    async with nothing_reaches():
        document = check_problem(await gateway.post(route, json={}), "invalid-request")
    assert fields(document) == ["kind", "participantId", "roomId"]
    assert {error["message"] for error in document["errors"]} == {"is missing"}


async def test_stop_with_fields_of_a_start_is_refused(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem
) -> None:
    """What only a start takes is an unknown field of a stop; wrong values are named as for a start."""
    async with nothing_reaches():
        body = {**TRACK, "roomId": "a/b", "kind": "smell", "webhookUrl": "https://a.example"}
        document = check_problem(await gateway.stop(body), "invalid-request")
    assert fields(document) == ["kind", "roomId", "webhookUrl"]


async def test_start_with_ten_thousand_unknown_fields_gets_a_bounded_answer(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem
) -> None:
    """A body of nothing but unknown fields, or with a name as long as the body, gets an answer of bounded size."""
    async with nothing_reaches():
        many = await gateway.post(START, content=json.dumps({str(n): 0 for n in range(5000)}), headers=JSON)
        long = await gateway.start({**TRACK, "x" * 60_000: 0})
    check_problem(many, "invalid-request")
    check_problem(long, "invalid-request")
    assert len(many.content) < 16_000
    assert len(long.content) < 1_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"roomId": "abcd",}',
        b"{'roomId': 'abcd'}",
        b"roomId=abcd&kind=video",
        b'{"roomId": "abcd"} {}',
        b'{"roomId": NaN}',
        b'{"roomId": "\xff"}',
        b'{"roomId": "\\ud800"}',
        b'{"roomId": "a\nb"}',
        b"\xef\xbb\xbf{}",
        '{"roomId": "abcd"}'.encode("utf-16"),
        b"[" * 20_000,
        b'{"a":' * 5_000,
        b"null",
        b"[]",
        b'"start"',
        b"1e999",
        b'[{"roomId": "abcd", "participantId": "p", "kind": "video"}]',
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_start_with_a_body_that_is_no_json_object_is_malformed(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, body: bytes
) -> None:
    """Broken JSON, and JSON that is not one object, is malformed."""
    async with nothing_reaches():
        check_problem(await gateway.post(START, content=body, headers=JSON), "malformed-request")


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/json-patch+json", "*/*", "json"],
)
async def test_start_without_a_json_content_type_is_refused(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, content_type: str | None
) -> None:
    """Any other content type, or none, is refused before the body is read."""
    headers = {} if content_type is None else {"content-type": content_type}
    async with nothing_reaches():
        answer = await gateway.post(START, content=json.dumps(TRACK), headers=headers)
    check_problem(answer, "unsupported-media-type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"]
)
async def test_start_with_content_type_parameters_is_accepted(
    gateway: ApiClient, new_track: NewTrack, content_type: str
) -> None:
    """A charset, other letters and blanks are as good."""
    answer = await gateway.post(START, content=json.dumps(new_track()), headers={"content-type": content_type})
    assert answer.status_code == 201


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
async def test_start_with_a_body_over_64_kib_is_too_large(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, chunked: bool
) -> None:
    """One byte too many is refused, whether the length is announced or not; the limit itself is not."""

    def content(length: int) -> bytes | AsyncIterator[bytes]:
        body = json.dumps({**TRACK, "kind": "smell"}).encode().ljust(length)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, length, 1000):
                yield body[start : start + 1000]

        return chunks() if chunked else body

    async with nothing_reaches():
        most = await gateway.post(START, content=content(LONG), headers=JSON)
        over = await gateway.post(START, content=content(LONG + 1), headers=JSON)
        far_over = await gateway.post(START, content=content(20 * LONG), headers=JSON)
    check_problem(most, "invalid-request")
    assert str(LONG) in check_problem(over, "payload-too-large")["detail"]
    check_problem(far_over, "payload-too-large")


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "1e3", "soon", "", "٣", "0000000000", "1000000000"])
async def test_start_with_a_wrong_timeout_header_names_it(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, given: str
) -> None:
    """A header that cannot be meant is named like a field."""
    headers = {b"x-request-timeout-ms": given.encode()}
    async with nothing_reaches():
        document = check_problem(await gateway.start(TRACK, headers=headers), "invalid-request")
    assert fields(document) == ["x-request-timeout-ms"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/recordings/track", "/v2/x", "/schema", "/..%2f"])
async def test_request_to_an_unknown_path_is_not_found(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, path: str
) -> None:
    """Where there is no route, 404 says so, in the same form as everything else."""
    async with nothing_reaches():
        check_problem(await gateway.get(path), "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", START, "POST"),
        ("PUT", START, "POST"),
        ("DELETE", STOP, "POST"),
        ("PATCH", "/livez", "GET"),
        ("POST", "/v1/recordings/track/a/b/video", "GET"),
    ],
)
async def test_request_with_another_method_is_told_the_allowed_ones(
    gateway: ApiClient,
    nothing_reaches: NothingReaches,
    check_problem: CheckProblem,
    method: str,
    path: str,
    allowed: str,
) -> None:
    """405 names the methods in `Allow`."""
    async with nothing_reaches():
        answer = await gateway.request(method, path)
    check_problem(answer, "method-not-allowed")
    assert allowed in answer.headers["allow"].split(", ")
    assert method not in answer.headers["allow"].split(", ")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("a%5Cb/p/video", ["roomId"]),
        ("a/p%00/video", ["participantId"]),
        ("a/p/smell", ["kind"]),
        (f"{'x' * 129}/{'%C3%A4' * 129}/VIDEO", ["kind", "participantId", "roomId"]),
    ],
)
async def test_show_with_a_wrong_path_segment_names_it(
    gateway: ApiClient,
    nothing_reaches: NothingReaches,
    check_problem: CheckProblem,
    path: str,
    named: list[str],
) -> None:
    """The parts of a track's address follow the rules of the body's fields."""
    async with nothing_reaches():
        document = check_problem(await gateway.get(f"/v1/recordings/track/{path}"), "invalid-request")
    assert fields(document) == named


async def test_start_aborted_within_its_body_changes_nothing(
    gateway: ApiClient, nothing_reaches: NothingReaches, demo: harness.Demo
) -> None:
    """The gateway drops half a body, sends nothing, and serves the next caller."""
    url = urlsplit(str(gateway.base_url))
    async with nothing_reaches():
        _, writer = await asyncio.open_connection(url.hostname, url.port)
        head = f"POST {START} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {demo.key}\r\n"
        writer.write(f"{head}content-type: application/json\r\ncontent-length: 100\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await gateway.get("/livez")).is_success


async def unreadable(gateway: ApiClient, sent: bytes) -> httpx.Response:
    """Send what no client library would, and return what comes back before the connection is closed."""
    url = urlsplit(str(gateway.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(sent)
    await writer.drain()
    async with asyncio.timeout(harness.BOUND):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return httpx.Response(
        int(first.split()[1]), headers=headers, content=body, request=httpx.Request("GET", url.geturl())
    )


@pytest.mark.parametrize(
    ("slug", "sent"),
    [
        ("headers-too-large", b"GET /livez HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 33 * 1024),
        ("headers-too-large", b"GET /" + b"x" * 33 * 1024),
        ("malformed-request", b"this is no HTTP\r\n\r\n"),
        ("malformed-request", b"GET /livez HTTP/1.1\r\n\r\n"),
        ("malformed-request", b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: seven\r\n\r\n"),
        ("malformed-request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    ],
    ids=["long header", "long address", "no HTTP", "no host", "length is a word", "TLS"],
)
async def test_unparsable_request_is_answered_with_a_problem(
    gateway: ApiClient, nothing_reaches: NothingReaches, slug: str, sent: bytes
) -> None:
    """What the parser refuses gets the same kind of document as everything else, and the connection is closed."""
    async with nothing_reaches():
        answer = await unreadable(gateway, sent)
        document = answer.json()
        assert answer.headers["connection"] == "close"
        assert document.pop("instance") == ""
        assert (answer.status_code, document["type"]) == (document["status"], f"/problems/{slug}")
        assert answer.headers["content-type"] == "application/problem+json; charset=utf-8"
        assert document["requestId"] == answer.headers["x-request-id"] != ""
        assert "xxx" not in answer.text
        assert (await gateway.get("/livez")).is_success


@pytest.mark.parametrize(
    "value",
    [
        "lessons/2026/1",
        "Übungen/Zoë/数学/урок",
        "with blanks/and  two",
        " a blank before and after ",
        "year=2026/month=01",
        "a...b/.hidden/..c",
        "emoji/👩‍🏫",
        "e\u0301 and \u00e9",
        "per%20cent signs%25",
        "'quotes\" and $(things); & more?#",
        "a" * 512,
        "數" * 512,
    ],
)
async def test_start_with_an_honest_folder_sends_it_unchanged(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, value: str
) -> None:
    """What a folder may be called reaches VideoSDK unchanged, as does everything beside it."""
    track = new_track(bucketDirPath=value)
    assert (await gateway.start(track)).status_code == 201
    (call,) = sent(simulator, track)
    assert call.body == track
    assert json.loads(call.raw)["bucketDirPath"].encode() == value.encode()


@pytest.mark.parametrize(
    "value",
    [
        "https://app.example.com",
        "http://localhost:3000/hooks",
        "https://app.example.com:8443/hooks/videosdk?key=a%20b&key=&x=1+1",
        "HTTPS://App.Example.COM/Hooks/%7Euser/%7euser",
        "https://app.example.com/a//b/../c/./d/?",
        "https://münchen.example/straße?q=größe",
        "https://[2001:db8::1]:8443/hooks",
        "https://app.example.com/?redirect=https://other.example/?a=b",
        "https://app.example.com/" + "a" * (2048 - len("https://app.example.com/")),
    ],
)
async def test_start_with_an_honest_webhook_url_sends_it_unchanged(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, value: str
) -> None:
    """An address reaches VideoSDK byte for byte: nothing is put in order, escaped or unescaped."""
    track = new_track(webhookUrl=value, fileFormat="webm")
    assert (await gateway.start(track)).status_code == 201
    (call,) = sent(simulator, track)
    assert call.body == track
    assert json.loads(call.raw)["webhookUrl"].encode() == value.encode()


@pytest.mark.parametrize("more", [{}, {"fileFormat": "webm"}, {"bucketDirPath": "a"}], ids=["none", "format", "folder"])
async def test_start_without_optional_fields_sends_none(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, more: dict[str, str]
) -> None:
    """The gateway adds nothing, not even a default."""
    track = new_track(**more)
    assert (await gateway.start(track)).status_code == 201
    assert (await gateway.stop({name: track[name] for name in TRACK})).status_code == 200
    start, stop = sent(simulator, track)
    assert start.body == track
    assert sorted(stop.body) == ["kind", "participantId", "roomId"]


@pytest.mark.parametrize("kind", ["audio", "video", "screen_audio", "screen_video"])
async def test_start_with_every_kind_and_the_longest_ids_is_accepted(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, kind: str
) -> None:
    """Ids up to 128 of their characters, and all four kinds, pass and can be asked for again."""
    room = f"{new_track()['roomId']}-_Az09".ljust(128, "x")
    track = {"roomId": room, "participantId": "P" * 128, "kind": kind}
    started = await gateway.start(track)
    assert started.status_code == 201
    (call,) = sent(simulator, track)
    assert call.body == track
    assert (await gateway.get(started.headers["location"])).json()["status"] == "recording"
