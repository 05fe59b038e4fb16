"""Server-Sent Events (HTML Living Standard, 9.2): one reader's news as an HTTP answer that ends only when it must.

It ends when the client hangs up; when the caller's time is over; and, with an event `reconnect` that says why, when the
client is too slow, when the process is about to end, when what the caller showed expires or is revoked, and after an
hour in any case, so that what a caller may see is asked again now and then.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send

from gateway.observability.metrics import EVENT_READERS
from gateway.recordings import FeedUpdate, Reader, Target

__all__ = ["EVENT_STREAM", "LINE", "EventStream", "Line"]

EVENT_STREAM: Final = "text/event-stream"
LINE: Final = "gateway.line"
"""Under which name a request's state holds its connection, where the server tells of it."""
_HEARTBEAT_SECONDS: Final = 15.0
_LONGEST_SECONDS: Final = 3600.0
_STUCK_SECONDS: Final = 5.0
"""How long a client may take nothing of what is sent to it before it is cut off."""
_ENOUGH: Final = 32 * 1024
"""Bytes that are sent at once."""
_RETRY_MS: Final = (1000, 3000)
"""Between these a browser waits before it comes again: not all of them at once."""
_HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    # What nginx, and what learnt it from nginx, takes for a request not to hold parts of an answer back.
    "x-accel-buffering": "no",
}


class Line(Protocol):
    """The connection that carries an answer, as the server introduces it (`gateway.serving.connection`)."""

    ending: bool
    """Whether the process is about to end."""

    on_ending: Callable[[], None] | None
    """Called when it is."""

    def abort(self) -> None:
        """Cut it off, whatever is still to be sent."""
        ...


class EventStream(ASGIResponse):
    """Tells one reader's news.

    Args:
        reader: Whose news; it leaves when the answer is over.
        covers: Which targets it may see.
        expires_in: Seconds until what the caller showed expires, None for never.
        timeout: Seconds after which the caller wants no more, None for never.
        line: The connection that carries it.
        vouched: Tells whether what the caller was let in with is still in force, at each event and heartbeat.
        heartbeat: Seconds without a byte after which a comment is sent, with the id of the last event that the reader
            could have seen: where its target is hidden from the reader, the reader still resumes after it.
    """

    def __init__(
        self,
        reader: Reader,
        covers: Callable[[Target], bool],
        *,
        expires_in: float | None,
        timeout: float | None,
        line: Line | None,
        vouched: Callable[[], bool] = lambda: True,
        heartbeat: float = _HEARTBEAT_SECONDS,
    ) -> None:
        super().__init__(headers=dict(_HEADERS), media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self._reader = reader
        self._covers = covers
        self._vouched = vouched
        self._line = line
        self._heartbeat = heartbeat
        longest = _LONGEST_SECONDS * random.uniform(0.9, 1.0)  # noqa: S311
        limits = [(longest, "age")]
        limits += [(expires_in, "expired")] if expires_in is not None else []
        limits += [(timeout, "")] if timeout is not None else []
        lasts, self._reason = min(limits)
        self._until = asyncio.get_running_loop().time() + lasts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer (ASGI)."""
        try:
            with EVENT_READERS.track_inprogress():
                await super().__call__(scope, receive, send)
        finally:
            self._reader.leave()

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Tell news until there is a reason to end."""
        gone = asyncio.create_task(_until_gone(receive), name="stream-gone")
        gone.add_done_callback(lambda _: self._reader.close("gone"))
        if self._line is not None:
            self._line.on_ending = self._end
            if self._line.ending:
                self._end()
        try:
            await self._tell(send)
        except TimeoutError:
            # There is no way to tell it anything; and what it has not taken is not kept for it.
            if self._line is not None:
                self._line.abort()
                await gone
        finally:
            if self._line is not None:
                self._line.on_ending = None
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone

    def _end(self) -> None:
        self._reader.close("restart")

    async def _tell(self, send: Send) -> None:
        now = asyncio.get_running_loop().time
        await _push(send, f"retry: {random.randint(*_RETRY_MS)}\n\n".encode())  # noqa: S311
        written_at, last_id = now(), ""
        while not self._reader.closed:
            left = self._until - now()
            if left <= 0:
                self._reader.close(self._reason or "done")
                break
            silence_left = written_at + self._heartbeat - now()
            update = await self._reader.read(min(silence_left, left))
            if self._reader.closed or (not update and now() >= self._until):
                continue
            if not self._vouched():
                self._reader.close("expired")
                break
            last_id = update[-1].id if update else last_id
            for part in _parts(map(self._event, update)):
                if self._reader.closed:
                    break
                await _push(send, part)
                written_at = now()
            is_due = not update or now() - written_at >= self._heartbeat
            if is_due and not self._reader.closed:
                await _push(send, f":\nid: {last_id}\n\n".encode() if last_id else b":\n\n")
                written_at = now()
        reason = self._reader.closed
        if reason != "gone":
            last = b"" if reason == "done" else b'event: reconnect\ndata: {"reason":"%b"}\n\n' % reason.encode()
            await _push(send, last, more=False)

    def _event(self, update: FeedUpdate) -> bytes:
        seen = [text for target, text in update.targets if self._covers(target)]
        head = b"id: %b\nevent: " % update.id.encode()
        if update.whole:
            return b'%bsnapshot\ndata: {"recordings":[%b]}\n\n' % (head, b",".join(seen))
        return b"%brecording\ndata: %b\n\n" % (head, seen[0]) if seen else b""


def _parts(events: Iterable[bytes]) -> Iterator[bytes]:
    """Put events together that are sent together: not one by one, and not so much that it would never be taken."""
    part = b""
    for event in events:
        part += event
        if len(part) >= _ENOUGH:
            yield part
            part = b""
    if part:
        yield part


async def _push(send: Send, body: bytes, *, more: bool = True) -> None:
    event: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": more}
    async with asyncio.timeout(_STUCK_SECONDS):
        await send(event)


async def _until_gone(receive: Receive) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
