"""What a lost connection shows as, and that a task which is to end does end."""

import asyncio
import contextlib
import hashlib
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.errors import CoordinationUnavailable
from gateway.sandbox.ports import free_port
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from tests import harness
from tests.faults.proxy import Gate

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the gateway does."""
    return "asyncio"


async def test_loop_that_asks_redis_ends_when_it_is_cancelled(valkey: EmbeddedValkey) -> None:
    """Cancelled at any moment of a call, never swallowed: the process could otherwise not shut down."""
    connection = Connection(valkey.url)

    async def ask_for_ever() -> None:
        while True:
            with contextlib.suppress(CoordinationUnavailable):
                await connection.now()

    for steps in range(300):
        task = asyncio.create_task(ask_for_ever())
        # By so many turns that each of the call's steps is met.
        await harness.turns(steps % 40)
        task.cancel()
        async with asyncio.timeout(harness.BOUND):
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    await connection.aclose()


@pytest.mark.parametrize("error", [RedisConnectionError, RedisTimeoutError, None])
async def test_call_that_redis_py_does_not_cancel_is_cancelled(error: type[Exception] | None) -> None:
    """Redis-py makes an error of a cancellation now and then, or nothing at all: the task ends all the same."""
    connection = Connection("redis://127.0.0.1:1")
    begun = asyncio.Event()

    async def call(_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if error is not None:
                raise error from None

    task = asyncio.create_task(connection._call(call))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert connection.failures == 0
    await connection.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "unix:///nowhere/valkey.sock",
        "redis://127.0.0.1:1",
        "redis+sentinel://127.0.0.1:1/x",
        "redis+cluster://127.0.0.1:1",
        "redis+sentinel://127.0.0.1/x",
        "redis+cluster://127.0.0.1",
    ],
)
async def test_server_that_is_not_there_is_unavailable_at_once(url: str) -> None:
    """Three failures, whatever kind of Redis it is and with or without a port, and the next answer costs no attempt."""
    connection = Connection(url)
    for _ in range(4):
        with pytest.raises(CoordinationUnavailable):
            await connection.now()
    assert connection.open
    await connection.aclose()


async def test_failing_server_is_not_asked_until_its_pause_is_over() -> None:
    """After three failures fifty calls are answered without a word to the server."""
    asked: list[asyncio.StreamWriter] = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = Connection(f"redis://127.0.0.1:{port}", probe_every=3600)
    for _ in range(53):
        with pytest.raises(CoordinationUnavailable):
            await connection.now()
    assert len(asked) == 3
    assert connection.failures == 3
    await connection.aclose()
    server.close()
    await server.wait_closed()


async def test_line_that_is_lost_is_one_failure_however_many_calls_were_on_it() -> None:
    """Redis is there again at once: no call is refused without being sent."""
    with EmbeddedValkey() as server:
        connection = Connection(server.url, probe_every=3600)
        await connection.read("key")
        server.pause()
        replies = await asyncio.gather(*(connection.read("key") for _ in range(20)), return_exceptions=True)
        assert {type(reply) for reply in replies} == {CoordinationUnavailable}
        server.resume()
        assert (connection.open, connection.healthy, connection.failures) == (False, False, 20)
        assert await connection.read("key") == {}
        assert connection.healthy
        await connection.aclose()


async def test_recovered_server_is_found_by_the_next_try() -> None:
    """One call tries, and where it succeeds all others are made again."""
    with EmbeddedValkey() as server:
        connection = Connection(server.url, probe_every=0)
        server.kill()
        for _ in range(3):
            with pytest.raises(CoordinationUnavailable):
                await connection.now()
        assert connection.open
        server.restart()
        await connection.now()
        assert not connection.open
        assert connection.healthy
        await connection.aclose()


async def test_calls_share_no_more_connections_than_allowed() -> None:
    """Thirty calls at once open two connections where no more are allowed."""
    with EmbeddedValkey() as server:
        connection = Connection(server.url, max_connections=2)
        await asyncio.gather(*(connection.now() for _ in range(30)))
        async with Redis.from_url(server.url) as admin:
            clients = [client for client in await admin.client_list() if client["cmd"] == "time"]
        assert len(clients) == 2
        await connection.aclose()


async def test_connection_is_made_anew_when_its_password_changes() -> None:
    """What is read of the file from then on says who calls, and at the same server."""
    with EmbeddedValkey() as server:
        async with Redis.from_url(server.url) as admin:
            for user in ("first", "second"):
                await admin.acl_setuser(user, enabled=True, passwords=["+secret"], categories=["+@all"])

            async def seen() -> set[str]:
                return {client["user"] for client in await admin.client_list() if client["cmd"] == "time"}

            path, user = server.url.removeprefix("unix://"), "first"
            connection = Connection(lambda: f"unix://{user}:secret@{path}")
            await connection.now()
            assert await seen() == {"first"}
            user = "second"
            await connection.now()
            assert "second" in await seen()
            await connection.aclose()


async def test_connection_through_a_sentinel_is_its_users(tmp_path: Path) -> None:
    """The user and the password of the URL, escaped as in any, are the server's; the Sentinel asks for none."""
    with EmbeddedValkey(port=0) as server:
        port, own = free_port(), tmp_path / "sentinel.conf"
        own.write_text(f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor x 127.0.0.1 {server.port} 1\n")
        async with Redis.from_url(server.url) as admin:
            await admin.acl_setuser("ga@teway", enabled=True, passwords=["+p:ss/w@rd"], categories=["+@all"])
            with harness.sentinel(own):
                url = f"redis+sentinel://ga%40teway:p%3Ass%2Fw%40rd@127.0.0.1:{port}/x/3"
                connection = Connection(url, max_connections=1)

                async def answers() -> bool:
                    with contextlib.suppress(CoordinationUnavailable):
                        return bool(await connection.now())
                    return False

                await harness.until(answers)
                clients = [client for client in await admin.client_list() if client["cmd"] == "time"]
                await connection.aclose()
    assert {(client["user"], client["db"]) for client in clients} == {("ga@teway", "3")}


async def test_connection_keeps_its_server_when_its_file_changes(valkey: EmbeddedValkey) -> None:
    """Replicas that read of it at different moments would not see each other's claims: it takes a restart of all."""
    place = [valkey.url]
    connection = Connection(lambda: place[0])
    await connection.now()
    with EmbeddedValkey() as other:
        place[0] = other.url
        key = "rec:{00}::::somewhere"
        await connection.keep(key, b"1", 1000)
        async with Redis.from_url(other.url) as there, Redis.from_url(valkey.url) as here:
            assert await here.exists(key)
            assert not await there.exists(key)
    await connection.aclose()


BUSY = "for i = 1, 100000 do end return '1'"
"""Takes about a millisecond, in which the server does nothing else."""


async def test_waiting_for_a_connection_is_no_failure(valkey: EmbeddedValkey) -> None:
    """Far more calls at once than there are connections: the last waits for seconds, is answered, and Redis is well."""
    connection = Connection(valkey.url)
    sha = hashlib.sha1(BUSY.encode(), usedforsecurity=False).hexdigest()
    await asyncio.gather(*(connection.evaluate(BUSY, sha, ("rec:{00}:any",), b"") for _ in range(2_500)))
    assert connection.healthy
    await connection.aclose()


async def test_connection_timeouts_come_from_the_url() -> None:
    """Time-outs in its query bound a command, and a new connection with it; otherwise Redis is lost after a second."""
    with EmbeddedValkey(port=0) as server:
        gate = Gate(server.port)
        await gate.open()
        url = f"redis://127.0.0.1:{gate.port}"
        patient = Connection(f"{url}?socket_timeout=20&socket_connect_timeout=20")
        hasty = Connection(url)
        await asyncio.gather(patient.now(), hasty.now())
        gate.slow = (1.7, 1.7)
        assert await patient.now()
        with pytest.raises(CoordinationUnavailable):
            await hasty.now()
        for connection in (patient, hasty):
            await connection.aclose()
        await gate.close()


async def test_connection_error_of_any_kind_is_unavailable(valkey: EmbeddedValkey) -> None:
    """A Cluster's client writes to a connection that another command's failure has just ended, and finds none."""

    class Stumbling(Connection):
        """A connection on which that happens."""

        async def stumble(self) -> None:
            """Do it."""

            async def call(_: object) -> object:
                raise AttributeError("'NoneType' object has no attribute 'writelines'")

            await self._call(call)

    connection = Stumbling(valkey.url)
    with pytest.raises(CoordinationUnavailable):
        await connection.stumble()
    assert connection.failures == 1
    await connection.aclose()
