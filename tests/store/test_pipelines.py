"""Commands of concurrent requests go out together, and each caller gets the reply of its own."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.errors import CoordinationUnavailable
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.pipelines import Command, Pipelines

pytestmark = pytest.mark.anyio


class Server:
    """Answers when it is let: each command by its own first word."""

    def __init__(self) -> None:
        self.writes: list[list[object]] = []
        self._received = asyncio.Condition()
        self.open = asyncio.Event()
        self.failure: Exception | None = None

    async def send(self, commands: Sequence[Command]) -> Sequence[object]:
        """Take one write."""
        async with self._received:
            self.writes.append([command[0] for command in commands])
            self._received.notify_all()
        await self.open.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return [f"reply to {command[0]}" for command in commands]

    async def received(self, writes: int = 1) -> None:
        """Wait until so many writes came."""
        async with self._received:
            await self._received.wait_for(lambda: len(self.writes) >= writes)


async def asked(pipelines: Pipelines, *words: str) -> list["asyncio.Task[object]"]:
    """Ask for each word at once, and return once all are asked."""
    begun = asyncio.Semaphore(0)

    async def ask(word: str) -> object:
        begun.release()
        return await pipelines.ask((word,))

    tasks = [asyncio.create_task(ask(word)) for word in words]
    for _ in words:
        await begun.acquire()
    return tasks


async def test_commands_of_one_moment_go_out_in_one_write() -> None:
    """And what is asked while all writes are under way goes out in the next."""
    server = Server()
    pipelines = Pipelines(server.send, max_pipelines=1)
    first = await asked(pipelines, "a", "b", "c")
    await server.received()
    second = await asked(pipelines, "d", "e")
    server.open.set()
    assert await asyncio.gather(*first, *second) == [f"reply to {word}" for word in "abcde"]
    assert server.writes == [["a", "b", "c"], ["d", "e"]]


async def test_writes_are_bounded_in_number_and_in_size() -> None:
    """A thousand callers must not take a thousand connections, nor wait for one reply of a thousand commands."""
    server = Server()
    pipelines = Pipelines(server.send, max_pipelines=2, max_commands=3)
    everyone = await asked(pipelines, *"abcdefghij")
    await server.received(2)
    assert server.writes == [["a", "b", "c"], ["d", "e", "f"]]
    server.open.set()
    assert await asyncio.gather(*everyone) == [f"reply to {word}" for word in "abcdefghij"]
    assert max(map(len, server.writes)) == 3


async def test_command_whose_caller_left_is_not_sent() -> None:
    """What was sent with others stays sent, and they get their replies."""
    server = Server()
    pipelines = Pipelines(server.send, max_pipelines=1)
    first = await asked(pipelines, "a", "b")
    await server.received()
    first[0].cancel()
    second = await asked(pipelines, "c", "d")
    second[0].cancel()
    server.open.set()
    assert await first[1] == "reply to b"
    assert await second[1] == "reply to d"
    assert server.writes == [["a", "b"], ["d"]]


async def test_write_that_fails_fails_for_its_callers_and_no_others() -> None:
    """The next write goes out all the same."""
    server = Server()
    pipelines = Pipelines(server.send, max_pipelines=1)
    server.failure = CoordinationUnavailable("lost")
    first = await asked(pipelines, "a", "b")
    await server.received()
    second = await asked(pipelines, "c")
    server.open.set()
    failed = await asyncio.gather(*first, return_exceptions=True)
    assert [str(error) for error in failed] == ["lost", "lost"]
    assert await second[0] == "reply to c"


async def test_close_answers_everyone_who_waits() -> None:
    """Whether their command was sent or not."""
    server = Server()
    pipelines = Pipelines(server.send, max_pipelines=1)
    sent = await asked(pipelines, "a")
    await server.received()
    waiting = await asked(pipelines, "b")
    await pipelines.aclose()
    for error in await asyncio.gather(*sent, *waiting, return_exceptions=True):
        assert isinstance(error, CoordinationUnavailable)
    assert server.writes == [["a"]]


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
