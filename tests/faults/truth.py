"""How long it takes until a record is right, and whether it stays so, whatever becomes of VideoSDK's webhooks.

Each cell of the table is one thing that happens to a recording, and one fate of the webhooks that tell of it. What the
records say is read in Redis: a question to the gateway would have it look.

A webhook that is a day late arrives when everybody has learnt of its recording's end without it and the next one runs
(or, where it tells of a beginning, when its recording has been stopped): as an echo that must change nothing.
"""

import asyncio
import math
import random
import tempfile
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import httpx
import msgspec
from msgspec import Struct, field
from redis.asyncio import Redis

from gateway.api.webhooks import WEBHOOK_PATH
from gateway.sandbox.faults import Fault, WebhookAction
from gateway.sandbox.shapes import Recording
from gateway.sandbox.simulator import Simulator
from gateway.settings.table import SETTINGS
from tests import harness
from tests.faults.clients import Caller, Recorder, Track
from tests.faults.history import ClientCall, Trouble
from tests.faults.waits import Waits

__all__ = ["FATES", "HAPPENINGS", "Cell", "Server", "Times", "find_truth", "truth_table", "truth_with_defaults"]

Fate = Literal["on", "lost", "doubled", "reordered", "late"]
Happening = Literal["started", "failed", "stopped", "ended", "left", "session ended"]
FATES: Final[dict[Fate, str]] = {
    "on": "webhooks on",
    "lost": "every webhook lost",
    "doubled": "doubled",
    "reordered": "reordered",
    "late": "a day late",
}
HAPPENINGS: Final[dict[Happening, str]] = {
    "started": "started",
    "failed": "refused later",
    "stopped": "stopped",
    "ended": "ended by itself",
    "left": "participant left",
    "session ended": "session ended",
}
AT_LEAST: Final = 20
"""Tracks in a cell of the full table."""

_EVENT: Final = "participant-track-recording-"
_OF_ROOMS: Final[dict[Happening, str]] = {"left": "participant-left", "session ended": "session-ended"}
"""What only the room is told: the track's own event is lost in these columns."""
_BEFORE: Final = (f"{_EVENT}starting", f"{_EVENT}started")
_ENDS: Final[dict[Happening, tuple[str, ...]]] = {
    "failed": (f"{_EVENT}failed",),
    "stopped": (f"{_EVENT}stopping", f"{_EVENT}stopped"),
    "ended": (f"{_EVENT}stopped",),
    "left": ("participant-left", f"{_EVENT}stopped"),
    "session ended": ("session-ended", f"{_EVENT}stopped"),
}
"""What VideoSDK tells of an end."""
_REASONS: Final[dict[Happening, str]] = {
    "failed": "failed",
    "stopped": "stopped",
    "ended": "ended",
    "left": "participant_left",
    "session ended": "session_ended",
}
_RUNS: Final = frozenset({"recording"})
_OVER: Final = frozenset({"stopped", "failed"})
_PATIENCE: Final = 35.0
"""Seconds after which a caller leaves: a little later than any is kept waiting."""
_EVERY: Final = 0.1
"""Seconds between two looks; what is measured is too long by so much at most."""


class Times(Struct, frozen=True, kw_only=True):
    """How a play is spread, and what it has to show; in seconds.

    Attributes:
        starts: In which the recordings begin.
        runs: For how long each of them runs, at least and at most.
        swapped: How long a webhook waits for the next one to overtake it.
        told: Until a record has to be right, of which a webhook tells.
        untold: Until any other has to be.
    """

    starts: float
    runs: tuple[float, float]
    swapped: float
    told: float
    untold: float


DEFAULT_TIMES: Final = Times(starts=30, runs=(1, 31), swapped=2, told=5, untold=60)
"""Recordings end at any moment between two comparisons with the list."""


class Server(Struct):
    """A gateway."""

    name: str
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


class _Truth(Struct):
    """What has to be read of a track from a moment on."""

    states: frozenset[str]
    since: float
    right: float = math.inf
    because: str = ""
    broken: str = ""
    """What was read after it had been right."""

    @property
    def done(self) -> bool:
        """Whether it is known when it was right."""
        return self.right < math.inf


class _Case(Struct, kw_only=True, eq=False):
    """One recording, and what happens to it."""

    fate: Fate
    happening: Happening
    number: int
    track: Track
    truths: list[_Truth] = field(default_factory=list[_Truth])
    """What has to be read, the latest last."""
    wrong: list[str] = field(default_factory=list[str])


class Cell(Struct, frozen=True, kw_only=True):
    """What came of all tracks of one cell."""

    fate: Fate
    happening: Happening
    seconds: list[float]
    wrong: list[str]
    bound: float
    unexplained: int = 0
    """Ends whose reason a webhook told, which the record does not know."""

    @property
    def p99(self) -> float:
        """Seconds within which 99 of 100 records were right; of fewer than a hundred it is the last."""
        return sorted(self.seconds)[min(int(len(self.seconds) * 0.99), len(self.seconds) - 1)]

    @property
    def good(self) -> bool:
        """Whether the records were right in time, and stayed so."""
        return not self.wrong and self.p99 <= self.bound

    def __str__(self) -> str:
        """Return the cell of the table: the median and the 99th of a hundred."""
        late = "" if self.p99 <= self.bound else "!"
        return f"{sorted(self.seconds)[len(self.seconds) // 2]:.1f} {self.p99:.1f}{late}"


def truth_table(cells: Sequence[Cell]) -> str:
    """Return the table, and below it whatever was wrong."""
    head = ["until right (p50 p99 s)", *HAPPENINGS.values(), "tracks", "no reason", "wrong"]
    rows = [head]
    for fate, name in FATES.items():
        row = {cell.happening: cell for cell in cells if cell.fate == fate}
        sums = (
            sum(len(cell.seconds) for cell in row.values()),
            sum(cell.unexplained for cell in row.values()),
            sum(len(cell.wrong) for cell in row.values()),
        )
        rows.append([name, *(str(row[happening]) for happening in HAPPENINGS), *(str(number) for number in sums)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in
                  enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    lines += [
        f"{FATES[cell.fate]}, {HAPPENINGS[cell.happening]}: {wrong}" for cell in cells for wrong in cell.wrong[:5]
    ]
    return "\n".join(lines)


async def truth_with_defaults(seed: int = 0, tracks: int = AT_LEAST) -> tuple[list[Cell], list[Trouble]]:
    """Play every cell at once, with the settings that operators get; return also when the machine was too busy."""
    given = {*harness.FAST, "GATEWAY_CHECK_SECONDS", "GATEWAY_TRUST_SECONDS"}
    defaults = {row.variable: row.default or "" for row in SETTINGS if row.variable in given}
    async with AsyncExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="gateway-truth-")))
        valkey = running.enter_context(harness.AgedValkey(port=0))
        simulator = await running.enter_async_context(harness.simulator(seed=seed))
        redis = await running.enter_async_context(Redis(port=valkey.port, decode_responses=True))
        demo = harness.Demo(folder)
        settings = harness.environment(valkey.url, simulator.url, demo.file, **defaults)
        gateways: list[Server] = []
        watched = [("", "a server", valkey.pid)]
        for name in ("g1", "g2"):
            gateway = harness.GatewayProcess(settings, folder / f"{name}.log", public=True)
            running.callback(gateway.kill)
            gateways.append(Server(name, (await gateway.ready()).port))
            watched.append((name, "", gateway.pid))
        async with Waits(lambda: watched) as waits:
            cells = await find_truth(simulator, redis, gateways, demo.key, DEFAULT_TIMES, tracks=tracks, seed=seed)
            return cells, waits.stalls()


async def find_truth(
    simulator: Simulator, redis: Redis, gateways: Sequence[Server], key: str, times: Times, *, tracks: int, seed: int
) -> list[Cell]:
    """Play every cell at once.

    Args:
        simulator: VideoSDK; it must know where the gateways are.
        redis: Where the records are; replies are text.
        gateways: Whom to ask.
        key: The callers' API key.
        times: How the play is spread.
        tracks: How many in each cell.
        seed: Makes the moments repeatable.
    """
    play = _Play(simulator, redis, gateways, key, times, random.Random(seed))
    cases = [
        case for fate in get_args(Fate) for happening in get_args(Happening)
        for case in play.cell(fate, happening, tracks)
    ]  # fmt: skip
    await play.all(cases)
    return [
        _cell(fate, happening, [case for case in cases if (case.fate, case.happening) == (fate, happening)], times)
        for fate in FATES
        for happening in HAPPENINGS
    ]


def _cell(fate: Fate, happening: Happening, cases: list[_Case], times: Times) -> Cell:
    told = fate in {"on", "doubled", "reordered"}
    wrong = [f"{case.track.name}: {text}" for case in cases for text in case.wrong]
    unexplained = 0
    for case in cases:
        wrong += [f"{case.track.name}: {truth.broken}" for truth in case.truths if truth.broken]
        because = case.truths[0].because if case.truths else ""
        reason = _REASONS.get(happening, "")
        if because not in {"", reason}:
            wrong.append(f"{case.track.name}: it ended because {because}")
        unexplained += because != reason and (told or happening == "stopped")
    seconds = [case.truths[0].right - case.truths[0].since if case.truths else math.inf for case in cases]
    # Who is overtaken comes so much later.
    bound = times.told + (times.swapped if fate == "reordered" else 0) if told else times.untold
    return Cell(fate=fate, happening=happening, seconds=seconds, wrong=wrong, bound=bound, unexplained=unexplained)


class _Play:
    """Everything that happens, and those who look."""

    def __init__(
        self,
        simulator: Simulator,
        redis: Redis,
        gateways: Sequence[Server],
        key: str,
        times: Times,
        chance: random.Random,
    ) -> None:
        self._simulator = simulator
        self._redis = redis
        self._gateways = gateways
        self._key = key
        self._times = times
        self._random = chance
        self._recorder = Recorder()
        self._keys: dict[str, str] = {}
        self._clients: list[httpx.AsyncClient] = []
        self._actions: dict[Fate, tuple[WebhookAction | None, float]] = {
            "on": (None, 0),
            "lost": ("webhook_lost", 0),
            "doubled": ("webhook_doubled", 0),
            "reordered": ("webhook_reordered", times.swapped),
            "late": ("webhook_lost", 0),
        }

    def cell(self, fate: Fate, happening: Happening, tracks: int) -> list[_Case]:
        """Make the tracks of one cell: in one room, unless it is the room that tells, one event after the other."""
        room = ""
        cases: list[_Case] = []
        for number in range(tracks):
            if not room or happening in _OF_ROOMS:
                room = self._room(fate, happening)
            track = Track(room, f"p{number}")
            cases.append(_Case(fate=fate, happening=happening, number=number, track=track))
        return cases

    def _room(self, fate: Fate, happening: Happening) -> str:
        """Make a room whose webhooks meet their fate; where it is about the room, it tells one of the gateways."""
        body: dict[str, Any] = {}
        if happening in _OF_ROOMS:
            endpoint = f"{self._gateway().url}{WEBHOOK_PATH}"
            body["webhook"] = {"endPoint": endpoint, "events": [_OF_ROOMS[happening]]}
        room = cast("str", self._simulator.account.create_room(body)["roomId"])
        if happening in _OF_ROOMS:
            self._simulator.inject(Fault(action="webhook_lost", room_id=room, event=f"{_EVENT}stopped", times=None))
        action, seconds = self._actions[fate]
        if action is not None:
            self._simulator.inject(Fault(action=action, room_id=room, seconds=seconds, times=None))
        return room

    async def all(self, cases: Sequence[_Case]) -> None:
        """Let everything happen, and look all the time, and once more when nothing is left to happen."""
        async with AsyncExitStack() as open_clients:
            self._clients = [
                await open_clients.enter_async_context(harness.client(gateway.url, self._key))
                for gateway in self._gateways
            ]
            await self._all(cases)

    async def _all(self, cases: Sequence[_Case]) -> None:
        over = asyncio.Event()
        reconciler = asyncio.create_task(self._watch(cases, over))
        try:
            await asyncio.gather(*(self._live(case) for case in cases))
            await self._simulator.settle()
            # What was accepted is heard a moment later; whatever it casts doubt on is then looked at.
            await asyncio.sleep(1.0)
            await harness.until(self._doubts, lambda doubts: not doubts)
        finally:
            over.set()
            await reconciler
        lots = [cases[place :: len(self._clients)] for place in range(len(self._clients))]
        await asyncio.gather(*(self._ask(client, lot) for client, lot in zip(self._clients, lots, strict=True)))

    # --- what happens --------------------------------------------------------------------------------------------

    async def _live(self, case: _Case) -> None:
        """Begin a recording, and let happen what has to."""
        await asyncio.sleep(self._random.uniform(0, self._times.starts))
        caller = Caller(self._recorder, self._key, 30)
        try:
            if not await self._begin(case, caller):
                return
            if case.happening != "started":
                await asyncio.sleep(self._random.uniform(*self._times.runs))
                await self._happen(case, caller)
            await self._until_right(case)
            if case.fate == "late":
                await self._go_on(case, caller)
        finally:
            caller.close()

    async def _begin(self, case: _Case, caller: Caller) -> bool:
        """Start; where it is about starts, every other one's answer is lost."""
        if case.happening == "started" and case.number % 2:
            self._lose_answer("start", case)
        call = await self._call(case, caller, "start")
        if call.ok and case.happening == "started":
            case.truths.append(_Truth(_RUNS, self._row(case).opened))
        return call.ok

    async def _happen(self, case: _Case, caller: Caller) -> None:
        room, participant, kind = case.track.room, case.track.participant, case.track.kind
        match case.happening:
            case "failed":
                self._simulator.fail_recording(room, participant, kind)
            case "ended":
                self._simulator.end_recording(room, participant, kind)
            case "left":
                self._simulator.leave(room, participant)
            case "session ended":
                self._simulator.end_session(room)
            case _:
                if case.number % 2:
                    # Before somebody has seen it in the list, that the list does not show it proves nothing.
                    await harness.until(lambda: self._read(case, "evidence"), bool, timeout=self._times.untold)
                    self._lose_answer("stop", case)
                await self._call(case, caller, "stop")
        case.truths.append(_Truth(_OVER, self._row(case).closed or time.monotonic()))

    async def _until_right(self, case: _Case) -> None:
        truth = case.truths[-1]
        give_up = time.monotonic() + self._times.untold + 5
        while not truth.done:
            if time.monotonic() > give_up:
                case.wrong.append("the record was never right")
                return
            await asyncio.sleep(_EVERY)

    async def _go_on(self, case: _Case, caller: Caller) -> None:
        """Do what comes after, and only then have the webhooks arrive: in any order, once or twice."""
        # Nothing has to be read while it changes.
        case.truths.append(_Truth(frozenset(), time.monotonic()))
        call = await self._call(case, caller, "stop" if case.happening == "started" else "start")
        if not call.ok:
            return
        case.truths.append(_Truth(_OVER if case.happening == "started" else _RUNS, call.ended))
        await self._until_right(case)
        events = [*_BEFORE, *_ENDS.get(case.happening, ()), *_BEFORE]
        self._random.shuffle(events)
        for event in events:
            await self._echo(case, event)

    async def _echo(self, case: _Case, event: str) -> None:
        """Tell a gateway of something, as VideoSDK does."""
        data = {"meetingId": case.track.room, "sessionId": "before"}
        if event != "session-ended":
            data["participantId"] = case.track.participant
        if event.startswith(_EVENT):
            data["kind"] = case.track.kind
        body = msgspec.json.encode({"webhookType": event, "data": data})
        headers = {"videosdk-signature": self._simulator.sign(body)}
        answer = await self._clients[self._random.randrange(len(self._clients))].post(
            WEBHOOK_PATH, content=body, headers=headers
        )
        if answer.status_code != 204:
            case.wrong.append(f"a webhook was answered {answer.status_code}")

    async def _call(self, case: _Case, caller: Caller, op: Literal["start", "stop"]) -> ClientCall:
        """Ask for something, and again where it was not even sent: the machine may be busy."""
        give_up = time.monotonic() + _PATIENCE
        while True:
            # A start waits until a stop whose answer was lost cannot land any more.
            call = await caller.call(self._gateway(), op, case.track, deadline=_PATIENCE)
            if call.status != 503 or time.monotonic() > give_up:
                break
            await asyncio.sleep(0.5)
        if not call.ok:
            case.wrong.append(f"a {op} was answered {call.status} {call.problem}")
        return call

    def _lose_answer(self, endpoint: Literal["start", "stop"], case: _Case) -> None:
        self._simulator.inject(
            Fault(action="reset_after", endpoint=endpoint, room_id=case.track.room,
                  participant_id=case.track.participant)
        )  # fmt: skip

    def _row(self, case: _Case) -> Recording:
        """Return the first recording of a track."""
        room, participant = case.track.room, case.track.participant
        rows = self._simulator.rows
        return next(row for row in rows if row.room_id == room and row.participant_id == participant)

    def _gateway(self) -> Server:
        return self._random.choice(self._gateways)

    # --- what is read --------------------------------------------------------------------------------------------

    async def _watch(self, cases: Sequence[_Case], over: asyncio.Event) -> None:
        """Look at every record again and again."""
        number = 0
        while not over.is_set():
            await asyncio.sleep(_EVERY)
            # What is right already may be looked at less often.
            await self._look(
                [case for case in cases if number % 5 == 0 or (case.truths[-1:] and not case.truths[-1].done)]
            )
            number += 1

    async def _look(self, cases: Sequence[_Case]) -> None:
        looked = [(case, case.truths[-1]) for case in cases if case.truths]
        if any(case.track.name not in self._keys for case, _ in looked):
            await self._find()
        looked = [(case, truth) for case, truth in looked if case.track.name in self._keys]
        if not looked:
            return
        asked = self._redis.pipeline(transaction=False)
        for case, _ in looked:
            asked.hmget(self._keys[case.track.name], ["state", "because"])
        answers: list[list[str | None]] = await asked.execute()
        moment = time.monotonic()
        for (case, truth), (state, because) in zip(looked, answers, strict=True):
            if case.truths[-1] is not truth:
                continue
            if state not in truth.states:
                if truth.done and not truth.broken:
                    truth.broken = f"{state} {moment - truth.right:.1f} s after it was right"
            elif not truth.done:
                truth.right, truth.because = moment, because or ""

    async def _read(self, case: _Case, name: str) -> str | None:
        """Return a field of a track's record."""
        if case.track.name not in self._keys:
            await self._find()
        return await cast("Awaitable[str | None]", self._redis.hget(self._keys[case.track.name], name))

    async def _find(self) -> None:
        """Learn the records' keys, whose beginnings are the gateway's business."""
        async for key in self._redis.scan_iter(match="rec:*:video", count=1_000):
            room, _, participant, kind = key.rsplit(":", 4)[1:]
            self._keys[f"{room}/{participant}/{kind}"] = key

    async def _doubts(self) -> int:
        """Count the records that somebody is still to look at."""
        asked = self._redis.pipeline(transaction=False)
        for key in self._keys.values():
            asked.hget(key, "suspect_since")
        answers = await cast("Awaitable[list[str | None]]", asked.execute())
        return sum(doubt not in {None, "", "0"} for doubt in answers)

    async def _ask(self, client: httpx.AsyncClient, cases: Sequence[_Case]) -> None:
        """Ask a gateway how it all came out: what it tells is what the records say."""
        for case in cases:
            if not case.truths:
                continue
            told = (await client.get(f"/v1/recordings/track/{case.track.name}")).json()
            if told.get("status") not in case.truths[-1].states:
                case.wrong.append(f"in the end the gateway says {told.get('status') or told.get('type')}")
