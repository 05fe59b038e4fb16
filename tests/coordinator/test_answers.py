"""Who is told what, and what is sent, where a rule is needed that no ordinary start or stop meets."""

from collections.abc import Callable

import pytest

from gateway.coordinator import Timing
from tests.coordinator.test_lost_replies import answered, stopped
from tests.coordinator.test_regressions import plan, replicas, rest, sends, sent, started
from tests.coordinator.track import LEASE, SETTLE, TRUST, Track
from tests.model.upstream import TRACK
from tests.model.world import Fate, World

NewWorld = Callable[..., World]
MANY = 10_000

# --- without Redis ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", ["another replica", "the same replica"])
def test_start_without_redis_is_written_to_redis_afterwards(new_world: NewWorld, asks: str) -> None:
    """The record says that nothing records; a start is done without Redis. Nobody then believes the record.

    The replica says so by itself for the others, and before it asks Redis about the track again.
    """
    world = new_world(timing=Timing(trust=60.0), settling=False, degrade=True)
    first, second = replicas(world, 2)
    stopped(world, first)
    first.wire.refuses = set(first.script_names.values())
    assert answered(world, first.start()) == "uncoordinated-started"
    # For longer than the first try to say so.
    world.advance(2)
    first.wire.refuses = set()
    if asks == "another replica":
        world.until(lambda: world.record()["suspect_since"] != "0", timeout=2, what="for the doubt")
    again = (second if asks == "another replica" else first).start()
    assert answered(world, again) == "already_recording"
    assert len(sent(world, "start")) == 2


def test_start_without_redis_is_remembered_until_redis_knows(new_world: NewWorld) -> None:
    """While Redis is away, a start with other parameters is refused here; afterwards the record decides."""
    world = new_world(settling=False, degrade=True)
    (process,) = replicas(world, 1)
    process.wire.refuses = set(process.script_names.values())
    assert answered(world, process.start("A")) == "uncoordinated-started"
    assert answered(world, process.start("B")) == "parameters-differ"
    process.wire.refuses = set()
    assert answered(world, process.start("B")) == "already_recording"
    assert answered(world, process.stop()) == "stopped"
    process.wire.refuses = set(process.script_names.values())
    assert answered(world, process.start("B")) == "uncoordinated-started"


# --- a refusal -------------------------------------------------------------------------------------------------------


def test_start_with_other_parameters_is_not_answered_with_anothers_refusal(new_world: NewWorld) -> None:
    """A leader has to look first, a start with other parameters waits for it, and VideoSDK refuses the leader's.

    What VideoSDK found wrong may be the parameters: the waiter asks for itself, and starts.
    """
    world = new_world(settling=False)
    first, second, third = replicas(world, 3)
    # All of it is over before a waiter polls.
    world.upstream.list_seconds = 0.2
    plan(world, "start", Fate(hears="refused", lands=None))
    leader = first.start("A")
    world.until(lambda: world.record().get("action") == "probe")
    other, same = second.start("B"), third.start("A")
    outcomes = answered(world, leader), answered(world, same), answered(world, other)
    assert outcomes == ("upstream-refused", "upstream-refused", "started")
    assert len(sent(world, "start")) == 2


def test_start_behind_a_refused_stop_is_not_answered_with_its_refusal(new_world: NewWorld) -> None:
    """VideoSDK refuses a stop of what still records, and a start of the same parameters waits: it records."""
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    started(world, first)
    # A young recording may refuse its stop because it only just begins.
    world.advance(25)
    plan(world, "stop", Fate(hears="refused", lands=None, reply=0.3))
    stop = first.stop()
    sends(world, "stop", 1)
    start = second.start()
    assert (answered(world, stop), answered(world, start)) == ("upstream-refused", "already_recording")


# --- the send gate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["start", "stop"])
def test_call_whose_lease_was_lost_is_not_sent(new_world: NewWorld, action: str) -> None:
    """An operator takes the claim away while its leader still connects: within the window, yet nothing may be sent."""
    world = new_world(settling=False)
    (process,) = replicas(world, 1)
    started(world, process)
    if action == "start":
        stop = process.stop()
        assert answered(world, stop) == "stopped"
    plan(world, action, Fate(connect=1.9))
    process.start() if action == "start" else process.stop()
    world.until(lambda: world.record()["holder"])
    taken = world.record()["holder"]
    assert process.do(process.coordinator.records.revoke(world.key, taken))
    # By then a renewal has said that the lease is lost.
    world.advance(1.9)
    assert not any(lease.attempt == taken for lease in process.leases.values())
    world.advance(1)
    assert taken not in {flight.attempt for flight in world.upstream.flights}
    rest(world, recording=action == "start")


# --- a gap -----------------------------------------------------------------------------------------------------------


def test_waiter_after_a_renewed_subscription_asks_redis_at_once(new_world: NewWorld) -> None:
    """The message that ended its waiting may have been lost: it asks Redis then, and not at its next poll."""
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    stopped(world, first)
    plan(world, "start", Fate(reply=0.3, lands=0.2))
    first.start()
    sends(world, "start", 2)
    second.deaf = True
    waiter = second.start()
    world.until(lambda: world.record()["state"] == "recording")
    # Sooner than the quickest poll.
    world.advance(0.05)
    assert waiter.returned is None
    second.deaf = False
    heard_at = world.now
    second.ears.reconnect()
    assert answered(world, waiter) == "joined"
    assert world.now - heard_at < 0.2


# --- a list that is behind what was heard ----------------------------------------------------------------------------


@pytest.mark.parametrize(("planned", "due"), [(0, 1500), (30_000, 1500), (1500, 1500), (600, 600)])
def test_probe_that_contradicts_a_webhook_is_repeated_soon(track: Track, planned: int, due: int) -> None:
    """A webhook says that it ended and the list says that it records: the list may be behind, so it is asked again.

    What was heard stays until the list has had its time; after that it was an echo, and the plan holds.
    """
    track.started()
    track.wait(10_000)
    track.invalidate("failed")
    track.wait(1)
    for ago in range(1, SETTLE, 1000):
        look = track.claim("reconcile")
        assert (look["verdict"], look["action"]) == ("lead", "probe"), ago
        track.finish(look, "recording", confirmed_by="list", due_in=planned)
        assert (track.record["hint"].endswith(" failed"), track.due) == (True, due), ago
        track.wait(1000)
    track.wait(TRUST)
    track.finish(track.claim("reconcile"), "recording", confirmed_by="list", due_in=planned)
    assert (track.record["hint"], track.due or 0) == ("", planned)


def test_end_that_the_list_shows_late_is_found_early_and_keeps_its_reason(world: World) -> None:
    """VideoSDK tells of an end, and its list shows it two seconds later: the next look is soon, with the reason."""
    (process,) = replicas(world, 1)
    started(world, process)
    world.advance(30)
    world.upstream.end(2.0)
    heard_at = world.now
    process.do(process.coordinator.records.invalidate(world.key, hint="failed"))
    world.until(lambda: world.record()["state"] in {"stopped", "failed"})
    assert world.now - heard_at < world.timing.settle + 2
    assert world.record()["because"] == "failed"


# --- a claim that was taken away -------------------------------------------------------------------------------------


def test_record_after_a_revoked_claim_is_probed_first(track: Track) -> None:
    """It was confirmed a moment ago, but an operator would not have taken the claim away for nothing: look first."""
    track.started()
    track.wait(1)
    look = track.claim("reconcile")
    assert look["action"] == "probe"
    track.revoke(look["attempt"])
    assert (track.left("suspect_since"), track.record["confirmed"], track.due) == (0, "0", 0)
    track.wait(1)
    reply = track.claim("start")
    assert (reply["verdict"], reply["action"]) == ("lead", "probe")
    track.wait(LEASE)


def test_revoke_by_an_operator_probes_the_track(new_world: NewWorld) -> None:
    """No replica settles in the background: the operator's release finds out by itself what records."""
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    stopped(world, first)
    world.advance(30)
    plan(world, "start", Fate(hears="silence", lands=0.5))
    first.start()
    sends(world, "start", 2)
    world.advance(1)
    first.stall()
    released = second.do(second.operator.release(TRACK, reason="it hangs", by="operator"))
    world.until(released.done)
    taken, recording = released.result()
    assert (taken, recording.status, world.record()["state"]) == (True, "recording", "recording")
    first.crash()
    rest(world, recording=True)


def test_revoke_without_a_claim_probes_the_track(new_world: NewWorld) -> None:
    """There is no claim to take away, and the record was confirmed a moment ago: VideoSDK is asked all the same."""
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    started(world, first)
    # Late enough for the list to prove an end, and early enough for the record to be believed.
    world.advance(7)
    world.upstream.end(0)
    released = second.do(second.operator.release(TRACK, reason="to see", by="operator"))
    world.until(released.done)
    taken, recording = released.result()
    assert (taken, str(recording.status)) == (False, world.record()["state"])
    assert recording.status in {"stopped", "failed"}
