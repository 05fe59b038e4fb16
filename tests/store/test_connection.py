"""What a lost connection shows as, and that a task which is to end does end."""

import asyncio
import contextlib
import hashlib

import pytest
from redis.asyncio import Redis

from gateway.errors import CoordinationUnavailable
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the gateway does."""
    return "asyncio"


async def test_a_loop_that_asks_redis_ends_when_it_is_cancelled(valkey: EmbeddedValkey) -> None:
    """Cancelled at any moment of a call, never swallowed: the process could otherwise not shut down."""
    connection = Connection(valkey.url)

    async def ask_for_ever() -> None:
        while True:
            with contextlib.suppress(CoordinationUnavailable):
                await connection.now()

    for steps in range(300):
        task = asyncio.create_task(ask_for_ever())
        # Not a wait: the loop is let go on by so many turns, so that each of the call's steps is met.
        for _ in range(steps % 40):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    await connection.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "unix:///nowhere/valkey.sock",
        "redis://127.0.0.1:1",
        "redis+sentinel://127.0.0.1:1/x",
        "redis+cluster://127.0.0.1:1",
    ],
)
async def test_a_server_that_is_not_there_is_unavailable_at_once(url: str) -> None:
    """Three failures, whatever kind of Redis it is, and the next answer costs no attempt."""
    connection = Connection(url)
    for _ in range(4):
        with pytest.raises(CoordinationUnavailable):
            await connection.now()
    assert connection.open
    await connection.aclose()


async def test_another_server_is_not_moved_to(valkey: EmbeddedValkey) -> None:
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


async def test_whatever_the_client_stumbles_over_when_a_connection_ends_is_unavailable(valkey: EmbeddedValkey) -> None:
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
