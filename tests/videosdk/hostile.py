"""A server that says what it likes, when it likes, over real sockets."""

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Self

from tests import harness

__all__ = ["Hostile", "Say", "byte_by_byte", "endlessly", "nothing", "ok", "reset", "saying", "then_close"]

Say = Callable[[socket.socket], Awaitable[bool]]
"""Answers a request on its connection; whether the connection then goes on."""

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def ok(body: bytes = b"done", *headers: bytes) -> bytes:
    """Return an ordinary reply."""
    lines = (b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join((*lines, b"", body))


def saying(data: bytes) -> Say:
    """Say it, and go on."""

    async def say(connection: socket.socket) -> bool:
        await asyncio.get_running_loop().sock_sendall(connection, data)
        return True

    return say


def then_close(data: bytes) -> Say:
    """Say it, and close the connection."""

    async def say(connection: socket.socket) -> bool:
        await asyncio.get_running_loop().sock_sendall(connection, data)
        return False

    return say


def byte_by_byte(data: bytes) -> Say:
    """Say it one byte at a time, each in a round of the event loop's own."""

    async def say(connection: socket.socket) -> bool:
        for byte in data:
            await asyncio.get_running_loop().sock_sendall(connection, bytes([byte]))
            await harness.turns()
        return True

    return say


def endlessly(data: bytes, again: bytes) -> Say:
    """Say it, and then something again and again for as long as it is taken."""

    async def say(connection: socket.socket) -> bool:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, data)
        while True:
            await loop.sock_sendall(connection, again)
            await harness.turns()

    return say


async def reset(connection: socket.socket) -> bool:
    """Break the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


async def nothing(connection: socket.socket) -> bool:
    """Say nothing."""
    return True


class Hostile:
    """The server: each request gets the next reply, and those after the last one get that again.

    Args:
        replies: What it says; bytes are said at once.

    Attributes:
        requests: What it was sent, whole requests only.
        connections: What it accepted, in order.
        ended: Connections that the client has closed.
    """

    def __init__(self, *replies: bytes | Say) -> None:
        self._replies = [saying(reply) if isinstance(reply, bytes) else reply for reply in replies]
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.ended = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/path"

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._tasks.append(asyncio.create_task(self._accept()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for opened in (self._listener, *self.connections):
            opened.close()

    async def _accept(self) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.append(connection)
            self._tasks.append(asyncio.create_task(self._serve(connection)))

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._answer(connection)
        except OSError:
            self.ended += 1

    async def _answer(self, connection: socket.socket) -> None:
        received = b""
        while data := await asyncio.get_running_loop().sock_recv(connection, 65536):
            received += data
            while (head := received.find(b"\r\n\r\n")) >= 0:
                length = _LENGTH.search(received, 0, head)
                end = head + 4 + (int(length[1]) if length else 0)
                if len(received) < end:
                    break
                self.requests.append(received[:end])
                received = received[end:]
                say = self._replies[min(len(self.requests), len(self._replies)) - 1]
                if not await say(connection):
                    connection.close()
                    return
        self.ended += 1
