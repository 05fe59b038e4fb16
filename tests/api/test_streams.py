"""One reader's answer, with this test in the place of the server: when it speaks, and when it ends."""

import asyncio
import itertools
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.api.sse import EventStream
from gateway.recordings import FeedUpdate, Kind, Mode, Reader, Target
from tests import harness
from tests.model.clockwork import VirtualLoop

pytestmark = pytest.mark.anyio

TRACK = Target(Mode.TRACK, "room", "ada", Kind.VIDEO)
MANY = 2_000
COMMENT = ":\nid: 1-0\n\n"
"""What keeps a connection open whose reader has read event 1-0."""


def update(number: int, *, whole: bool = False) -> FeedUpdate:
    """Make a change."""
    return FeedUpdate(f"{number}-0", ((TRACK, b"{}"),), whole=whole)


class Server:
    """Takes what is sent as soon as it may, and hangs up on demand."""

    ending = False
    on_ending: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.offered = 0
        """How often anything was to be sent, also what is not taken yet."""
        self.taken: list[dict[str, Any]] = []
        self.taking = asyncio.Event()
        self.taking.set()
        self.gone = asyncio.Event()
        self.aborted = False

    def abort(self) -> None:
        """Cut the connection off (`Line`)."""
        self.aborted = True
        self.gone.set()

    async def send(self, message: Any) -> None:
        """Take a message (ASGI)."""
        self.offered += 1
        await self.taking.wait()
        self.taken.append(message)

    async def receive(self) -> Any:
        """Say that the client is gone, once it is (ASGI)."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def text(self) -> str:
        """All that was sent."""
        return b"".join(message.get("body", b"") for message in self.taken).decode()

    @property
    def complete(self) -> bool:
        """Whether the answer came to an orderly end."""
        return self.taken[-1].get("more_body") is False


@asynccontextmanager
async def answering(
    server: Server, reader: Reader, covers: Callable[[Target], bool] = lambda _: True, **more: Any
) -> AsyncGenerator[asyncio.Task[None]]:
    """Answer a reader."""
    given: dict[str, Any] = {"expires_in": None, "timeout": None, "line": server, **more}
    stream = EventStream(reader, covers, **given)
    task = asyncio.create_task(stream({}, server.receive, server.send))  # pyright: ignore[reportArgumentType]
    try:
        yield task
    finally:
        server.gone.set()
        server.taking.set()
        await task


@pytest.fixture
def left() -> list[Reader]:
    """Readers who left."""
    return []


@pytest.fixture
def reader(left: list[Reader]) -> Reader:
    """A reader who has received a room."""
    reader = Reader(left.append)
    reader.begin(update(1, whole=True))
    return reader


async def test_stream_in_silence_sends_comments(reader: Reader, left: list[Reader]) -> None:
    """A comment, again and again, keeps proxies from closing the connection; clients ignore it."""
    server = Server()
    async with answering(server, reader, heartbeat=0.02):
        await harness.eventually(lambda: server.text.count(f"\n\n{COMMENT}{COMMENT}"))
        assert server.text.count("event:") == 1
        server.gone.set()
        await harness.eventually(lambda: left)


async def test_stream_of_what_the_reader_may_not_see_sends_comments_with_the_last_id(reader: Reader) -> None:
    """Others' events keep coming, faster than comments do: no proxy closes it, and the reader resumes after them."""
    server, numbers = Server(), itertools.count(2)

    async def comments() -> list[str]:
        reader.offer(update(next(numbers)))
        return re.findall(r"\n\n:\nid: (\d+)-0(?=\n\n)", server.text)

    async with answering(server, reader, covers=lambda _: False, heartbeat=0.1):
        first, second, *_ = await harness.until(comments, lambda ids: len(ids) >= 2, every=0.01)
        assert 1 < int(first) < int(second)
        assert "event: recording" not in server.text


async def test_stream_in_silence_ends_once_its_caller_is_revoked(reader: Reader) -> None:
    """No event comes that would make the gateway look: it looks with each comment."""
    server, vouched = Server(), [True]
    async with answering(server, reader, heartbeat=0.02, vouched=lambda: vouched[0]) as answer:
        await harness.eventually(lambda: COMMENT in server.text)
        vouched[0] = False
        await answer
    assert server.text.endswith('event: reconnect\ndata: {"reason":"expired"}\n\n')


async def test_stream_of_a_slow_reader_ends_with_a_reconnect(reader: Reader) -> None:
    """While the reader takes nothing, updates wait up to a bound; beyond it they are dropped and it must reconnect."""
    server = Server()
    async with answering(server, reader) as answer:
        await harness.eventually(lambda: "snapshot" in server.text)
        server.taking.clear()
        offered = server.offered
        reader.offer(update(2))
        await harness.eventually(lambda: server.offered > offered)  # it now sends that one, and cannot
        for number in range(3, 3 + MANY + 1):
            assert not reader.closed
            reader.offer(update(number))
        assert reader.closed == "slow"
        server.taking.set()
        await answer
        assert server.text.endswith('event: reconnect\ndata: {"reason":"slow"}\n\n')
        assert server.text.count("event: recording") == 1
        assert "\n\n:" not in server.text
        assert server.complete


async def test_stream_ends_when_the_process_shuts_down(reader: Reader) -> None:
    """The server says that it is to end: the answer is over at once, in order, with a word to the client."""
    server = Server()
    async with answering(server, reader) as answer:
        await harness.eventually(lambda: server.on_ending is not None)
        assert server.on_ending
        server.on_ending()
        await answer
    assert server.text.endswith('data: {"reason":"restart"}\n\n')
    assert server.complete
    assert server.on_ending is None


async def test_stream_begun_during_shutdown_ends_at_once(reader: Reader) -> None:
    """A reader that connects in the last moment must reconnect as well."""
    server = Server()
    server.ending = True
    async with answering(server, reader) as answer:
        await answer
    assert server.text.endswith('data: {"reason":"restart"}\n\n')
    assert server.complete


async def test_stream_sends_overlapping_updates_once_in_order(left: list[Reader]) -> None:
    """Missed updates and new ones overlap; the reader receives each once, in order."""
    reader = Reader(left.append)
    for number in (5, 6):
        reader.offer(update(number))
    reader.resume("2-0", [update(number) for number in (3, 4, 5)])
    assert [one.id for one in await reader.read(0)] == ["3-0", "4-0", "5-0", "6-0"]
    reader.offer(update(6))
    assert await reader.read(0) == []
    reader.offer(update(7))
    assert [one.id for one in await reader.read(0)] == ["7-0"]


async def test_stream_after_the_room_sends_only_later_changes(left: list[Reader]) -> None:
    """A reader who begins with the room receives only later changes."""
    reader = Reader(left.append)
    reader.offer(update(5))
    reader.begin(update(6, whole=True))
    for number in (6, 7):
        reader.offer(update(number))
    assert [one.id for one in await reader.read(0)] == ["6-0", "7-0"]


async def test_stream_after_redis_forgot_restarts_its_ids(reader: Reader) -> None:
    """After a Redis that has forgotten, ids may be smaller: the reader receives the room and what follows."""
    reader.offer(update(9))
    assert [one.id for one in await reader.read(0)] == ["1-0", "9-0"]
    reader.offer(update(3, whole=True))
    reader.offer(update(4))
    assert [one.id for one in await reader.read(0)] == ["3-0", "4-0"]


async def lived(*, busy: bool, **limits: Any) -> tuple[float, Server]:
    """Answer a reader until the answer ends by itself; return how many seconds it took.

    In a busy room there is always something to be told for two hours, and each part takes a second to be taken.
    """
    reader, now = Reader(lambda _: None), asyncio.get_running_loop().time
    reader.begin(update(1, whole=True))
    begun = now()
    ended: list[float] = []

    class Room(Server):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if busy and now() - begun < 7200:
                reader.offer(update(len(self.taken) + 1))
                await asyncio.sleep(1)

    server = Room()
    async with answering(server, reader, **limits) as answer:
        answer.add_done_callback(lambda _: ended.append(now()))
        await answer
    return ended[0] - begun, server


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("later", [None, 7200.0])
def test_stream_of_an_hour_ends_whatever_else_would_end_it_later(later: float | None, busy: bool) -> None:
    """A client keeps its rights no longer than an hour, silent room or not: it must reconnect and authenticate again.

    On a clock that jumps, so that the hour passes at once. Not all end at the same age.
    """
    loop = VirtualLoop()
    try:
        ages: list[float] = []
        for _ in range(3):
            seconds, server = loop.run_until_complete(lived(busy=busy, expires_in=later, timeout=later))
            assert server.text.endswith('event: reconnect\ndata: {"reason":"age"}\n\n')
            assert server.complete
            ages.append(seconds)
        assert 3240 <= min(ages) < max(ages) <= 3602
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"expires_in": 91.0, "timeout": 100.0}, "expired"), ({"expires_in": 100.0, "timeout": 91.0}, "")],
)
def test_stream_ends_at_the_earliest_of_its_limits(limits: dict[str, float], reason: str) -> None:
    """What the caller showed expires, or its own time is over: not the later of the two, nor the hour."""
    loop = VirtualLoop()
    try:
        seconds, server = loop.run_until_complete(lived(busy=False, **limits))
    finally:
        loop.close()
    assert seconds == pytest.approx(91.0)
    assert ("reconnect" in server.text) == bool(reason)
    assert reason in server.text
    assert server.complete
