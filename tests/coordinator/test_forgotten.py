"""A Redis that forgets what was written, and whoever wrote it tells it again: what must not come of that.

The stories with a `world` run the gateway's own processes on a clock that stands still (`tests.model.world`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gateway.coordinator import Lease, Record, Timing
from gateway.coordinator.leases import Leases
from gateway.coordinator.rewrites import Rewrites
from gateway.coordinator.scripts import Scripts
from gateway.errors import CoordinationUnavailable
from gateway.store.connection import Connection
from tests import harness
from tests.coordinator.test_regressions import plan, replicas, rest, sends, sent, started
from tests.coordinator.track import GRACE, Track
from tests.model.replica import PARAMETERS
from tests.model.upstream import TRACK
from tests.model.world import Fate, World


def test_unknown_start_with_a_lost_finish_reply_is_written_again(world: World) -> None:
    """`unknown` was written and the reply lost: it is told all the same to a Redis that restarts empty.

    That one knows nothing of the start that is still on its way, and would let somebody start.
    """
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="reset", reply=0.1, lands=12))
    first.wire.loses = "finish"
    call = first.start()
    world.until(lambda: call.returned is not None)
    world.advance(1)
    world.lose()
    second.start()
    world.advance(15)
    rest(world, recording=True)


def test_stop_with_a_lost_finish_reply_is_written_again(world: World) -> None:
    """A stop is carried out and written, and the reply lost; a failover forgets it: it is not sent a second time."""
    first, _, third = replicas(world, 3)
    started(world, first)
    world.advance(5)
    first.wire.loses = "finish"
    stop = first.stop()
    sends(world, "stop", 1)
    predates_epoch = world.snapshots[-1]
    assert predates_epoch["record"]["state"] == "stopping"
    world.advance(1.0)
    assert stop.outcome == "stopped"
    world.snapshots.append(predates_epoch)
    world.lose(0)
    start = third.start()
    world.until(lambda: start.returned)
    assert len(sent(world, "stop")) == 1, world.told()
    assert start.outcome == "started"
    rest(world, recording=True)


def test_stop_of_the_past_is_not_written_to_an_empty_redis(new_world: Callable[..., World]) -> None:
    """Whose way to Redis fails once a second forgets what it wrote as soon as others do.

    It could not carry out a stop; somebody else did, and it was started again. When Redis restarts empty, the old stop
    must not be sent to the recording that is wanted.
    """
    world = new_world(settling=False)
    first, second, third = replicas(world, 3)
    started(world, first)
    world.advance(5)
    plan(world, "stop", Fate(hears="limited", reply=0.1, lands=None))
    first.stop(timeout=0.05)
    sends(world, "stop", 1)
    world.advance(2)
    second.stop()
    world.until(lambda: not world.upstream.open)
    world.advance(1)
    call = third.start()
    world.until(lambda: call.returned is not None)
    assert call.outcome == "started", world.told()
    stops = len(sent(world, "stop"))
    for _ in range(60):
        # A command of another kind: one that its user may not run, or to another node of the Cluster.
        first.wire.failures += 1
        world.advance(0.5)
    world.lose()
    world.advance(2)
    call = third.start()
    world.until(lambda: call.returned is not None)
    assert len(sent(world, "stop")) == stops, world.told()
    rest(world, recording=True)


def test_stop_of_a_process_that_slept_is_not_written_to_an_empty_redis(world: World) -> None:
    """A process falls asleep with a stop that it could not finish; others finish it and start again.

    Redis restarts empty meanwhile. The sleeper wakes after a minute, finds its subscription gone, and keeps to itself
    what is a minute old.
    """
    first, _, third = replicas(world, 3)
    started(world, first)
    world.advance(5)
    plan(world, "stop", Fate(hears="limited", reply=0.1, lands=None))
    first.stop(timeout=0.05)
    sends(world, "stop", 1)
    world.advance(0.3)
    first.stall()
    sends(world, "stop", 2)
    world.advance(1)
    call = third.start()
    world.until(lambda: call.returned is not None)
    assert call.outcome == "started", world.told()
    stops = len(sent(world, "stop"))
    world.advance(50)
    world.lose()
    world.advance(5)
    first.resume()
    first.ears.reconnect()
    world.advance(15)
    assert len(sent(world, "stop")) == stops, world.told()
    rest(world, recording=True)


def test_stop_is_not_lost_where_redis_clock_stepped(new_world: Callable[..., World]) -> None:
    """Redis's clock steps ahead by one second, which does no harm; then it is started, and then stopped.

    The stop's first try fails, and its process knows the clock from before the step: what it says of when it was asked
    for must not make the recording a newer one.
    """
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    world.look(second)
    world.step_clock(1.0)
    started(world, first)
    world.advance(0.2)
    second.wire.faults.append("refused")
    stop = second.stop()
    world.until(lambda: stop.returned is not None)
    assert not world.upstream.open, world.told()


def test_start_after_a_restored_stop_is_not_swallowed(new_world: Callable[..., World]) -> None:
    """What a failover brings back is `stopped`, of a minute ago; a start and a stop since are forgotten.

    When the stop ended it is told again too: a list that lags behind that is not believed.
    """
    world = new_world(timing=Timing(settle=8))
    first, second, third = replicas(world, 3)
    started(world, first)
    world.advance(5)
    stop = first.stop()
    world.until(lambda: stop.returned is not None)
    predates_epoch = world.snapshots[-1]
    assert predates_epoch["record"]["state"] == "stopped"
    world.advance(60)
    started(world, second)
    world.advance(2)
    plan(world, "stop", Fate(lag=7.9))
    stop = first.stop()
    world.until(lambda: stop.returned is not None)
    assert stop.outcome == "stopped"
    world.snapshots.append(predates_epoch)
    world.lose(0)
    start = third.start()
    world.until(lambda: start.returned is not None)
    assert start.outcome == "started", world.told()
    rest(world, recording=True)


def test_restored_stop_ended_when_it_did(track: Track) -> None:
    """As above, of the script alone."""
    track.started()
    track.stopped()
    predates_epoch = track.snapshot()
    track.wait(60_000)
    track.started()
    lead = track.claim("stop")
    ended_at = track.ms
    track.lose(predates_epoch)
    track.wait(100)
    assert track.finish(lead, "stopped", answered=True, ended_at=ended_at)["how"] == "restored"
    assert int(track.record["ended_at"]) == ended_at


def test_restored_stop_overrules_a_retry_of_an_earlier_start(track: Track) -> None:
    """When a stop was asked for is told again, too: a retry of a start from before it is not carried out after it."""
    track.started()
    predates_epoch = track.snapshot()
    first_asked = track.ms * 1000 + 999
    track.wait(5000)
    lead = track.claim("stop")
    track.lose(predates_epoch)
    track.wait(100)
    assert track.finish(lead, "stopped", answered=True)["how"] == "restored"
    track.wait(GRACE)
    assert track.claim("start", asked_at=str(first_asked))["verdict"] == "gone"


def test_rewrites_in_any_order_keep_the_horizon_of_a_start(world: World) -> None:
    """A start has no answer and may still land; somebody stops it, which leaves the horizon as it is.

    Redis forgets both. Whoever stopped it happens to tell first, of the later operation, and whoever started it is told
    `stale`: the horizon is told by the later one too, and nothing is started while the first start may land.
    """
    first, second, third = replicas(world, 3)
    plan(world, "start", Fate(hears="reset", reply=0.1, lands=13))
    call = second.start()
    world.until(lambda: call.returned is not None)
    assert call.outcome == "outcome-unknown"
    stop = first.stop()
    world.until(lambda: stop.returned is not None)
    world.lose()
    third.start()
    world.advance(20)
    rest(world, recording=True)


def test_rewrite_of_a_stop_keeps_the_horizon_of_a_start_whose_process_has_died(world: World) -> None:
    """Redis forgets a start that may still land and the stop after it; only who stopped is left to say so."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="reset", reply=0.1, lands=13))
    call = second.start()
    world.until(lambda: call.returned is not None)
    stop = first.stop()
    world.until(lambda: stop.returned is not None)
    horizon = int(world.record()["start_may_land_until"])
    assert horizon > world.redis_ms
    second.crash()
    world.lose()
    world.until(lambda: world.record().get("state") == "stopped")
    assert int(world.record()["start_may_land_until"]) == pytest.approx(horizon, abs=100)


def test_rewrites_in_any_order_keep_the_horizon_of_a_stop(new_world: Callable[..., World]) -> None:
    """The same of a stop that may still land, and of one after it that was answered: what is started is not ended."""
    world = new_world(settling=False)
    first, second, third = replicas(world, 3)
    started(world, third)
    world.advance(5)
    plan(world, "stop", Fate(hears="reset", reply=0.1, lands=14))
    second.stop(timeout=0.05)
    sends(world, "stop", 1)
    world.advance(0.3)
    first.stop()
    world.until(lambda: len(sent(world, "stop")) >= 2)
    world.advance(0.3)
    world.lose()
    third.start()
    world.advance(20)
    rest(world, recording=True)


def test_stop_during_a_starts_probe_is_carried_out(new_world: Callable[..., World]) -> None:
    """A start looks at the list first; a stop comes, whose first try Redis never hears; the start is armed and sent.

    The start was in flight when the stop came, whatever number it got afterwards: the stop is about it.
    """
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    world.look(second)
    started(world, second)
    stopped = second.stop()
    world.until(lambda: stopped.returned is not None)
    world.advance(60)
    world.process().do(first.coordinator.records.invalidate(world.key))
    world.advance(0.1)
    world.upstream.list_seconds = 0.8
    start = first.start()
    world.advance(0.1)
    assert world.record()["holder"].startswith("p1")
    second.wire.faults.append("hung")
    stop = second.stop()
    world.until(lambda: stop.returned is not None and start.returned is not None)
    assert not world.upstream.open, (start.outcome, stop.outcome, world.told())


def test_stop_behind_a_start_that_probed_survives_an_empty_redis(track: Track) -> None:
    """A start looks first, a stop comes, the start is sent and answered, and in that moment Redis is emptied.

    Whoever started it tells of the wish, too; and the stop, if somebody still waits for it, is about that recording,
    whatever number it got when it was sent.
    """
    track.invalidate()
    start = track.claim("start")
    assert start["action"] == "probe"
    track.claim("stop")
    track.wait(10)
    assert track.promote_to_start(start)["how"] == "ok"
    finished = track.finish(start, "recording")
    assert finished["stop"]
    track.lose()
    track.claim("reconcile")
    track.wait(1)
    again = track.finish(start, "recording", late=True, stop_wanted=finished["stop"])
    assert (again["how"], again["stop"], track.due) == ("restored", True, 0)
    track.wait(GRACE)
    assert track.claim("reconcile")["action"] == "stop"


def test_stop_is_about_the_start_it_waited_for_whatever_its_number(track: Track) -> None:
    """The same where nobody tells of the stop: who waits is not told that somebody else carried it out."""
    track.invalidate()
    start = track.claim("start")
    stop = track.claim("stop")
    track.wait(10)
    assert track.promote_to_start(start)["how"] == "ok"
    assert int(start["generation"]) > int(stop["asked_at"]) > int(start["op"])
    track.finish(start, "recording")
    assert track.claim("stop", asked_at=stop["asked_at"])["action"] == "stop"


def test_start_joining_a_group_without_redis_is_answered_503_within_three_seconds(
    new_world: Callable[..., World],
) -> None:
    """A caller whose limits took 1.9 s joins a group that was made a moment ago: the time counts from its arrival."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    process.wire.faults.extend(["hung"] * 9)
    arrived_at = world.now
    world.advance(1.9)
    ends: list[float] = []

    async def ask(at: float) -> None:
        try:
            await process.recordings.start(TRACK, PARAMETERS["A"], caller="somebody", timeout=30, arrived_at=at)
        except CoordinationUnavailable:
            ends.append(world.now - at)

    fresh, old = process.do(ask(world.now)), process.do(ask(arrived_at))
    world.until(lambda: fresh.done() and old.done())
    assert max(ends) < 3, ends


# --- telling by itself -----------------------------------------------------------------------------------------------


class Nodes(Connection):
    """The masters of a Cluster, as an imagined way to them: some are away, and one is beyond understanding."""

    def __init__(self) -> None:
        super().__init__("redis://nowhere")
        self.asked: list[str] = []

    async def evaluate(self, script: str, sha: str, keys: Sequence[str], argument: bytes) -> bytes:
        """Run a script."""
        self.asked.append(keys[0])
        if keys[0].endswith("away"):
            self.failures += 1
            raise CoordinationUnavailable("away", retry_after=2)
        if keys[0].endswith("beyond"):
            raise ValueError
        return b'{"how":"stale"}'


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.moment = 1000.0

    def __call__(self) -> float:
        """Return what it shows."""
        return self.moment


@pytest.mark.anyio
async def test_rewrites_are_bounded_while_one_node_is_away() -> None:
    """A node is away for ten minutes while the others take fifty writes a second: those are told once or twice."""
    nodes, clock = Nodes(), Clock()
    told = Rewrites(Scripts(nodes, {}), nodes, 1.0, clock)
    told.keep("finish", "rec:{01}:t:r:p:away", "first", {})
    told.suspect()
    most = 0
    for second in range(600):
        clock.moment += 1
        for number in range(50):
            told.keep("finish", "rec:{02}:t:r:p:video", f"{second}.{number}", {})
        nodes.asked.clear()
        await told.repeat()
        most = max(most, len(nodes.asked))
    assert most <= 50 * 12


@pytest.mark.anyio
async def test_rewrites_reach_other_nodes_while_one_is_away() -> None:
    """Two masters died, and one of them has a successor: that one is told, whoever comes first."""
    nodes = Nodes()
    told = Rewrites(Scripts(nodes, {}), nodes, 1.0)
    told.keep("finish", "rec:{01}:t:r:p:away", "first", {})
    told.keep("finish", "rec:{02}:t:r:p:video", "second", {})
    told.suspect()
    await told.repeat()
    assert "rec:{02}:t:r:p:video" in nodes.asked
    nodes.asked.clear()
    await told.repeat()
    assert "rec:{01}:t:r:p:away" in nodes.asked


async def goes_on(work: Any, nodes: Nodes) -> None:
    """Wait until something was tried three times, whatever came of it."""
    task = asyncio.create_task(work)
    try:
        await harness.eventually(lambda: len(nodes.asked) >= 3)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.anyio
async def test_rewrites_continue_after_an_unexpected_error() -> None:
    """Nobody would notice, and the next failover would be the one that it was for."""
    nodes = Nodes()
    told = Rewrites(Scripts(nodes, {}), nodes, 0.001)
    told.keep("finish", "rec:{01}:t:r:p:beyond", "first", {})
    told.suspect()
    await goes_on(told.rewrite_for_ever(), nodes)


@pytest.mark.anyio
async def test_renewals_continue_after_an_unexpected_error() -> None:
    """Every lease would lapse, silently, until the process ends."""
    nodes = Nodes()
    leases = Leases(Scripts(nodes, {}), Timing(lease=0.004))
    lease = Lease(
        key="rec:{01}:t:r:p:beyond", attempt="me.1", operation="1", action="start", epoch=0, asked_at="0", granted_at=0,
        record=Record(),
    )  # fmt: skip
    leases.hold(lease)
    await goes_on(leases.renew_for_ever(), nodes)
