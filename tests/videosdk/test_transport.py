"""Requests to servers that say all kinds of nonsense: what is sent, what is believed, what is used again."""

import asyncio
import gzip
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.videosdk.transport import BEFORE_SEND, Limits, Transport
from tests import harness
from tests.papers import make_papers
from tests.videosdk.hostile import Hostile, byte_by_byte, endlessly, nothing, ok, reset, saying, then_close

pytestmark = pytest.mark.anyio

NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts no authority: for addresses without TLS."""
USUAL = Limits()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BY_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
SENT = (httpx.ReadError, httpx.RemoteProtocolError)
"""Errors of requests that may have arrived."""


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Production's event loop and Python's own: they tell a protocol of an end in different orders."""
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def client(
    limits: Limits = USUAL, ssl_context: ssl.SSLContext = NOBODY, **timeouts: float
) -> AsyncGenerator[httpx.AsyncClient]:
    """Return a client over the transport, whose times do not run out unless they are given."""
    timeout = httpx.Timeout(harness.BOUND, **timeouts)
    transport = Transport(ssl_context, limits)
    async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as made:
        yield made


def http(text: str, body: bytes = b"hi") -> bytes:
    """Return a reply from its lines; they end as HTTP wants it."""
    return text.strip().replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body


# --- replies that are none -------------------------------------------------------------------------------------------

NONSENSE = {
    "a length beside chunks": http("HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "chunks beside a length": http("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 5", b"0\r\n\r\n"),
    "two lengths": http("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 1"),
    "a length twice": http("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2"),
    "a list of lengths": http("HTTP/1.1 200 OK\nContent-Length: 2, 2"),
    "a signed length": http("HTTP/1.1 200 OK\nContent-Length: +2"),
    "a negative length": http("HTTP/1.1 200 OK\nContent-Length: -2"),
    "an empty length": http("HTTP/1.1 200 OK\nContent-Length:"),
    "a length past all numbers": http("HTTP/1.1 200 OK\nContent-Length: 99999999999999999999999"),
    "a packed transfer": http("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
    "a plain transfer": http("HTTP/1.1 200 OK\nTransfer-Encoding: identity"),
    "chunks twice": http("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "one bare line feed": b"HTTP/1.1 200 OK\r\nContent-Length: 2\nX: y\r\n\r\nhi",
    "a folded header": http("HTTP/1.1 200 OK\nX: a\n b\nContent-Length: 2"),
    "a blank before the colon": http("HTTP/1.1 200 OK\nContent-Length : 2"),
    "a header without a colon": http("HTTP/1.1 200 OK\nfoo\nContent-Length: 2"),
    "a header without a name": http("HTTP/1.1 200 OK\n: x\nContent-Length: 2"),
    "a NUL in a header": http("HTTP/1.1 200 OK\nX: a\0b\nContent-Length: 2"),
    "a carriage return in a header": http("HTTP/1.1 200 OK\nX: a\rb\nContent-Length: 2"),
    "HTTP/2.0": http("HTTP/2.0 200 OK\nContent-Length: 2"),
    "HTTP/0.9": http("HTTP/0.9 200 OK\nContent-Length: 2"),
    "HTTP/1.3": http("HTTP/1.3 200 OK\nContent-Length: 2"),
    "another protocol": http("RTSP/1.0 200 OK\nContent-Length: 2"),
    "an empty line first": b"\r\n" + ok(),
    "status 000": http("HTTP/1.1 000 OK\nContent-Length: 2"),
    "status 20": http("HTTP/1.1 20 OK\nContent-Length: 2"),
    "status 700": http("HTTP/1.1 700 OK\nContent-Length: 2"),
    "status 2000": http("HTTP/1.1 2000 OK\nContent-Length: 2"),
    "another protocol from now on": http("HTTP/1.1 101 Switching\nUpgrade: x\nConnection: upgrade"),
    "a request": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "a page": b"<html>no</html>",
    "a negative chunk": CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",
    "a chunk of 0x2": CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n",
    "a chunk past all numbers": CHUNKED + b"fffffffffffffffff\r\nhi\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"2\r\nhixx0\r\n\r\n",
    "chunks with bare line feeds": CHUNKED + b"2\nhi\n0\n\n",
    "packed twice": ok(b"", b"Content-Encoding: gzip, gzip"),
    "packed as nobody asked": ok(b"x", b"Content-Encoding: br"),
    "packed, but not": ok(b"hello", b"Content-Encoding: gzip"),
    "packed, and more behind": ok(gzip.compress(b"hello") + b"x", b"Content-Encoding: gzip"),
    "packed in part": ok(gzip.compress(b"hello" * 99)[:-9], b"Content-Encoding: gzip"),
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
async def test_reply_that_is_none_fails_and_ends_the_connection(nonsense: bytes) -> None:
    """It is neither believed nor asked for again, and the next request goes over another connection."""
    async with Hostile(nonsense, ok()) as server, client() as videosdk:
        with pytest.raises(httpx.RemoteProtocolError):
            await videosdk.post(server.url, content=b"1")
        assert len(server.requests) == 1
        assert (await videosdk.post(server.url, content=b"2")).content == b"done"
        assert (len(server.requests), len(server.connections)) == (2, 2)


@pytest.mark.parametrize("reply", [ok(), CHUNKED + b"2\r\nhi\r\n0\r\nT: v\r\n\r\n"], ids=["length", "chunks"])
async def test_reply_that_ends_early_fails_wherever_it_ends(reply: bytes) -> None:
    """Every beginning of a reply, followed by the end of the connection or by its loss, is no reply."""
    for end in range(len(reply)):
        async with Hostile(then_close(reply[:end]), ok()) as server, client() as videosdk:
            with pytest.raises(httpx.RemoteProtocolError):
                await videosdk.post(server.url)
            assert len(server.requests) == 1


async def test_connection_that_is_reset_fails_the_request() -> None:
    """It is not sent again: it may have arrived."""
    async with Hostile(reset, ok()) as server, client() as videosdk:
        with pytest.raises(SENT):
            await videosdk.post(server.url)
        assert len(server.requests) == 1


# --- replies as they may be ------------------------------------------------------------------------------------------

REPLIES = {
    "a length": (ok(b"hello"), b"hello"),
    "a length of 0": (ok(b""), b""),
    "chunks": (CHUNKED + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX: trailer\r\n\r\n", b"hello"),
    "continue": (b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + ok(b"hello"), b"hello"),
    "no content": (b"HTTP/1.1 204 None\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", b""),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "gzip": (ok(gzip.compress(b"hello"), b"Content-Encoding: gzip"), b"hello"),
    "deflate": (ok(zlib.compress(b"hello"), b"content-encoding: deflate"), b"hello"),
    "identity": (ok(b"hello", b"Content-Encoding: identity"), b"hello"),
}


@pytest.mark.parametrize("say", [saying, byte_by_byte])
@pytest.mark.parametrize(("reply", "body"), REPLIES.values(), ids=REPLIES)
async def test_reply_is_the_same_at_once_and_byte_by_byte(reply: bytes, body: bytes, say: Any) -> None:
    """Its body is whole, trailers and informational replies leave nothing behind, and its connection is used again."""
    async with Hostile(say(reply), ok(b"next")) as server, client() as videosdk:
        response = await videosdk.post(server.url, content=b"x")
        assert response.content == body
        assert response.headers.get("x") is None
        assert response.status_code in {200, 204, 304}
        assert response.reason_phrase in {"OK", "None", "Same", ""}
        assert (await videosdk.get(server.url)).content == b"next"
        assert len(server.connections) == 1


async def test_reply_without_a_length_ends_with_its_connection() -> None:
    """As HTTP/1.0 did: the next request goes over another connection."""
    async with Hostile(then_close(BY_CLOSE + b"hello"), ok()) as server, client() as videosdk:
        assert (await videosdk.get(server.url)).content == b"hello"
        assert (await videosdk.get(server.url)).content == b"done"
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    "reply", [ok(b"done", b"Connection: close"), ok().replace(b"HTTP/1.1", b"HTTP/1.0")], ids=["close", "HTTP/1.0"]
)
async def test_connection_that_the_server_will_close_is_not_used_again(reply: bytes) -> None:
    """Where the server says so, and where its version implies it."""
    async with Hostile(reply) as server, client() as videosdk:
        for _ in range(2):
            assert (await videosdk.get(server.url)).content == b"done"
        assert len(server.connections) == 2
        await harness.eventually(lambda: server.ended == 2)


async def test_request_arrives_as_it_was_given() -> None:
    """Its line, its headers and its body, in one piece."""
    async with Hostile(ok()) as server, client() as videosdk:
        await videosdk.post(f"{server.url}?q=a%20b", content=b"\r\n\r\nbody", headers={"x-one": "1"})
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /path?q=a%%20b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % server.port)
    assert b"\r\nx-one: 1\r\n" in head
    assert body == b"\r\n\r\nbody"


async def test_requests_at_the_same_time_get_each_its_own_reply() -> None:
    """However many there are and in whatever order they are answered."""

    async def echo(connection: socket.socket) -> bool:
        number = server.requests[-1].partition(b"\r\n\r\n")[2]
        if number == b"0":
            await harness.eventually(lambda: len(server.requests) >= 10)
        return await saying(ok(number))(connection)

    async with Hostile(echo) as server, client(Limits(connections=4)) as videosdk:
        made = await asyncio.gather(*(videosdk.post(server.url, content=b"%d" % number) for number in range(20)))
        assert [response.content for response in made] == [b"%d" % number for number in range(20)]
        assert len(server.connections) == 4


async def test_requests_to_two_servers_use_no_connection_of_the_other() -> None:
    """An idle connection carries requests to its own server alone."""
    async with Hostile(ok(b"one")) as one, Hostile(ok(b"two")) as two, client() as videosdk:
        for _ in range(2):
            assert (await videosdk.get(one.url)).content == b"one"
            assert (await videosdk.get(two.url)).content == b"two"
        assert (len(one.connections), len(two.connections)) == (1, 1)


# --- connections that are not what they were --------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [http("HTTP/1.1 500 Bad"), b"garbage", b"\0"], ids=["a reply", "garbage", "a byte"])
async def test_bytes_behind_a_reply_end_its_connection(extra: bytes) -> None:
    """The reply counts; what follows it answers nothing."""
    async with Hostile(ok() + extra, ok(b"next")) as server, client() as videosdk:
        response = await videosdk.get(server.url)
        assert (response.status_code, response.reason_phrase, response.content) == (200, "OK", b"done")
        assert (await videosdk.get(server.url)).content == b"next"
        assert len(server.connections) == 2


@pytest.mark.parametrize("extra", [ok(b"smuggled"), None], ids=["a reply", "closed"])
async def test_connection_that_changed_while_idle_carries_no_request(extra: bytes | None) -> None:
    """Not even where only the kernel knows yet what the server said since, or that it left: nothing is sent on it."""
    async with Hostile(ok(), ok(b"next")) as server, client() as videosdk:
        await videosdk.get(server.url)
        # From here until the request is written, the event loop gets no chance to read.
        if extra is None:
            server.connections[0].shutdown(socket.SHUT_WR)
        else:
            server.connections[0].send(extra)
        assert (await videosdk.get(server.url)).content == b"next"
        assert (len(server.requests), len(server.connections)) == (2, 2)


async def test_idle_connection_on_which_something_arrives_is_closed() -> None:
    """At once, and not only when the next request needs one."""
    async with Hostile(ok()) as server, client(Limits(idle_seconds=harness.BOUND * 10)) as videosdk:
        await videosdk.get(server.url)
        server.connections[0].send(b"x")
        await harness.eventually(lambda: server.ended == 1)


async def test_idle_connection_is_closed_after_its_time() -> None:
    """Without another request, each in its turn: also one that became idle while another was waiting for its end."""
    later = asyncio.Event()

    async def held(connection: socket.socket) -> bool:
        await later.wait()
        return await saying(ok())(connection)

    async with Hostile(held, ok()) as server, client(Limits(idle_seconds=0.2)) as videosdk:
        last = asyncio.ensure_future(videosdk.get(server.url))
        await harness.eventually(lambda: server.requests)
        await videosdk.get(server.url)
        asyncio.get_running_loop().call_later(0.1, later.set)
        await last
        await harness.eventually(lambda: server.ended == 2)
        await videosdk.get(server.url)
        await harness.eventually(lambda: server.ended == 3)


async def test_connections_past_the_bound_are_not_kept() -> None:
    """No more stay idle than are allowed."""

    async def together(connection: socket.socket) -> bool:
        await harness.eventually(lambda: len(server.requests) == 3)
        return await saying(ok())(connection)

    limits = Limits(idle=1, idle_seconds=harness.BOUND * 10)
    async with Hostile(together) as server, client(limits) as videosdk:
        await asyncio.gather(*(videosdk.get(server.url) for _ in range(3)))
        await harness.eventually(lambda: server.ended == 2)


# --- bounds ----------------------------------------------------------------------------------------------------------

LONG = {
    "many headers": endlessly(b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n"),
    "one header": endlessly(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 100),
    "a reason": endlessly(b"HTTP/1.1 200 ", b"x" * 100),
    "informational replies": endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a whole head": saying(http("HTTP/1.1 200 OK\nContent-Length: 2\nX: " + "x" * 1100)),
    "a length": endlessly(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 100),
    "chunks": endlessly(CHUNKED, b"1\r\nx\r\n"),
    "an extension of a chunk": endlessly(CHUNKED + b"1;", b"x" * 100),
    "trailers": endlessly(CHUNKED + b"0\r\n", b"X-Header: value\r\n"),
    "no length": endlessly(BY_CLOSE, b"x" * 100),
    "a bomb": saying(ok(gzip.compress(b"\0" * 9000), b"Content-Encoding: gzip")),
}


@pytest.mark.parametrize("say", LONG.values(), ids=LONG)
async def test_reply_that_is_too_long_is_cut_off(say: Any) -> None:
    """Whatever part of it does not end; the server cannot go on either."""
    async with Hostile(say) as server, client(Limits(head=1000, body=8000)) as videosdk:
        with pytest.raises(httpx.RemoteProtocolError):
            await videosdk.get(server.url)
        assert len(server.requests) == 1
        if say != LONG["a bomb"]:
            await harness.eventually(lambda: server.ended == 1)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", ok()[:-1]], ids=["nothing", "some", "most"])
async def test_server_that_falls_silent_is_given_up(said: bytes) -> None:
    """At any point of its reply: the request may have arrived, and its connection is closed."""
    async with Hostile(saying(said)) as server, client(read=0.1) as videosdk:
        with pytest.raises(httpx.ReadTimeout):
            await videosdk.get(server.url)
        await harness.eventually(lambda: server.ended == 1)


async def test_server_that_was_heard_of_lately_is_not_given_up() -> None:
    """Looked at before its time is over, it goes on: the time counts from the last byte that it said."""
    said = asyncio.Event()

    async def slowly(connection: socket.socket) -> bool:
        await said.wait()
        return await saying(ok())(connection)

    transport = Transport(NOBODY, USUAL)
    async with Hostile(slowly) as server, httpx.AsyncClient(transport=transport, timeout=harness.BOUND) as videosdk:
        request = asyncio.create_task(videosdk.get(server.url))
        await harness.eventually(lambda: server.requests)
        (connection,) = transport._open
        connection._check_silence(harness.BOUND)
        said.set()
        assert (await request).status_code == 200


async def test_request_that_is_given_up_leaves_nothing_to_be_sent_later() -> None:
    """The kernel drops what the server has not taken: the connection is reset, not ended behind the last byte."""
    ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            ended.set_result(await reader.read())
        except ConnectionResetError as error:
            ended.set_exception(error)
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    async with server, client(read=0.2) as videosdk:
        with pytest.raises(httpx.ReadTimeout):
            await videosdk.post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", json={"roomId": "a"})
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(ended, harness.BOUND)


async def test_time_of_an_earlier_request_ends_no_later_one() -> None:
    """The first has little time and needs less; the second takes longer than that on the same connection."""
    later = asyncio.Event()

    async def held(connection: socket.socket) -> bool:
        await later.wait()
        return await saying(ok())(connection)

    async with Hostile(ok(), held) as server, client() as videosdk:
        await videosdk.get(server.url, timeout=0.5)
        # The loop calls what is due in the order of time: this after whatever the first request has left behind.
        asyncio.get_running_loop().call_later(0.5, later.set)
        assert (await videosdk.get(server.url)).content == b"done"
        assert len(server.connections) == 1


async def test_request_without_a_free_connection_is_never_sent() -> None:
    """It waits for its turn and gives up; the turn of one that failed or gave up is free for the next."""
    async with Hostile(nothing, b"no", ok()) as server, client(Limits(connections=1), pool=0.1) as videosdk:
        first = asyncio.ensure_future(videosdk.get(server.url))
        await harness.eventually(lambda: server.requests)
        with pytest.raises(httpx.PoolTimeout):
            await videosdk.get(server.url)
        assert (len(server.requests), len(server.connections)) == (1, 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await harness.eventually(lambda: server.ended == 1)
        with pytest.raises(httpx.RemoteProtocolError):
            await videosdk.get(server.url)
        assert (await videosdk.get(server.url)).content == b"done"


# --- before the first byte -------------------------------------------------------------------------------------------


async def test_request_that_is_kept_back_sends_no_byte_and_keeps_its_connection() -> None:
    """The function before the first byte raises: the connection stays as it was and carries the next request."""

    def keep_back() -> None:
        raise RuntimeError("not now")

    async with Hostile(ok()) as server, client() as videosdk:
        await videosdk.get(server.url)
        with pytest.raises(RuntimeError, match="not now"):
            await videosdk.get(server.url, extensions={BEFORE_SEND: keep_back})
        await videosdk.get(server.url)
        assert (len(server.requests), len(server.connections)) == (2, 1)


async def test_request_is_asked_for_last_thing_before_it_is_sent() -> None:
    """With the connection open, and after a wait for a turn."""
    asked: list[int] = []
    async with Hostile(ok()) as server, client(Limits(connections=1)) as videosdk:
        one = videosdk.get(server.url, extensions={BEFORE_SEND: lambda: asked.append(len(server.requests))})
        two = videosdk.get(server.url, extensions={BEFORE_SEND: lambda: asked.append(len(server.requests))})
        await asyncio.gather(one, two)
        assert asked == [0, 1]


async def test_request_that_cannot_be_written_is_never_sent() -> None:
    """A header with the end of a line, a body without a length, a method whose reply has no body."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    async with Hostile(ok()) as server, client() as videosdk:
        for broken in ("a\r\nx-injected: 1", "a\nb", "a\rb", "a\0b"):
            with pytest.raises(httpx.LocalProtocolError):
                await videosdk.get(server.url, headers={"x-one": broken})
        for never in (videosdk.head(server.url), videosdk.post(server.url, content=body()), videosdk.get("ftp://h/")):
            with pytest.raises(httpx.UnsupportedProtocol):
                await never
        assert server.connections == []


async def test_closed_port_is_a_connect_error() -> None:
    """The class says that nothing was sent."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with client() as videosdk:
            with pytest.raises(httpx.ConnectError):
                await videosdk.get(f"http://127.0.0.1:{unused.getsockname()[1]}/")


async def test_name_with_several_addresses_is_tried_to_the_last() -> None:
    """`localhost` is two addresses on most machines; the server listens on one."""
    async with Hostile(ok()) as server, client() as videosdk:
        assert (await videosdk.get(f"http://localhost:{server.port}/")).content == b"done"


async def test_client_that_closes_ends_what_is_under_way_and_what_is_idle() -> None:
    """A request under way may have arrived."""

    async def once(connection: socket.socket) -> bool:
        await harness.eventually(lambda: len(server.requests) == 2)
        return await saying(ok())(connection)

    async with Hostile(once, nothing) as server, client() as videosdk:
        both = [asyncio.ensure_future(videosdk.get(server.url)) for _ in range(2)]
        # Whichever of them arrived first.
        _, (busy,) = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await videosdk.aclose()
        with pytest.raises(httpx.ReadError):
            await busy
        await harness.eventually(lambda: server.ended == 2)


# --- TLS -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tls_server(folder: Path, names: list[str | None]) -> AsyncGenerator[tuple[int, Path]]:
    """Serve over TLS, with a certificate for 127.0.0.1; keep which names were asked for and which protocols chosen."""
    papers = make_papers(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers.certificate, papers.key)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(ok(b"hello" * 20_000))
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], papers.authority


async def test_tls_server_with_the_right_name_is_believed(tmp_path: Path) -> None:
    """Its authority is trusted and the name is its own; the second request goes over the same connection."""
    names: list[str | None] = []
    async with tls_server(tmp_path, names) as (port, authority):
        trusting = ssl.create_default_context(cafile=str(authority))
        async with client(ssl_context=trusting) as videosdk:
            for _ in range(2):
                assert (await videosdk.get(f"https://127.0.0.1:{port}/")).content == b"hello" * 20_000
        assert names == [None, "http/1.1"]


@pytest.mark.parametrize(("host", "trusts"), [("localhost", True), ("127.0.0.1", False)], ids=["name", "authority"])
async def test_tls_server_that_is_another_is_sent_nothing(tmp_path: Path, host: str, trusts: bool) -> None:
    """A certificate for another name, or by an unknown authority: the connection is never made."""
    names: list[str | None] = []
    asked: list[None] = []
    async with tls_server(tmp_path, names) as (port, authority):
        context = ssl.create_default_context(cafile=str(authority) if trusts else None)
        async with client(ssl_context=context) as videosdk:
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                await videosdk.get(f"https://{host}:{port}/", extensions={BEFORE_SEND: lambda: asked.append(None)})
    assert asked == []
    assert names == [host if trusts else None]


async def test_tls_server_that_shakes_no_hands_is_given_up() -> None:
    """It accepts the connection and says nothing: nothing was sent."""
    async with Hostile(nothing) as server, client(connect=0.1) as videosdk:
        with pytest.raises(httpx.ConnectTimeout):
            await videosdk.get(f"https://127.0.0.1:{server.port}/")
        await harness.eventually(lambda: server.ended == 1)
