"""A small HTTP/1.1 server that leaves its handler in command of the socket.

An ordinary server framework promises its clients a well-formed answer. The simulator needs to break that promise on
purpose: to reset the connection, to hang, to stop half-way through an answer, to say something that is not HTTP.
This module knows sockets and h11, and nothing of VideoSDK.
"""

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

_log = logging.getLogger(__name__)

_LARGEST_BODY: Final = 1024 * 1024
_JSON: Final = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read to its end. Header names are in lower case; of a repeated query name the last value counts."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `headers` come in addition to the content type and length."""

    status: int
    body: bytes = b""
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()


class Exchange:
    """One request together with every way, proper or not, of ending it.

    The handler ends an exchange once: by `reply`, `half_reply`, `raw` or `reset`. Returning without any of them
    closes the connection.
    """

    __slots__ = ("_connection", "received", "request")

    def __init__(self, connection: "_Connection", request: Request) -> None:
        self._connection = connection
        self.request = request
        self.received = time.monotonic()

    @property
    def gone(self) -> bool:
        """Whether the client has hung up."""
        return self._connection.gone.is_set()

    async def until_gone(self) -> None:
        """Wait until the client hangs up."""
        await self._connection.gone.wait()

    def reply(self, reply: Reply) -> bool:
        """Answer, and keep the connection if the client wants that; return False when the client is gone."""
        return self._connection.send(reply)

    def half_reply(self, reply: Reply) -> None:
        """Announce the whole answer, send the first half of its body and close the connection."""
        self._connection.send_half(reply)

    def raw(self, data: bytes) -> None:
        """Send bytes as they are and close the connection."""
        self._connection.send_raw(data)

    def reset(self) -> None:
        """Break the connection with a TCP reset instead of an orderly end."""
        self._connection.reset()


Handler = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class _Incoming:
    """A request of which the body is still arriving."""

    head: h11.Request
    body: bytearray = field(default_factory=bytearray)


class _Connection(asyncio.Protocol):
    """One client's connection: one request at a time, kept alive between them."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport | None = None
        self._incoming: _Incoming | None = None
        self._busy = False
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost makes no difference
        self._server.connections.discard(self)
        self._transport = None
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        if not self._busy:
            self._read()

    def _read(self) -> None:
        """Take what has arrived, up to the end of one request."""
        try:
            while not self._busy:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    self._allow_body()
                    return
                self._take(event)
        except h11.RemoteProtocolError as problem:
            self.send(Reply(problem.error_status_hint, b"not a request"))
            self.close()

    def _allow_body(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))

    def _take(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._incoming = _Incoming(event)
        elif isinstance(event, h11.Data) and self._incoming is not None:
            self._incoming.body += event.data
            if len(self._incoming.body) > _LARGEST_BODY:
                raise h11.RemoteProtocolError("body too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and self._incoming is not None:
            self._busy = True
            self._server.handle(self, Exchange(self, self._request(self._incoming)))
            self._incoming = None
        elif isinstance(event, h11.ConnectionClosed):
            self._busy = True
            self.close()

    def _request(self, incoming: _Incoming) -> Request:
        target = urlsplit(incoming.head.target.decode("ascii", "replace"))
        peer = cast("object", self._transport.get_extra_info("peername")) if self._transport else None
        return Request(
            method=incoming.head.method.decode("ascii"),
            path=unquote(target.path),
            query=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers={name.decode("ascii"): value.decode("latin-1") for name, value in incoming.head.headers},
            body=bytes(incoming.body),
            peer=str(cast("tuple[object, ...]", peer)[0]) if isinstance(peer, tuple) and peer else "",
        )

    def finished(self) -> None:
        """Go on with the next request, or close where the answer left no way to."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._busy = False
            self._read()
        else:
            self.close()

    def send(self, reply: Reply) -> bool:
        if self._transport is None or self._transport.is_closing() or self._http.our_state is h11.ERROR:
            return False
        head, body, end = self._messages(reply)
        data = (self._http.send(head) or b"") + (self._http.send(body) or b"") + (self._http.send(end) or b"")
        self._write(data)
        return True

    def send_half(self, reply: Reply) -> None:
        if not self.gone.is_set():
            head, _, _ = self._messages(reply)
            self._write((self._http.send(head) or b"") + reply.body[: len(reply.body) // 2])
            self.close()

    def send_raw(self, data: bytes) -> None:
        self._write(data)
        self.close()

    @staticmethod
    def _messages(reply: Reply) -> tuple[h11.Response, h11.Data, h11.EndOfMessage]:
        headers = [("content-type", reply.content_type), ("content-length", str(len(reply.body))), *reply.headers]
        return h11.Response(status_code=reply.status, headers=headers), h11.Data(data=reply.body), h11.EndOfMessage()

    def _write(self, data: bytes | None) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Break off: a linger time of zero makes the kernel send RST, where a plain close would send FIN."""
        if self._transport is None:
            return
        known = cast("socket.socket", self._transport.get_extra_info("socket"))
        # The option belongs to the open socket, not to the descriptor, so a copy reaches it under every event loop.
        with socket.socket(fileno=os.dup(known.fileno())) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class Server:
    """Listens on one address and hands every request to one coroutine, in a task of its own.

    A client that hangs up does not cancel its handler: an upstream goes on with what it was asked to do.
    """

    def __init__(self, handler: Handler, *, host: str, port: int) -> None:
        self._handler = handler
        self._host = host
        self._port = port
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self.connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        """The base address clients use; known once the server listens."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen; port 0 takes a free one, which is kept for later starts of this server."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), self._host, self._port, backlog=1024)
        self._port = cast("int", self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listener and break off whatever is still under way."""
        if self._listener is None:
            return
        self._listener.close()
        for connection in tuple(self.connections):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()
        self._listener = None

    def handle(self, connection: _Connection, exchange: Exchange) -> None:
        """Start the handler for one request."""
        task = asyncio.ensure_future(self._handler(exchange))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._handled(done, connection, exchange))

    def _handled(self, task: asyncio.Future[None], connection: _Connection, exchange: Exchange) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        problem = task.exception()
        if problem is not None:
            request = exchange.request
            _log.error("the simulator itself failed on %s %s", request.method, request.path, exc_info=problem)
            exchange.reply(Reply(500, b'"the simulator itself failed"'))
        connection.finished()
