"""One connection for all calls: each gets the reply of its own, and none waits for ever."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import hiredis
import pytest
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.errors import CoordinationUnavailable
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.line import Line, SharedLine
from tests import harness

pytestmark = pytest.mark.anyio


class Server:
    """Notes the commands that it gets, and says what the test lets it say."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one connection to its end."""
        self.writers.append(writer)
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while command := parser.gets():
                self.received.append(command[0].decode())
        writer.close()

    def say(self, data: bytes) -> None:
        """Send bytes over the newest connection."""
        self.writers[-1].write(data)

    async def until(self, *commands: str) -> None:
        """Wait until these are the commands that came."""
        await harness.eventually(lambda: self.received == list(commands))


@asynccontextmanager
async def scripted(socket_timeout: float = harness.BOUND) -> AsyncGenerator[tuple[Server, ConnectionPool]]:
    """Serve on a socket; and what makes connections to it."""
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    pool = ConnectionPool(host="127.0.0.1", port=port, protocol=2, driver_info=None, socket_timeout=socket_timeout)
    yield server, pool
    for writer in server.writers:
        writer.close()
    listening.close()
    await listening.wait_closed()


async def line_to(pool: ConnectionPool, max_sent: int = 64) -> Line:
    """Open a line."""
    connection = pool.make_connection()
    await connection.connect()
    return Line(connection, max_sent=max_sent)


async def test_calls_of_one_moment_share_one_connection() -> None:
    """On a real server, far more than may be sent at once: each gets its own reply."""
    with EmbeddedValkey(port=0) as valkey:
        connection = Connection(valkey.url)
        script, keys = "return ARGV[1]", ["rec:{01}:a"]
        asked = [b"%d" % number for number in range(500)]
        replies = await asyncio.gather(*(connection.evaluate(script, "1" * 40, keys, one) for one in asked))
        assert replies == asked
        async with Redis.from_url(valkey.url) as admin:
            assert len([client for client in await admin.client_list() if client["cmd"] in {"eval", "evalsha"}]) == 1
        await connection.aclose()


async def test_script_that_fails_leaves_those_beside_it_alone() -> None:
    """On a real server: one script stops with an error, another is unknown to the server so far."""
    with EmbeddedValkey(port=0) as valkey:
        connection = Connection(valkey.url)
        echo, fails = "return ARGV[1]", "return redis.error_reply('ERR no')"
        replies = await asyncio.gather(
            connection.evaluate(echo, "1" * 40, ["rec:{01}:a"], b"one"),
            connection.evaluate(fails, "2" * 40, ["rec:{01}:b"], b"two"),
            connection.evaluate(echo, "3" * 40, ["rec:{01}:c"], b"three"),
            return_exceptions=True,
        )
        assert isinstance(replies[1], CoordinationUnavailable)
        assert [replies[0], replies[2]] == [b"one", b"three"]
        assert connection.failures == 1
        await connection.aclose()


async def test_commands_beyond_the_bound_wait_for_their_turn() -> None:
    """No more are sent than may be unanswered; each reply makes room for one."""
    async with scripted() as (server, pool):
        line = await line_to(pool, max_sent=2)
        replies = [line.ask((word,)) for word in "ABCDE"]
        await server.until("A", "B")
        server.say(b"$1\r\na\r\n")
        await server.until("A", "B", "C")
        server.say(b"$1\r\nb\r\n$1\r\nc\r\n$1\r")
        await server.until("A", "B", "C", "D", "E")
        server.say(b"\nd\r\n$1\r\ne\r\n")
        assert await asyncio.gather(*replies) == [b"a", b"b", b"c", b"d", b"e"]
        line.close()


async def test_command_whose_caller_left_is_not_sent() -> None:
    """What was sent stays sent, and its reply is no other's."""
    async with scripted() as (server, pool):
        line = await line_to(pool, max_sent=1)
        first, second, third = (line.ask((word,)) for word in "ABC")
        await server.until("A")
        first.cancel()
        second.cancel()
        server.say(b"$1\r\na\r\n")
        await server.until("A", "C")
        server.say(b"$1\r\nc\r\n")
        assert await third == b"c"
        line.close()


async def test_command_that_cannot_be_written_takes_no_other_reply() -> None:
    """Half of a character pair is no text: its caller fails, and the next one gets the reply of its own."""
    async with scripted() as (server, pool):
        line = await line_to(pool)
        with pytest.raises(ValueError, match="surrogates"):
            line.ask(("A", "\ud800"))
        asked = line.ask(("B",))
        await server.until("B")
        server.say(b"$1\r\nb\r\n")
        async with asyncio.timeout(harness.BOUND):
            assert await asked == b"b"
        line.close()


async def test_errors_are_replies_of_their_kind() -> None:
    """A caller sees what the server said, as redis-py names it."""
    async with scripted() as (server, pool):
        line = await line_to(pool)
        asked = line.ask(("EVALSHA", "x", 0))
        await server.until("EVALSHA")
        server.say(b"-NOSCRIPT No matching script.\r\n")
        assert isinstance(await asked, NoScriptError)
        assert line.usable
        line.close()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", RedisConnectionError),
        (b"$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n", None),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", InvalidResponse),
    ],
    ids=["hangs up", "more replies than commands", "no Redis"],
)
async def test_line_that_is_of_no_use_fails_for_all_who_wait(said: bytes, kind: type[RedisError] | None) -> None:
    """Sent or not; the next command goes over a new connection."""
    async with scripted() as (server, pool):
        shared = SharedLine(pool)
        opened = await line_to(pool, max_sent=2)
        shared._line = opened
        asked = [opened.ask((word,)) for word in ("A", "B", "C")[: 2 if kind is None else 3]]
        await server.until("A", "B")
        server.say(said)
        if not said:
            server.writers[-1].close()
        await harness.eventually(lambda: not opened.usable)
        replies = await asyncio.gather(*asked, return_exceptions=True)
        if kind is None:
            assert replies == [b"a", b"b"]
        else:
            assert [type(reply) for reply in replies] == [kind] * 3
        again = asyncio.create_task(shared.ask(("D",)))
        await server.until("A", "B", "D")
        server.say(b"$1\r\nd\r\n")
        assert await again == b"d"
        assert len(server.writers) == 2
        shared.close()


async def test_reply_that_does_not_come_in_time_fails_for_all_who_wait() -> None:
    """Counted from the oldest command: what was sent after an answered one has its own time."""
    async with scripted(socket_timeout=0.2) as (server, pool):
        line = await line_to(pool, max_sent=2)
        answered, *rest = (line.ask((word,)) for word in "ABC")
        await server.until("A", "B")
        server.say(b"$1\r\na\r\n")
        assert await answered == b"a"
        replies = await asyncio.gather(*rest, return_exceptions=True)
        assert [type(reply) for reply in replies] == [RedisTimeoutError] * 2
        assert not line.usable
        with pytest.raises(RedisConnectionError):
            await line.ask(("D",))


async def test_close_answers_all_who_wait() -> None:
    """Whether their command was sent or not."""
    async with scripted() as (server, pool):
        line = await line_to(pool, max_sent=1)
        asked = [line.ask((word,)) for word in "AB"]
        await server.until("A")
        line.close()
        replies = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(reply) for reply in replies] == [RedisConnectionError] * 2
        assert server.received == ["A"]
