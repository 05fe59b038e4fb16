"""The load: connections that write prepared requests and read no more of an answer than where it ends.

Cheap on purpose. What is measured is the process that answers, and it has to be the one that is busy.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from typing import Final, cast

from msgspec import Struct

__all__ = ["Answered", "UnexpectedAnswerError", "ask", "drive"]

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class UnexpectedAnswerError(Exception):
    """An answer has another status than the scenario allows, or a connection ended before its answers."""


class Answered(Struct, frozen=True):
    """What came back.

    Attributes:
        elapsed: Seconds from the first request to the last answer.
        ended_at: When the last answer was there, by the clock that all processes of the machine share.
        waits: Seconds that each request took.
    """

    elapsed: float
    ended_at: float
    waits: list[float]


class _Connection(asyncio.Protocol):
    """One connection: its requests go out one after the other, or each when `send` is called."""

    def __init__(self, requests: Sequence[bytes], expected: frozenset[int], *, held: bool) -> None:
        self._requests: Iterator[bytes] = iter(requests)
        self._expected = {b"%d" % status for status in expected}
        self._held = held
        self._received = b""
        self._sent_at = 0.0
        self._ends_at = 0
        self._closed = False
        self.waits: list[float] = []
        self.last = b""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send the next request; `answered` is done when the last answer is there, or where they are held, the next."""
        request = next(self._requests, None)
        if request is None:
            self.answered.set_result(None)
            return
        self._sent_at = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data
        if not self._ends_at:
            head = received.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(received, 0, head)
            self._ends_at = head + 4 + (int(length[1]) if length else 0)
        if len(received) < self._ends_at:
            return
        self.waits.append(time.perf_counter() - self._sent_at)
        self._received, self._ends_at, self.last = b"", 0, received
        if received[9:12] not in self._expected:
            self.answered.set_exception(UnexpectedAnswerError(received[:600].decode("utf-8", "replace")))
        elif self._held:
            self.answered.set_result(None)
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed and not self.answered.done():
            self.answered.set_exception(UnexpectedAnswerError(f"the connection ended: {exc}"))

    def close(self) -> None:
        """Let go of it."""
        self._closed = True
        self.transport.close()


async def drive(
    port: int, requests: Sequence[Sequence[bytes]], expected: frozenset[int], *, together: bool = False
) -> Answered:
    """Send requests, over as many connections as there are lists of them.

    Args:
        port: Of loopback.
        requests: What each connection sends, one after the other.
        expected: Statuses that an answer may have.
        together: All connections send their next request at the same time, once all have the last answer.

    Raises:
        UnexpectedAnswerError: An answer has another status.
    """
    loop = asyncio.get_running_loop()
    connections: list[_Connection] = []
    try:
        for listed in requests:
            made = await loop.create_connection(
                lambda listed=listed: _Connection(listed, expected, held=together), "127.0.0.1", port
            )
            connections.append(made[1])
        began = time.perf_counter()
        for _ in range(max(map(len, requests)) if together else 1):
            for connection in connections:
                connection.answered = loop.create_future()
                connection.send()
            await asyncio.gather(*(connection.answered for connection in connections))
        ended_at = time.perf_counter()
    finally:
        for connection in connections:
            connection.close()
    return Answered(ended_at - began, ended_at, [wait for connection in connections for wait in connection.waits])


async def ask(port: int, path: str) -> tuple[int, bytes]:
    """Ask for a path; return the status and the body of the answer.

    Raises:
        OSError: Nothing listens there.
    """
    request = f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection([request], frozenset(range(100, 600)), held=True), "127.0.0.1", port
    )
    try:
        connection.send()
        await connection.answered
    finally:
        connection.close()
    return int(connection.last[9:12]), connection.last.partition(b"\r\n\r\n")[2]
