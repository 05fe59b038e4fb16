"""How a connection is served: uvicorn's, with llhttp as the parser, and stricter than either.

llhttp refuses by itself what can be read in two ways: two lengths, a length beside chunks, bare line feeds, folded
headers. What uvicorn and llhttp let pass and this refuses, with a problem document: a head that is too long, however it
is cut, and in it a path or a query; versions of HTTP other than 1.0 and 1.1; encodings of the transfer other than
`chunked`; `Host` missing or doubled, and `Authorization` doubled. Trailers are dropped: to uvicorn they would be
headers.

A connection is not closed for being idle, nor because the process ends, while a request lies unread on it: uvloop looks
at its timers before it reads, and a proxy takes a reset for a failure.

What a client can take up is bounded, for all connections together: how many there are, and of one address no more than
are still free; the memory of requests that have not arrived whole (`unfinished`); the requests that are sent ahead of
their answers. A connection too many is answered and closed.

Uvicorn waits for open answers before it ends, and does not say that it waits: a stream would go on until it is cut off.
And a client that does not read leaves what was written to it in a buffer that no `close` ever gets rid of. It waits for
a request that never arrives, too, and for a client that never reads.
"""

import asyncio
import secrets
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Final, cast
from urllib.parse import unquote

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.api.problems import PROBLEM_JSON, problem_document
from gateway.api.sse import LINE
from gateway.errors import GatewayError, HeadersTooLarge, MalformedRequest, TooManyWaiting
from gateway.observability import metrics
from gateway.serving.unfinished import Unfinished
from gateway.store.places import Places

__all__ = ["LineProtocol", "connection_places"]

_FLUSH_SECONDS: Final = 5.0
"""How long a client may take over the rest of its answer when the process ends."""
_LISTEN_SECONDS: Final = 2.0
"""How long a client whose request was refused may go on sending; what it sends is dropped."""
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time."""
_MAX_HEAD: Final = 32 * 1024
_MAX_PATH: Final = 1024
"""Characters, decoded: three ids of 128 and a route, three times over."""
_MAX_QUERY: Final = 8 * 1024
_MAX_QUERY_FIELDS: Final = 32
"""Litestar keeps the last 1,024 paths and queries in memory with all that it reads in them, also of requests without a
key, so that they have to be short. The longest of ours has six fields in 4 KiB."""
_MAX_AHEAD: Final = 32
"""Requests that may be sent on a connection before an earlier one is answered: each of them costs memory."""
_MAX_CONNECTIONS: Final = 10_000
_MAX_TURNED_AWAY: Final = 100
"""Connections too many that get an answer, and time to read it; more are cut off."""
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})

_log = structlog.get_logger("gateway.access")


def connection_places(most: int) -> Places:
    """Make the places of connections.

    An address gets no more of them than are free. Behind an ingress that is the ingress's address: it has to keep its
    clients apart by itself, and the bound holds only what others may do to it, such as a pod that asks directly.
    """
    return Places("connections", most, "Too many connections are open to this gateway at the moment.")


class LineProtocol(HttpToolsProtocol):
    """One connection, which introduces itself to each request as its `Line` (`gateway.api.sse`).

    Attributes:
        arrival_seconds: How long a request may take to arrive, and the first one to begin.
        reading_seconds: How long a client may take nothing of what is sent to it.
        last_seconds: How long what has not arrived may still take when the process ends.
        places: The places of all connections.
        unfinished: The memory of what has not arrived, for all of them.
        turned_away: How many connections too many are being answered.
    """

    arrival_seconds = 30.0
    reading_seconds = 30.0
    last_seconds = 2.0
    places: ClassVar[Places] = connection_places(_MAX_CONNECTIONS)
    unfinished: ClassVar[Unfinished] = Unfinished()
    turned_away: ClassVar[set["LineProtocol"]] = set()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_ending: Callable[[], None] | None = None
        self.ending = False
        self._begun = False
        """A request has begun to arrive, and not arrived."""
        self._in_head = True
        """Its head has not arrived; or none has begun."""
        self._unfinished = 0
        """Bytes of that head in the packets before."""
        self._packet = 0
        """Bytes of the packet that is read, unless a request ends in it."""
        self._resumes = False
        """The parser is being brought to the body of a request whose head another one read."""
        self._closing = False
        """Nothing more is read: what was sent makes no sense, or took too long."""
        self._arrival: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._address = ""
        self._has_place = False

    # --- the end -----------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """End after the answer that is under way, and say so; uvicorn calls this when the process is to end."""
        self.ending = True
        if not self._has_unread():
            super().shutdown()
        if self.on_ending is not None:
            self.on_ending()
        self.loop.call_later(_FLUSH_SECONDS, self._abort_unless_flushed)
        if self._arrival is not None:
            self.loop.call_later(self.last_seconds, self._check_arrival, self._arrival)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; uvicorn calls this when nothing was asked for long."""
        if not self._has_unread():
            super().timeout_keep_alive_handler()

    def _has_unread(self) -> bool:
        poll = select.poll()
        with suppress(OSError, ValueError):
            poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Cut the connection off, and drop what is still to be sent: here, and in the kernel."""
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    def _abort_unless_flushed(self) -> None:
        if self in self.connections and self.transport.is_closing():
            self.abort()

    # --- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, if there is a place; who connects and says nothing is not waited for."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        full = self.places.full(address=self._address)
        if full is not None:
            self._turn_away(self.places.refusal(full))
            return
        self.places.take(address=self._address)
        self._has_place = True
        self._expect_arrival()

    def _turn_away(self, problem: GatewayError) -> None:
        if len(self.turned_away) < _MAX_TURNED_AWAY:
            self.turned_away.add(self)
            self._refuse(problem)
        else:
            self._closing = True
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_timers()
        self.unfinished.remove(self)
        self.turned_away.discard(self)
        if self._has_place:
            self._has_place = False
            self.places.leave(address=self._address)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Note that the client has not read what is there for it."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.reading_seconds, self.abort)

    def resume_writing(self) -> None:
        """Note that it has."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def data_received(self, data: bytes) -> None:
        """Read what the client sent."""
        self._unset_keepalive_if_required()
        if self._closing:
            return
        self._packet = len(data)
        try:
            self._feed(data)
            self._unfinished = self._unfinished + self._packet if self._in_head else 0
            if self._unfinished > _MAX_HEAD:
                raise _too_large()
            if self._begun or self._unfinished:
                self._arrives_in_parts(len(data))
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else _malformed())
        except GatewayError as problem:
            self._refuse(problem)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The client would like another protocol, as Java's HTTP client would by default. It does not get it, so the
            # request goes on as it began; the parser takes the rest for the other protocol, and another one reads it.
            framing = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] in _FRAMING)
            self.parser = httptools.HttpRequestParser(self)
            self._resumes = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
            self._resumes = False
            self._feed(data[upgrade.args[0] :])

    def _arrives_in_parts(self, count: int) -> None:
        if self._arrival is None:
            self._expect_arrival()
        # What is answered already is read to its end, and dropped.
        if self._in_head or not self.cycle.response_complete:
            self.unfinished.add(self, count)

    def give_way(self) -> None:
        """Refuse what has not arrived: others send more than there is memory for, and this has taken the longest."""
        metrics.refused("unfinished")
        detail = "Too many requests to this gateway have not arrived whole, and this one had taken the longest."
        self._refuse(TooManyWaiting(detail, retry_after=1, extensions={"bound": "unfinished"}))

    def _expect_arrival(self) -> None:
        seconds = self.last_seconds if self.ending else self.arrival_seconds
        self._arrival = self.loop.call_later(seconds, self._give_up)

    def _check_arrival(self, expected: asyncio.TimerHandle) -> None:
        if self._arrival is expected:
            self._give_up()

    def _give_up(self) -> None:
        """Wait no longer for the rest of a request; where not even its first byte came, without a word."""
        self._arrival = None
        if not self._begun:
            self.transport.close()
        elif not self._closing:
            self._refuse(MalformedRequest("The request did not arrive in time."))

    def _stop_timers(self) -> None:
        for timer in (self._arrival, self._reading):
            if timer is not None:
                timer.cancel()
        self._arrival = self._reading = None

    def _refuse(self, problem: GatewayError) -> None:
        """Answer what cannot be read, where there is a place for an answer, and close the connection."""
        self._closing = True
        self.unfinished.remove(self)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and cycle.response_complete:
            cycle = None
        if cycle is not None and self._in_head:
            # It came behind a request that is still being answered: that answer is the last.
            cycle.keep_alive = False
            return
        request_id = secrets.token_hex(8)
        _log.info("request.unreadable", request_id=request_id, problem=problem.slug)
        if cycle is not None and (cycle.response_started or self.pipeline):
            # There is no place for it: within an answer, or before those of earlier requests.
            self.transport.close()
            return
        self.transport.write(_answer(problem, request_id))
        if cycle is not None:
            # What is under way learns that its client has gone, and writes nothing behind this.
            cycle.disconnected = True
            cycle.message_event.set()
        # A connection that is closed while its client still sends is reset, and the client never reads the answer.
        self.transport.write_eof()
        self.loop.call_later(_LISTEN_SECONDS, self.transport.close)

    # --- what the parser calls ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self._resumes:
            if len(self.pipeline) >= _MAX_AHEAD:
                raise MalformedRequest("Too many requests were sent ahead of their answers.")
            super().on_message_begin()
            self._begun = True
            self.scope.setdefault("state", {})[LINE] = self

    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        if not self._resumes:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; of trailers, none."""
        if self._in_head and not self._resumes:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Have a request answered whose head is there, unless it makes no sense."""
        if self._resumes:
            return
        if self._unfinished + self._packet > _MAX_HEAD:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > _MAX_HEAD:
                raise _too_large()
        names = [name for name, _ in self.headers]
        version = self.parser.get_http_version()
        if (
            version not in {"1.1", "1.0"}
            or names.count(b"host") != 1 - (version == "1.0" and b"host" not in names)
            or names.count(b"authorization") > 1
            or self.parser.get_method() == b"CONNECT"
            or (b"transfer-encoding" in names and not self._is_chunked())
        ):
            raise _malformed()
        if not self.url.startswith(b"/"):
            self.url = _path(self.url)
        _check_length(self.url)
        super().on_headers_complete()
        self._in_head = False
        if self.ending:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """Go on with the next request; what was not read of this one's body is not kept."""
        if self.cycle.response_complete and self.cycle.body:
            self.cycle.body = bytearray()
            self.unfinished.remove(self)
        super().on_response_complete()

    def _is_chunked(self) -> bool:
        return [value.lower() for name, value in self.headers if name == b"transfer-encoding"] == [b"chunked"]

    def on_message_complete(self) -> None:
        """Note that the body is there."""
        if self.parser.should_upgrade():
            return  # the parser thinks so: see `_feed`
        super().on_message_complete()
        self._begun, self._in_head = False, True
        self._unfinished = self._packet = 0
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None
            self.unfinished.remove(self)


def _path(target: bytes) -> bytes:
    """Return the path and the query in an absolute target (RFC 9112, 3.2.2), which may lack the former."""
    parts = httptools.parse_url(target)
    return (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")


def _check_length(address: bytes) -> None:
    path, _, query = address.partition(b"?")
    if len(path) > _MAX_PATH and len(unquote(path)) > _MAX_PATH:
        raise HeadersTooLarge(f"The path may have at most {_MAX_PATH} characters.")
    if len(query) > _MAX_QUERY or query.count(b"&") >= _MAX_QUERY_FIELDS:
        raise HeadersTooLarge(f"The query may have at most {_MAX_QUERY} bytes and {_MAX_QUERY_FIELDS} fields.")


def _answer(problem: GatewayError, request_id: str) -> bytes:
    body = problem_document(problem, instance="", request_id=request_id)
    headers = {
        "content-type": f"{PROBLEM_JSON}; charset=utf-8",
        "content-length": str(len(body)),
        "x-content-type-options": "nosniff",
        "x-request-id": request_id,
        "connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[problem.status] + head.encode() + b"\r\n" + body


def _malformed() -> GatewayError:
    return MalformedRequest("What was sent is not a request of HTTP/1.1.")


def _too_large() -> GatewayError:
    return HeadersTooLarge(f"The address and the headers may have at most {_MAX_HEAD} bytes together.")
