"""Receives notifications on Redis's channels: one subscriber for the whole process.

There are two kinds: that an operation has finished, on one channel that every process listens to; and that something
changed in a room, on a channel of the room's own, which is listened to while the room has readers.

Pub/Sub loses messages (a reconnect, a black hole), and nothing here pretends otherwise: waiters also poll now
and then, and every gap wakes every waiter once so that it looks for itself.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import structlog
from msgspec import Struct
from redis.asyncio.client import PubSub

from gateway.errors import CoordinationUnavailable
from gateway.store.connection import LOST, Connection, uncancelled

__all__ = ["CHANNEL", "Notifications", "OperationFinished"]

CHANNEL = "rec:wake"

_READ_SECONDS = 0.5
_QUIET_BEFORE_PING_SECONDS = 1.0
_QUIET_BEFORE_RECONNECT_SECONDS = 3.0
_RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0)

_log = structlog.get_logger("gateway.wakeups")


class OperationFinished(Struct, frozen=True):
    """An operation of a target has finished.

    Attributes:
        key: The target's record.
        operation: Number of the operation.
        payload: What `finish.lua` stored for the waiters.
    """

    key: str
    operation: str
    payload: bytes


class Notifications:
    """The process's one subscriber.

    Args:
        connection: How Redis is reached.
        now: A clock in seconds that does not step: measures for how long no message came.
        ping_after: Seconds of silence after which the server is asked for a sign of life.
        reconnect_after: Seconds of silence after which the connection is given up.
    """

    def __init__(
        self,
        connection: Connection,
        now: Callable[[], float] = time.monotonic,
        *,
        ping_after: float = _QUIET_BEFORE_PING_SECONDS,
        reconnect_after: float = _QUIET_BEFORE_RECONNECT_SECONDS,
    ) -> None:
        self._connection = connection
        self._now = now
        self._ping_after = ping_after
        self._reconnect_after = reconnect_after
        self._on_finished: Callable[[OperationFinished], None] = lambda _: None
        self._on_gap: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()
        self._watched: dict[str, Callable[[], None]] = {}
        self._changed = asyncio.Event()
        """Other channels are watched than are subscribed to."""

    @property
    def listening(self) -> bool:
        """Whether messages arrive at the moment, as far as this process knows."""
        return self._subscribed.is_set()

    async def start(self, on_finished: Callable[[OperationFinished], None], on_gap: Callable[[], None]) -> None:
        """Begin to listen in the background.

        Args:
            on_finished: Called for each message; must not block.
            on_gap: Called after every moment in which messages may have been lost.
        """
        self._on_finished, self._on_gap = on_finished, on_gap
        self._task = asyncio.create_task(self._listen_for_ever(), name="wakeups")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def watch(self, channel: str, on_update: Callable[[], None]) -> None:
        """Listen to another channel. It has one watcher at a time; a new one replaces it.

        Args:
            channel: Its name.
            on_update: Called for each message, and after every moment in which one may have been lost; must not block.
        """
        self._watched[channel] = on_update
        self._changed.set()

    def unwatch(self, channel: str) -> None:
        """Listen to a channel no more."""
        del self._watched[channel]
        self._changed.set()

    async def _listen_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
            except (*LOST, CoordinationUnavailable) as error:
                uncancelled()
                if self._subscribed.is_set():
                    _log.warning("wakeups.lost", reason=type(error).__name__)
            except Exception:  # noqa: BLE001 - for example a message that cannot be read: the next ones must arrive
                _log.exception("wakeups.failed")
            if self._subscribed.is_set():
                failures = 0
            self._subscribed.clear()
            await asyncio.sleep(_RECONNECT_SECONDS[min(failures, len(_RECONNECT_SECONDS) - 1)])
            failures += 1

    async def _listen(self) -> None:
        moves = self._connection.moves
        async with self._connection.subscriber() as pubsub:
            channels = set(self._watched)
            await cast("Any", pubsub.subscribe(CHANNEL, *channels))
            following = asyncio.create_task(self._follow(pubsub, channels), name="wakeups-follow")
            try:
                await self._read(pubsub, following, moves)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, pubsub: PubSub, subscribed: set[str]) -> None:
        """Subscribe to what is watched, and to nothing else.

        In a task of its own beside the one that reads: commands may be written while an answer is awaited, and only
        the reader reads. Only this task writes to the connection, so the order of the commands is its own.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            watched = set(self._watched)
            if new := watched - subscribed:
                await cast("Any", pubsub.subscribe(*new))
            if old := subscribed - watched:
                await cast("Any", pubsub.unsubscribe(*old))
            uncancelled()
            subscribed = watched

    async def _read(self, pubsub: PubSub, following: asyncio.Task[None], moves: int) -> None:
        last_message = self._now()
        pinged = False
        while True:
            if following.done():
                # Its failure is ours: the connection is given up, and all channels are subscribed to on the next.
                following.result()
            if self._connection.moves != moves:
                raise CoordinationUnavailable("What is published by now may be published elsewhere.")
            message = cast("dict[str, Any] | None", await pubsub.get_message(timeout=_READ_SECONDS))
            uncancelled()
            silence = self._now() - last_message
            if message is None:
                # redis-py never notices a connection that went silent without a reset: ask it for a sign of life.
                if silence > self._reconnect_after:
                    raise TimeoutError
                if silence > self._ping_after and not pinged:
                    pinged = True
                    await cast("Any", pubsub.ping())
                continue
            last_message, pinged = self._now(), False
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        kind, channel = message["type"], cast("bytes | None", message["channel"])
        if kind not in {"subscribe", "message"} or channel is None:
            return
        if channel.decode() != CHANNEL:
            # A message announces a change; so does a new subscription, since a change may have come before it.
            if on_update := self._watched.get(channel.decode()):
                on_update()
        elif kind == "subscribe":
            # Also after redis-py's silent re-subscription: messages in between are lost.
            self._subscribed.set()
            self._on_gap()
        else:
            key, operation, payload = cast("bytes", message["data"]).split(b"\n", 2)
            self._on_finished(OperationFinished(key.decode(), operation.decode(), payload))
