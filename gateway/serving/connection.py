"""How a connection is served: as uvicorn does, and it warns the senders of endless answers before the end.

A connection is not closed for being idle, nor because the process ends, while a request lies unread on it: uvloop looks
at its timers before it reads, and a proxy takes a reset for a failure.

Uvicorn waits for open answers before it ends, and does not say that it waits: a stream would go on until it is cut off.
And a client that does not read leaves what was written to it in a buffer that no `close` ever gets rid of.
"""

import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast
from urllib.parse import unquote

from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.api.sse import LINE

__all__ = ["LineProtocol"]

_FLUSH_SECONDS: Final = 5.0
"""How long a client may take over the rest of its answer when the process ends."""
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time."""


def _take_path(scope: Any) -> None:
    """Take the path out of an absolute target (RFC 9112, 3.2.2), which uvicorn leaves whole."""
    _, _, path = scope["raw_path"].partition(b"://")[2].partition(b"/")
    scope["raw_path"] = b"/" + path
    scope["path"] = unquote(scope["raw_path"].decode("ascii"))


class LineProtocol(H11Protocol):
    """Uvicorn's connection, which introduces itself to each request as its `Line` (`gateway.api.sse`)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_ending: Callable[[], None] | None = None
        self.ending = False
        self._inner = self.app
        self.app = cast("Any", self._serve)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"][LINE] = self
        if scope["raw_path"].startswith((b"http://", b"https://")):
            _take_path(scope)
        if self.ending:
            self.cycle.keep_alive = False
        await self._inner(scope, receive, send)

    def shutdown(self) -> None:
        """End after the answer that is under way, and say so; uvicorn calls this when the process is to end."""
        self.ending = True
        if not self._has_unread():
            super().shutdown()
        if self.on_ending is not None:
            self.on_ending()
        self.loop.call_later(_FLUSH_SECONDS, self._abort_unless_flushed)

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
