"""Asks VideoSDK for lists: once for all who want one of the same room.

One question of a room is under way at a time. A caller that comes meanwhile joins the next, so that no caller gets a
list that was asked for before they came; and where the next is about several participants it asks for the whole room.
A room that has been used for years may have a longer list than is read, or than those who ask are worth, and the list
of a busy one changes while it is read: such a room's participants are asked for one by one, for a while without another
try.

What reads ask goes another way than what operations and the reconciler ask: a start must not wait for its list until
those of any number of reads have been answered. A read pays for the calls that it causes (`ReadBudget`); none to join.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Set as AbstractSet
from math import inf
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct, structs

from gateway.coordinator import Record
from gateway.errors import ListIncomplete, Refused, UpstreamError
from gateway.recordings.evidence import dead_rows, milliseconds, open_rows
from gateway.recordings.targets import MODES, Mode, Target
from gateway.store.clock import clock
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.rows import ListedRow, ListedSession

__all__ = ["Listing", "ListingCache", "ReadBudget"]

_WHOLE_ROOM_EVERY_SECONDS: Final = 0.5
_MAX_REMEMBERED: Final = 100
_MAX_UNKNOWN: Final = 10_000
"""Rooms that are remembered as unknown: each takes some hundred bytes."""
_MAX_IN_PARTS: Final = 10_000
_IN_PARTS_SECONDS: Final = 300.0
"""How long a room's participants are asked for one by one before the whole room is tried again."""
_FEW_PAGES: Final = 5
"""As long as it takes to read them an operation may wait, and then the whole room's list is known to all."""
_MAX_CONCURRENT_PARTICIPANTS: Final = 4
"""Participants of a room that are asked for at once: many wait, and other rooms need VideoSDK's client too."""

_ALL: Final = frozenset(MODES)

_log = structlog.get_logger("gateway.recordings")


class Listing(Struct, frozen=True):
    """What VideoSDK listed."""

    rows: list[ListedRow]
    asked_at: float
    """When (`clock`) it was asked: what it says is no younger."""
    modes: frozenset[Mode] = _ALL
    """Which recordings it is about."""
    newest: ListedRow | None = None
    """The row that began last."""

    def is_superseded(self, row: ListedRow) -> bool:
        """Tell whether a later session of the room has recorded: it has one at a time, so that of this row is over."""
        other = self.newest
        return (
            other is not None
            and bool(row.session_id and other.session_id)
            and other.session_id != row.session_id
            and milliseconds(other.start) > milliseconds(row.start)
        )

    def of(self, target: Target) -> list[ListedRow]:
        """Return the rows of one target."""
        return [
            row
            for row in self.rows
            if row.mode == target.mode
            and target.participant_id in {"", row.participant_id}
            and target.kind in {None, row.kind}
        ]

    def open_targets(self, room: str) -> set[Target]:
        """Return what it shows as recording in its room, of what a caller could name."""
        targets = {
            Target.named(Mode(row.mode), room, row.participant_id, row.kind) for row in self.rows if row.end is None
        }
        return {target for target in targets if target is not None}

    def open_rows_of(self, target: Target, record: Record, now: int, settle: float) -> list[ListedRow]:
        """Return the rows of a target that record now, newest first, without dead ones and those of earlier sessions.

        Args:
            target: Whose.
            record: What is known of it.
            now: Redis's clock in ms.
            settle: For how many seconds after the recorded end the list may still show as open what has ended.
        """
        rows = open_rows(self.of(target), record.ended_at, now, settle, dead_rows(record.evidence))
        return [row for row in rows if not self.is_superseded(row)]


class ReadBudget(Protocol):
    """What a read, on whose answer no operation depends, pays with for the calls to VideoSDK that it causes."""

    async def admit(self) -> None:
        """Pay for one call.

        Raises:
            TooManyRequests: It cannot.
        """
        ...

    def spend(self, calls: int) -> None:
        """Pay for calls that were made beyond that one."""
        ...


class _Query:
    """What is asked of a room: which participants matter, None for all of them, and the answer about each."""

    def __init__(self, budget: ReadBudget | None) -> None:
        self._budget = budget
        self._calls = 0
        self.modes: dict[str | None, set[Mode]] = {}
        self._answers: dict[str | None, asyncio.Future[Listing]] = {}

    @property
    def is_read(self) -> bool:
        """Whether no operation waits for it."""
        return self._budget is not None

    @property
    def all_modes(self) -> set[Mode]:
        """Those that matter of one participant or another."""
        return {mode for modes in self.modes.values() for mode in modes}

    def join(self, participant: str | None, modes: AbstractSet[Mode]) -> asyncio.Future[Listing]:
        """Have it be about a participant too, and return the answer to come."""
        self.modes.setdefault(participant, set()).update(modes)
        if participant not in self._answers:
            self._answers[participant] = asyncio.get_running_loop().create_future()
        return self._answers[participant]

    def pay(self) -> None:
        """Pay for a call that was made: the first one has been paid for."""
        self._calls += 1
        if self._budget is not None and self._calls > 1:
            self._budget.spend(1)

    def answer(self, outcome: Listing | Exception, *participants: str | None) -> None:
        """Give those who asked for these participants the list, or what went wrong."""
        for answer in (self._answers[participant] for participant in participants):
            if isinstance(outcome, Listing):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)
                answer.exception()  # its waiters may be gone

    def give_up(self) -> None:
        """Leave those who wait without an answer."""
        for answer in self._answers.values():
            answer.cancel()


class _Lane:
    """Who goes one way to VideoSDK: what is asked next of each room, and what is being asked."""

    def __init__(self) -> None:
        self.next: dict[str, _Query] = {}
        self.asking: dict[str, asyncio.Task[None]] = {}


class ListingCache:
    """Asks for lists, for one process.

    Args:
        videosdk: The client of VideoSDK.
        max_remembered: Lists of rooms that are remembered, and as many of single participants.
        max_unknown: Rooms that are remembered as unknown to VideoSDK, and as many that it refuses to list.
        max_in_parts: Rooms that are remembered as not to be read as a whole.
        in_parts: For how many seconds.
        few_pages: Pages of a whole room that are read even for two participants; for more, as many as they are.
    """

    def __init__(
        self,
        videosdk: VideoSDK,
        *,
        max_remembered: int = _MAX_REMEMBERED,
        max_unknown: int = _MAX_UNKNOWN,
        max_in_parts: int = _MAX_IN_PARTS,
        in_parts: float = _IN_PARTS_SECONDS,
        few_pages: int = _FEW_PAGES,
    ) -> None:
        self._videosdk = videosdk
        self._max_remembered = max_remembered
        self._max_unknown = max_unknown
        self._max_in_parts = max_in_parts
        self._in_parts_seconds = in_parts
        self._few_pages = few_pages
        self._operations, self._reads = _Lane(), _Lane()
        self._whole: OrderedDict[str, Listing] = OrderedDict()
        """The last list of each whole room."""
        self._single: OrderedDict[tuple[str, str], Listing] = OrderedDict()
        self._unknown: OrderedDict[str, Listing] = OrderedDict()
        """The last list of each whole room of which it showed nothing: made-up ones must not push out the others."""
        self._refused: OrderedDict[str, tuple[float, Refused]] = OrderedDict()
        """When (`clock`) VideoSDK refused to list a room, and how."""
        self._in_parts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """When (`clock`) a room was asked for whose list could not be read as a whole, and the pages to try again."""

    async def ask(
        self,
        room: str,
        participant: str | None = None,
        mode: Mode | None = None,
        *,
        max_age: float = 0,
        budget: ReadBudget | None = None,
    ) -> Listing:
        """Return the list of a room, or at least of one participant in it.

        Args:
            room: Which room.
            participant: Whose rows matter; None for all participants'.
            mode: Which recordings matter; None for those of every mode.
            max_age: How many seconds ago it may have been asked for; 0 asks now.
            budget: What a read pays with; None where an operation depends on the answer.

        Raises:
            ListIncomplete: The list cannot be read as a whole, and a shorter one would not do.
            UpstreamError: VideoSDK did not tell.
            TooManyRequests: The read cannot pay.
        """
        modes = _ALL if mode is None else frozenset({mode})
        participant = participant or None
        if max_age and (known := self._remembered(room, participant, modes, clock() - max_age)):
            return known
        lane = self._operations if budget is None else self._reads
        if budget is not None and room not in lane.next:
            await budget.admit()
        query = lane.next.get(room)
        if query is None:
            query = lane.next[room] = _Query(budget)
        answer = query.join(participant, modes)
        if room not in lane.asking:
            lane.asking[room] = asyncio.create_task(self._ask_for_all(lane, room), name="list")
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Give up what is being asked: no operation needs it any more."""
        tasks = [*self._operations.asking.values(), *self._reads.asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget_unknown(self, room: str) -> None:
        """Say that there may be something in the room, of which VideoSDK has shown nothing so far."""
        self._unknown.pop(room, None)
        self._refused.pop(room, None)

    def is_in_parts(self, room: str, participants: int = 1) -> bool:
        """Tell whether so many participants are better asked for by themselves, as a try a short while ago showed."""
        asked_at, pages = self._in_parts.get(room, (0.0, 0.0))
        return pages > participants and clock() - asked_at < self._in_parts_seconds

    async def is_over(self, room: str, row: ListedRow) -> bool:
        """Tell whether VideoSDK says that the session is over in which a row was recorded; if in doubt, it is not."""
        try:
            sessions = await self._videosdk.sessions(room)
        except UpstreamError as error:
            _log.warning("upstream.sessions_failed", error=type(error).__name__, status=error.status)
            return False
        return _has_ended(row, sessions)

    def _remembered(self, room: str, participant: str | None, modes: frozenset[Mode], since: float) -> Listing | None:
        """Return the youngest list that was asked for since then, None where there is none.

        Raises:
            Refused: VideoSDK has refused since then to list the room.
        """
        candidates = (
            self._last_of_room(room), self._single.get((room, participant)) if participant else None
        )  # fmt: skip
        known = max(
            (one for one in candidates if one and one.modes >= modes), key=lambda one: one.asked_at, default=None
        )
        if known is not None and known.asked_at >= since:
            return known
        refused_at, refusal = self._refused.get(room, (0.0, None))
        if refusal is not None and refused_at >= since:
            raise Refused(refusal.message, status=refusal.status, retry_after=refusal.retry_after)
        return None

    def _last_of_room(self, room: str) -> Listing | None:
        return self._whole.get(room) or self._unknown.get(room)

    async def _ask_for_all(self, lane: _Lane, room: str) -> None:
        try:
            while room in lane.next:
                if len(lane.next[room].modes) > 1:
                    # Many look at once, again and again: they share a rhythm.
                    last = self._last_of_room(room)
                    pause = last.asked_at + _WHOLE_ROOM_EVERY_SECONDS - clock() if last else 0.0
                    await asyncio.sleep(max(0.0, pause))
                await self._ask_for(room, lane.next.pop(room))
        finally:
            del lane.asking[room]

    async def _ask_for(self, room: str, query: _Query) -> None:
        try:
            left = list(query.modes)
            if len(left) > 1 and not self.is_in_parts(room, len(left)):
                left = await self._ask_for_whole(room, query)
            places = asyncio.Semaphore(_MAX_CONCURRENT_PARTICIPANTS)
            await asyncio.gather(*(self._ask_for_one(room, participant, query, places) for participant in left))
        except BaseException:
            query.give_up()
            raise

    async def _ask_for_whole(self, room: str, query: _Query) -> list[str | None]:
        """Ask once for all, and return which participants are still to be asked for, each by itself."""
        modes = query.all_modes
        worth = inf if None in query.modes else max(len(query.modes), self._few_pages)
        outcome = await self._listed(room, None, modes, query, worth)
        if isinstance(outcome, Listing):
            self._in_parts.pop(room, None)
        if not isinstance(outcome, ListIncomplete):
            query.answer(outcome, *query.modes)
            return []
        left = list(query.modes)
        if query.modes.get(None) == modes:
            # The same list again would end in the same way.
            query.answer(outcome, None)
            left.remove(None)
        return left

    async def _ask_for_one(self, room: str, participant: str | None, query: _Query, places: asyncio.Semaphore) -> None:
        async with places:
            query.answer(await self._listed(room, participant, query.modes[participant], query), participant)

    async def _listed(
        self, room: str, participant: str | None, modes: AbstractSet[Mode], query: _Query, max_pages: float = inf
    ) -> Listing | Exception:
        """Return the list, which is remembered from now on, or what went wrong."""
        asked_at = clock()
        try:
            rows = await self._rows(room, participant, modes, query, max_pages)
            newest = max(rows, key=lambda row: milliseconds(row.start), default=None)
            listed = Listing(rows, asked_at, frozenset(modes), newest)
        except UpstreamError as error:
            if not isinstance(error, ListIncomplete) or max_pages == inf:
                # Else the participants' own lists answer.
                _log.warning("upstream.list_failed", error=type(error).__name__, status=error.status)
            if isinstance(error, Refused) and participant is None:
                _keep(self._refused, room, (asked_at, error), self._max_unknown)
            if isinstance(error, ListIncomplete) and participant is None:
                _keep(self._in_parts, room, (asked_at, error.pages), self._max_in_parts)
            return error
        except Exception as error:  # noqa: BLE001 - its waiters must learn of it, and the next query be asked for
            _log.exception("list.failed")
            return error
        self._remember(room, participant, listed)
        return listed

    async def _rows(
        self, room: str, participant: str | None, modes: AbstractSet[Mode], query: _Query, max_pages: float
    ) -> list[ListedRow]:
        rows: list[ListedRow] = []
        for mode in sorted(modes):
            if participant is not None and "participantId" not in MODES[mode].ids:
                continue  # its recordings are no participant's
            listed = await self._videosdk.list_rows(
                MODES[mode].path,
                room,
                participant,
                for_read=query.pay if query.is_read else None,
                max_pages=max_pages,
            )
            # Where a row says what it is, and that is not what was asked for (a composite recording), it is no row
            # of ours: it neither is the recording of a target nor stands in the way of one.
            rows += (structs.replace(row, mode=mode) for row in listed if row.mode in {"", mode})
        return rows

    def _remember(self, room: str, participant: str | None, listed: Listing) -> None:
        if participant is not None:
            _keep(self._single, (room, participant), listed, self._max_remembered)
            return
        self._whole.pop(room, None)
        self.forget_unknown(room)
        if listed.rows:
            _keep(self._whole, room, listed, self._max_remembered)
        else:
            _keep(self._unknown, room, listed, self._max_unknown)


def _keep(known: OrderedDict[Any, Any], name: object, what: object, most: int) -> None:
    """Remember something, and forget what was remembered first where there is no room."""
    known[name] = what
    known.move_to_end(name)
    if len(known) > most:
        known.popitem(last=False)


def _has_ended(row: ListedRow, sessions: list[ListedSession]) -> bool:
    """Tell whether the sessions of a room prove that of a row to be over: it has ended, or a later one has begun."""
    return bool(row.session_id) and any(
        session.end is not None
        if session.id == row.session_id
        else milliseconds(session.start) > milliseconds(row.start)
        for session in sessions
    )
