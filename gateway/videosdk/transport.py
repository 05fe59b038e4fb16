"""HTTP/1.1 for httpx: connections on asyncio, replies read by llhttp (httptools), each request sent once.

In place of httpx's own transport, which costs several times as much (docs/performance.md). As there, the class of an
error says whether anything was sent:

    nothing was sent     httpx.PoolTimeout, ConnectTimeout, ConnectError, LocalProtocolError, UnsupportedProtocol
    it may have arrived  httpx.ReadTimeout, ReadError, RemoteProtocolError

A request goes out on a connection that the other side has not closed and on which it has said nothing. A connection
is used again only after a reply that ended where HTTP says, with nothing behind it. llhttp refuses what can be read in
two ways (two lengths, a length beside chunks, bare line feeds). What it lets pass and this refuses: encodings of the
transfer other than `chunked`, versions other than 1.0 and 1.1, a change of the protocol, and whatever is too long.

Through a proxy, what goes out over TLS goes through a tunnel (CONNECT), which is there before anything is sent: what
the proxy refuses was not sent. What goes out in the clear goes to the proxy itself, whose reply is one like any other.
"""

import asyncio
import base64
import select
import socket
import ssl
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, Self, cast
from urllib.parse import unquote, urlsplit

import httptools
import httpx
from aiohappyeyeballs import start_connection  # pyright: ignore[reportUnknownVariableType]

__all__ = ["BEFORE_SEND", "Limits", "Proxy", "Transport"]

BEFORE_SEND: Final = "before_send"
"""The extension of a request that holds a function: called right before the first byte leaves. It may raise."""

_PORTS: Final = {"http": 80, "https": 443}
_NEXT_ADDRESS_SECONDS: Final = 0.25
"""How long an address has to answer before the next one is tried beside it (RFC 8305)."""
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})
_PACKED: Final = frozenset({b"content-encoding", b"content-length"})
"""What is no longer true of a body that was unpacked."""
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time."""
_GZIP_OR_ZLIB: Final = 47
"""`wbits`: zlib tells by the first bytes which of both it is."""


class Limits(NamedTuple):
    """What is kept, and how much is read.

    Attributes:
        connections: Requests at the same time; more wait for their turn.
        idle: Connections that are kept for later.
        idle_seconds: How long one may be used again; it is closed within as long after that.
        head: Bytes of a reply until its body begins, informational replies included.
        body: Bytes after that, and of the body when it is unpacked.
    """

    connections: int = 64
    idle: int = 64
    idle_seconds: float = 4.0
    head: int = 64 * 1024
    body: int = 16 * 1024 * 1024


class _Origin(NamedTuple):
    tls: bool
    host: str
    port: int


class Proxy(NamedTuple):
    """A proxy on the way.

    Attributes:
        host: Where it is.
        port: Where it listens.
        header: What shows it who we are, as a line of a request; empty where it does not ask.
    """

    host: str
    port: int
    header: bytes

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"

    @classmethod
    def at(cls, url: str) -> Self:
        """Read `http://user:password@host:port`."""
        parts = urlsplit(url)
        header = b""
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            header = b"proxy-authorization: Basic %s\r\n" % base64.b64encode(credentials)
        return cls(parts.hostname or "", parts.port or _PORTS["http"], header)


class _Reply(httpx.Response):
    """A reply whose body is there: httpx takes longer to read it from a stream than for all the rest of a reply."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, reason: bytes) -> None:
        extensions = {"http_version": b"HTTP/1.1", "reason_phrase": reason}
        super().__init__(status, headers=headers, stream=httpx.ByteStream(body), extensions=extensions)
        self._body = body

    @property
    def content(self) -> bytes:
        return self._body


class Transport(httpx.AsyncBaseTransport):
    """Sends requests whose bodies have a length, and reads whole replies. Not for HEAD and CONNECT.

    Args:
        ssl_context: Says whom to trust; it learns that HTTP/1.1 is spoken.
        limits: Bounds.
        proxy: Gives the proxy that all of them go through as it is now, for new connections.
    """

    def __init__(
        self, ssl_context: ssl.SSLContext, limits: Limits, proxy: Callable[[], Proxy | None] = lambda: None
    ) -> None:
        self._proxy = proxy
        self._ssl_context = ssl_context
        ssl_context.set_alpn_protocols(["http/1.1"])
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.connections)
        self._idle: list[tuple[_Origin, _Connection]] = []
        """The one that is idle for longest is the first."""
        self._open: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the reply.

        Raises:
            httpx.TransportError: Its class says whether anything was sent.
        """
        origin = _origin(request.url)
        message = _written(request, None if origin.tls else self._proxy())
        timeouts = cast("dict[str, float | None]", request.extensions.get("timeout", {}))
        await self._take_turn(timeouts.get("pool"))
        try:
            connection = self._take_idle(origin) or await self._connect(origin, timeouts.get("connect"))
            try:
                # The last moment at which a request can still be kept back.
                if BEFORE_SEND in request.extensions:
                    request.extensions[BEFORE_SEND]()
                return await connection.exchange(message, timeouts.get("read"))
            finally:
                self._give_back(origin, connection)
        finally:
            self._turns.release()

    async def aclose(self) -> None:
        """Close every connection; a request that is under way on one fails."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._open):
            connection.drop()
        self._idle.clear()
        # They end in the next round of the loop, which might be the last.
        await asyncio.sleep(0)

    async def _take_turn(self, timeout: float | None) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("no connection became free in time") from None

    def _take_idle(self, origin: _Origin) -> "_Connection | None":
        """Return a connection that the other side still keeps, the one that was used last; drop those it does not."""
        self._drop_expired()
        for position in range(len(self._idle) - 1, -1, -1):
            if self._idle[position][0] == origin:
                _, connection = self._idle.pop(position)
                if connection.is_quiet:
                    return connection
                connection.drop()
        return None

    async def _connect(self, origin: _Origin, timeout: float | None) -> "_Connection":
        try:
            async with asyncio.timeout(timeout):
                connection = await self._dial(origin)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: what is not a name at all
            raise httpx.ConnectError(str(error)) from error
        if not connection.open:
            raise httpx.ConnectError("the other side closed the connection, or spoke before it was asked")
        return connection

    async def _dial(self, origin: _Origin) -> "_Connection":
        loop = asyncio.get_running_loop()
        proxy = self._proxy()
        host, port = (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        connected = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, interleave=1)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if proxy is not None and origin.tls:
                await _open_tunnel(connected, origin, proxy, self._limits.head)
            _, connection = await loop.create_connection(
                lambda: _Connection(loop, self._limits, self._open),
                sock=connected,
                ssl=self._ssl_context if origin.tls else None,
                server_hostname=origin.host if origin.tls else None,
            )
        except BaseException:
            connected.close()
            raise
        return connection

    def _give_back(self, origin: _Origin, connection: "_Connection") -> None:
        if not connection.open:
            return
        if len(self._idle) >= self._limits.idle:
            connection.drop()
            return
        connection.idle_since = connection.loop.time()
        self._idle.append((origin, connection))
        if self._sweep is None:
            self._sweep = connection.loop.call_later(self._limits.idle_seconds, self._drop_idle)

    def _drop_idle(self) -> None:
        self._sweep = None
        self._drop_expired()
        if self._idle:
            _, first = self._idle[0]
            self._sweep = first.loop.call_later(self._limits.idle_seconds, self._drop_idle)

    def _drop_expired(self) -> None:
        while self._idle:
            _, connection = self._idle[0]
            if connection.open and connection.loop.time() - connection.idle_since < self._limits.idle_seconds:
                return
            connection.drop()
            del self._idle[0]


class _Connection(asyncio.Protocol):
    """One connection. It carries one request at a time; whatever comes unasked, or is no reply, ends it.

    Attributes:
        loop: That it lives in.
        open: It can carry a request, or carries one.
        idle_since: When it carried its last one, by the loop's clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, registry: "set[_Connection]") -> None:
        self.loop = loop
        self.open = False
        self.idle_since = 0.0
        self._limits = limits
        self._registry = registry
        self._poll = select.poll()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expect_reply()

    @property
    def is_quiet(self) -> bool:
        """Whether the other side has neither closed it nor said anything: the kernel knows first."""
        return self.open and not self._poll.poll(0)

    async def exchange(self, message: bytes, timeout: float | None) -> httpx.Response:
        """Send a request and read the reply.

        Args:
            message: The whole request.
            timeout: Most seconds in which no byte comes.
        """
        self._expect_reply()
        self._waiter = self.loop.create_future()
        self._transport.write(message)
        if timeout is not None:
            self._timer = self.loop.call_later(timeout, self._check_silence, timeout)
        try:
            await self._waiter
            return self._reply()
        except BaseException:
            self._reusable = False
            raise
        finally:
            self._waiter = None
            if self._timer is not None:
                self._timer.cancel()
            if not self._reusable:
                self.drop()

    def drop(self) -> None:
        """Close it; where a reply is owed, the kernel forgets the request too.

        It would go on sending what the other side has not acknowledged, long after the request was given up: a start
        could arrive when its absence from the list is believed.
        """
        if self.open:
            self.open = False
            self._registry.discard(self)
            if not self._complete:
                with suppress(OSError):
                    self._transport.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO
                    )
            self._transport.abort()

    def _expect_reply(self) -> None:
        self._heard_at = self.loop.time()
        self._received = 0
        self._problem = ""
        self._reason = b""
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._has_head = self._until_close = self._complete = self._keeps = self._reusable = False

    def _check_silence(self, timeout: float) -> None:
        left = self._heard_at + timeout - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._check_silence, timeout)
        else:
            self._end(httpx.ReadTimeout("no byte of the reply came in time"))

    def _end(self, error: httpx.TransportError | None, *, reusable: bool = False) -> None:
        """Say how the exchange ended, if one is under way; without an error, there is a reply."""
        self._reusable = reusable
        if self._waiter is not None and not self._waiter.done():
            if error is None:
                self._waiter.set_result(None)
            else:
                self._waiter.set_exception(error)
        if not reusable:
            self.drop()

    def _refuse(self, reason: str) -> None:
        self._end(httpx.RemoteProtocolError(reason))

    def _reply(self) -> httpx.Response:
        body = b"".join(self._body)
        encodings = [value.strip().lower() for name, value in self._headers if name.lower() == b"content-encoding"]
        if encodings not in ([], [b"identity"]):
            body = _unpacked(body, encodings, self._limits.body)
            self._headers = [(name, value) for name, value in self._headers if name.lower() not in _PACKED]
        return _Reply(self._status, self._headers, body, self._reason)

    # --- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.open = True
        self._registry.add(self)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._complete:
            self._end(None)
            return
        self._heard_at = self.loop.time()
        if not self._received and not data.startswith(b"H"):
            self._refuse("not a reply of HTTP/1.1")  # llhttp would also read RTSP and ICE
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self._problem = self._problem or str(error)
        if self._received > self._limits.head + (self._limits.body if self._has_head else 0):
            self._refuse("the reply is too long")
        elif self._problem:
            self._refuse(self._problem)
        elif self._complete:
            self._end(None, reusable=self._keeps)

    def eof_received(self) -> None:
        if self._waiter is not None and self._has_head and self._until_close:
            self._end(None)
        else:
            self._refuse("the other side closed the connection before the reply was complete")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(httpx.ReadError(str(exc or "the connection was closed")))

    # --- what the parser calls ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            self._keeps = False  # something follows the reply

    def on_status(self, reason: bytes) -> None:
        if not self._complete:
            self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # and not trailers
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self._status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version not in {"1.0", "1.1"} or not 100 <= self._status <= 599:
            self._problem = "not a reply of HTTP/1.1"
        if self._status < 200:
            return
        self._has_head = True
        if sum(len(name) + len(value) for name, value in self._headers) > self._limits.head:
            self._problem = "the head of the reply is too long"
        lengths = [(name.lower(), value) for name, value in self._headers if name.lower() in _LENGTHS]
        self._until_close = not lengths
        if len(lengths) > 1 or (
            lengths and lengths[0][0] == b"transfer-encoding" and lengths[0][1].lower() != b"chunked"
        ):
            self._problem = "the length of the reply can be read in two ways"

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._has_head:  # informational: the reply itself follows
            self._headers, self._reason = [], b""
        elif not self._complete:
            self._complete = True
            self._keeps = self._parser.should_keep_alive()


def _origin(url: httpx.URL) -> _Origin:
    if url.scheme not in _PORTS or not url.host:
        raise httpx.UnsupportedProtocol("an address begins with http:// or https:// and a host")
    return _Origin(url.scheme == "https", url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])


async def _open_tunnel(connected: socket.socket, origin: _Origin, proxy: Proxy, limit: int) -> None:
    """Have the proxy connect us. Everything before TLS, and no byte of it: the other side waits for us to begin it."""
    loop = asyncio.get_running_loop()
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}".encode("ascii")
    await loop.sock_sendall(connected, b"CONNECT %s HTTP/1.1\r\nhost: %s\r\n%s\r\n" % (target, target, proxy.header))
    reply = b""
    while b"\r\n\r\n" not in reply:
        part = await loop.sock_recv(connected, 4096)
        reply += part
        if not part or len(reply) > limit:
            raise httpx.ProxyError("the proxy did not answer whether it connects us")
    version, _, rest = reply.partition(b" ")
    status = rest[:3]
    # Nothing comes behind the head of a proxy that connects us: the other side waits for us to begin.
    if version not in {b"HTTP/1.0", b"HTTP/1.1"} or not b"200" <= status <= b"299" or not reply.endswith(b"\r\n\r\n"):
        raise httpx.ProxyError(f"the proxy does not connect us (status {status.decode('ascii', 'replace')})")


def _written(request: httpx.Request, proxy: Proxy | None) -> bytes:
    """Write a request as it goes out: to a proxy with its whole address."""
    headers = request.headers.raw
    if request.method in {"HEAD", "CONNECT"} or any(name.lower() == b"transfer-encoding" for name, _ in headers):
        raise httpx.UnsupportedProtocol("neither HEAD, nor CONNECT, nor a body of unknown length")
    url = request.url
    target = url.raw_path if proxy is None else b"%s://%s%s" % (url.raw_scheme, url.netloc, url.raw_path)
    lines = [b"%s %s HTTP/1.1\r\n" % (request.method.encode("ascii"), target)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    if proxy is not None and proxy.header:
        lines.append(proxy.header)
    head = b"".join(lines)
    if not head.count(b"\r") == head.count(b"\n") == len(lines) or b"\0" in head:
        raise httpx.LocalProtocolError("a header holds the end of a line")
    return b"%s\r\n%s" % (head, b"".join(cast("httpx.SyncByteStream", request.stream)))


def _unpacked(body: bytes, encodings: list[bytes], limit: int) -> bytes:
    """Unpack a body, but no more than the limit: httpx would unpack all there is."""
    if encodings not in ([b"gzip"], [b"deflate"]):
        raise httpx.RemoteProtocolError("the body is packed in a way that was not asked for")
    unpacking = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = unpacking.decompress(body, limit)
    except zlib.error as error:
        raise httpx.RemoteProtocolError("the body cannot be unpacked") from error
    if not unpacking.eof or unpacking.unused_data:
        raise httpx.RemoteProtocolError("the body is packed badly, or too long")
    return plain
