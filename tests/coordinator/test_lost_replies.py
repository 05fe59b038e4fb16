"""What the coordinator asks again when Redis does not answer, for how long, and what it gives back.

All of it runs the gateway's own processes on the model's clock (`tests.model.world`), so that no test waits.
"""

from collections.abc import Callable

import pytest

from gateway.store.clock import RedisClock, clock
from tests.coordinator.test_regressions import plan, replicas, rest, sends, sent, started
from tests.model.replica import PARAMETERS, Call, Process
from tests.model.upstream import TRACK
from tests.model.world import Fate, World

NewWorld = Callable[..., World]
MANY = 10_000
SLOWER_THAN_BELIEVED = 5.0
"""Seconds; far more than a reply may take that tells the time."""


def answered(world: World, call: Call) -> str:
    """Let time pass until a call is answered, and return its outcome."""
    world.until(lambda: call.returned is not None)
    return call.outcome


def stopped(world: World, process: Process) -> None:
    """Bring the track to where nothing records and the record says so."""
    started(world, process)
    assert answered(world, process.stop()) == "stopped"
    world.advance(1)


# --- a claim ---------------------------------------------------------------------------------------------------------


def test_start_whose_claim_fails_twice_is_started(new_world: NewWorld) -> None:
    """Two refused connections are no outage: the third try, a moment later, leads."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    asked_at = world.now
    process.wire.faults.extend(["refused", "refused"])
    assert answered(world, process.start()) == "started"
    assert 2 * 0.02 <= sent(world, "start")[0] - asked_at < world.timing.send_window


def test_start_whose_claim_fails_three_times_is_refused_at_once(new_world: NewWorld) -> None:
    """After three failures the connection counts as broken: the caller is not kept for the two seconds."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    process.wire.faults.extend(["refused"] * MANY)
    call = process.start()
    assert answered(world, call) == "coordination-unavailable"
    assert len(process.wire.faults) == MANY - 3
    assert (call.returned or 0) - call.invoked < 1


def test_start_whose_first_try_used_up_the_time_gets_a_second_one(new_world: NewWorld) -> None:
    """The caller came 1.9 s ago and the first try hangs: one slow try may be our own fault, so there is another."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    process.wire.faults.append("hung")
    arrived_at = world.now
    world.advance(1.9)
    work = process.recordings.start(TRACK, PARAMETERS["A"], caller="somebody", timeout=30, arrived_at=arrived_at)
    asked = process.do(work)
    world.until(asked.done)
    assert asked.result().outcome == "started"


def test_start_whose_claim_was_granted_and_not_answered_leads_it(new_world: NewWorld) -> None:
    """The retry is the same attempt: Redis answers it again, and no caller waits for a leader that is itself."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    stopped(world, process)
    process.wire.loses = "claim"
    call = process.start()
    assert answered(world, call) == "started"
    assert (call.returned or 0) - call.invoked < 1


@pytest.mark.parametrize("failures", [0, 1], ids=["at once", "after a failure"])
def test_claim_whose_reply_was_lost_is_given_back(new_world: NewWorld, failures: int) -> None:
    """The claim was granted, its reply was lost, and the caller got 503: the track is free before the lease lapses.

    Nothing was sent, so the next start is sent at once and does not wait for the quiet time.
    """
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    stopped(world, first)
    claimed_at = world.now
    first.wire.loses = "claim"
    call = first.start()
    world.until(lambda: world.record()["holder"])
    first.wire.refuses = {"claim", "release"} if failures else {"claim"}
    assert answered(world, call) == "coordination-unavailable"
    assert world.record()["holder"].startswith(first.name)
    if failures:
        failed = first.wire.failures + 1
        world.until(lambda: first.wire.failures == failed)
        first.wire.refuses = set()
    world.until(lambda: not world.record()["holder"], what="for the claim to be given back")
    assert world.now < claimed_at + world.timing.lease
    before = world.now
    assert answered(world, second.start()) == "started"
    assert world.now - before < 1


def test_claim_that_cannot_be_given_back_is_left_to_lapse(new_world: NewWorld) -> None:
    """Giving back ends with the lease: after that there is nothing to give back, and no task goes on for it."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    process.wire.faults.extend(["refused"] * MANY)
    assert answered(world, process.start()) == "coordination-unavailable"
    world.advance(world.timing.lease + world.timing.renewal)
    left = len(process.wire.faults)
    assert left < MANY - 3
    world.advance(30)
    assert len(process.wire.faults) == left


# --- Redis's clock ---------------------------------------------------------------------------------------------------


def test_claim_after_a_clock_step_while_replies_are_slow_is_answered(new_world: NewWorld) -> None:
    """Redis's clock steps ahead and each reply takes 0.3 s: the claims are late, and a slow reply tells no time.

    The coordinator then forgets its idea of Redis's clock and asks for the time, instead of being late for ever.
    """
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    started(world, process)
    world.step_clock(3.0)
    process.wire.slow_seconds = 0.3
    process.wire.faults.extend(["slow"] * 20)
    assert answered(world, process.stop()) == "stopped"
    rest(world, recording=False)


def test_claim_that_stays_late_is_refused(new_world: NewWorld) -> None:
    """Every command waits in a stopped server for longer than its time: 503 within three seconds, not for ever."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    process.wire.slow_seconds = 0.15

    def step() -> None:
        # The clock never is what the coordinator last learned.
        world.skew += 3.0
        world.later(0.2, step)

    world.stepped = True
    step()
    process.wire.faults.extend(["slow"] * MANY)
    call = process.start()
    world.until(lambda: call.returned is not None)
    assert call.outcome == "coordination-unavailable"
    assert (call.returned or 0) - call.invoked < 3


class Server:
    """Tells a time, and counts how often it was asked."""

    def __init__(self, shows: int) -> None:
        self.shows = shows
        self.asked = 0

    async def __call__(self) -> int:
        """Return the time in ms."""
        self.asked += 1
        return self.shows


LONG_AGO = 1_500_000_000_000
"""A time (ms) that is far from every clock here."""
AN_HOUR = 3_600_000


@pytest.mark.anyio
async def test_redis_clock_is_asked_once_and_again_after_it_was_forgotten() -> None:
    """The first use asks; later ones reckon; after `forget` the next use asks again."""
    server = Server(LONG_AGO)
    redis_clock = RedisClock(server)
    assert abs(redis_clock.now_ms() - LONG_AGO) > AN_HOUR
    for _ in range(3):
        assert 0 <= await redis_clock.learned_now_ms() - LONG_AGO < AN_HOUR
    assert server.asked == 1
    server.shows = LONG_AGO + 3 * AN_HOUR
    redis_clock.forget()
    assert 0 <= await redis_clock.learned_now_ms() - server.shows < AN_HOUR
    assert server.asked == 2


def test_redis_clock_takes_no_time_from_a_slow_reply_unless_it_knows_none() -> None:
    """A slow reply may be off by all that it took; where nothing is known it is better than our own clock."""
    redis_clock = RedisClock(Server(0))
    before = clock()
    redis_clock.learn(LONG_AGO, clock() - 2 * SLOWER_THAN_BELIEVED)
    # The reply's time is taken for that of the middle of the way.
    passed = redis_clock.now_ms() - LONG_AGO
    assert SLOWER_THAN_BELIEVED * 1000 - 1 <= passed <= SLOWER_THAN_BELIEVED * 1000 + (clock() - before) * 1000 + 1
    redis_clock.learn(LONG_AGO + 2 * AN_HOUR, clock() - SLOWER_THAN_BELIEVED)
    assert redis_clock.now_ms() - LONG_AGO < AN_HOUR
    redis_clock.learn(LONG_AGO + 2 * AN_HOUR, clock())
    assert redis_clock.now_ms() - LONG_AGO > AN_HOUR


# --- a finish --------------------------------------------------------------------------------------------------------


def test_finish_without_an_answer_keeps_the_lease_until_it_is_written(new_world: NewWorld) -> None:
    """The leader cannot write its result for ten seconds: it still holds the track, and then writes what is true.

    What it writes late was true then: it is unconfirmed, and carries no result for those who wait.
    """
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    stopped(world, first)
    first.wire.refuses = {"finish"}
    assert answered(world, first.start()) == "started"
    holder = world.record()["holder"]
    waiter = second.start()
    world.advance(10)
    assert world.record()["holder"] == holder
    assert waiter.returned is None
    first.wire.refuses = set()
    world.until(lambda: world.record()["state"] == "recording")
    assert (world.record()["confirmed"], world.record()["result"]) == ("0", "")
    assert not first.leases
    assert answered(world, waiter) == "already_recording"
    assert len(sent(world, "start")) == 2


def test_finish_is_tried_ever_more_seldom_and_not_for_ever(new_world: NewWorld) -> None:
    """Redis never takes the result: about one try a second, none after twice the quiet time, and the lease lapses."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    process.wire.refuses = {"finish"}
    started_op, before = world.now, process.wire.failures
    assert answered(world, process.start()) == "started"
    world.advance(10)
    assert 10 <= process.wire.failures - before <= 15
    assert process.leases
    world.advance(started_op + 2 * world.timing.quiet + 5 - world.now)
    assert not process.leases
    tried = process.wire.failures
    world.advance(10)
    assert process.wire.failures == tried


@pytest.mark.parametrize("back", [True, False], ids=["Redis comes back", "Redis stays away"])
def test_close_with_an_unwritten_result_tries_for_two_seconds(new_world: NewWorld, back: bool) -> None:
    """A process that ends gives its last result a moment to be written, and ends all the same where it cannot be."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    process.wire.refuses = {"finish"}
    assert answered(world, process.start()) == "started"
    asked_at = world.now
    closing = process.do(process.recordings.close(30))
    world.advance(0.5)
    assert not closing.done()
    if back:
        process.wire.refuses = set()
    world.until(closing.done, timeout=10)
    assert world.now - asked_at < 2.5
    assert world.record()["state"] == ("recording" if back else "starting")


# --- release and renewal ---------------------------------------------------------------------------------------------


def test_release_without_an_answer_leaves_the_lease_to_lapse(new_world: NewWorld) -> None:
    """VideoSDK limits a start and the release fails: the caller hears of the limit, and nothing renews the lease."""
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    stopped(world, first)
    plan(world, "start", Fate(hears="limited", lands=None))
    first.wire.refuses = {"release"}
    claimed_at = world.now
    assert answered(world, first.start()) == "upstream-limited"
    assert not first.leases
    assert answered(world, second.start()) == "started"
    assert world.now - claimed_at < world.timing.lease + world.timing.quiet + 2


def test_renewal_without_an_answer_loses_nothing(new_world: NewWorld) -> None:
    """One renewal fails: the lease is not lost for that, the next renewal keeps it, and the caller hears the truth."""
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    stopped(world, first)
    plan(world, "start", Fate(reply=7.0, lands=0.2))
    call = first.start()
    sends(world, "start", 2)
    first.wire.faults.append("refused")
    world.until(lambda: not first.wire.faults, what="for a renewal")
    world.advance(world.timing.lease)
    waiter = second.start()
    assert answered(world, call) == "started"
    assert answered(world, waiter) == "joined"
