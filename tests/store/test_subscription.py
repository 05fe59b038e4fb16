"""The subscription: what it receives on a real server, and each way in which it can be cut off.

What a real server does only after seconds of silence is shown with an imagined connection, on a clock of its own.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import redis

from gateway.errors import CoordinationUnavailable
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.notifications import Notifications, OperationFinished
from tests import harness
from tests.model.clockwork import VirtualLoop

pytestmark = pytest.mark.anyio

WAKE, ROOM, OTHER = "rec:wake", "rec:{00}:t:room:events", "rec:{00}:t:other:events"


@pytest.fixture
def server() -> Generator[EmbeddedValkey]:
    """A server of the test's own: no other test publishes there, and it may be harmed."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def admin(server: EmbeddedValkey) -> Generator["redis.Redis"]:
    """A client of it."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


class Received:
    """A subscription, and all that came of it."""

    def __init__(self, connection: Connection, now: Callable[[], float] | None = None) -> None:
        self.wakeups = Notifications(connection, now or time.monotonic)
        self.messages: list[OperationFinished] = []
        self.gaps = 0
        self.update: dict[str, int] = {}

    async def start(self) -> None:
        """Begin to listen."""
        await self.wakeups.start(self.messages.append, self._gap)

    def _gap(self) -> None:
        self.gaps += 1

    def watch(self, channel: str) -> None:
        """Count what is received of a channel."""

        def count() -> None:
            self.update[channel] = self.update.get(channel, 0) + 1

        self.wakeups.watch(channel, count)


@pytest.fixture
async def heard(server: EmbeddedValkey) -> AsyncGenerator[Received]:
    """A subscription that is in force."""
    connection = Connection(server.url)
    heard = Received(connection)
    assert not heard.wakeups.listening
    await heard.start()
    await harness.eventually(lambda: heard.wakeups.listening)
    yield heard
    await heard.wakeups.stop()
    await connection.aclose()


async def test_notification_that_is_published_arrives_unchanged(heard: Received, admin: "redis.Redis") -> None:
    """The record, the operation, and the payload with whatever lines it has; to subscribe was one gap."""
    admin.publish(WAKE, "rec:{00}:t:r:p:video\n17\n")
    admin.publish(WAKE, "rec:{00}:t:r:p:video\n18\n{}\n€")
    await harness.eventually(lambda: len(heard.messages) == 2)
    assert heard.messages == [
        OperationFinished("rec:{00}:t:r:p:video", "17", b""),
        OperationFinished("rec:{00}:t:r:p:video", "18", "{}\n€".encode()),
    ]
    assert heard.gaps == 1


async def test_watch_of_a_channel_receives_messages_until_unwatch(heard: Received, admin: "redis.Redis") -> None:
    """Once when the subscription is in force, since something may have happened before; then each message."""
    heard.watch(ROOM)
    heard.watch(OTHER)
    await harness.eventually(lambda: heard.update == {ROOM: 1, OTHER: 1})
    admin.publish(ROOM, "1-0")
    await harness.eventually(lambda: heard.update == {ROOM: 2, OTHER: 1})
    heard.wakeups.unwatch(ROOM)
    await harness.eventually(lambda: dict(cast("Any", admin.pubsub_numsub(ROOM))) == {ROOM: 0})
    admin.publish(OTHER, "1-0")
    await harness.eventually(lambda: heard.update == {ROOM: 2, OTHER: 2})
    # Nothing of this is a wake-up, nor a gap for those who wait.
    assert (heard.messages, heard.gaps) == ([], 1)


async def test_watch_again_replaces_the_first_listener(heard: Received, admin: "redis.Redis") -> None:
    """A channel has one listener at a time."""
    first: list[int] = []
    heard.wakeups.watch(ROOM, lambda: first.append(1))
    await harness.eventually(lambda: first)
    heard.watch(ROOM)
    admin.publish(ROOM, "1-0")
    await harness.eventually(lambda: heard.update == {ROOM: 1})
    assert first == [1]


async def test_subscription_that_is_cut_is_made_anew_with_all_channels(heard: Received, admin: "redis.Redis") -> None:
    """Messages may have been lost meanwhile: waiters and listeners receive a gap; then messages arrive as before."""
    heard.watch(ROOM)
    await harness.eventually(lambda: heard.update == {ROOM: 1})
    for cuts in range(1, 4):
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await harness.eventually(lambda cuts=cuts: (heard.gaps, heard.update) == (1 + cuts, {ROOM: 1 + cuts}))
        assert heard.wakeups.listening
    admin.publish(WAKE, "k\n1\n")
    admin.publish(ROOM, "1-0")
    await harness.eventually(lambda: heard.messages and heard.update == {ROOM: 5})


async def test_subscription_to_a_server_that_is_gone_does_not_listen(heard: Received, server: EmbeddedValkey) -> None:
    """While it is away no waiter may rely on messages; when there is one again, it is a gap."""
    server.kill()
    await harness.eventually(lambda: not heard.wakeups.listening)
    assert heard.gaps == 1
    server.restart()
    await harness.eventually(lambda: heard.wakeups.listening)
    assert heard.gaps == 2


# --- an imagined connection ------------------------------------------------------------------------------------------


class Line:
    """What redis-py's subscription is to its user, on the loop's own clock: it returns what the test gives it."""

    def __init__(self, connection: "Lines") -> None:
        self._connection = connection
        self.subscribed: list[set[str]] = []
        self.pings: list[float] = []
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def subscribe(self, *channels: str) -> None:
        """Subscribe, and confirm each."""
        self.subscribed.append(set(channels))
        if self._connection.fails_to_follow and len(self.subscribed) > 1:
            raise redis.ConnectionError("gone")
        for channel in channels:
            self.said.put_nowait({"type": "subscribe", "channel": channel.encode(), "data": 1})

    async def unsubscribe(self, *channels: str) -> None:
        """Unsubscribe, and confirm each; how long a write takes is the server's affair."""
        try:
            await asyncio.sleep(self._connection.write_seconds)
        except asyncio.CancelledError:
            if self._connection.cancelled_as is None:
                raise
        for channel in channels:
            self.said.put_nowait({"type": "unsubscribe", "channel": channel.encode(), "data": 1})

    async def ping(self) -> None:
        """Ask for a sign of life, which has no channel."""
        self.pings.append(asyncio.get_running_loop().time())
        if self._connection.answers_pings:
            self.said.put_nowait({"type": "pong", "channel": None, "data": b""})

    async def get_message(self, timeout: float) -> dict[str, Any] | None:
        """Return what was said, None after so many seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self.said.get()
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            if self._connection.cancelled_as is None:
                raise
            if self._connection.cancelled_as is redis.ConnectionError:
                raise redis.ConnectionError("made of a cancellation") from None
            return None


class Lines(Connection):
    """A connection whose subscriptions are imagined."""

    def __init__(self) -> None:
        super().__init__("redis://nowhere")
        self.opened: list[tuple[float, Line]] = []
        self.away = False
        self.answers_pings = True
        self.fails_to_follow = False
        self.write_seconds = 0.0
        self.cancelled_as: type[Exception] | None = None
        """What redis-py makes of a cancellation, as it does now and then: an error, nothing at all, or what it is."""

    @property
    def moments(self) -> list[float]:
        """When the lines were opened, in seconds since the first."""
        return [round(moment - self.opened[0][0], 3) for moment, _ in self.opened]

    @asynccontextmanager
    async def subscriber(self) -> AsyncGenerator[Any]:
        """Open a subscription."""
        self.opened.append((asyncio.get_running_loop().time(), Line(self)))
        if self.away:
            raise CoordinationUnavailable("away", retry_after=2)
        yield self.opened[-1][1]


async def passed(seconds: float) -> None:
    """Let time pass on the loop's own clock: it moves when nothing is left to do, and no real second goes by."""
    await asyncio.sleep(seconds)


def on_its_own_clock(lines: Lines, story: Callable[[Received], Any]) -> None:
    """Tell a story of a subscription on a loop that moves its own time."""
    loop = VirtualLoop()
    heard = Received(lines, loop.time)

    async def tell() -> None:
        await heard.start()
        await passed(0.01)
        await story(heard)
        async with asyncio.timeout(5):
            await heard.wakeups.stop()

    try:
        loop.run_until_complete(tell())
    finally:
        loop.close()


def test_subscription_to_an_absent_server_backs_off() -> None:
    """At once, soon, and then once a second, for as long as it takes."""
    lines = Lines()
    lines.away = True

    async def story(heard: Received) -> None:
        await passed(6)
        assert lines.moments == [0, 0.1, 0.3, 0.8, 1.8, 2.8, 3.8, 4.8, 5.8]
        assert (heard.wakeups.listening, heard.gaps) == (False, 0)

    on_its_own_clock(lines, story)


def test_subscription_that_was_in_force_is_tried_again_soon() -> None:
    """A subscription that was in force was healthy: the next is opened a tenth of a second after it is lost."""
    lines = Lines()
    lines.away = True

    async def story(heard: Received) -> None:
        await passed(4)
        lines.away = False
        await passed(1)
        assert heard.wakeups.listening
        lines.fails_to_follow = True
        lost_at = asyncio.get_running_loop().time()
        heard.watch(ROOM)
        await passed(0.7)
        assert heard.gaps == 2
        # The reader notices when its read is over, half a second later at most.
        assert lines.opened[-1][0] - lost_at <= 0.61

    on_its_own_clock(lines, story)


def test_subscription_that_is_silent_is_pinged_and_kept_while_it_answers() -> None:
    """Half a minute without a message: a sign of life now and then, no new line, and no gap."""
    lines = Lines()

    async def story(heard: Received) -> None:
        await passed(30)
        assert len(lines.opened) == 1
        assert 10 <= len(lines.opened[0][1].pings) <= 30
        assert (heard.gaps, heard.messages) == (1, [])

    on_its_own_clock(lines, story)


def test_subscription_that_answers_no_ping_is_given_up() -> None:
    """A black hole: asked once, given up after more than three seconds, and made anew, which is a gap."""
    lines = Lines()
    lines.answers_pings = False

    async def story(heard: Received) -> None:
        await passed(3)
        assert len(lines.opened) == 1
        await passed(1.5)
        assert len(lines.opened) == 2
        assert len(lines.opened[0][1].pings) == 1
        assert heard.gaps == 2

    on_its_own_clock(lines, story)


def test_watch_that_cannot_be_subscribed_to_makes_the_subscription_anew() -> None:
    """The command fails although the reader still reads: the next line is opened with every channel."""
    lines = Lines()
    lines.fails_to_follow = True

    async def story(heard: Received) -> None:
        heard.watch(ROOM)
        await passed(1)
        assert lines.opened[1][1].subscribed == [{WAKE, ROOM}]
        assert (heard.gaps, heard.update) == (2, {ROOM: 1})

    on_its_own_clock(lines, story)


@pytest.mark.parametrize("made_of_it", [None, TimeoutError, redis.ConnectionError])
def test_stop_ends_the_subscription_whatever_redis_py_makes_of_it(made_of_it: type[Exception] | None) -> None:
    """A cancellation that is swallowed, or becomes an error of a connection, still ends the task."""
    lines = Lines()
    lines.cancelled_as = made_of_it

    async def story(heard: Received) -> None:
        await passed(0.1)
        await heard.wakeups.stop()

    on_its_own_clock(lines, story)


def test_stop_during_the_end_of_a_watch_ends_the_subscription() -> None:
    """The last reader of a room leaves as the process ends: a cancellation that is swallowed there holds nothing up."""
    lines = Lines()
    lines.write_seconds, lines.cancelled_as = 1, TimeoutError

    async def story(heard: Received) -> None:
        heard.watch(ROOM)
        await passed(0.1)
        heard.wakeups.unwatch(ROOM)
        await passed(0.1)
        await heard.wakeups.stop()

    on_its_own_clock(lines, story)


async def test_stop_before_start_does_nothing() -> None:
    """A process may end before it began to listen."""
    await Notifications(Lines()).stop()
