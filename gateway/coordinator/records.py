"""What is known of every target, for those who hold no claim: read it, mark it as suspect, or confirm it."""

import asyncio
from typing import Final

import msgspec
from msgspec import Struct

from gateway.coordinator.protocol import VERSION, Event, Finished, Record, Room, Timing
from gateway.coordinator.scripts import Scripts, due_times, end_times, events_of, record_key
from gateway.errors import NewerRecord
from gateway.store.clock import RedisClock, clock
from gateway.store.connection import Connection
from gateway.store.scripts import BUCKETS

__all__ = ["Records", "newer_record"]

_CLOCK_MARGIN_MS: Final = 100
_BEFORE_ALL: Final = "0-0"
"""What stands for the last event of a room that has none."""


class _Mark(Struct, frozen=True):
    since: int
    now: int


class _RoomReply(Struct, frozen=True):
    last: str
    records: list[tuple[str, str]] = []


class Records:
    """The records of one project.

    Args:
        scripts: The protocol's.
        connection: How Redis is reached.
        redis_clock: What is known of its clock.
        timing: The protocol's times.
        project: Separates the projects that share a Redis.
        max_events: Events of a room that are kept, about.
        max_targets: Targets of a room that are shown: what runs first, and then the latest changed.
    """

    def __init__(
        self,
        scripts: Scripts,
        connection: Connection,
        redis_clock: RedisClock,
        timing: Timing,
        project: str,
        *,
        max_events: int,
        max_targets: int,
    ) -> None:
        self._scripts = scripts
        self._connection = connection
        self._clock = redis_clock
        self._timing = timing
        self._project = project
        self._max_events = max_events
        self.max_targets = max_targets
        self._ready = False

    async def read(self, key: str) -> Record | None:
        """Return the target's record, or None where nothing is known of it.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        record = await self.look(key)
        return record if record is not None and record.state else None

    async def look(self, key: str) -> Record | None:
        """Return the target's record, also where it tells only that a leader looks; None where there is none.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        fields = await self._connection.read(key)
        return _understood(fields) if fields else None

    async def room(self, room: str, *, watch: bool = False) -> Room:
        """Return what is known of a room's targets: of 1,000 of them, what runs first, and then the latest changed.

        Args:
            room: Its id.
            watch: Keep the room's events for another while, for a reader that goes on from the last of them.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        reply = await self._scripts.run(
            "room", record_key(self._project, room, ""), {"most": self.max_targets, "watch": watch}
        )
        read = msgspec.json.decode(reply, type=_RoomReply)
        return Room(read.last, {key: _record(fields) for key, fields in read.records})

    async def events(self, room: str, after: str) -> list[Event] | None:
        """Return a room's events after the one of this id, or None where some of them are forgotten.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        entries = await self._connection.entries(self.channel(room), after, self._max_events + 1)
        if after != _BEFORE_ALL:
            # Where the one asked for is still there, nothing after it can be missing.
            if not entries or entries[0][0] != after:
                return None
            del entries[0]
        # Without a key it is a mark, which begins the events of a room in which nothing has happened.
        return [Event(entry, fields["key"], _record(fields["record"])) for entry, fields in entries if "key" in fields]

    def channel(self, room: str) -> str:
        """Return the name of a room's events, which is also the channel of their ids."""
        return events_of(record_key(self._project, room, ""))

    async def due(self, bucket: int, most: int) -> list[str]:
        """Return the keys of up to `most` records of this project in a bucket that have to be looked at now.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return await self._connection.due(due_times(bucket, self._project), await self._clock.learned_now_ms(), most)

    async def overdue(self, bucket: int, most: int) -> list[str]:
        """Return the keys of up to `most` recordings of this project in a bucket that have to end now.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        # Where our idea of Redis's clock is ahead, a claim would come too early, and look instead of stopping.
        now = await self._clock.learned_now_ms() - _CLOCK_MARGIN_MS
        return await self._connection.due(end_times(bucket, self._project), now, most)

    async def mark(self, *, age: float = 0) -> float:
        """Mark every bucket's epoch where none is marked, so that Q has passed since before the first caller comes.

        Args:
            age: For how many seconds a server without a mark is known to have been empty, with no gateway before it.

        Returns:
            In how many seconds Q has passed since the youngest epoch: nothing is concluded earlier about a target that
            Redis may have forgotten something of.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        keys = [f"rec:{{{bucket:02d}}}::::" for bucket in range(BUCKETS)]
        replies = await asyncio.gather(*(self._scripts.run("mark", key, {"age": _ms(age)}) for key in keys))
        marks = [msgspec.json.decode(reply, type=_Mark) for reply in replies]
        return max(0.0, *(self._timing.quiet - (mark.now - mark.since) / 1000 for mark in marks))

    async def ready_in(self) -> float:
        """Return in how many seconds a start need not wait any more for what Redis may have forgotten.

        Once that was 0 it stays so for this process: after a failover it serves on, and starts wait.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        await self._connection.check()
        if self._ready:
            return 0.0
        left = await self.mark()
        self._ready = left == 0
        return left

    async def invalidate(self, key: str, *, hint: str = "", evidence: str = "", may_land: float = 0) -> bool:
        """Have what is known of the target checked before it is believed again.

        Args:
            key: The target's record.
            hint: What was heard of its end. It concerns only a target that may be recording.
            evidence: What was learnt of the recording, where it is more than is known.
            may_land: For how many seconds what was sent without Redis may still land, or be missing from the list.

        Returns:
            Whether there is anything to check.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return await self._invalidate(key, hint=hint, evidence=evidence, may_land=round(may_land * 1000))

    async def _invalidate(self, key: str, **arguments: str | int) -> bool:
        given = {"hint": "", "evidence": "", "attempt": "", "may_land": 0, **arguments}
        reply = await self._scripts.run("invalidate", key, given)
        return msgspec.json.decode(reply, type=Finished).how == "ok"

    async def revoke(self, key: str, attempt: str) -> bool:
        """Take the claim of an attempt away, as if it had lapsed, and have what is known checked.

        Returns:
            Whether that attempt held it.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return await self._invalidate(key, attempt=attempt)

    async def confirm(self, key: str, record: Record, *, seen_at: float, evidence: str = "", due_in: float = 0) -> bool:
        """Write down that VideoSDK's list agrees with a record.

        Args:
            key: The target's record.
            record: What was compared.
            seen_at: When (`clock`) the list was asked.
            evidence: What the list says of the recording.
            due_in: Seconds after which it is to be compared again; 0 is never.

        Returns:
            Whether the record is still the one that was compared. If not, nothing was written.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return await self._confirm(key, record, seen_at, evidence, due_in, agrees=True)

    async def postpone(self, key: str, record: Record, *, due_in: float) -> None:
        """Have a record that could not be compared with the list compared in so many seconds, unless it has changed.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        await self._confirm(key, record, clock(), "", due_in, agrees=False)

    async def _confirm(
        self, key: str, record: Record, seen_at: float, evidence: str, due_in: float, *, agrees: bool
    ) -> bool:
        arguments = {
            "state": record.state,
            "generation": record.generation,
            "agrees": agrees,
            "seen_ago": max(_ms(clock() - seen_at), 0),
            "evidence": evidence,
            "due_in": _ms(due_in),
        }
        return msgspec.json.decode(await self._scripts.run("confirm", key, arguments), type=Finished).how == "ok"


def newer_record() -> NewerRecord:
    """Return the error for a record that a later version of the gateway has written."""
    return NewerRecord("A later version of the gateway has written what is known of this recording.", retry_after=2)


def _record(fields: str) -> Record:
    return _understood(msgspec.json.decode(fields, type=dict[str, str]))


def _understood(fields: dict[str, str]) -> Record:
    if int(fields.get("v", VERSION)) > VERSION:
        raise newer_record()
    return msgspec.convert(fields, Record, strict=False)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
