"""A TCP proxy in front of a real server, one for each gateway, through which the network goes wrong.

Because each gateway has a proxy of its own, the proxy knows whose command it sees: a watcher can act at an exact step
of the protocol (a claim was granted, a result is about to be written) without any hook in the gateway.
"""

import asyncio
import os
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, cast

__all__ = ["Gate", "Step", "Watcher"]

Step = str
"""claiming, claimed, finishing or finished: a command on its way to the server, or its reply on the way back."""

Watcher = Callable[["Gate", Step, bytes], bool]
"""Called with what passes; False drops it, and what comes after it on that connection."""

_CLAIM: Final = b'"command":"'
_FINISH: Final = b'"confirmed_by":'
_RENEW: Final = b'"restore":true'
_LEAD: Final = b'"verdict":"lead"'
_FINISHED: Final = b'"how":"'
_SUBSCRIBE: Final = b"SUBSCRIBE"
_EVALSHA: Final = b"$7\r\nEVALSHA\r\n$40\r\n"


class Gate:
    """The way of one gateway to the server.

    Args:
        target: Port of the server on 127.0.0.1; may be changed at any time, for connections made from then on.
        seed: Makes delays and losses repeatable.
    """

    def __init__(self, target: int, seed: int = 0) -> None:
        self.target = target
        self.process = ""
        """Name of the gateway behind it."""
        self.boot = ""
        """What that gateway calls itself in its attempts, once it has claimed anything."""
        self.scripts = 0
        """Scripts that the gateway had run so far."""
        self.renewals = 0
        """How many of them renewed a claim."""
        self.claims = 0
        """How many of them claimed a track."""
        self.version = b""
        """Under which name its gateway's claim script is known to the server."""
        self.closed = False
        """New connections are reset."""
        self.deaf = False
        """Subscribers hear nothing, and nobody tells them."""
        self.slow: tuple[float, float] | None = None
        """Replies come after a number of seconds between these."""
        self.lossy = 0.0
        """Chance of a reply being dropped after the command was carried out, and all that follow on its connection."""
        self.observer: Watcher | None = None
        self.random = random.Random(seed)
        self.pipes: set[_Client] = set()
        self._listener: asyncio.Server | None = None
        self._shut = 0

    @property
    def port(self) -> int:
        """Port the gateway connects to."""
        assert self._listener is not None
        return cast("int", self._listener.sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Client(self), "127.0.0.1", 0, backlog=256)

    def shut(self) -> None:
        """Have connections refused, and break off those there are; `reopen` ends it."""
        assert self._listener is not None
        self._shut = self.port
        self._listener.close()
        self.reset()

    async def reopen(self) -> None:
        """Listen again, at the same port."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Client(self), "127.0.0.1", self._shut, backlog=256)

    async def close(self) -> None:
        """Stop listening and break off what is under way."""
        if self._listener is not None:
            self._listener.close()
            self.reset()
            await self._listener.wait_closed()

    def reset(self, *, subscribers_only: bool = False) -> None:
        """Reset every connection there is."""
        for pipe in tuple(self.pipes):
            if pipe.subscribes or not subscribers_only:
                pipe.reset()

    def passes(self, step: Step, data: bytes) -> bool:
        """Ask the watcher whether this may pass."""
        return self.observer is None or self.observer(self, step, data)


class _Client(asyncio.Protocol):
    """The gateway's side of one connection."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._transport: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._asked: Step = ""
        self._free_at = 0.0
        self._late: deque[bytes] = deque()
        self._broken = False
        """Something got lost: nothing comes after it any more, as on a connection whose packets are dropped. A later
        reply would be taken for the one that is missing."""
        self.subscribes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._gate.pipes.add(self)
        if self._gate.closed:
            self.reset()
            return
        task = asyncio.ensure_future(self._connect())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            server, _ = await loop.create_connection(lambda: _Server(self), "127.0.0.1", self._gate.target)
        except OSError:
            self.reset()
            return
        if self._transport is None:
            server.abort()
            return
        self._server = server
        for data in self._waiting:
            server.write(data)
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        gate = self._gate
        if _SUBSCRIBE in data:
            self.subscribes = True
        if self._broken or (gate.deaf and self.subscribes):
            return
        step = "claiming" if _CLAIM in data else "finishing" if _FINISH in data else ""
        self._asked = step
        gate.scripts += data.count(b"$7\r\nEVALSHA\r\n") + data.count(b"$4\r\nEVAL\r\n")
        gate.renewals += data.count(_RENEW)
        gate.claims += data.count(_CLAIM)
        _, by_name, named = data.partition(_CLAIM)[0].rpartition(_EVALSHA)
        if step == "claiming" and by_name:
            gate.version = named[:40]
        if step:
            if not gate.boot:
                gate.boot = data.partition(b'"attempt":"')[2].partition(b".")[0].decode()
            if not gate.passes(step, data):
                self._broken = True
                return
        if self._server is None:
            self._waiting.append(data)
        else:
            self._server.write(data)

    def reply(self, data: bytes) -> None:
        gate = self._gate
        if self._broken or (gate.deaf and self.subscribes):
            return
        claimed = self._asked == "claiming" and _LEAD in data and not gate.passes("claimed", data)
        finished = self._asked == "finishing" and _FINISHED in data and not gate.passes("finished", data)
        if claimed or finished:
            self._broken = True
            return
        if not self.subscribes:
            if gate.lossy and gate.random.random() < gate.lossy:
                self._broken = True
                return
            if gate.slow or self._late:
                self._reply_later(data, gate.random.uniform(*gate.slow) if gate.slow else 0)
                return
        self._send(data)

    def _reply_later(self, data: bytes, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time() + seconds)
        self._late.append(data)
        loop.call_at(self._free_at, self._send_next)

    def _send_next(self) -> None:
        # In the order in which they came, whatever the order of timers is that end in the same moment.
        self._send(self._late.popleft())

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.pipes.discard(self)
        self._transport = None
        if self._server is not None:
            self._server.abort()

    def server_lost(self) -> None:
        self._server = None
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Break off with a TCP reset, which a linger time of zero makes of a close."""
        if self._transport is None:
            return
        known = cast("socket.socket", self._transport.get_extra_info("socket"))
        with socket.socket(fileno=os.dup(known.fileno())) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class _Server(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.reply(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.server_lost()
