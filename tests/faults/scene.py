"""One row of the table, played: a stage, a crowd of clients, a nemesis, rest, and the history of it all."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from msgspec.structs import replace

from gateway.sandbox.faults import Fault
from tests.faults.clients import Caller, Load, Pace, Recorder, Track
from tests.faults.ends import set_ends
from tests.faults.history import AtRest, ClientCall, End, History, Limits
from tests.faults.stage import Stage

__all__ = ["GRACE", "MODES", "Row", "Scene", "in_every_mode", "play"]

DEADLINE: Final = 10.0
"""Seconds a gateway lets a caller wait in these runs."""
GRACE: Final = 3.0
"""Seconds after a server came up without its memory in which nobody leads anything new."""
MODES: Final = ("track", "participant", "room")
"""What is recorded, of one target after the other."""
_TAIL: Final = 1.0
_BASE: Final = Limits()
_PACE: Final = Pace()


def in_every_mode(faults: Sequence[Fault]) -> list[Fault]:
    """Have faults of the endpoints of tracks strike those of participants and rooms as often."""
    return [
        replace(fault, endpoint=cast("Any", f"{mode}{fault.endpoint}"))
        for fault in faults
        for mode in (("", "participant-", "room-") if fault.endpoint in {"start", "stop", "list"} else ("",))
    ]


@dataclass(frozen=True)
class Row:
    """One scenario.

    Attributes:
        number: Its row in the fault matrix.
        name: What goes wrong, in a few words.
        nemesis: What disturbs the system until the scene is over.
        faults: What VideoSDK does wrong all the time.
        simulator: Options of the simulated VideoSDK.
        valkey: More arguments of the server.
        stage: More of what `Stage` takes.
        limits: What the checker has to know or to allow.
        pace: How the clients behave.
        replicas: How many gateways.
        tracks: How many targets, of each mode in turn: a third each for bursts, for starts and stops at will, and for
            conflicting starts.
        longer: How much longer it is disturbed than other rows.
        settings: More `GATEWAY_*` variables.
        judge: What a row that allows duplicates still has to show; returns what is wrong.
        needs: What has to be installed; returns what is missing.
    """

    number: str
    name: str
    nemesis: "Callable[[Scene], Coroutine[Any, Any, None]] | None" = None
    faults: Sequence[Fault] = ()
    simulator: Mapping[str, Any] = field(default_factory=dict[str, Any])
    valkey: tuple[str, ...] = ()
    stage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    limits: Limits = _BASE
    pace: Pace = _PACE
    replicas: int = 3
    tracks: int = 6
    longer: float = 1.0
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    judge: "Callable[[History, str], list[str]] | None" = None
    needs: Callable[[], str] = lambda: ""

    @property
    def ending(self) -> int:
        """How many recordings that may last only so long are started: none where Redis may forget when they end."""
        return 0 if self.limits.loses_data or self.limits.duplicates is None else 6


class Scene:
    """A row while it is being played."""

    def __init__(self, row: Row, stage: Stage, seed: int) -> None:
        self.row = row
        self.stage = stage
        self.random = random.Random(seed)
        self.recorder = Recorder()
        self.load = Load(self.recorder, stage.demo.key, lambda: stage.serving, deadline=DEADLINE, seed=seed)
        room = f"row-{re.sub('[^a-z0-9]', '', row.number)}-{seed}"
        # Each in a room of its own, so that the checker knows which list was asked for which.
        self.tracks = [
            Track.of(MODES[number % len(MODES)], f"{room}-{number}", f"p{number}") for number in range(row.tracks)
        ]
        self.ending = [
            Track.of(MODES[number % len(MODES)], f"{room}-{number}-ends", f"e{number}") for number in range(row.ending)
        ]
        """Of their own: their recordings may last only so long."""
        self.ends: list[End] = []
        self.over = asyncio.Event()
        """Set when nemeses have to stop."""

    @property
    def running(self) -> bool:
        """Whether nemeses go on."""
        return not self.over.is_set()

    async def pause(self, seconds: float) -> None:
        """Pace a nemesis: nothing breaks all the time."""
        await asyncio.sleep(seconds * self.random.uniform(0.8, 1.2))

    async def last(self, seconds: float) -> None:
        """Let what a nemesis has broken stay broken for so long."""
        await asyncio.sleep(seconds)

    async def disturb(self, seconds: float, turn: AbstractAsyncContextManager[Any]) -> None:
        """Let the crowd and the nemesis loose for a while, in their turn, then wait until all calls are answered."""
        row, load = self.row, self.load
        if row.faults:
            self.stage.simulator.inject(*in_every_mode(row.faults))
        third = len(self.tracks) // 3
        burst, mixed, conflicting = self.tracks[:third], self.tracks[third : 2 * third], self.tracks[2 * third :]
        tasks: list[asyncio.Task[None]] = []
        nemesis: asyncio.Task[None] | None = None
        try:
            async with turn:
                await self.bound(seconds)
                crowd = [load.burst(track, 24 // third, row.pace) for track in burst]
                crowd += [load.mix(mixed, row.pace) for _ in range(8)]
                crowd += [load.mix(conflicting, row.pace, ("", "a", "b")) for _ in range(8)]
                tasks += [asyncio.create_task(client) for client in crowd]
                nemesis = asyncio.create_task(row.nemesis(self)) if row.nemesis else None
                await asyncio.sleep(seconds)
                self.over.set()
                if nemesis is not None:
                    await nemesis
            await self.stage.repaired()
            self.stage.simulator.clear_faults()
            await asyncio.sleep(_TAIL)
            load.running = False
            await asyncio.gather(*tasks)
        finally:
            for task in [*tasks, *([nemesis] if nemesis else [])]:
                task.cancel()
            await asyncio.gather(*tasks, *([nemesis] if nemesis else []), return_exceptions=True)

    async def bound(self, seconds: float) -> None:
        """Start what may last only so long, and have it end while the row is disturbed."""
        caller, server = Caller(Recorder(), self.stage.demo.key, DEADLINE), self.stage.server()
        try:
            seed = self.stage.seed
            self.ends = await set_ends(caller, server, self.load.place, self.ending, seconds, seed)
        finally:
            caller.close()
            await server.aclose()

    async def rest(self) -> list[AtRest]:
        """Ask for a last state of every track, wait until nothing can happen any more, and look."""
        await asyncio.sleep(2.0)  # until nothing of the calls before can begin to have an effect
        await asyncio.gather(
            *(self._insist("start" if number % 2 else "stop", track) for number, track in enumerate(self.tracks))
        )
        await asyncio.sleep(2 * self.row.limits.quiet + 2.0)
        caller = self.load.caller()
        return [await self._look(caller, track) for track in self.tracks]

    async def _insist(self, op: Any, track: Track) -> ClientCall:
        caller = self.load.caller()
        give_up = time.monotonic() + 30
        while True:
            call = await caller.call(await self.load.place(), op, track)
            if call.ok or call.status == 409 or time.monotonic() > give_up:
                return call
            await asyncio.sleep(0.5)

    async def _look(self, caller: Caller, track: Track) -> AtRest:
        give_up = time.monotonic() + 5
        while True:
            call = await caller.call(await self.load.place(), "get", track)
            # Whether it was right not to know is another question, which the checker asks of every call.
            if call.status < 500 or time.monotonic() > give_up:
                break
            await asyncio.sleep(0.5)
        return AtRest(track=track.name, status=call.status, state=call.state, at=call.ended)


async def play(row: Row, *, seconds: float, seed: int, turn: AbstractAsyncContextManager[Any]) -> tuple[History, str]:
    """Play one row; return what was seen, and what the gateways logged.

    Args:
        row: Which.
        seconds: How long it is disturbed, unless it says otherwise.
        seed: Makes what is random repeatable.
        turn: Held while it is disturbed. Before and after that little happens, and other rows can have theirs.
    """
    settings = {"GATEWAY_TRUST_SECONDS": f"{row.limits.trust:g}", **row.settings}
    stage = Stage(
        replicas=row.replicas, settings=settings, simulator=row.simulator, valkey=row.valkey, seed=seed, **row.stage
    )
    async with stage:
        scene = Scene(row, stage, seed)
        try:
            await asyncio.sleep(GRACE)
            await scene.disturb(seconds * row.longer, turn)
            finals = await scene.rest()
            history = History(
                calls=scene.recorder.calls,
                upstream=stage.upstream_calls(),
                intervals=stage.intervals(),
                troubles=[*stage.troubles, *stage.waits.stalls()],
                finals=finals,
                ends=scene.ends,
                keys_without_ttl=await stage.keys_without_ttl(),
                limits=row.limits,
            )
        finally:
            scene.load.close()
        return history, "".join(log.read_text(errors="replace") for log in sorted(stage.folder.glob("g*.log")))
