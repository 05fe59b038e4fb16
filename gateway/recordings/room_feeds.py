"""Live events: every change of a room's recordings, for any number of readers, from one look at Redis.

A room with readers has one *feed* in this process. The feed knows the room as it was at its last event, looks
whether there are newer ones whenever Redis says so (and now and then by itself), and hands each to all its readers. A
new reader is given the room as the feed knows it, or what it missed since the event it saw last.

Each event is looked up, decoded and turned into text once, however many read it. What a reader has not taken yet waits
in a queue of its own; one whose queue is full is closed, and has to come again. While Redis does not answer, readers
stay; afterwards the feed goes on where it was, or, where that is forgotten, gives every reader the room anew.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
from msgspec import Struct

from gateway.coordinator import Coordinator, Event, Record
from gateway.errors import CoordinationUnavailable, NewerRecord
from gateway.recordings.decoding import recording_of
from gateway.recordings.model import Recording
from gateway.recordings.targets import Target, target_of
from gateway.store.clock import clock
from gateway.store.notifications import Notifications
from gateway.store.places import Places

__all__ = ["FeedUpdate", "Reader", "RoomFeeds"]

_LOOK_SECONDS: Final = 2.0
_REFRESH_SECONDS: Final = 120.0
"""How often the whole room is read again: records end, and its events have to be kept while a reader may need them."""
_MAX_WAITING: Final = 2_000
"""News a reader may leave lying: more than a feed finds at once."""
_MAX_MISSED: Final = 500
"""Events that a returning reader gets one by one; after more it is better served with the room as it is. As many
are remembered here, since all the readers of a process that ended come at once, and miss the same."""
_NOTHING_YET: Final = (0, 0)

_log = structlog.get_logger("gateway.events")


class FeedUpdate(Struct, frozen=True):
    """What readers get at once: one change, or the room as a whole.

    Attributes:
        id: The last event that is part of it.
        targets: Each target, and the text of its recording.
        whole: There are no other recordings in the room than these.
    """

    id: str
    targets: tuple[tuple[Target, bytes], ...]
    whole: bool = False


class Reader:
    """One who reads a room's events. Made by `RoomFeeds.open`; must `leave`."""

    def __init__(self, leave: Callable[["Reader"], None]) -> None:
        self._leave = leave
        self._waiting: deque[FeedUpdate] = deque()
        self._stirred = asyncio.Event()
        self._seen = _NOTHING_YET
        self.closed = ""
        """Why there is nothing more to read; empty while there may be."""

    async def read(self, timeout: float) -> list[FeedUpdate]:
        """Return the news there are, in order; wait up to `timeout` seconds for some. None after it was closed."""
        if not self._stirred.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._stirred.wait()
            except TimeoutError:
                return []
        self._stirred.clear()
        return self._take()

    def close(self, why: str) -> None:
        """End the reading. The first reason counts."""
        self.closed = self.closed or why
        self._waiting.clear()
        self._stirred.set()

    def leave(self) -> None:
        """End reading; may be called again."""
        self.close("gone")
        self._leave(self)

    def offer(self, update: FeedUpdate) -> None:
        """Have news read, unless too much waits already."""
        if self.closed:
            return
        if len(self._waiting) >= _MAX_WAITING:
            _log.info("events.reader_too_slow")
            self.close("slow")
            return
        self._waiting.append(update)
        self._stirred.set()

    def begin(self, whole: FeedUpdate) -> None:
        """Begin with the room as it is: whatever waits is part of it."""
        self._waiting.clear()
        self.offer(whole)

    def resume(self, after: str, missed: list[FeedUpdate]) -> None:
        """Go on after an event. What waits already may be among what was missed: nothing is read twice."""
        self._seen = _position(after)
        self._waiting.extendleft(reversed(missed))
        self._stirred.set()

    def _take(self) -> list[FeedUpdate]:
        taken: list[FeedUpdate] = []
        while self._waiting:
            update = self._waiting.popleft()
            at = _position(update.id)
            # A whole room may come from a server that has forgotten, and counts anew.
            if update.whole or at > self._seen:
                self._seen = at
                taken.append(update)
        return taken


class RoomFeeds:
    """The rooms that have readers in this process.

    Args:
        coordinator: Where the events are.
        subscription: Says when there are new ones.
        render: Makes the text of a recording.
        max_readers: How many may read at the same time; one room's, and one caller's in it, no more than are free.
        max_missed: Events that are remembered here, for a returning reader to get one by one.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        subscription: Notifications,
        render: Callable[[Recording], bytes],
        *,
        max_readers: int,
        max_missed: int = _MAX_MISSED,
    ) -> None:
        self._coordinator = coordinator
        self._subscription = subscription
        self._render = render
        self._places = Places(
            "event-readers", max_readers, "Too many read events from this gateway at the moment.", retry_after=2
        )
        self._max_missed = max_missed
        self._room_feeds: dict[str, _Feed] = {}
        self._readers: dict[Reader, tuple[_Feed, str]] = {}
        """Each reader's feed, and whose place it has."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def readers(self) -> int:
        """How many read at the moment."""
        return len(self._readers)

    async def open(self, room: str, after: str = "", *, account: str = "") -> Reader:
        """Begin to read a room's events.

        Args:
            room: Its id.
            after: The id of the event that was read last: what came after it is read first. Empty, or where it is
                forgotten, the room as a whole is.
            account: Whose place it takes.

        Raises:
            TooManyWaiting: More read already than may, of all, of this account or of this room.
            CoordinationUnavailable: Redis does not answer.
            NewerRecord: A later version of the gateway looks after the room.
        """
        self._places.take(room=room, caller=account)
        feed = self._room_feeds.get(room)
        if feed is None:
            feed = self._room_feeds[room] = _Feed(self._coordinator, room, self._render, self._max_missed)
            self._subscription.watch(self._coordinator.records.channel(room), feed.look)
            # A strong reference: asyncio itself keeps only a weak one.
            task = asyncio.create_task(self._run(feed), name="feed")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        reader = Reader(self._leave)
        feed.readers.add(reader)
        self._readers[reader] = feed, account
        try:
            await feed.admit(reader, after)
        except BaseException:
            reader.leave()
            raise
        return reader

    async def close(self) -> None:
        """Send all readers away."""
        for reader in list(self._readers):
            reader.leave()
        await asyncio.gather(*self._tasks)

    async def _run(self, feed: "_Feed") -> None:
        try:
            await feed.run()
        except NewerRecord:
            # A later version of the gateway can read it: they are to come to that one.
            _log.warning("events.newer_record")
        except Exception:  # noqa: BLE001 - readers must not wait for news that never come
            # They come again, to a feed that begins anew.
            _log.exception("events.failed")
        for reader in list(feed.readers):
            reader.close("restart")
            self._leave(reader)

    def _leave(self, reader: Reader) -> None:
        feed, account = self._readers.pop(reader, (None, ""))
        if feed is None:
            return
        self._places.leave(room=feed.room, caller=account)
        feed.readers.discard(reader)
        if not feed.readers and self._room_feeds.get(feed.room) is feed:
            del self._room_feeds[feed.room]
            self._subscription.unwatch(self._coordinator.records.channel(feed.room))
            feed.look()


class _Feed:
    """A room, as far as its readers have seen it."""

    def __init__(
        self, coordinator: Coordinator, room: str, render: Callable[[Recording], bytes], max_missed: int
    ) -> None:
        self.room = room
        self._max_missed = max_missed
        self.readers: set[Reader] = set()
        self._coordinator = coordinator
        self._render = render
        self._update = asyncio.Event()
        self._looking = asyncio.Lock()
        self._texts: dict[str, tuple[Target, bytes]] = {}
        self._as_of = ""
        """The last event that is part of `_texts`; empty before the room was read."""
        self._offered = ""
        """The last event that was offered to the readers. Not later than `_as_of`."""
        self._whole: FeedUpdate | None = None
        self._read_at = 0.0
        self._recent: deque[FeedUpdate] = deque()
        """The latest news, without a gap between them."""
        self._recent_after = ""
        """The event that came before them."""

    def look(self) -> None:
        """Say that there may be an update, or that the last reader has gone."""
        self._update.set()

    async def run(self) -> None:
        """Look for updates until the last reader has gone."""
        while self.readers:
            try:
                async with asyncio.timeout(_LOOK_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._update.wait()
            except TimeoutError:
                pass
            self._update.clear()
            try:
                async with self._looking:
                    if self._as_of:
                        await self._advance()
            except CoordinationUnavailable:
                # No reader is sent away for it: the next update continues, however long it takes.
                continue

    async def admit(self, reader: Reader, after: str) -> None:
        """Have a reader begin, who is among the readers already.

        Raises:
            CoordinationUnavailable: Redis does not answer, and what the reader needs is not known here.
        """
        if not self._as_of:
            async with self._looking:
                if not self._as_of:
                    await self._begin_anew()
        # Updates from now on wait for the reader: only earlier ones can be missed.
        missed = await self._missed_since(after) if after else None
        if missed is None:
            reader.begin(self._as_a_whole())
        else:
            reader.resume(after, missed)

    async def _missed_since(self, after: str) -> list[FeedUpdate] | None:
        """Return what came after an event, None where the reader needs the room as a whole."""
        missed = self._remembered_since(after)
        if missed is not None:
            return missed
        async with self._looking:
            missed = self._remembered_since(after)
            if missed is None:
                events = await self._coordinator.records.events(self.room, after)
                if events is None or len(events) > self._max_missed:
                    return None
                missed = [update for event in events if (update := self._of(event)) is not None]
                self._recent, self._recent_after = deque(missed), after
        return missed

    def _remembered_since(self, after: str) -> list[FeedUpdate] | None:
        if after == self._recent_after:
            return list(self._recent)
        ids = [update.id for update in self._recent]
        return list(self._recent)[ids.index(after) + 1 :] if after in ids else None

    def _remember(self, update: FeedUpdate) -> None:
        if _position(update.id) > _position(self._recent[-1].id if self._recent else self._recent_after):
            self._recent.append(update)
        if len(self._recent) > self._max_missed:
            self._recent_after = self._recent.popleft().id

    async def _advance(self) -> None:
        while True:
            events = await self._coordinator.records.events(self.room, self._offered)
            if events is None:
                await self._begin_anew()
                _log.warning("events.forgotten", readers=len(self.readers))
                for reader in self.readers:
                    reader.offer(self._as_a_whole())
                return
            for event in events:
                self._tell(event)
            if len(events) < self._coordinator.max_events:
                break
        if clock() - self._read_at > _REFRESH_SECONDS:
            await self._read_room()

    def _tell(self, event: Event) -> None:
        self._offered = event.id
        update = self._of(event)
        if update is None:
            return
        self._remember(update)
        if _position(event.id) > _position(self._as_of):
            self._as_of, self._whole = event.id, None
            self._keep(event.key, event.record, update.targets[0])
        for reader in list(self.readers):
            reader.offer(update)

    async def _begin_anew(self) -> None:
        """Read the whole room, and go on from there."""
        await self._read_room()
        self._offered = self._recent_after = self._as_of
        self._recent.clear()

    async def _read_room(self) -> None:
        room = await self._coordinator.records.room(self.room, watch=True)
        self._texts = {}
        for key, record in room.records.items():
            self._keep(key, record, self._text(key, record))
        self._as_of, self._whole, self._read_at = room.last, None, clock()

    def _keep(self, key: str, record: Record, text: tuple[Target, bytes]) -> None:
        # A read of such a target gets 404: its start was refused.
        if record.generation == "0":
            self._texts.pop(key, None)
        else:
            self._texts[key] = text

    def _as_a_whole(self) -> FeedUpdate:
        if self._whole is None:
            self._whole = FeedUpdate(self._as_of, tuple(self._texts.values()), whole=True)
        return self._whole

    def _of(self, event: Event) -> FeedUpdate | None:
        # A target that was never recorded is only being looked at: there is nothing to tell yet.
        return FeedUpdate(event.id, (self._text(event.key, event.record),)) if event.record.state else None

    def _text(self, key: str, record: Record) -> tuple[Target, bytes]:
        target = target_of(key)
        return target, self._render(recording_of(key, target, record))


def _position(event: str) -> tuple[int, int]:
    milliseconds, _, number = event.partition("-")
    return int(milliseconds), int(number)
