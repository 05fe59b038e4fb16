"""How long a recording may last: what the scripts write of its end, and who leads the stop when it has come."""

import json
from typing import Any, cast

import pytest

from gateway.coordinator import MaxDuration
from tests.coordinator.track import LEASE, MEMORY, Reply, Track, whole
from tests.model.world import Fate, Process, World

HOUR = 3_600_000
LONG = 4 * HOUR


def say(reply: Reply) -> tuple[str, str]:
    """Return what a claim was answered."""
    return reply["verdict"], reply["action"]


def at_rest(track: Track) -> None:
    """It was recorded and stopped, both confirmed just now."""
    track.started()
    track.stopped()


def overdue(track: Track) -> Reply:
    """It records, was confirmed just now, and its time is over."""
    lead = track.started(max_duration=HOUR)
    track.wait(HOUR - 1)
    assert track.confirm("recording")["how"] == "ok"
    track.wait(1)
    return lead


# --- a start has an end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "setting", "lasts"),
    [(0, 0, 0), (HOUR, 0, HOUR), (0, HOUR, HOUR), (HOUR, 2 * HOUR, HOUR), (2 * HOUR, HOUR, HOUR)],
)
@pytest.mark.parametrize("promoted", [False, True], ids=["claimed", "promoted"])
def test_start_that_is_granted_ends_after_the_smaller_duration(
    track: Track, asked: int, setting: int, lasts: int, promoted: bool
) -> None:
    """The end counts from the grant, and is scheduled with it; without a duration there is none."""
    if promoted:
        lead = track.claim("start")
        assert lead["action"] == "probe"
        track.wait(1000)
        assert track.promote_to_start(lead, max_duration=asked, longest=setting)["how"] == "ok"
        stops_at = lead["stops_at"]
    else:
        at_rest(track)
        stops_at = track.claim("start", max_duration=asked, longest=setting)["stops_at"]

    assert stops_at == (track.ms + lasts if lasts else 0)
    assert track.left("stops_at") == lasts
    assert track.end == (lasts or None)


def test_start_without_a_duration_after_one_with_is_not_bounded(track: Track) -> None:
    """An end belongs to one recording."""
    track.started(max_duration=HOUR)
    track.stopped()
    track.started()

    assert (track.record["stops_at"], track.end) == ("0", None)


def test_start_that_was_not_sent_leaves_the_end_of_the_recording_before(track: Track) -> None:
    """A release puts the record back as it was, with what it shows of the recording that ended."""
    track.started(max_duration=HOUR)
    track.stopped()
    shown = track.record["stops_at"]
    track.release(track.claim("start", max_duration=LONG))

    assert (track.record["stops_at"], track.end) == (shown, None)


def test_end_is_scheduled_while_anything_runs_or_may_run(track: Track) -> None:
    """It stays so through confirmations, and goes with the recording."""
    lead = track.started(max_duration=HOUR)
    track.wait(1)
    assert track.confirm("recording", due_in=30_000)["how"] == "ok"
    assert (track.end, track.due) == (HOUR - 1, 30_000)

    stop = track.claim("stop")
    assert track.end is None
    track.finish(stop, "recording", confirmed_by="list", answered=True)
    assert track.end == HOUR - 1

    track.stopped()
    assert track.end is None
    assert int(track.record["stops_at"]) == lead["stops_at"]


def test_end_of_a_record_that_has_gone_is_forgotten(track: Track) -> None:
    """A reconciler that comes for it finds nothing to end, and no other comes again."""
    overdue(track)
    track.redis.delete(track.keys[0])

    assert say(track.claim("reconcile")) == ("noop", "")
    assert track.end is None


# --- its time is over ------------------------------------------------------------------------------------------------


def test_reconcile_leads_the_stop_from_the_end_on_and_not_before(track: Track) -> None:
    """The record itself requests the stop, which ends what was started before it."""
    track.started(max_duration=HOUR)
    track.wait(HOUR - 1)
    assert say(track.claim("reconcile")) == ("lead", "probe")

    track.wait(1)
    lead = track.claim("reconcile")

    assert say(lead) == ("lead", "stop")
    assert lead["timed_stop"] == lead["stop_requested_at"] > lead["started_op"]
    assert track.finish(lead, "stopped", answered=True, because="max_duration")["stop"] is False
    assert (track.record["because"], track.stop_due) == ("max_duration", False)


def test_start_at_the_end_leads_the_stop_first(track: Track) -> None:
    """It comes too late to join: what it begins is another recording."""
    overdue(track)
    lead = track.claim("start")
    assert say(lead) == ("lead", "stop")
    track.finish(lead, "stopped", answered=True)

    assert say(track.claim("start")) == ("lead", "start")


def test_stop_of_a_caller_at_the_end_has_its_own_reason(track: Track) -> None:
    """A caller that asks for the stop when the time is over gets its own stop."""
    overdue(track)
    lead = track.claim("stop")

    assert (say(lead), lead["timed_stop"]) == (("lead", "stop"), 0)


def test_stop_that_was_noted_before_the_end_has_its_own_reason(track: Track) -> None:
    """A stop that waits for its turn when the time comes stays what it was."""
    lead = track.started(max_duration=HOUR)
    track.wait(HOUR - 10)
    probe = track.claim("reconcile")
    noted = track.claim("stop")
    track.finish(probe, "recording", confirmed_by="list")
    track.wait(10)

    lead = track.claim("reconcile")

    assert (say(lead), lead["timed_stop"], str(lead["stop_requested_at"])) == (("lead", "stop"), 0, noted["asked_at"])


def test_stop_of_a_caller_during_the_timed_one_is_later(track: Track) -> None:
    """If VideoSDK does not answer the timed stop, what is repeated is the caller's."""
    overdue(track)
    lead = track.claim("reconcile")
    assert say(track.claim("stop")) == ("wait", "stop")
    track.finish(lead, "stopping", confirmed_by="", due_in=1000)
    track.wait(1000)

    again = track.claim("reconcile")

    assert (say(again), again["timed_stop"] < again["stop_requested_at"]) == (("lead", "stop"), True)


def test_timed_stop_without_an_answer_is_repeated_as_such(track: Track) -> None:
    """It is due like any other stop, keeps its reason, and is not requested anew."""
    overdue(track)
    first = track.claim("reconcile")
    track.finish(first, "stopping", confirmed_by="", due_in=1000)
    assert (track.due, track.end) == (1000, None)
    assert say(track.claim("reconcile")) == ("wait", "stop")
    track.wait(1000)

    again = track.claim("reconcile")

    assert (say(again), again["timed_stop"]) == (("lead", "stop"), first["timed_stop"])


def test_timed_stop_that_was_not_sent_is_due_at_once(track: Track) -> None:
    """A start that could not send it leaves it to the reconciler."""
    overdue(track)
    track.release(track.claim("start"))

    assert (track.stop_due, track.due, track.end) == (True, 0, 0)
    assert say(track.claim("reconcile")) == ("lead", "stop")


def test_end_overtakes_a_probe(track: Track) -> None:
    """The stop does not wait for a probe, which sends nothing, and from then on writes and begins nothing."""
    track.started(max_duration=HOUR)
    track.wait(HOUR - LEASE // 2)
    probe = track.claim("start")
    assert say(probe) == ("lead", "probe")
    track.wait(LEASE // 2)

    lead = track.claim("reconcile")

    assert say(lead) == ("lead", "stop")
    assert track.promote_to_start(probe)["how"] == "lost"
    assert track.renew(probe)["how"] == "lost"
    assert track.finish(probe, "recording", confirmed_by="list")["how"] == "stale"
    assert track.finish(lead, "stopped", answered=True)["how"] == "ok"


def test_caller_that_waits_for_a_probe_is_not_overtaken_by_its_own_stop(track: Track) -> None:
    """Only what has to end overtakes a probe: a caller's stop is noted, as ever."""
    overdue(track)
    track.wait(-1)
    assert say(track.claim("reconcile")) == ("lead", "probe")
    track.wait(1)

    assert say(track.claim("stop")) == ("wait", "probe")


def test_end_during_a_start_waits_for_it(track: Track) -> None:
    """What is being sent is not overtaken; a start may take longer than what it starts may last."""
    at_rest(track)
    lead = track.claim("start", max_duration=500)
    track.wait(500)
    assert say(track.claim("reconcile")) == ("busy", "")
    track.finish(lead, "recording")

    assert track.end == 0
    assert say(track.claim("reconcile")) == ("lead", "stop")


@pytest.mark.parametrize("state", ["starting", "unknown"])
def test_end_of_what_may_run_is_a_stop(track: Track, state: str) -> None:
    """Whether a start without an answer began anything need not be known to end it."""
    at_rest(track)
    lead = track.claim("start", max_duration=HOUR)
    if state == "unknown":
        track.finish(lead, "unknown", confirmed_by="", due_in=1000)
    track.wait(HOUR)

    assert say(track.claim("reconcile")) == ("lead", "stop")


# --- a start that joins ----------------------------------------------------------------------------------------------


PASSED = 5000


@pytest.mark.parametrize(
    ("had", "asked", "more", "left"),
    [
        (2 * HOUR, HOUR, {}, HOUR),
        (HOUR, 2 * HOUR, {}, HOUR - PASSED),
        (HOUR, HOUR, {}, HOUR - PASSED),
        (HOUR, 0, {}, HOUR - PASSED),
        (0, HOUR, {}, HOUR),
        (0, 0, {"longest": HOUR}, HOUR),
        (HOUR, 2 * HOUR, {"lengthens": True}, 2 * HOUR),
        (2 * HOUR, HOUR, {"lengthens": True}, HOUR),
        (HOUR, 0, {"lengthens": True}, HOUR - PASSED),
        (HOUR, 3 * HOUR, {"lengthens": True, "longest": 2 * HOUR}, 2 * HOUR - PASSED),
        (2 * HOUR, 4 * HOUR, {"lengthens": True, "longest": 2 * HOUR}, 2 * HOUR - PASSED),
        (2 * HOUR, HOUR, {"only_of": "a"}, HOUR),
        (2 * HOUR, HOUR, {"only_of": "b"}, 2 * HOUR - PASSED),
        (HOUR, 2 * HOUR, {"only_of": "b", "lengthens": True}, HOUR - PASSED),
    ],
)
def test_start_that_joins_moves_the_end(track: Track, had: int, asked: int, more: dict[str, Any], left: int) -> None:
    """Earlier by its own duration; later only for who may lengthen, within the setting; and only what it may stop."""
    at_rest(track)
    track.started(max_duration=had)
    before = track.record["stops_at"]
    track.wait(PASSED)

    reply = track.claim("start", max_duration=asked, **more)

    assert say(reply) == ("running", "")
    assert (reply["stops_at"], track.left("stops_at"), track.end) == (track.ms + left, left, left)
    assert reply["moved_from"] == ("" if reply["stops_at"] == int(before) else before)


def test_start_with_other_parameters_moves_no_end(track: Track) -> None:
    """What was refused has no effect."""
    track.started(max_duration=2 * HOUR)

    assert say(track.claim("start", fingerprint="B", max_duration=HOUR)) == ("conflict", "")
    assert track.end == 2 * HOUR


def test_start_that_moves_the_end_tells_the_room(track: Track) -> None:
    """Readers learn of the new end in the step that moves it, and of nothing where it stays."""
    track.started(max_duration=2 * HOUR)
    events = track.redis.xlen(track.keys[4])
    track.claim("start", max_duration=HOUR)
    track.claim("start", max_duration=HOUR)

    ((_, event),) = cast("Any", track.redis.xrevrange(track.keys[4], count=1))
    assert track.redis.xlen(track.keys[4]) == events + 1
    assert json.loads(event["record"])["stops_at"] == str(track.ms + HOUR)


# --- a Redis that forgot ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("promoted", [False, True], ids=["claimed", "promoted"])
def test_start_that_was_forgotten_is_restored_with_its_end(track: Track, promoted: bool) -> None:
    """The leader's renewal puts the end back that it was granted."""
    if promoted:
        lead = track.claim("start")
        track.promote_to_start(lead, max_duration=HOUR)
    else:
        at_rest(track)
        lead = track.claim("start", max_duration=HOUR)
    track.lose()

    assert track.renew(lead)["how"] == "restored"
    assert track.end == track.left("stops_at") == HOUR


def test_recording_that_was_forgotten_is_written_again_with_its_end(track: Track) -> None:
    """The process that wrote it last knows it."""
    lead = track.started(max_duration=HOUR)
    track.lose()

    assert track.finish(lead, "recording")["how"] == "restored"
    assert track.end == HOUR


def test_move_that_was_forgotten_is_written_again(track: Track) -> None:
    """The process whose start moved the end writes it again; where nothing was forgotten, that changes nothing."""
    track.started(max_duration=2 * HOUR)
    snapshot = track.snapshot()
    claim = track.claim("start", max_duration=HOUR)
    assert track.move_end(claim)["how"] == "stale"
    track.lose(snapshot)

    assert track.move_end(claim)["how"] == "ok"
    assert track.end == track.left("stops_at") == HOUR
    assert track.move_end(claim)["how"] == "stale"


def test_move_is_not_repeated_over_a_later_one(track: Track) -> None:
    """Another start has moved the end since: that holds."""
    track.started(max_duration=2 * HOUR)
    claim = track.claim("start", max_duration=HOUR)
    track.claim("start", max_duration=3 * HOUR, lengthens=True)

    assert (track.move_end(claim)["how"], track.end) == ("stale", 3 * HOUR)


def test_move_waits_until_the_recording_is_written_again(track: Track) -> None:
    """Where the recording was forgotten too, another process writes that first."""
    lead = track.started(max_duration=2 * HOUR)
    claim = track.claim("start", max_duration=HOUR)
    track.lose()
    assert (track.move_end(claim)["how"], whole(track.record)) == ("early", {})
    track.finish(lead, "recording")

    assert (track.move_end(claim)["how"], track.end) == ("ok", HOUR)


def test_move_of_what_has_ended_is_not_written_again(track: Track) -> None:
    """Nothing has to end that is over."""
    track.started(max_duration=2 * HOUR)
    claim = track.claim("start", max_duration=HOUR)
    track.run("move_end", moved_from=claim["stops_at"], stops_at=claim["moved_from"], generation=claim["generation"])
    track.stopped()

    assert (track.move_end(claim)["how"], track.end) == ("stale", None)


def test_recording_that_is_found_has_no_end(track: Track) -> None:
    """What was started outside the gateway is not the gateway's to stop."""
    at_rest(track)
    track.invalidate()
    probe = track.claim("reconcile")
    track.finish(probe, "recording", confirmed_by="list", generation=probe["op"], recording='{"origin":"videosdk"}')
    track.wait(MEMORY)

    assert (track.record["stops_at"], track.end) == ("0", None)
    assert say(track.claim("reconcile")) == ("lead", "probe")


# --- the whole gateway, in the model's world --------------------------------------------------------------------------


def recording_for(world: World, seconds: float) -> tuple[Process, Process]:
    """Bring a world to a recording that may last so long, with two replicas."""
    one, other = world.process(), world.process()
    world.look(one)
    world.advance(world.timing.quiet)
    call = one.start(max_duration=MaxDuration(seconds))
    world.until(lambda: call.returned)
    return one, other


def ends_in(world: World) -> float | None:
    """Return in how many seconds the reconciler stops it."""
    return None if world.end_score is None else round(world.end_score / 1000 - world.redis_ms / 1000, 1)


@pytest.mark.parametrize("forgotten", ["the move", "the recording too", "the recording, and its process is late"])
def test_failover_that_forgets_a_moved_end_does_not_undo_the_move(world: World, forgotten: str) -> None:
    """The process whose start moved the end writes that again, after the recording where that was forgotten too."""
    one, other = recording_for(world, 3600.0)
    before = len(world.snapshots)
    call = other.start(max_duration=MaxDuration(60.0))
    world.until(lambda: call.returned)
    assert call.outcome == "already_recording"
    world.lose(len(world.snapshots) - before if forgotten == "the move" else None)
    if forgotten.endswith("late"):
        one.coordinator.rewrite_recent()
        one.stall()
    world.advance(2)
    if one.stalled:
        one.resume()
    world.advance(world.timing.grace)

    assert ends_in(world) is not None
    assert 50.0 < (ends_in(world) or 0.0) < 60.0


def test_failover_during_a_start_forgets_no_end(world: World) -> None:
    """The leader's renewal restores it while VideoSDK has not answered yet."""
    one = world.process()
    world.look(one)
    world.advance(world.timing.quiet)
    world.upstream.fates["start"].append(Fate(reply=9.0, lands=8.0))
    one.start(max_duration=MaxDuration(60.0))
    world.until(lambda: world.upstream.flights)
    world.lose()
    world.advance(2)

    assert (world.record()["state"], ends_in(world) is not None) == ("starting", True)


def test_end_after_a_leader_died_in_its_stop_comes_all_the_same(world: World) -> None:
    """Another replica repeats the stop once the lease has lapsed."""
    one, other = recording_for(world, 30.0)
    world.upstream.fates["stop"].append(Fate(hears="silence", lands=None))
    other.stall()
    world.until(lambda: one.leases, timeout=60)
    one.crash()
    other.resume()
    world.until(lambda: world.record()["state"] == "stopped", timeout=60)

    assert world.record()["because"] == "max_duration"
    assert [flight.kind for flight in world.upstream.flights] == ["start", "stop", "stop"]


def test_end_that_a_dead_probe_holds_is_not_late(world: World) -> None:
    """A leader that died while it looked keeps no stop up for the rest of its lease."""
    one, other = recording_for(world, 30.0)
    began = world.now
    world.advance(29.0)
    world.upstream.list_seconds = 20.0
    one.do(one.invalidate())
    one.do(one.reconciler.reconcile(world.key))
    world.until(lambda: one.leases)
    one.crash()
    world.until(lambda: world.upstream.flights[-1].kind == "stop")

    assert world.now - began < 30.0 + 2.0
    assert other.leases
