"""One connection to Redis that all calls of a process share.

redis-py finds the server, connects, authenticates and secures the connection; from then on commands and replies are
carried here. A call through redis-py costs a process more than it costs Redis: a connection taken and given back, tasks
and time-outs. Here a call is a write and a future: Redis answers in the order in which it was asked.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

__all__ = ["Line", "RedisCommand", "SharedLine"]

RedisCommand = tuple[str | int | bytes, ...]

_MAX_SENT: Final = 64
"""Redis runs one script at a time: a reply waits for all that were sent before, and is waited for no longer than a
second."""
_INCOMPLETE: Final = object()
_packed: Final = cast("Callable[[RedisCommand], bytes]", hiredis.pack_command)


class Line(asyncio.Protocol):
    """Sends commands over a connection, and hands each caller the reply of its own.

    Args:
        connection: Of redis-py, connected and authenticated, with no reply outstanding. It belongs to the line.
        max_sent: Commands that are sent and not answered at the same time; more wait for their turn.
    """

    def __init__(self, connection: Any, *, max_sent: int = _MAX_SENT) -> None:
        self._connection = connection
        # redis-py has no public way to a connection's transport.
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self._reply_seconds: float = connection.socket_timeout
        self._max_sent = max_sent
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=cast("Any", DefaultParser).parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self._sent: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._unwritten: list[bytes] = []
        self._waiting: deque[tuple[RedisCommand, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self._transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether commands can be sent."""
        return not self._lost and not self._transport.is_closing()

    def ask(self, command: RedisCommand) -> asyncio.Future[Any]:
        """Send a command; the future is its reply, which may be a `RedisError`.

        A caller that is cancelled leaves the others alone: what was sent stays sent, and what was not is not sent. The
        future fails with a `RedisError` where the connection is lost, or no reply comes in time: the command may have
        been carried out.
        """
        reply = self._loop.create_future()
        if not self.usable:
            reply.set_exception(RedisConnectionError("The connection to Redis was closed."))
        elif len(self._sent) < self._max_sent:
            self._send(command, reply)
        else:
            self._waiting.append((command, reply))
        return reply

    def close(
        self, kind: type[RedisError] = RedisConnectionError, why: str = "The connection to Redis was lost."
    ) -> None:
        """Send nothing more; callers that still wait get an error."""
        self._lost = True
        # What is sent and not answered may lie unwritten in a buffer for ever.
        if self._sent:
            self._transport.abort()
        else:
            self._transport.close()
        self._connection._close()  # noqa: SLF001 - its coroutine waits for a protocol that is no longer the transport's
        if self._timer is not None:
            self._timer.cancel()
        loss = kind(why)
        for _, reply in (*self._sent, *self._waiting):
            if not reply.done():
                # One of its own for each, since each is raised elsewhere; and all say that it was one loss.
                error = kind(why)
                error.__cause__ = loss
                reply.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Hand replies to those who asked (called by the transport)."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                _, asked = self._sent.popleft()
                if not asked.done():
                    asked.set_result(reply)
        except (InvalidResponse, IndexError):
            self.close(InvalidResponse, "Redis sent what no command had asked for.")
            return
        while self._waiting and len(self._sent) < self._max_sent:
            command, asked = self._waiting.popleft()
            if not asked.done():
                self._send(command, asked)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what was not answered (called by the transport)."""
        del exc
        self.close()

    def _send(self, command: RedisCommand, reply: "asyncio.Future[Any]") -> None:
        # First, because it may fail: a command that never left would leave its place to the next one's reply.
        packed = _packed(command)
        self._sent.append((self._loop.time(), reply))
        if not self._unwritten:
            # A write costs more than all else here: what is sent in the same turn of the loop goes out in one.
            self._loop.call_soon(self._write)
        self._unwritten.append(packed)
        if self._timer is None:
            self._timer = self._loop.call_later(self._reply_seconds, self._check_time)

    def _write(self) -> None:
        if self.usable:
            self._transport.write(b"".join(self._unwritten))
        self._unwritten.clear()

    def _check_time(self) -> None:
        self._timer = None
        if not self._sent:
            return
        left = self._sent[0][0] + self._reply_seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_time)
        else:
            self.close(RedisTimeoutError, "Redis did not answer in time.")


class SharedLine:
    """The line of a process, made when it is first used, and anew after it was lost.

    Args:
        pool: redis-py's, which knows how connections are made.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._line: Line | None = None
        self._opening = asyncio.Lock()

    @property
    def usable(self) -> bool:
        """Whether a command can be sent without a connection being made first."""
        return self._line is not None and self._line.usable

    async def ask(self, command: RedisCommand) -> object:
        """Send a command, and return its reply, which may be a `RedisError`.

        Raises:
            RedisError: No connection could be made, it was lost, or no reply came in time.
        """
        line = self._line
        if line is None or not line.usable:
            line = await self._open()
        return await line.ask(command)

    def close(self) -> None:
        """Close the line, if there is one."""
        if self._line is not None:
            self._line.close()

    async def _open(self) -> Line:
        async with self._opening:
            if self._line is None or not self._line.usable:
                connection = self._pool.make_connection()
                await connection.connect()
                self._line = Line(connection)
            return self._line
