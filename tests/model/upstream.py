"""VideoSDK at its worst: it never refuses a second start, and what it was sent may take effect long afterwards."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Final

from gateway.errors import Limited, MayHaveHappened, NeverSent, Refused, SendWindowClosed, UpstreamError
from gateway.recordings.targets import Kind, Mode, Target
from gateway.videosdk.client import Addressed, VideoSDK
from gateway.videosdk.rows import ListedRow, ListedSession

if TYPE_CHECKING:
    from tests.model.replica import Process
    from tests.model.world import World

TRACK: Final = Target(Mode.TRACK, "room", "someone", Kind.VIDEO)
EPOCH: Final = 1_800_000_000.0
"""What every clock shows when the world's shows 0."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one POST.

    Attributes:
        hears: What its sender learns: ok, refused, limited, reset (of the connection, or a 5xx), silence (until the
            time-out), unreachable (before any byte).
        lands: Seconds from the sending until it takes effect; None: never.
        reply: Seconds from the sending to what the sender hears.
        lag: Seconds until the list shows its effect.
        connect: Seconds before the first byte leaves.
    """

    hears: str = "ok"
    lands: float | None = 0.05
    reply: float = 0.1
    lag: float = 0.0
    connect: float = 0.0


@dataclass
class Row:
    """A recording.

    Attributes:
        attempt: Who began it.
        start: When it began.
        visible: When the list shows that.
        end: When it ended.
        hidden: When the list shows that.
        ended_by: stop or itself.
    """

    attempt: str
    start: float
    visible: float
    end: float | None = None
    hidden: float = 0.0
    ended_by: str = ""


@dataclass
class Flight:
    """A POST that left a process.

    Attributes:
        landed: It took effect.
        answered: Its sender knows for certain what became of it.
    """

    kind: str
    attempt: str
    sent: float
    landed: bool = False
    answered: bool = False


class Upstream:
    """The recordings of one track, and what is on its way to change them.

    Args:
        world: Where it is.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self.rows: list[Row] = []
        self.flights: list[Flight] = []
        self.fates: dict[str, deque[Fate]] = {"start": deque(), "stop": deque()}
        """Of the next POSTs; where none is said, all goes well."""
        self.list_failures = 0
        """How many of the next lists cannot be had."""
        self.lists = 0
        """How many lists were asked for."""
        self.list_blanks = 0
        """How many of the next lists show nothing."""
        self.list_seconds = 0.02
        """How long the list takes."""

    @property
    def open(self) -> list[Row]:
        """What records now."""
        return [row for row in self.rows if row.end is None]

    def unsettled(self, kind: str) -> list[Flight]:
        """Return what may still land, for all that its sender can know; what is sent without Redis promises nothing."""
        horizon = self._world.now - self._world.landing
        return [
            flight
            for flight in self.flights
            if flight.kind == kind and flight.attempt and flight.sent > horizon
            if not flight.landed and not flight.answered
        ]  # fmt: skip

    async def post(self, process: "Process", kind: str, may_send: Callable[[], bool], attempt: str) -> None:
        """Send a start or a stop, as `VideoSDK` does, and learn what its fate says."""
        fate = self.fates[kind].popleft() if self.fates[kind] else Fate()
        await process.awake()
        await asyncio.sleep(fate.connect)
        await process.awake()
        if fate.hears == "unreachable":
            raise NeverSent("unreachable")
        if not may_send():
            raise SendWindowClosed("late")
        outcome = self._send(process, kind, attempt, fate)
        limit = self._world.timing.upstream_timeout - fate.connect
        await asyncio.sleep(limit if fate.hears == "silence" else min(fate.reply, limit))
        await process.awake()
        flight, landing = outcome
        flight.answered = fate.hears in {"refused", "limited"} or (fate.hears == "ok" and bool(landing))
        if fate.hears == "refused":
            raise Refused("no", status=409)
        if fate.hears == "limited":
            raise Limited("slowly", status=429)
        if not flight.answered:
            raise MayHaveHappened(fate.hears)
        if landing == ["nothing to stop"]:
            raise Refused("not recording", status=404)

    def _send(self, process: "Process", kind: str, attempt: str, fate: Fate) -> tuple[Flight, list[str]]:
        world = self._world
        world.note(f"{process} sends {kind} {attempt} {fate}")
        world.check_window(kind, attempt)
        for other in ("start", "stop"):
            if kind == "start" and (unsettled := self.unsettled(other)):
                world.violate(f"a start is sent while a {other} may still land: {unsettled}")
        flight, landing = Flight(kind, attempt, world.now), []
        self.flights.append(flight)
        if fate.lands is not None:
            world.later(fate.lands, self._land, flight, fate.lag, landing)
        return flight, landing

    def _land(self, flight: Flight, lag: float, landing: list[str]) -> None:
        world = self._world
        flight.landed = True
        world.note(f"{flight.kind} {flight.attempt} lands")
        if flight.kind == "start":
            if self.open:
                world.violate(f"duplicate: {flight.attempt} starts while {self.open} records")
            self.rows.append(Row(flight.attempt, world.now, world.now + lag))
            landing.append("started")
        else:
            landing.append("stopped" if self.open else "nothing to stop")
            self._close("stop", lag)

    def _close(self, by: str, lag: float) -> None:
        for row in self.open:
            row.end, row.hidden, row.ended_by = self._world.now, self._world.now + lag, by

    def end(self, lag: float) -> None:
        """Let what records end by itself."""
        self._world.note("the recording ends by itself")
        self._close("itself", lag)

    async def list(self, process: "Process") -> list[ListedRow]:
        """Return the list as it shows at this moment.

        Raises:
            UpstreamError: It cannot be had.
        """
        await process.awake()
        self.lists += 1
        await asyncio.sleep(self.list_seconds / 2)
        failing = self.list_failures > 0
        self.list_failures -= failing
        blank = self.list_blanks > 0
        self.list_blanks -= blank
        rows = [] if blank else [self._shown(row) for row in self.rows if row.visible <= self._world.now]
        await asyncio.sleep(self.list_seconds / 2)
        await process.awake()
        if failing:
            raise UpstreamError("the list could not be had")
        return rows

    def _shown(self, row: Row) -> ListedRow:
        return ListedRow(
            id=row.attempt,
            room_id=TRACK.room_id,
            participant_id=TRACK.participant_id,
            kind=TRACK.kind,
            start=_iso(row.start),
            end=_iso(row.end) if row.end is not None and row.hidden <= self._world.now else None,
        )


class ImaginedVideoSDK(VideoSDK):
    """One process's client of it.

    Args:
        process: Whose.
        upstream: Of whom.
    """

    def __init__(self, process: "Process", upstream: Upstream) -> None:  # pyright: ignore[reportMissingSuperCall]
        self._process = process
        self._upstream = upstream

    async def start(
        self,
        target: Addressed,
        parameters: Mapping[str, str] | None = None,
        *,
        may_send: Callable[[], bool] = lambda: True,
        attempt: str = "",
    ) -> None:
        """Send a start."""
        await self._upstream.post(self._process, "start", may_send, attempt)

    async def stop(self, target: Addressed, *, may_send: Callable[[], bool] = lambda: True, attempt: str = "") -> None:
        """Send a stop."""
        await self._upstream.post(self._process, "stop", may_send, attempt)

    async def list_rows(
        self,
        path: str,
        room: str,
        participant: str | None = None,
        *,
        for_read: Callable[[], None] | None = None,
        max_pages: float = inf,
    ) -> list[ListedRow]:
        """Ask for the list."""
        return await self._upstream.list(self._process)

    async def sessions(self, room: str) -> list[ListedSession]:
        """Ask for the sessions: none is known."""
        return []


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(EPOCH + moment, UTC).isoformat()
