"""Wakes those who wait when an operation finishes on another replica: one subscription per process.

Pub/Sub loses messages (a reconnect, a black hole), and nothing here pretends otherwise: whoever waits also polls now
and then, and every gap wakes everybody once so that they look for themselves.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import structlog
from msgspec import Struct
from redis.asyncio.client import PubSub

from gateway.coordinator.connection import LOST, Connection, uncancelled
from gateway.errors import CoordinationUnavailable

__all__ = ["CHANNEL", "Wakeup", "Wakeups"]

CHANNEL = "rec:wake"

_READ_SECONDS = 0.5
_QUIET_BEFORE_PING_SECONDS = 1.0
_QUIET_BEFORE_RECONNECT_SECONDS = 3.0
_RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0)

_log = structlog.get_logger("gateway.wakeups")


class Wakeup(Struct, frozen=True):
    """An operation of a track has finished.

    Attributes:
        key: The track's record.
        operation: Number of the operation.
        payload: What FINISH stored for those who wait.
    """

    key: str
    operation: str
    payload: bytes


class Wakeups:
    """The process's one subscriber.

    Args:
        connection: How Redis is reached.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._on_wakeup: Callable[[Wakeup], None] = lambda _: None
        self._on_gap: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    @property
    def listening(self) -> bool:
        """Whether messages arrive at the moment, as far as anybody knows."""
        return self._subscribed.is_set()

    async def start(self, on_wakeup: Callable[[Wakeup], None], on_gap: Callable[[], None]) -> None:
        """Begin to listen in the background.

        Args:
            on_wakeup: Called for each message; must not block.
            on_gap: Called after every moment in which messages may have been lost.
        """
        self._on_wakeup, self._on_gap = on_wakeup, on_gap
        self._task = asyncio.create_task(self._listen_for_ever(), name="wakeups")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
            except (*LOST, CoordinationUnavailable) as error:
                uncancelled()
                if self._subscribed.is_set():
                    failures = 0
                    _log.warning("wakeups.lost", reason=type(error).__name__)
            self._subscribed.clear()
            await asyncio.sleep(_RECONNECT_SECONDS[min(failures, len(_RECONNECT_SECONDS) - 1)])
            failures += 1

    async def _listen(self) -> None:
        async with self._connection.subscriber() as pubsub:
            await cast("Any", pubsub.subscribe(CHANNEL))
            await self._read(pubsub)

    async def _read(self, pubsub: PubSub) -> None:
        heard = time.monotonic()
        pinged = False
        while True:
            message = cast("dict[str, Any] | None", await pubsub.get_message(timeout=_READ_SECONDS))
            uncancelled()
            silence = time.monotonic() - heard
            if message is None:
                # redis-py never notices a connection that went silent without a reset: ask it for a sign of life.
                if silence > _QUIET_BEFORE_RECONNECT_SECONDS:
                    raise TimeoutError
                if silence > _QUIET_BEFORE_PING_SECONDS and not pinged:
                    pinged = True
                    await cast("Any", pubsub.ping())
                continue
            heard, pinged = time.monotonic(), False
            if message["type"] == "subscribe":
                # Also after redis-py's silent re-subscription: what was said in between is lost.
                self._subscribed.set()
                self._on_gap()
            elif message["type"] == "message":
                key, operation, payload = cast("bytes", message["data"]).split(b"\n", 2)
                self._on_wakeup(Wakeup(key.decode(), operation.decode(), payload))
