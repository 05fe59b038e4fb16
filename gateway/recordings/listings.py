"""Asks VideoSDK for lists: once for all who want one of the same room.

One question of a room is under way at a time. A caller that comes meanwhile joins the next, so that no caller gets a
list that was asked for before they came; and where the next is about several participants it asks for the whole room.
"""

import asyncio
from collections import OrderedDict
from typing import Any, Final

import structlog
from msgspec import Struct, structs

from gateway.errors import UpstreamError
from gateway.recordings.evidence import milliseconds
from gateway.recordings.targets import MODES, Mode, Target
from gateway.store.clock import clock
from gateway.videosdk.client import ListedRow, ListedSession, VideoSDK

__all__ = ["Listing", "ListingCache"]

_WHOLE_ROOM_EVERY_SECONDS: Final = 0.5
_MAX_REMEMBERED: Final = 100

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


class _Batch:
    def __init__(self) -> None:
        self.participants: set[str | None] = set()
        self.modes: set[Mode] = set()
        self.answer: asyncio.Future[Listing] = asyncio.get_running_loop().create_future()


class ListingCache:
    """Asks for lists, for one process.

    Args:
        videosdk: Whom to ask.
        max_remembered: Lists of rooms that are remembered, and as many of single participants.
    """

    def __init__(self, videosdk: VideoSDK, *, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._videosdk = videosdk
        self._max_remembered = max_remembered
        self._next: dict[str, _Batch] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._whole: OrderedDict[str, Listing] = OrderedDict()
        """The last list of each whole room."""
        self._single: OrderedDict[tuple[str, str], Listing] = OrderedDict()

    async def ask(
        self, room: str, participant: str | None = None, mode: Mode | None = None, *, max_age: float = 0
    ) -> Listing:
        """Return the list of a room, or at least of one participant in it.

        Args:
            room: Which room.
            participant: Whose rows matter; None for all participants'.
            mode: Which recordings matter; None for those of every mode.
            max_age: How many seconds ago it may have been asked for; 0 asks now.

        Raises:
            UpstreamError: VideoSDK did not tell.
        """
        modes = _ALL if mode is None else frozenset({mode})
        participant = participant or None
        if max_age and (known := self._known(room, participant, modes)) and clock() - known.asked_at <= max_age:
            return known
        batch = self._next.get(room)
        if batch is None:
            batch = self._next[room] = _Batch()
        batch.participants.add(participant)
        batch.modes |= modes
        if room not in self._asking:
            self._asking[room] = asyncio.create_task(self._ask_for_all(room), name="list")
        return await asyncio.shield(batch.answer)

    async def is_over(self, room: str, row: ListedRow) -> bool:
        """Tell whether VideoSDK says that the session is over in which a row was recorded; if in doubt, it is not."""
        try:
            sessions = await self._videosdk.sessions(room)
        except UpstreamError as error:
            _log.warning("upstream.sessions_failed", error=type(error).__name__, status=error.status)
            return False
        return _has_ended(row, sessions)

    def _known(self, room: str, participant: str | None, modes: frozenset[Mode]) -> Listing | None:
        known = [self._whole.get(room), self._single.get((room, participant)) if participant else None]
        return max((one for one in known if one and one.modes >= modes), key=lambda one: one.asked_at, default=None)

    async def _ask_for_all(self, room: str) -> None:
        try:
            while room in self._next:
                if len(self._next[room].participants) > 1:
                    # Many look at once, again and again: they share a rhythm.
                    last = self._whole.get(room)
                    pause = last.asked_at + _WHOLE_ROOM_EVERY_SECONDS - clock() if last else 0.0
                    await asyncio.sleep(max(0.0, pause))
                await self._ask_for(room, self._next.pop(room))
        finally:
            del self._asking[room]

    async def _ask_for(self, room: str, batch: _Batch) -> None:
        participant = next(iter(batch.participants)) if len(batch.participants) == 1 else None
        asked_at = clock()
        try:
            rows = [
                structs.replace(row, mode=mode)
                for mode in sorted(batch.modes)
                for row in await self._videosdk.list_rows(MODES[mode].path, room, participant)
            ]
            newest = max(rows, key=lambda row: milliseconds(row.start), default=None)
            listed = Listing(rows, asked_at, frozenset(batch.modes), newest)
        except UpstreamError as error:
            _log.warning("upstream.list_failed", error=type(error).__name__, status=error.status)
            batch.answer.set_exception(error)
            batch.answer.exception()  # its askers may be gone
            return
        except Exception as error:  # noqa: BLE001 - its askers must learn of it, and the next batch be asked for
            _log.exception("list.failed")
            batch.answer.set_exception(error)
            batch.answer.exception()
            return
        except BaseException:
            batch.answer.cancel()
            raise
        if participant is None:
            self._remember(self._whole, room, listed)
        else:
            self._remember(self._single, (room, participant), listed)
        batch.answer.set_result(listed)

    def _remember(self, known: OrderedDict[Any, Listing], name: object, listed: Listing) -> None:
        known[name] = listed
        known.move_to_end(name)
        if len(known) > self._max_remembered:
            known.popitem(last=False)


def _has_ended(row: ListedRow, sessions: list[ListedSession]) -> bool:
    """Tell whether the sessions of a room prove that of a row to be over: it has ended, or a later one has begun."""
    return bool(row.session_id) and any(
        session.end is not None
        if session.id == row.session_id
        else milliseconds(session.start) > milliseconds(row.start)
        for session in sessions
    )
