"""The order in which webhooks are acted on: each in its turn, however many one sender sends.

A signed webhook can be sent again by anyone who has read one, and VideoSDK itself sends each of a caller's to that
caller. So what is sent often must cost little, and delay no other:

- Equal events are acted on once while one of them waits: acting on it looks at what is so then. One that comes while
  an equal one is acted on, or was just now, is acted on afterwards; so none is lost, and repetitions cost no more than
  one look a second.
- Rooms take turns. Those of one room get no more of the tasks than are still free, and no more of the places to wait
  than the address may still take that they come from; and that one no more than are free.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from enum import Enum, auto
from typing import Final

import structlog

from gateway.errors import CoordinationUnavailable, NewerRecord
from gateway.recordings.webhook_events import WebhookEvent
from gateway.store.places import Places

__all__ = ["WebhookQueue"]

_MAX_CONCURRENT: Final = 16
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between tries while Redis does not answer. The reconciler finds out what is given up here."""
_REST_SECONDS: Final = 1.0

_log = structlog.get_logger("gateway.webhooks")


class _State(Enum):
    PAUSES = auto()
    """Its timer decides when it is its turn."""
    WAITS = auto()
    """For its turn."""
    RUNS = auto()
    """It is acted on."""
    RESTS = auto()
    """It was acted on just now, and has no place any more."""


class _Entry:
    """One event, for all that are equal to it."""

    def __init__(self, name: str, event: WebhookEvent, sender: str) -> None:
        self.name = name
        self.event = event
        self.sender = sender
        """Where the one came from that has the place."""
        self.context: Context = copy_context()
        """Of the request that brought it: its id stands in what is logged."""
        self.state = _State.WAITS
        self.tries = 0
        self.again = False
        """An equal one came while it was acted on."""
        self.timer: asyncio.TimerHandle | None = None


class WebhookQueue:
    """Has events acted on, for one process.

    Args:
        handle: Acts on one.
        max_waiting: Events that wait for it; more are refused, and VideoSDK may send them again. A session of a
            thousand participants that ends tells of each of their recordings, and one room gets a quarter.
        max_concurrent: Events that are acted on at the same time.
        pauses: Seconds between tries while Redis does not answer; after the last the event is given up.
        rest: Seconds after which an event that came again is acted on again.
    """

    def __init__(
        self,
        handle: Callable[[WebhookEvent], Awaitable[None]],
        *,
        max_waiting: int,
        max_concurrent: int = _MAX_CONCURRENT,
        pauses: Sequence[float] = _PAUSES,
        rest: float = _REST_SECONDS,
    ) -> None:
        self._handle = handle
        self._pauses = pauses
        self._rest = rest
        self._entries: dict[WebhookEvent, _Entry] = {}
        self._turns: OrderedDict[str, deque[_Entry]] = OrderedDict()
        """What waits for its turn, by room; first the room whose turn it is."""
        self._places = Places("webhooks", max_waiting, "More events wait than are kept.")
        self._running = Places("webhooks-running", max_concurrent, "")
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._empty = asyncio.Event()

    def put(self, name: str, event: WebhookEvent, sender: str) -> bool:
        """Have an event acted on; False where one that waits already stands for it.

        Args:
            name: Its type, for the log.
            event: What it says.
            sender: The address that it came from.

        Raises:
            TooManyWaiting: There is no place for it.
        """
        entry = self._entries.get(event)
        if entry is None:
            self._places.take(sender=sender, room=event.room_id)
            self._entries[event] = entry = _Entry(name, event, sender)
            self._wait(entry)
            return True
        if entry.state is _State.RESTS:
            self._places.take(sender=sender, room=event.room_id)
            entry.sender, entry.state = sender, _State.PAUSES  # until its timer says that it has rested
            return True
        # It is not given up sooner for an earlier one that met a Redis which did not answer.
        entry.tries = min(entry.tries, 1)
        again, entry.again = entry.again, entry.state is _State.RUNS
        return entry.again and not again

    async def close(self, grace: float) -> None:
        """Let what was put be acted on to its end, for at most `grace` seconds."""
        self._closing = True
        for entry in [entry for entry in self._entries.values() if entry.timer is not None and not entry.tries]:
            self._has_paused(entry)
        if self._places.taken:
            self._empty.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._empty.wait()
        if self._places.taken:
            _log.warning("webhook.given_up", events=self._places.taken)
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- one event -----------------------------------------------------------------------------------------------

    def _wait(self, entry: _Entry) -> None:
        entry.state = _State.WAITS
        self._turns.setdefault(entry.event.room_id, deque()).append(entry)
        self._run_next()

    def _pause(self, entry: _Entry, state: _State, seconds: float) -> None:
        entry.state = state
        entry.timer = asyncio.get_running_loop().call_later(seconds, self._has_paused, entry)

    def _has_paused(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.state is _State.PAUSES:
            self._wait(entry)
        else:
            del self._entries[entry.event]

    def _finish(self, entry: _Entry) -> None:
        """Act on it once more if an equal one has come meanwhile; else forget it, after a while."""
        rest = 0.0 if self._closing else self._rest
        entry.tries = 0
        if entry.again:
            entry.again = False
            self._pause(entry, _State.PAUSES, rest)
            return
        self._places.leave(sender=entry.sender, room=entry.event.room_id)
        self._pause(entry, _State.RESTS, rest)
        if not self._places.taken:
            self._empty.set()

    # --- turns ---------------------------------------------------------------------------------------------------

    def _run_next(self) -> None:
        """Have events acted on for as long as there is a room that may; each room in its turn."""
        while (room := self._next_room()) is not None:
            entries = self._turns[room]
            entry = entries.popleft()
            if entries:
                self._turns.move_to_end(room)
            else:
                del self._turns[room]
            self._running.take(room=room)
            entry.state = _State.RUNS
            # A strong reference: asyncio itself keeps only a weak one.
            task = asyncio.create_task(self._run(entry), name="webhook", context=entry.context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_room(self) -> str | None:
        # No more rooms are passed over than there are tasks: only one that has some can have too many.
        return next((room for room in self._turns if self._running.full(room=room) is None), None)

    async def _run(self, entry: _Entry) -> None:
        try:
            await self._handle(entry.event)
        except (CoordinationUnavailable, NewerRecord):
            self._try_again(entry)
        except Exception:  # noqa: BLE001 - one event's trouble must not end the process's hearing
            _log.exception("webhook.failed", type=entry.name)
            self._finish(entry)
        else:
            self._finish(entry)
        finally:
            self._running.leave(room=entry.event.room_id)
            self._run_next()

    def _try_again(self, entry: _Entry) -> None:
        if entry.tries < len(self._pauses):
            entry.tries += 1
            self._pause(entry, _State.PAUSES, self._pauses[entry.tries - 1])
            return
        _log.warning("webhook.given_up", type=entry.name, events=1)
        self._finish(entry)
