"""Each rule by which a process tells a Redis again what it may have forgotten: when, how often, and until when.

The first half runs `Rewrites` alone, on a clock that is set by hand; the second half shows which writes the coordinator
has told again, in the model's world. The stories of what would come of it otherwise are in `test_forgotten`.
"""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from gateway.coordinator import Timing
from gateway.coordinator.rewrites import Rewrites
from gateway.coordinator.scripts import Scripts
from gateway.errors import CoordinationUnavailable
from gateway.observability import metrics
from gateway.store.connection import Connection
from tests.coordinator.test_regressions import plan, replicas, sends, sent, started
from tests.model.world import Fate, World
from tests.observability.numbers import Numbers

EVERY = 1.0
ONE, OTHER, ELSEWHERE = "rec:{01}:t:r:p:video", "rec:{01}:t:r:p:audio", "rec:{02}:t:r:p:video"
REMEMBERED, LONGEST = 10, 60
"""Seconds (`gateway/coordinator/rewrites.py`)."""


class Servers(Connection):
    """An imagined way to Redis: what it was told, and which nodes are away."""

    def __init__(self) -> None:
        super().__init__("redis://nowhere")
        self.said: list[tuple[str, dict[str, object]]] = []
        """Each record's key, and the script's arguments."""
        self.away: set[str] = set()
        self.answers = "stale"

    async def evaluate(self, script: str, sha: str, keys: Sequence[str], argument: bytes) -> bytes:
        """Run a script."""
        self.said.append((keys[0], msgspec.json.decode(argument)))
        if keys[0] in self.away:
            raise CoordinationUnavailable("away", retry_after=2)
        return msgspec.json.encode({"how": self.answers})

    def heard(self) -> list[str]:
        """Return the keys of what was said since the last look."""
        said, self.said = self.said, []
        return [key for key, _ in said]


class Process:
    """What one process told, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.moment = 1000.0
        self.servers = Servers()
        self.told = Rewrites(Scripts(self.servers, {}), self.servers, EVERY, lambda: self.moment)

    def keep(self, key: str = ONE, attempt: str = "p.1", **more: object) -> None:
        """Keep a write."""
        self.told.keep("finish", key, attempt, {"state": "recording"}, **more)  # pyright: ignore[reportArgumentType]

    async def round(self, seconds: float = EVERY) -> list[str]:
        """Let time pass, tell what has to be told, and return the keys of it."""
        self.moment += seconds
        await self.told.repeat()
        return self.servers.heard()


def restored_writes() -> float:
    """Return how many writes this process has counted that Redis had forgotten."""
    body, _ = metrics.render(metrics.GaugeValues(redis_up=True), "", "")
    return Numbers(body.decode()).total("fenced_writes_total", how="restored")


@pytest.fixture
def process() -> Process:
    """A process that has written nothing."""
    return Process()


@pytest.mark.anyio
async def test_rewrites_without_a_reason_send_nothing(process: Process) -> None:
    """Redis has failed nobody and nothing may land: no round costs a script."""
    process.keep()
    assert [await process.round() for _ in range(3)] == [[], [], []]


@pytest.mark.anyio
@pytest.mark.parametrize("reason", ["gap", "failure"])
async def test_rewrites_after_a_reason_send_each_write_once(process: Process, reason: str) -> None:
    """A gap in the subscription, or a command that failed: each write is told in the next round, and then no more."""
    process.keep(ONE, "p.1")
    process.keep(ELSEWHERE, "p.2")
    if reason == "gap":
        process.told.suspect()
    else:
        process.servers.failures += 1
    assert sorted(await process.round()) == [ONE, ELSEWHERE]
    assert await process.round() == []
    # What is written afterwards is written to the Redis that answers now.
    process.keep(OTHER, "p.3")
    assert await process.round() == []


@pytest.mark.anyio
async def test_rewrites_of_one_attempt_send_its_last_write(process: Process) -> None:
    """A late write of the same attempt replaces the earlier one."""
    process.keep()
    process.told.keep("release", ONE, "p.1", {"state": "failed"})
    process.told.suspect()
    await process.told.repeat()
    assert [arguments["state"] for _, arguments in process.servers.said] == ["failed"]


@pytest.mark.anyio
@pytest.mark.parametrize(("age", "said"), [(REMEMBERED - 1, [ONE]), (REMEMBERED + 1, [])])
async def test_rewrites_of_old_writes_send_nothing(process: Process, age: int, said: list[str]) -> None:
    """A write is remembered for longer than a failure takes to be noticed, and no longer."""
    process.keep()
    for _ in range(age - 1):
        await process.round()
    process.told.suspect()
    assert await process.round() == said


@pytest.mark.anyio
async def test_rewrites_of_what_may_land_are_sent_every_round(process: Process) -> None:
    """Without any reason, and beyond the ten seconds: a Redis that forgot it would let a caller start."""
    process.keep(open_until=process.moment + 17.5)
    assert [len(await process.round()) for _ in range(20)] == [1] * 17 + [0] * 3


@pytest.mark.anyio
@pytest.mark.parametrize(("away", "said"), [(LONGEST - 2, [ONE]), (LONGEST + 2, [])])
async def test_rewrites_to_a_node_that_is_away_are_kept_for_a_minute(
    process: Process, away: int, said: list[str]
) -> None:
    """What was due to be told outlives the ten seconds until its node has a successor, and not for ever."""
    process.keep()
    process.servers.away = {ONE}
    process.told.suspect()
    for _ in range(away):
        await process.round()
    process.servers.away = set()
    assert await process.round() == said
    assert await process.round() == []


@pytest.mark.anyio
@pytest.mark.parametrize(("slept", "said"), [(5.0, [ONE]), (7.0, [])])
async def test_rewrites_by_a_process_that_slept_send_nothing(process: Process, slept: float, said: list[str]) -> None:
    """A round that comes more than five seconds late: others may have gone on since, so what was due is dropped."""
    process.keep()
    process.servers.away = {ONE}
    process.told.suspect()
    await process.round()
    process.servers.away = set()
    assert await process.round(slept) == said


@pytest.mark.anyio
async def test_rewrites_to_a_bucket_that_is_away_try_one_write(process: Process) -> None:
    """Each bucket is tried with its first write alone; once that is heard the others follow in the same round."""
    for number, key in enumerate((ONE, OTHER, OTHER.replace(":p:", ":q:"), ELSEWHERE)):
        process.keep(key, f"p.{number}")
    process.servers.away = {ONE}
    process.told.suspect()
    assert sorted(await process.round()) == [ONE, ELSEWHERE]
    process.servers.away = set()
    assert sorted(await process.round()) == sorted([ONE, OTHER, OTHER.replace(":p:", ":q:")])


@pytest.mark.anyio
async def test_rewrites_sent_later_hold_the_rest_of_the_horizons(process: Process) -> None:
    """What a start and a stop had left to land in is less by the time that has passed, and never negative."""
    process.keep(horizons=(9_000, 2_500), open_until=process.moment + 30)
    left: list[tuple[object, object]] = []
    for _ in range(10):
        process.moment += EVERY
        await process.told.repeat()
        arguments = process.servers.said[-1][1]
        left.append((arguments["start_may_land_ms"], arguments["stop_may_land_ms"]))
    assert left == [(max(9_000 - ms, 0), max(2_500 - ms, 0)) for ms in range(1_000, 11_000, 1_000)]


@pytest.mark.anyio
@pytest.mark.parametrize("script", ["finish", "release"])
@pytest.mark.parametrize(("how", "restores"), [("ok", 1), ("restored", 1), ("late", 1), ("repeated", 0), ("stale", 0)])
async def test_rewrites_that_redis_had_forgotten_are_counted(
    process: Process, script: str, how: str, restores: int
) -> None:
    """An operator sees that Redis had forgotten something, and only then."""
    process.told.keep(script, ONE, "p.1", {})
    process.servers.answers = how
    process.told.suspect()
    before = restored_writes()
    await process.round()
    assert restored_writes() - before == restores


# --- which writes ----------------------------------------------------------------------------------------------------

LONG = Timing(upstream_timeout=20.0, settle=15.0)
"""Times in which something may land long after the ten seconds are over."""


def restored(world: World) -> None:
    """Let Redis lose all while no replica notices it, and wait until it is told again what it has forgotten."""
    for process in world.processes:
        process.deaf = True
    world.lose()
    world.until(world.record, timeout=2 * world.timing.renewal, what="for what was forgotten")


def test_unknown_start_is_rewritten_to_a_redis_lost_twelve_seconds_later(new_world: Callable[..., World]) -> None:
    """Nothing says that Redis is another one, and the start may still land: no replica starts before it cannot."""
    world = new_world(timing=LONG, settling=False)
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="reset", lands=30))
    call = first.start()
    world.until(lambda: call.returned is not None)
    assert call.outcome == "outcome-unknown"
    world.advance(12)
    restored(world)
    assert world.record()["state"] == "unknown"
    again = second.start(timeout=60)
    world.until(lambda: again.returned is not None)
    assert (again.outcome, len(sent(world, "start"))) == ("already_recording", 1)


def test_stop_without_an_answer_is_rewritten_to_a_redis_lost_twelve_seconds_later(
    new_world: Callable[..., World],
) -> None:
    """The same of a stop: it may still land, and must not meet what is started meanwhile."""
    world = new_world(timing=LONG, settling=False)
    first, second = replicas(world, 2)
    started(world, first)
    world.advance(5)
    plan(world, "stop", Fate(hears="reset", reply=0.1, lands=30))
    first.stop(timeout=0.05)
    sends(world, "stop", 1)
    world.until(lambda: world.record()["state"] == "stopping" and not world.record()["holder"])
    world.advance(12)
    restored(world)
    assert world.record()["state"] == "stopping"
    start = second.start(timeout=120)
    world.until(lambda: start.returned is not None, timeout=120)
    world.advance(30)
    assert world.upstream.open


def test_start_that_was_answered_is_not_rewritten_without_a_reason(new_world: Callable[..., World]) -> None:
    """Nothing of it can land any more: telling it in every round would cost a script a second for each operation."""
    world = new_world(timing=LONG, settling=False)
    (process,) = replicas(world, 1)
    started(world, process)
    before = world.script_calls
    world.advance(5)
    assert world.script_calls == before


def test_write_that_was_refused_is_not_rewritten(new_world: Callable[..., World]) -> None:
    """The track had moved on without this leader: after a failover it keeps to itself what nobody took from it."""
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    started(world, first)
    stop = first.stop()
    world.until(lambda: stop.returned is not None)
    world.advance(12)
    plan(world, "start", Fate(hears="refused", lands=None, reply=0.1))
    first.start(timeout=1)
    sends(world, "start", 2)
    first.stall()
    world.advance(world.timing.lease + 1)
    plan(world, "stop", Fate())
    other = second.stop()
    world.until(lambda: other.returned is not None)
    world.advance(15)
    first.resume()
    world.advance(0.5)
    second.crash()
    before = world.script_calls
    first.ears.reconnect()
    world.advance(3)
    assert world.script_calls == before
