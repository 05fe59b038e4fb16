"""What the server makes of bytes: good requests however they are cut, and nothing of what can be read in two ways."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple

import pytest
from litestar.types import Receive, Scope, Send

from gateway.serving.connection import LineProtocol, connection_places
from gateway.serving.unfinished import Unfinished
from tests import harness

pytestmark = pytest.mark.anyio


class Served(NamedTuple):
    """An application that answers what it understood: `/wait` once `going_on` is set, `/deaf` then without its body."""

    port: int
    waiting: asyncio.Event
    going_on: asyncio.Event
    let_go: asyncio.Event
    """Set when it hears that the client of a request has gone."""
    seen: list[dict[str, Any]]


@asynccontextmanager
async def serving(connections: type[LineProtocol] = LineProtocol) -> AsyncGenerator[Served]:
    """Serve the application as the gateway is served."""
    seen: list[dict[str, Any]] = []
    waiting, going_on, let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] in {"/wait", "/deaf"}:
            waiting.set()
            await going_on.wait()
        body = b""
        while scope["path"] != "/deaf":
            message: Any = await receive()
            if message["type"] != "http.request":
                let_go.set()
                return
            body += message["body"]
            if not message["more_body"]:
                break
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        understood = {"path": scope["path"], "method": scope["method"], "headers": headers, "body": body.decode()}
        seen.append(understood)
        answer = json.dumps(understood).encode()
        length = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    async with harness.serve_app(app, connections=connections) as url:
        yield Served(int(url.rpartition(":")[2]), waiting, going_on, let_go, seen)


@pytest.fixture
async def served() -> AsyncGenerator[Served]:
    """Serve it with the gateway's own bounds."""
    async with serving() as served:
        yield served


class Answer(NamedTuple):
    """One answer."""

    status: int
    headers: dict[str, str]
    body: Any


class Raw:
    """A connection on which anything can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, served: Served, source: str = "127.0.0.1") -> "Raw":
        """Connect from an address."""
        return cls(*await asyncio.open_connection("127.0.0.1", served.port, local_addr=(source, 0)))

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each in a packet of its own as far as that can be had."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self) -> Answer:
        """Read one answer."""
        async with asyncio.timeout(harness.BOUND):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split()[1]), headers, json.loads(body))

    async def ended(self) -> bytes:
        """Wait until the server closes the connection; returns what else it sent."""
        async with asyncio.timeout(harness.BOUND):
            return await self.reader.read()

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()


@pytest.fixture
async def raw(served: Served) -> AsyncGenerator[Raw]:
    """Open a connection to the application."""
    connection = await Raw.to(served)
    yield connection
    await connection.close()


POST = b"POST /here?a=b HTTP/1.1\r\nhost: x\r\nx-one: 1\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /here?a=b HTTP/1.1\r\nhost: x\r\nx-one: 1\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n"
)
ABSOLUTE = b"POST http://elsewhere.example/here?a=b HTTP/1.1\r\nhost: x\r\nx-one: 1\r\ncontent-length: 5\r\n\r\nhello"
OTHER = (
    b"POST /here?a=b HTTP/1.1\r\nhost: x\r\nx-one: 1\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\ncontent-length: 5\r\n\r\nhello"
)
OTHER_CHUNKED = OTHER.replace(b"content-length: 5\r\n\r\nhello", CHUNKED.partition(b"x-one: 1\r\n")[2])
EXPECTING = POST.replace(b"x-one", b"expect: 200-ok\r\nx-one")
GOOD = {
    "a length": POST,
    "chunks": CHUNKED,
    "an absolute address": ABSOLUTE,
    "another protocol": OTHER,
    "another protocol, chunks": OTHER_CHUNKED,
    "an unknown expectation": EXPECTING,
}


@pytest.mark.parametrize("sent", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("cut", ["whole", "byte by byte", "twice in one packet"])
async def test_request_is_understood_however_it_is_cut(raw: Raw, sent: bytes, cut: str) -> None:
    """A request in one packet, in as many as it has bytes, and two in one packet: each is answered as what it says."""
    pieces = {"whole": [sent, sent], "byte by byte": [sent[at : at + 1] for at in range(len(sent))] * 2}
    await raw.send(*pieces.get(cut, [sent + sent]))
    for _ in range(2):
        answer = await raw.answer()
        assert answer.status == 200
        assert (answer.body["method"], answer.body["path"], answer.body["body"]) == ("POST", "/here", "hello")
        assert ["x-one", "1"] in answer.body["headers"]
        assert "connection" not in answer.headers


async def test_body_behind_the_wish_for_another_protocol_is_waited_for(served: Served, raw: Raw) -> None:
    """To the parser such a request ends with its head; its body is its own all the same, however late it comes."""
    head, _, body = OTHER.replace(b"/here", b"/wait").partition(b"hello")
    await raw.send(head)
    await served.waiting.wait()
    served.going_on.set()
    await harness.turns(5)
    await raw.send(b"hello" + body)
    assert (await raw.answer()).body["body"] == "hello"


async def test_many_requests_on_one_connection_are_no_long_head(raw: Raw) -> None:
    """The bound of a head holds for one head: a connection that lives long is not refused for all that it carried."""
    for _ in range(LONG // len(POST) + 1):
        await raw.send(POST)
        assert (await raw.answer()).status == 200


async def test_answers_of_requests_sent_ahead_come_in_their_order(served: Served, raw: Raw) -> None:
    """Three requests on one connection before the first is answered: three answers, in order."""
    paths = [b"/wait", b"/second", b"/third"]
    await raw.send(b"".join(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path for path in paths))
    await served.waiting.wait()
    served.going_on.set()
    assert [(await raw.answer()).body["path"].encode() for _ in paths] == paths


async def test_trailers_do_not_become_headers(served: Served, raw: Raw) -> None:
    """What comes behind the last chunk is dropped, also where the application reads headers late."""
    await raw.send(CHUNKED.replace(b"/here", b"/wait").replace(b"0\r\n\r\n", b"0\r\nauthorization: mine\r\n\r\n"))
    await served.waiting.wait()
    served.going_on.set()
    answer = await raw.answer()
    assert "authorization" not in dict(answer.body["headers"])


async def test_request_of_http_1_0_is_answered_and_the_connection_closed(raw: Raw) -> None:
    """HTTP/1.0 needs no Host, and keeps no connection."""
    await raw.send(b"GET /old HTTP/1.0\r\n\r\n")
    answer = await raw.answer()
    assert (answer.body["path"], answer.headers["connection"]) == ("/old", "close")
    assert await raw.ended() == b""


POST_HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
BAD = {
    "no HTTP": b"this is no HTTP\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nhost: x\r\n\r\n",
    "HTTP/2.0 in words": b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    "CONNECT": b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "CONNECT to a path": b"CONNECT http://elsewhere/ HTTP/1.1\r\nhost: x\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n",
    "two Authorizations": b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: a\r\nAuthorization: b\r\n\r\n",
    "a length that is a word": POST_HEAD + b"content-length: five\r\n\r\nhello",
    "a negative length": POST_HEAD + b"content-length: -5\r\n\r\nhello",
    "a length with a sign": POST_HEAD + b"content-length: +5\r\n\r\nhello",
    "two equal lengths": POST_HEAD + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "two lengths": POST_HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a list of lengths": POST_HEAD + b"content-length: 5, 5\r\n\r\nhello",
    "a length and chunks": POST_HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST_HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "packed chunks": POST_HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": POST_HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks that are not last": POST_HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "another encoding": POST_HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nhost: x\r\nx-one: 1\r\n two\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nhost: x\r\nnothing\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nhost: x\n\n",
    "bare carriage returns": b"GET / HTTP/1.1\rhost: x\r\r",
    "NUL in a value": b"GET / HTTP/1.1\r\nhost: x\r\nx-one: a\0b\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nhost: x\r\nx-\0ne: a\r\n\r\n",
    "a name in UTF-8": "GET / HTTP/1.1\r\nhost: x\r\nx-öne: a\r\n\r\n".encode(),
    "a blank in the address": b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
    "an address in UTF-8": "GET /ä HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    "a chunk that is no number": CHUNKED.replace(b"2\r\nhe", b"zz\r\nhe"),
    "a chunk of a negative size": CHUNKED.replace(b"2\r\nhe", b"-2\r\nhe"),
    "a chunk in hexadecimal words": CHUNKED.replace(b"2\r\nhe", b"0x2\r\nhe"),
    "a chunk longer than it says": CHUNKED.replace(b"2\r\nhe", b"2\r\nhello"),
    "a chunk ended by a bare line feed": CHUNKED.replace(b"2\r\nhe\r\n", b"2\nhe\n"),
    "a size beyond all bounds": CHUNKED.replace(b"2\r\nhe", b"fffffffffffffffff\r\nhe"),
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
async def test_request_that_can_be_read_in_two_ways_is_refused(served: Served, raw: Raw, sent: bytes, cut: str) -> None:
    """What is no request, or more than one, is answered 400 and the connection closed; no application sees it."""
    pieces = [sent] if cut == "whole" else [sent[at : at + 1] for at in range(len(sent))]
    with_answer = asyncio.create_task(raw.answer())
    # The server may close the connection before all of it is sent.
    for piece in pieces:
        if raw.reader.at_eof():
            break
        await raw.send(piece)
    answer = await with_answer
    assert (answer.status, answer.body["type"]) == (400, "/problems/malformed-request")
    assert answer.headers["connection"] == "close"
    assert answer.body["requestId"] == answer.headers["x-request-id"]
    assert await raw.ended() == b""
    assert served.seen == []


LONG = 40 * 1024
ENDLESS = {
    "a header": b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * LONG,
    "many headers": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * (LONG // 6),
    "many short headers": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * (LONG // 6) + b"\r\n",
    "an address": b"GET /" + b"x" * LONG,
    "a name": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x" * LONG,
    "nothing but line ends": b"\r\n" * (LONG // 2),
    "a whole head": b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * LONG + b"\r\n\r\n",
}


@pytest.mark.parametrize("sent", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("step", [LONG, 1000])
async def test_head_that_is_too_long_is_refused(served: Served, raw: Raw, sent: bytes, step: int) -> None:
    """A head of more than 32 KiB is answered 431, in one packet or in many, and no more is kept of it."""
    with_answer = asyncio.create_task(raw.answer())
    for at in range(0, len(sent), step):
        if raw.reader.at_eof():
            break
        await raw.send(sent[at : at + step])
    answer = await with_answer
    assert (answer.status, answer.body["type"]) == (431, "/problems/headers-too-large")
    assert served.seen == []


LONG_ADDRESSES = {
    "a path": (b"/" + b"x" * 1024, "1024 characters"),
    "a path in per cent": (b"/" + b"%F0%9F%98%80" * 1024, "1024 characters"),
    "a query": (b"/here?a=" + b"x" * 8191, "8192 bytes"),
    "fields": (b"/here?" + b"&".join([b"a"] * 33), "32 fields"),
    "an absolute address": (b"http://x/" + b"x" * 1024, "1024 characters"),
}


@pytest.mark.parametrize(("address", "bound"), LONG_ADDRESSES.values(), ids=LONG_ADDRESSES)
async def test_address_that_is_too_long_is_refused(served: Served, raw: Raw, address: bytes, bound: str) -> None:
    """What is kept of addresses in memory, whoever sends them, stays small."""
    await raw.send(b"GET " + address + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = await raw.answer()
    assert (answer.status, answer.body["type"]) == (431, "/problems/headers-too-large")
    assert bound in answer.body["detail"]
    assert served.seen == []


async def test_address_as_long_as_may_be_is_served(served: Served, raw: Raw) -> None:
    """Bounds are of characters, not of how they are written, and of fields, not of what they hold."""
    longest = b"/" + b"%F0%9F%98%80" * 1023
    query = b"&".join([b"a"] * 31 + [b"b=" + b"x" * 1000])
    await raw.send(b"GET " + longest + b"?" + query + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await raw.answer()).status == 200
    assert len(served.seen) == 1


async def test_long_body_in_the_packet_of_its_head_is_no_long_head(raw: Raw) -> None:
    """The bound of a head does not count what follows it, nor what came before it on the connection."""
    long = b"POST /here HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (LONG, b"x" * LONG)
    await raw.send(long, long)
    for _ in range(2):
        assert len((await raw.answer()).body["body"]) == LONG


@pytest.mark.parametrize("sent", [BAD["no HTTP"], BAD["two lengths"], BAD["no Host"]])
async def test_nonsense_behind_a_request_that_is_answered_ends_the_connection_after_its_answer(
    served: Served, raw: Raw, sent: bytes
) -> None:
    """The first request gets its own answer, never that of the second; then the connection is closed."""
    await raw.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n", sent)
    await served.waiting.wait()
    # The server has read the second once it has answered a request that came later, on another connection.
    other = await Raw.to(served)
    await other.send(POST)
    await other.answer()
    await other.close()
    served.going_on.set()
    answer = await raw.answer()
    assert (answer.status, answer.body["path"], answer.headers["connection"]) == (200, "/wait", "close")
    assert await raw.ended() == b""


async def test_nonsense_within_a_body_is_answered_once(served: Served, raw: Raw) -> None:
    """A body that breaks off into nonsense: 400 and the end; the application that waits for the rest is let go."""
    await raw.send(CHUNKED.replace(b"3;a=b\r\nllo", b"zz\r\nllo"))
    answer = await raw.answer()
    assert (answer.status, await raw.ended()) == (400, b"")
    await harness.turns(5)
    assert served.let_go.is_set()
    assert served.seen == []


async def test_nonsense_within_a_body_is_no_answer_to_an_earlier_request(served: Served, raw: Raw) -> None:
    """Where an earlier request waits for its answer, none is written in its place: the connection is closed."""
    await raw.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
    await served.waiting.wait()
    await raw.send(CHUNKED.replace(b"3;a=b\r\nllo", b"zz\r\nllo"))
    assert await raw.ended() == b""


async def test_nonsense_within_a_body_silences_its_application(served: Served, raw: Raw) -> None:
    """An application that answers without reading the body writes nothing behind the refusal."""
    head, _, body = CHUNKED.replace(b"/here", b"/deaf").partition(b"2\r\nhe")
    await raw.send(head)
    await served.waiting.wait()
    await raw.send(b"zz\r\n" + body)
    assert (await raw.answer()).status == 400
    served.going_on.set()
    assert await raw.ended() == b""


class Impatient(LineProtocol):
    """A connection with short bounds."""

    arrival_seconds = 0.2
    reading_seconds = 0.2
    last_seconds = 0.05


HALF = {
    "half a head": b"POST /here HTTP/1.1\r\nhost: x\r\nx-o",
    "half a body": POST[:-2],
    "half of a second request": POST + POST[:-2],
    "blank lines": b"\r\n\r\n",
}


@pytest.mark.parametrize("sent", HALF.values(), ids=HALF)
async def test_request_that_does_not_arrive_is_refused_in_time(sent: bytes) -> None:
    """Half a request, and silence: its client is answered and let go."""
    async with serving(Impatient) as served:
        raw = await Raw.to(served)
        await raw.send(sent)
        if sent.startswith(POST):
            assert (await raw.answer()).status == 200
        if sent.strip():
            answer = await raw.answer()
            assert (answer.status, answer.body["type"]) == (400, "/problems/malformed-request")
            assert "in time" in answer.body["detail"]
        assert await raw.ended() == b""
        await raw.close()


async def test_connection_without_a_request_is_closed() -> None:
    """A client that connects and says nothing is not waited for."""
    async with serving(Impatient) as served:
        raw = await Raw.to(served)
        assert await raw.ended() == b""
        await raw.close()


async def test_request_that_was_refused_is_not_refused_again_for_being_late() -> None:
    """The bound of the arrival, which passes while the client may still read, finds it answered."""
    async with serving(Impatient) as served:
        raw = await Raw.to(served)
        await raw.send(b"POST /here HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await raw.send(b"zz\r\n")
        assert (await raw.answer()).status == 400
        # The other connection began no earlier, and has been given up.
        silent = await Raw.to(served)
        assert await silent.ended() == b""
        await raw.close()
        await silent.close()


async def test_request_that_takes_long_to_answer_is_not_cut_off() -> None:
    """The bound of the arrival ends with the arrival: an answer may take longer."""
    async with serving(Impatient) as served:
        raw, silent = await Raw.to(served), await Raw.to(served)
        await raw.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        await served.waiting.wait()
        # The other connection began no earlier, and has been given up.
        assert await silent.ended() == b""
        served.going_on.set()
        assert (await raw.answer()).status == 200
        await raw.close()
        await silent.close()


def bounded(most: int = 100, mebibytes: int = 1) -> type[LineProtocol]:
    """Make connections that share bounds of their own."""

    class Bounded(LineProtocol):
        places = connection_places(most)
        unfinished = Unfinished(mebibytes * 1024 * 1024)
        turned_away: ClassVar[set[LineProtocol]] = set()

    return Bounded


async def test_connection_beyond_the_bound_is_answered_503_until_another_ends() -> None:
    """One address gets half of the places: a connection more is told so, and let in once one has ended.

    Another address finds a place meanwhile.
    """
    connections = bounded(4)
    async with serving(connections) as served:
        first, second, third = [await Raw.to(served) for _ in range(3)]
        for raw in (first, second):
            await raw.send(POST)
            assert (await raw.answer()).status == 200
        answer = await third.answer()
        assert (answer.status, answer.body["type"]) == (503, "/problems/too-many-waiting")
        assert (answer.body["bound"], answer.headers["connection"]) == ("connections-per-address", "close")
        assert await third.ended() == b""
        await third.close()
        other = await Raw.to(served, "127.0.0.2")
        await other.send(POST)
        assert (await other.answer()).status == 200
        await other.close()
        await first.close()
        await harness.eventually(lambda: connections.places.taken == 1)
        fourth = await Raw.to(served)
        await fourth.send(POST)
        assert (await fourth.answer()).status == 200
        for raw in (second, fourth):
            await raw.close()
    assert connections.places.taken == 0


async def test_connections_far_beyond_the_bound_are_cut_off_without_an_answer() -> None:
    """Those that are turned away are bounded too: a hundred of them get an answer, the others nothing."""
    connections = bounded(2)
    async with serving(connections) as served:
        raws = [await Raw.to(served) for _ in range(110)]
        ends = await asyncio.gather(*(raw.ended() for raw in raws[1:]), return_exceptions=True)
        answered = sum(isinstance(end, bytes) and end.startswith(b"HTTP/1.1 503") for end in ends)
        assert 1 <= answered < len(ends)
        assert connections.places.taken == 1
        for raw in raws:
            await raw.close()


async def test_half_sent_bodies_beyond_the_memory_give_way_the_oldest_first() -> None:
    """Of half-sent bodies no more is kept than the bound: the first of them is refused, and the latest goes on."""
    half = b"POST /here HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (LONG * 10, b"x" * LONG * 9)
    connections = bounded()
    async with serving(connections) as served:
        raws = [await Raw.to(served) for _ in range(5)]
        for count, raw in enumerate(raws, 1):
            await raw.send(half)
            # What does not fit makes the first of them give way.
            expected = min(count, 2) * len(half)
            await harness.eventually(lambda expected=expected: connections.unfinished.total == expected)
        for raw in raws[:3]:
            answer = await raw.answer()
            assert (answer.status, answer.body["bound"]) == (503, "unfinished")
        await raws[4].send(b"x" * LONG)
        assert len((await raws[4].answer()).body["body"]) == LONG * 10
        assert connections.unfinished.total == len(half)
        for raw in raws:
            await raw.close()
    assert connections.unfinished.total == 0


async def test_body_that_is_dropped_takes_no_memory(served: Served, raw: Raw) -> None:
    """A body that is answered before it is read is not kept, and so does not make others give way."""
    before = LineProtocol.unfinished.total
    await raw.send(b"POST /deaf HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (LONG * 3), b"x" * LONG)
    await served.waiting.wait()
    await harness.eventually(lambda: LineProtocol.unfinished.total > before)
    served.going_on.set()
    assert (await raw.answer()).status == 200
    assert LineProtocol.unfinished.total == before
    await raw.send(b"x" * LONG)
    await harness.turns(5)
    other = await Raw.to(served)
    await other.send(POST)
    await other.answer()
    assert LineProtocol.unfinished.total == before
    await raw.send(b"x" * LONG, POST)
    assert (await raw.answer()).status == 200
    await other.close()


async def test_requests_far_ahead_of_their_answers_are_refused(served: Served, raw: Raw) -> None:
    """Thirty-three on one connection are answered in their order; what was sent beyond that ends it."""
    await raw.send(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
    await served.waiting.wait()
    served.going_on.set()
    ends = await raw.ended()
    assert ends.count(b"HTTP/1.1 200") == 33
    assert ends.count(b"connection: close") == 1


async def write_for_ever(raw: Raw) -> None:
    """Write until the other side has cut the connection off."""
    async with asyncio.timeout(harness.BOUND):
        while True:
            await raw.send(b"x")
            await harness.turns()


async def test_client_that_does_not_read_is_cut_off() -> None:
    """Answers that nobody reads are not kept for ever."""
    async with serving(Impatient) as served:
        raw = await Raw.to(served)
        raw.writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]
        long = b"POST /here HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (LONG * 100, b"x" * LONG * 100)
        raw.writer.write(long * 4)
        with pytest.raises(ConnectionError):
            await write_for_ever(raw)


async def test_end_of_the_process_does_not_wait_for_what_does_not_arrive() -> None:
    """A half-sent body is waited for for a moment, when the process ends, and its client answered."""

    class Patient(Impatient):
        arrival_seconds = 3600.0

    async with serving(Patient) as served:
        raw = await Raw.to(served)
        await raw.send(b"GET /first HTTP/1.1\r\nhost: x\r\n\r\n", POST[:-2])
        assert (await raw.answer()).status == 200
    assert (await raw.answer()).status == 400
    await raw.close()
