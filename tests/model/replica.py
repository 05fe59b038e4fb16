"""One replica of the gateway: its own code, with an imagined way to Redis and to VideoSDK."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from gateway.coordinator import UNBOUNDED, Backlog, Coordinator, Lease, MaxDuration
from gateway.errors import CoordinationUnavailable, GatewayError
from gateway.recordings import Coalescer, Leader, ListingCache, Operator, Reconciler, Recordings, WithoutRedisMode
from gateway.recordings.targets import StartParameters
from gateway.store.connection import Connection
from gateway.store.notifications import Notifications, OperationFinished
from tests.model.clockwork import OWNER
from tests.model.upstream import TRACK, ImaginedVideoSDK

if TYPE_CHECKING:
    from tests.model.world import World

PARAMETERS: Final = {"A": StartParameters(), "B": StartParameters(bucket_dir_path="elsewhere")}
_TIMES_OUT_SECONDS = 1.5
_RUNS_LATE_SECONDS = 1.2


@dataclass
class Call:
    """What a caller asked of a replica, and what it was told."""

    command: str
    parameters: str
    process: "Process"
    invoked: float
    returned: float | None = None
    outcome: str = ""
    recording: str | None = None
    """The id of the recording it was told of."""

    @property
    def success(self) -> bool:
        """It was told that it is as it wished."""
        return self.outcome in {"started", "joined", "already_recording", "stopped", "not_recording"}

    @property
    def over(self) -> bool:
        """Nothing goes on in its name."""
        return self.outcome != "deadline-exceeded" and not self.outcome.startswith("without_redis")


class Wire(Connection):
    """A replica's way to Redis: the server is real, the way is not.

    Args:
        process: Whose.
        world: Where the server is.
    """

    def __init__(self, process: "Process", world: "World") -> None:
        super().__init__("")
        self._process = process
        self._world = world
        self.loses = ""
        """The script whose next reply is lost."""
        self.refuses: set[str] = set()
        """Scripts that never run, while all else does."""
        self.slow_seconds = 1.0
        """How long a slow reply takes."""
        self.faults: deque[str] = deque()
        """What becomes of the next commands: ok, refused or hung (do not run), lost (runs, no reply), slow (runs, and
        the reply takes `slow_seconds`), delayed (runs when nobody waits for it any more)."""

    async def evaluate(self, script: str, sha: str, keys: Sequence[str], argument: bytes) -> bytes:
        """Run a script."""
        name = self._process.script_names[sha]
        if name in self.refuses:
            await self._process.awake()
            self._fail()
        text = self._world.code.get(name, script)
        reply = cast("bytes", await self._call(lambda: self._world.run(name, text, keys, json.loads(argument))))
        if self.loses == name:
            self.loses = ""
            self._fail()
        return reply

    async def read(self, key: str) -> dict[str, str]:
        """Return the record."""
        return await self._call(self._world.record)

    async def due(self, key: str, until_ms: int, limit: int) -> list[str]:
        """Return the track where it is due. Told from what was last seen there: settlers ask all the time."""
        score = await self._call(lambda: self._world.end_score if key.endswith(":ends") else self._world.score)
        return [self._world.key] if score is not None and score <= until_ms else []

    async def now(self) -> int:
        """Return Redis's clock."""
        return await self._call(lambda: self._world.redis_us // 1000)

    async def _call(self, call: Any) -> Any:
        await self._process.awake()
        fault = self.faults.popleft() if self.faults else "ok"
        await asyncio.sleep(0.001)
        if fault == "refused":
            self._fail()
        if fault == "hung":
            await self._time_out()
        if fault == "delayed":
            # The bytes are in a stopped server's buffer: they are run when it goes on, whoever has given up.
            self._world.later(_RUNS_LATE_SECONDS, call)
            await self._time_out()
        result = call()
        if fault == "slow":
            await asyncio.sleep(self.slow_seconds)
        if fault == "lost":
            await self._time_out()
        await asyncio.sleep(0.001)
        await self._process.awake()
        self._failures = 0
        return result

    async def _time_out(self) -> NoReturn:
        await asyncio.sleep(_TIMES_OUT_SECONDS)
        self._fail()

    def _fail(self) -> NoReturn:
        self._failures += 1
        self.failures += 1
        raise CoordinationUnavailable("no answer", retry_after=2)


class Ears(Notifications):
    """A replica's subscription."""

    def __init__(self) -> None:  # pyright: ignore[reportMissingSuperCall]
        self.handle: Callable[[OperationFinished], None] = lambda _: None
        self.reconnect: Callable[[], None] = lambda: None
        """Called when the server that it listens to may be another one."""

    @property
    def listening(self) -> bool:
        """Whether messages arrive; a replica does not notice that it is deaf."""
        return True

    async def start(self, on_finished: Callable[[OperationFinished], None], on_gap: Callable[[], None]) -> None:
        """Begin to listen."""
        self.handle, self.reconnect = on_finished, on_gap

    async def stop(self) -> None:
        """Stop listening."""


class Process:
    """One replica.

    Args:
        world: Where it runs.
        name: Goes into its attempts.
    """

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.deaf = False
        """Its subscription says nothing."""
        self.frozen: list[tuple[asyncio.TimerHandle, Callable[[], None]]] = []
        """What should have happened while it was stopped."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._running = asyncio.Event()
        self._running.set()
        self.wire = Wire(self, world)
        self.ears = Ears()
        videosdk = ImaginedVideoSDK(self, world.upstream)
        listings = ListingCache(videosdk)
        self.coordinator = Coordinator(self.wire, world.timing, "t")
        self.coordinator.boot = name
        self.script_names = self.coordinator.scripts.names
        leader: type[Leader] = world.code.get("Leader", Leader)
        without_redis = WithoutRedisMode(self.coordinator, videosdk)
        lead = leader(self.coordinator, videosdk, listings, retry_refused=world.retry_refused)
        self.reconciler = Reconciler(self.coordinator, listings, lead)
        coalescer = Coalescer(
            self.coordinator, lead, self.ears, without_redis, self.reconciler, degrade=world.degrade, max_waiting=20_000
        )
        self.recordings = Recordings(self.coordinator, coalescer, self.reconciler, without_redis)
        self.operator = Operator(self.coordinator, Backlog(self.wire, "t"), listings, self.reconciler, self.recordings)
        self.do(self._open(coalescer))
        if world.settling:
            self.do(self._settle_for_ever())

    async def _open(self, coalescer: Coalescer) -> None:
        """Begin all background work but the reconciler's, which the world moves on."""
        await self.coordinator.start()
        await coalescer.open()

    def __repr__(self) -> str:
        return self.name

    @property
    def stalled(self) -> bool:
        """Whether it is stopped in its tracks."""
        return self.alive and not self._running.is_set()

    @property
    def leases(self) -> dict[str, Lease]:
        """What it holds."""
        return self.coordinator.leases.held

    def do(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run something as a part of this process."""
        token = OWNER.set(self)
        try:
            return self.world.loop.create_task(work)
        finally:
            OWNER.reset(token)

    async def awake(self) -> None:
        """Go on, unless the process is dead or stopped in its tracks."""
        await self._running.wait()
        if not self.alive:
            raise asyncio.CancelledError

    def stall(self) -> None:
        """Stop it in its tracks, as SIGSTOP does."""
        self.world.note(f"{self} stalls")
        self.world.missed()
        self._running.clear()

    def resume(self) -> None:
        """Let it go on."""
        self.world.note(f"{self} goes on")
        self._running.set()
        frozen, self.frozen = self.frozen, []
        for handle, fire in frozen:
            if not handle.cancelled():
                self.world.loop.call_soon(fire)

    def crash(self) -> None:
        """Kill it."""
        self.world.note(f"{self} dies")
        self.world.missed()
        self.end()

    def end(self) -> None:
        """Let nothing of it run any more."""
        self.alive = False
        self._running.set()
        for task in list(self.tasks):
            task.cancel()

    def start(self, parameters: str = "A", timeout: float = 30.0, max_duration: MaxDuration = UNBOUNDED) -> Call:
        """Have a caller ask for a start."""
        call = Call("start", parameters, self, self.world.now)
        ask = self.recordings.start(
            TRACK, PARAMETERS[parameters], caller="somebody", timeout=timeout, max_duration=max_duration
        )
        self.do(self._ask(call, ask))
        return call

    def stop(self, timeout: float = 30.0) -> Call:
        """Have a caller ask for a stop."""
        call = Call("stop", "", self, self.world.now)
        self.do(self._ask(call, self.recordings.stop(TRACK, caller="somebody", timeout=timeout)))
        return call

    async def _ask(self, call: Call, work: Coroutine[Any, Any, Any]) -> None:
        self.world.calls.append(call)
        self.world.note(f"{self}: {call.command} {call.parameters}")
        try:
            answer = await work
        except GatewayError as error:
            call.outcome = error.slug
        else:
            call.outcome, call.recording = str(answer.outcome), answer.recording.id
            if not answer.recording.coordinated:
                call.outcome = f"uncoordinated-{call.outcome}"
        call.returned = self.world.now
        self.world.note(f"{self}: {call.command} {call.parameters} is told {call.outcome}")
        self.world.judge(call)

    async def settle(self) -> None:
        """Look after what is due, once."""
        with contextlib.suppress(CoordinationUnavailable):
            if self.world.end_score is not None:
                self.reconciler.end_soon(await self.coordinator.records.overdue(0, 20))
            if keys := await self.coordinator.records.due(0, 20):
                await self.reconciler.check(keys)

    async def invalidate(self) -> None:
        """Say that what is known may have changed."""
        with contextlib.suppress(CoordinationUnavailable):
            await self.coordinator.records.invalidate(self.world.key)

    async def use_the_rest(self) -> None:
        """Call what callers, settlers and hints do not: the scripts of comparing, of operators and of readers."""
        record = await self.coordinator.records.read(self.world.key)
        if record is not None:
            await self.coordinator.records.confirm(self.world.key, record, seen_at=self.world.now)
        await self.coordinator.records.revoke(self.world.key, "nobody")
        await self.coordinator.records.mark()
        await self.coordinator.scripts.run(
            "move_end", self.world.key, {"generation": "0", "moved_from": "0", "stops_at": 0}
        )
        await self.coordinator.records.room(TRACK.room_id)

    async def _settle_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self.world.score is not None or self.world.end_score is not None:
                # Not awaited: a track that takes long must not keep others from it.
                self.do(self.settle())
