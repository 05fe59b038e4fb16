"""What went wrong once, or nearly did: each told as a story, because random search seldom finds it again.

The stories with a `world` run the gateway's own processes on a clock that stands still (`tests.model.world`), which
checks its promises all the time: no duplicate, nothing sent while something else may still land, no false answer.
The stories with a `track` call the scripts alone, on each kind of server.
"""

from collections.abc import Callable

import pytest

from gateway.coordinator import Timing
from gateway.errors import CoordinationUnavailable
from gateway.recordings.leader import Leader
from gateway.recordings.operation import Operation, Result
from tests.coordinator.track import GRACE, LEASE, QUIET, TRUST, Track
from tests.model.replica import PARAMETERS
from tests.model.upstream import TRACK, Row
from tests.model.world import Fate, Process, Violation, World

NEVER = 10_000


def replicas(world: World, count: int) -> list[Process]:
    """Start replicas, and let the server become one that is believed."""
    processes = [world.process() for _ in range(count)]
    world.look(processes[0])
    world.advance(world.timing.quiet)
    return processes


def sent(world: World, kind: str) -> list[float]:
    """Return when POSTs of this kind left."""
    return [flight.sent for flight in world.upstream.flights if flight.kind == kind]


def sends(world: World, kind: str, count: int, timeout: float = 60) -> None:
    """Let time pass until this many POSTs of this kind left."""
    world.until(lambda: len(sent(world, kind)) >= count, timeout, f"for {kind} number {count}")


def rest(world: World, *, recording: bool) -> None:
    """Let everything come to rest and say how it must end."""
    world.come_to_rest()
    assert bool(world.upstream.open) is recording, world.told()


def started(world: World, process: Process) -> None:
    """Have a recording begun and answered."""
    call = process.start()
    world.until(lambda: call.returned)
    assert call.outcome == "started"


def plan(world: World, kind: str, *fates: Fate) -> None:
    """Say what becomes of the next POSTs of this kind."""
    world.upstream.fates[kind].extend(fates)


# --- the ten of the protocol's design --------------------------------------------------------------------------------


def test_quiet_time_counts_the_send_window(world: World) -> None:
    """A leader sends at the end of its window and dies: whoever starts next waits Q from the grant, not from elsewhere.

    The zombie lands as late as it may, after every time-out that does not count the window.
    """
    first, second = replicas(world, 2)
    plan(world, "start", Fate(connect=1.9, hears="silence", lands=14.9))
    first.start(timeout=1)
    sends(world, "start", 1)
    first.crash()
    second.start(timeout=30)
    world.advance(25)
    assert len(sent(world, "start")) == 1
    rest(world, recording=True)


@pytest.mark.parametrize("list_seconds", [0.02, 0.45, 0.8])
def test_quiet_time_passes_before_a_start_is_sent_again(world: World, list_seconds: float) -> None:
    """A leader dies after sending, and its start never lands: the next one is sent after Q, and not much later.

    Also where a look at the list begins before Q is over and ends after it.
    """
    world.upstream.list_seconds = list_seconds
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="silence", lands=None))
    first.start(timeout=1)
    sends(world, "start", 1)
    first.crash()
    call = second.start(timeout=30)
    sends(world, "start", 2)
    waited = sent(world, "start")[1] - sent(world, "start")[0]
    assert world.timing.quiet - world.timing.send_window <= waited <= world.timing.quiet + 0.5 + 2 * list_seconds
    world.advance(1)
    assert call.outcome == "started"


def test_finish_by_the_former_leader_is_accepted_until_another_may_send(track: Track) -> None:
    """A leader that was away brings its success: it counts while another only looks, and not once that one sends."""
    first = track.claim("start", fingerprint="A")
    if first["action"] == "probe":
        track.promote_to_start(first)
    track.wait(LEASE + 1)
    second = track.claim("start", fingerprint="A")
    assert (second["action"], second["op"]) == ("probe", first["op"])
    assert track.finish(first, "recording")["how"] == "late"
    assert track.finish(second, "unknown", confirmed_by="")["how"] == "stale"

    track.stopped()
    third = track.claim("start", fingerprint="A")
    track.wait(QUIET + 1)
    fourth = track.claim("start", fingerprint="A")
    assert track.promote_to_start(fourth)["how"] == "ok"
    assert track.finish(third | {"action": "start"}, "recording")["how"] == "stale"
    assert track.record["holder"] == fourth["attempt"]


def test_promotion_after_the_record_was_lost_is_refused(track: Track) -> None:
    """Looking is harmless; sending on the word of a server that forgot who looks is not."""
    for snapshot in (None, track.snapshot()):
        lead = track.claim("start")
        assert lead["action"] == "probe"
        track.lose(snapshot)
        assert track.promote_to_start(lead)["how"] == "lost"
        track.claim("reconcile")
        track.wait(GRACE + 1)


def test_promotion_after_another_epoch_is_refused_although_the_record_was_restored(track: Track) -> None:
    """Claimed again by `restore`, the lease may go on looking, but what else was forgotten nobody knows."""
    lead = track.claim("start")
    track.lose()
    assert track.renew(lead)["how"] == "restored"
    track.claim("reconcile")
    assert track.promote_to_start(lead)["how"] == "lost"


def test_first_claim_on_another_server_never_starts_blindly(track: Track) -> None:
    """What is written there may be old, whoever reads it first: it waits for the grace, then looks."""
    track.started()
    track.stopped()
    snapshot = track.snapshot()
    track.wait(1000)
    for lost in (None, snapshot):
        track.lose(lost)
        assert track.claim("start")["action"] == "grace"
        track.wait(GRACE)
        lead = track.claim("start")
        assert (lead["verdict"], lead["action"]) == ("lead", "probe")
        track.release(lead)


def test_start_while_the_epoch_changes_waits(world: World) -> None:
    """Redis comes back empty while a start is under way; everybody else asks in that very moment and must wait."""
    first, second, third = replicas(world, 3)
    plan(world, "start", Fate(reply=6.0, lands=5.9))
    first.start()
    sends(world, "start", 1)
    world.lose()
    for process in (second, third, second, third):
        process.start()
    world.advance(10)
    assert len(sent(world, "start")) == 1
    assert {call.outcome for call in world.calls} == {"started", "joined"}


def test_release_puts_everything_back(track: Track) -> None:
    """A stop that could not be sent leaves a recording, with its parameters and its identity."""
    track.started()
    before = track.record
    track.wait(1000)
    lead = track.claim("stop")
    track.release(lead)
    same = (
        "state",
        "generation",
        "fingerprint",
        "recording",
        "start_may_land_until",
        "stop_may_land_until",
        "confirmed",
        "holder",
    )
    assert {name: track.record[name] for name in same} == {name: before[name] for name in same}
    assert track.claim("start")["verdict"] == "running"


def test_unknown_outcome_written_to_an_empty_redis_has_a_quiet_time(track: Track) -> None:
    """The horizon was lost with the record; without one the next start would be blind."""
    track.started()
    track.stopped()
    lead = track.claim("start")
    assert lead["action"] == "start"
    track.lose()
    assert track.finish(lead, "unknown", confirmed_by="", due_in=1000)["how"] == "restored"
    assert track.left("start_may_land_until") == QUIET
    track.claim("reconcile")
    track.wait(GRACE)
    assert track.claim("start")["start_may_land_ms"] == QUIET - GRACE


def test_start_held_back_by_the_send_gate_is_retried(world: World) -> None:
    """The send gate closes because this process was slow: nothing was sent, no error is told, it is retried."""
    [process] = replicas(world, 1)
    plan(world, "start", Fate(connect=2.5))
    call = process.start()
    world.advance(1)
    first = world.record()["holder"]
    world.advance(4)
    assert call.outcome == "started"
    assert [flight.attempt == first for flight in world.upstream.flights] == [False]


def test_follower_without_a_message_asks_again(world: World) -> None:
    """The message is lost, and by the time the follower looks another operation is the last: it must not wait on."""
    first, second, third = replicas(world, 3)
    world.advance(2)
    plan(world, "start", Fate(reply=0.3, lands=0.2))
    second.deaf = True
    first.start()
    world.advance(0.2)
    call = second.start()
    world.until(lambda: world.record().get("state") == "recording")
    third.stop()
    world.until(lambda: world.record().get("state") == "stopped")
    assert call.returned is None
    world.advance(3)
    assert call.outcome == "started"
    rest(world, recording=True)


def test_start_after_a_stop_elsewhere_is_not_answered_from_before_it(world: World) -> None:
    """A group here still waits for a start that was stopped elsewhere long ago: who comes now does not get that."""
    first, second, third = replicas(world, 3)
    plan(world, "start", Fate(reply=0.3, lands=0.2))
    second.deaf = True
    first.start()
    world.advance(0.2)
    second.start()
    world.until(lambda: world.record().get("state") == "recording")
    stop = third.stop()
    world.until(lambda: stop.returned is not None)
    late = second.start()
    world.until(lambda: late.returned is not None)
    assert len(sent(world, "start")) == 2
    rest(world, recording=True)


def test_start_is_not_answered_by_what_redis_said_before_it_came(new_world: Callable[..., World]) -> None:
    """Redis said that it records, the reply takes long, and meanwhile it is stopped: who comes now asks for themselves.

    Whoever shares an answer must have come before it was asked for.
    """
    world = new_world(settling=False)
    first, second, third = replicas(world, 3)
    # So that it need not ask Redis for the time.
    world.look(second)
    started(world, first)
    second.wire.faults.append("slow")
    early = second.start()
    world.advance(0.1)
    stop = third.stop()
    world.until(lambda: stop.returned is not None)
    assert early.returned is None
    late = second.start()
    world.until(lambda: late.returned is not None)
    assert (early.outcome, stop.outcome, late.outcome) == ("already_recording", "stopped", "started")
    rest(world, recording=True)


# --- Redis that forgets ----------------------------------------------------------------------------------------------


def test_start_of_a_leader_that_died_while_redis_forgot_is_waited_for(world: World) -> None:
    """FLUSHALL while a start is on its way, and its leader dies: the next start is not sent before that has landed."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="silence", lands=14.9))
    first.start()
    sends(world, "start", 1)
    world.lose()
    first.crash()
    call = second.start()
    world.until(lambda: call.returned)
    assert call.outcome == "already_recording"
    assert len(sent(world, "start")) == 1
    rest(world, recording=True)


def test_stop_of_a_leader_that_died_while_redis_forgot_is_waited_for(world: World) -> None:
    """A stop is on its way and forgotten, and its leader dies: a start is not told of what it will end."""
    first, second = replicas(world, 2)
    started(world, first)
    world.advance(5)
    running = world.snapshots[-1]
    plan(world, "stop", Fate(hears="silence", lands=12.0))
    first.stop()
    sends(world, "stop", 1)
    world.snapshots.append(running)
    world.lose(0)
    first.crash()
    call = second.start()
    world.until(lambda: call.returned)
    assert call.outcome == "started"
    rest(world, recording=True)


def test_list_that_is_empty_at_the_floor_does_not_end_a_recording(new_world: Callable[..., World]) -> None:
    """What recorded before Redis forgot is looked for twice, some time apart, before it is started again."""
    world = new_world(settling=False)
    first, second = replicas(world, 2)
    started(world, first)
    world.advance(5)
    world.lose(0)
    world.look(second)
    world.advance(max(world.forgot_at + world.timing.quiet - world.now - 0.3, 0))
    second.start()
    world.upstream.list_blanks = 2
    world.advance(5)
    assert world.calls[-1].outcome == "already_recording"
    assert len(sent(world, "start")) == 1
    rest(world, recording=True)


def test_start_after_flushall_joins_the_live_leader(world: World) -> None:
    """FLUSHALL while a start is on its way: its leader claims again, a newcomer joins it."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(reply=9.0, lands=8.9))
    leader = first.start()
    # Between two renewals.
    world.advance(1.4)
    world.lose()
    newcomer = second.start()
    world.advance(15)
    assert (leader.outcome, newcomer.outcome) == ("started", "joined")


def test_restored_claim_of_an_earlier_operation_yields_to_the_live_leader(world: World) -> None:
    """A failover brings back an earlier operation as held; the leader of the later one takes its place."""
    first, second, third = replicas(world, 3)
    plan(world, "start", Fate(reply=0.5, lands=0.2), Fate(reply=5.0, lands=4.9))
    first.start()
    sends(world, "start", 1)
    predates_epoch = world.snapshots[-1]
    world.advance(2)
    first.stop()
    world.advance(1)
    leader = second.start()
    sends(world, "start", 2)
    world.snapshots.append(predates_epoch)
    world.lose(0)
    newcomer = third.start()
    world.advance(10)
    assert (leader.outcome, newcomer.outcome) == ("started", "joined")
    assert len(sent(world, "start")) == 2


def test_restored_claim_without_a_live_leader_is_probed(world: World) -> None:
    """A failover brings back a start that ended long ago: its lease lapses, the list is asked, one start is sent."""
    first, second = replicas(world, 2)
    first.start()
    sends(world, "start", 1)
    predates_epoch = world.snapshots[-1]
    world.advance(2)
    first.stop()
    world.advance(20)
    world.snapshots.append(predates_epoch)
    world.lose(0)
    call = second.start()
    world.advance(30)
    assert call.outcome == "started"
    assert len(sent(world, "start")) == 2


def test_stop_over_a_restored_claim_stops_what_runs(world: World) -> None:
    """A failover brings back a start that was stopped long ago; a stop that finds it ends the recording of today."""
    first, second, third = replicas(world, 3)
    plan(world, "start", Fate(reply=0.5, lands=0.2), Fate(reply=1.5, lands=0.2))
    first.start()
    sends(world, "start", 1)
    predates_epoch = world.snapshots[-1]
    world.advance(0.6)
    first.stop()
    world.advance(0.2)
    second.start()
    sends(world, "start", 2)
    # Between two renewals, and just before its leader knows that it records.
    world.advance(1.4)
    world.snapshots.append(predates_epoch)
    world.lose(0)
    stop = third.stop()
    world.advance(10)
    assert stop.outcome == "stopped"
    rest(world, recording=False)


def test_start_over_a_restored_claim_is_compared_with_what_runs(world: World) -> None:
    """A failover brings back a start with other parameters, stopped long ago: that is no reason to refuse."""
    first, second, third = replicas(world, 3)
    plan(world, "start", Fate(reply=0.5, lands=0.2), Fate(reply=1.5, lands=0.2))
    first.start("A")
    sends(world, "start", 1)
    predates_epoch = world.snapshots[-1]
    world.advance(0.6)
    first.stop()
    world.advance(0.2)
    second.start("B")
    sends(world, "start", 2)
    world.advance(1.4)
    world.snapshots.append(predates_epoch)
    world.lose(0)
    start = third.start("B")
    world.until(lambda: start.returned)
    assert start.outcome == "already_recording"
    rest(world, recording=True)


def test_released_operation_goes_on_under_its_number_after_a_failover(world: World) -> None:
    """A start was released and taken up again under the same number; the failover knows only of the release.

    The second holder is alive and has sent. It must get its claim back, although the number is not newer.
    """
    first, second, third = replicas(world, 3)
    first.start()
    world.advance(1)
    first.stop()
    world.advance(5)
    plan(world, "start", Fate(connect=2.2), Fate(hears="silence", lands=8.0))
    first.start(timeout=1)
    world.advance(1.8)
    second.start()
    sends(world, "start", 2)
    released = next(snapshot for snapshot in reversed(world.snapshots) if not snapshot["record"].get("holder"))
    assert released["record"]["op"] == world.record()["op"]
    world.snapshots.append(released)
    world.lose(0)
    third.start()
    world.advance(20)
    assert len(sent(world, "start")) == 2


@pytest.mark.parametrize("noticed", ["subscription", "command"])
def test_failover_that_forgets_an_answered_stop_does_not_repeat_it(world: World, noticed: str) -> None:
    """The replica has not heard that the stop was carried out, nor of the start after it: the recording stays.

    Whoever did either notices a failover by its subscription or by a command that fails.
    """
    first, second, third = replicas(world, 3)
    first.deaf = second.deaf = noticed == "command"
    started(world, first)
    world.advance(5)
    stop = first.stop()
    sends(world, "stop", 1)
    predates_epoch = world.snapshots[-1]
    assert predates_epoch["record"]["state"] == "stopping"
    world.advance(0.2)
    start = second.start()
    world.advance(0.2)
    assert (stop.outcome, start.outcome) == ("stopped", "started")
    if noticed == "command":
        first.wire.faults.append("refused")
        second.wire.faults.append("refused")
    world.snapshots.append(predates_epoch)
    world.lose(0)
    again = third.start()
    world.until(lambda: again.returned)
    assert again.outcome == "already_recording"
    assert len(sent(world, "stop")) == 1
    rest(world, recording=True)


def test_failover_that_forgets_a_stop_that_was_never_sent_does_not_send_it(world: World) -> None:
    """The stop was given back, and whoever asked was told that it failed: nobody takes it up after the failover."""
    first, second = replicas(world, 2)
    started(world, first)
    world.advance(5)
    plan(world, "stop", Fate(hears="limited", lands=None, reply=0.2))
    stop = first.stop()
    sends(world, "stop", 1)
    predates_epoch = world.snapshots[-1]
    assert predates_epoch["record"]["state"] == "stopping"
    world.until(lambda: stop.returned)
    assert stop.outcome == "upstream-limited"
    world.snapshots.append(predates_epoch)
    world.lose(0)
    start = second.start()
    world.until(lambda: start.returned)
    assert start.outcome == "already_recording"
    assert len(sent(world, "stop")) == 1
    rest(world, recording=True)


def test_failover_that_forgets_a_dead_leaders_start_is_probed(world: World) -> None:
    """Who stopped it tells so again; but what was started after that only the dead knew, and VideoSDK.

    Somebody looks although nobody asks, or else nobody could stop it.
    """
    first, second, _ = replicas(world, 3)
    started(world, first)
    world.advance(5)
    first.stop()
    sends(world, "stop", 1)
    predates_epoch = world.snapshots[-1]
    world.advance(0.2)
    second.start()
    world.advance(0.2)
    second.crash()
    world.snapshots.append(predates_epoch)
    world.lose(0)
    world.advance(world.timing.quiet + 3)
    assert world.record()["state"] == "recording"
    rest(world, recording=True)


def test_stop_of_the_past_does_not_stop_a_restored_start(world: World) -> None:
    """A failover brings back the wish for a stop that was carried out; the start that came after it stays."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(reply=2.0, lands=1.0), Fate(reply=3.0, lands=1.0))
    first.start()
    world.advance(0.5)
    second.stop()
    world.advance(0.5)
    predates_epoch = world.snapshots[-1]
    assert int(predates_epoch["record"]["stop_requested_at"]) > int(predates_epoch["record"]["started_op"])
    world.advance(4)
    assert not world.upstream.open
    call = first.start()
    sends(world, "start", 2)
    world.snapshots.append(predates_epoch)
    world.lose(0)
    world.advance(6)
    assert call.outcome == "started"
    rest(world, recording=True)


def test_restored_probe_keeps_others_from_starting(world: World) -> None:
    """Redis forgets a start of unknown outcome while somebody looks for it: the horizon comes back with the looker."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="reset", lands=14.5))
    first.start(timeout=1)
    world.until(lambda: world.record().get("action") == "probe")
    world.lose()
    second.start()
    world.advance(25)
    assert len(sent(world, "start")) == 1


def test_restored_verifier_does_not_start(track: Track) -> None:
    """Who looked whether it still records may go on looking; what it starts then is started under a new claim."""
    track.started()
    track.wait(TRUST + 1)
    lead = track.claim("start")
    assert lead["action"] == "probe"
    track.lose()
    assert track.renew(lead)["how"] == "restored"
    assert (track.record["state"], track.left("start_may_land_until")) == ("unknown", QUIET)
    assert track.claim("start")["verdict"] == "wait"
    assert track.promote_to_start(lead)["how"] == "lost"


def test_unknown_start_that_redis_forgets_is_waited_for(world: World) -> None:
    """A start of unknown outcome was written down, nobody holds the track, and Redis comes back empty just then."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="reset", lands=14.5))
    first.start(timeout=1)
    world.until(lambda: world.record().get("state") == "unknown")
    world.lose()
    second.start()
    world.advance(25)
    assert len(sent(world, "start")) == 1


def test_grace_outlasts_a_renewal_that_hangs(new_world: Callable[..., World]) -> None:
    """The leader's renewal hangs in the old server until it times out; the next one must still come in time."""
    world = new_world(timing=Timing(upstream_timeout=4.0, send_window=0.95, settle=0.7, lease=2.0), settling=False)
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="silence", lands=3.9))
    call = first.start()
    sends(world, "start", 1)
    first.wire.faults.append("hung")
    world.until(lambda: not first.wire.faults, what="for a renewal")
    world.lose()
    second.start()
    world.advance(10)
    assert call.returned is not None
    assert len(sent(world, "start")) == 1


def test_what_went_before_the_claim_counts_as_waiting_for_redis(world: World) -> None:
    """Limits and an idempotency key took 1.9 s of a slow Redis, which then hangs: 503 within three seconds in all."""
    (process,) = replicas(world, 1)
    process.wire.faults.extend(["hung"] * 4)
    arrived_at = world.now
    world.advance(1.9)
    work = process.recordings.start(TRACK, PARAMETERS["A"], caller="somebody", timeout=30, arrived_at=arrived_at)
    asked = process.do(work)
    world.until(asked.done)
    assert isinstance(asked.exception(), CoordinationUnavailable)
    assert world.now - arrived_at < 3


# --- stops -----------------------------------------------------------------------------------------------------------


def test_stop_over_an_unknown_start_stops_it_when_it_lands(world: World) -> None:
    """A start of unknown outcome is stopped, and the stop is answered; then it lands, and nobody is there to ask."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="reset", lands=14.5))
    first.start(timeout=1)
    world.advance(4)
    stop = second.stop()
    world.advance(4)
    assert stop.outcome == "not_recording"
    rest(world, recording=False)


def test_refused_stop_does_not_settle_what_else_is_on_its_way(world: World) -> None:
    """A stop is refused, since the start it is about has not landed yet, and the list fails: the horizon must stay."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="reset", lands=14.5))
    first.start(timeout=1)
    world.advance(4)
    second.stop(timeout=1)
    sends(world, "stop", 1)
    world.upstream.list_failures = 1
    world.advance(4)
    second.start()
    world.advance(20)
    rest(world, recording=True)


def test_refused_stop_is_no_word_on_an_earlier_one(world: World) -> None:
    """One stop is lost on its way, the next refused: the first may still land, and must not meet a later recording."""
    first, second = replicas(world, 2)
    first.start()
    world.advance(25)
    plan(world, "stop", Fate(hears="reset", lands=12.0), Fate(hears="refused", lands=None))
    first.stop(timeout=1)
    world.advance(3)
    first.stop()
    world.advance(1)
    second.start()
    world.advance(20)
    rest(world, recording=True)


def test_refused_stop_after_a_slow_start_is_not_believed_for_the_lists_lag(world: World) -> None:
    """A start is answered slowly and the list shows it late; a stop just then is refused. Something records, though.

    How long ago the start was sent says nothing: it landed a moment ago.
    """
    first, second = replicas(world, 2)
    plan(world, "start", Fate(reply=9.5, lands=9.0, lag=2.0))
    first.start()
    world.until(lambda: world.record().get("state") == "recording")
    plan(world, "stop", Fate(hears="refused", lands=None))
    second.stop()
    world.advance(10)
    rest(world, recording=False)


def begun_beside(world: World) -> Process:
    """Have another program start it three seconds ago, of which the list shows nothing yet."""
    (process,) = replicas(world, 1)
    world.upstream.rows.append(Row("beside", world.now, visible=world.now + world.timing.settle))
    world.advance(3)
    return process


def test_stop_of_what_began_beside_the_gateway_a_moment_ago_is_sent(world: World) -> None:
    """Nothing is known of it, and the list is behind: to ask that first, and send nothing, would lose the stop."""
    process = begun_beside(world)
    call = process.stop()
    world.until(lambda: call.returned)
    assert (call.outcome, world.upstream.open) == ("stopped", [])
    rest(world, recording=False)


def test_refused_stop_of_what_began_beside_the_gateway_a_moment_ago_is_sent_again(world: World) -> None:
    """It only just begins, and VideoSDK refuses to stop it: the list is asked again when it has had time, and tells."""
    process = begun_beside(world)
    plan(world, "stop", Fate(hears="refused", lands=None))
    call = process.stop()
    # Both say that nothing records, so that is what the caller is told; it is not left at that.
    with pytest.raises(Violation, match="told not_recording although something recorded"):
        world.until(lambda: call.returned)
    world.violations.clear()
    world.advance(world.timing.settle + 3)
    assert (len(sent(world, "stop")), world.upstream.open) == (2, [])
    rest(world, recording=False)


def test_stop_without_an_answer_is_known_as_soon_as_the_list_can_tell(world: World) -> None:
    """A stop's answer is lost; repeated, it is refused, since nothing records: what ran for long the list must show."""
    first, second = replicas(world, 2)
    first.start()
    world.advance(20)
    plan(world, "stop", Fate(hears="reset", lands=0.01), Fate(hears="refused", lands=None))
    second.stop()
    world.advance(3)
    assert world.record()["state"] == "stopped"
    rest(world, recording=False)


def test_stop_and_start_both_on_their_way(world: World) -> None:
    """Two horizons: a stop without an answer over a start without one. Neither may meet what is started afterwards."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(hears="reset", lands=14.0))
    plan(world, "stop", Fate(hears="reset", lands=13.0))
    first.start(timeout=1)
    world.advance(4)
    first.stop(timeout=1)
    world.advance(6)
    call = second.start()
    world.advance(30)
    assert call.success
    rest(world, recording=True)


def test_stop_behind_a_start_outlives_its_caller(world: World) -> None:
    """The caller of a stop leaves while the start it is about is under way; whoever finishes that start stops it."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(reply=6.0, lands=1.0))
    first.start()
    world.advance(1.5)
    stop = second.stop(timeout=0.5)
    world.advance(1)
    second.crash()
    assert stop.outcome == "stop_requested"
    rest(world, recording=False)


def test_stop_behind_a_start_survives_its_leader(world: World) -> None:
    """The leader of the start dies with the stop waiting; whoever finds the recording stops it."""
    first, second, _ = replicas(world, 3)
    plan(world, "start", Fate(hears="silence", lands=8.0))
    first.start()
    world.advance(1)
    stop = second.stop(timeout=0.5)
    world.advance(1)
    first.crash()
    second.crash()
    assert stop.outcome == "stop_requested"
    rest(world, recording=False)


def test_stop_behind_a_start_is_answered_when_it_is_stopped(world: World) -> None:
    """A start came by way of a look, so that its generation is not its operation's number; a stop waits for it.

    When the start is done the stop asks again: it is about this very recording, not about one that is gone.
    """
    first, second = replicas(world, 2)
    plan(world, "start", Fate(reply=3.0, lands=0.5))
    first.start()
    sends(world, "start", 1)
    world.advance(1.5)
    assert world.upstream.open
    stop = second.stop()
    world.until(lambda: stop.returned is not None)
    assert not world.upstream.open
    rest(world, recording=False)


def test_stop_that_slept_through_a_newer_start_does_not_tell_of_that(world: World) -> None:
    """What it was about is over, so it succeeds; the recording that runs now has not stopped."""
    first, second, third = replicas(world, 3)
    plan(world, "start", Fate(reply=3.0, lands=0.5))
    first.start()
    sends(world, "start", 1)
    stop = second.stop(timeout=60)
    world.advance(0.2)
    second.stall()
    world.until(lambda: world.record().get("state") == "stopped")
    newer = third.start()
    world.until(lambda: newer.returned is not None)
    second.resume()
    world.until(lambda: stop.returned is not None)
    assert (newer.outcome, stop.outcome) == ("started", "joined")
    assert newer.recording
    assert stop.recording != newer.recording
    rest(world, recording=True)


def test_stop_that_was_accepted_is_repeated_when_videosdk_takes_no_more(world: World) -> None:
    """The caller of a stop left with the promise that it happens; then VideoSDK refuses for now."""
    [process] = replicas(world, 1)
    process.start()
    world.advance(25)
    plan(world, "stop", Fate(hears="limited", lands=None, reply=1.0))
    stop = process.stop(timeout=0.2)
    world.advance(3)
    assert stop.outcome == "stop_requested"
    rest(world, recording=False)


def test_stop_that_is_refused_and_owed_is_repeated_at_a_steady_pace(world: World) -> None:
    """A stop is owed, and VideoSDK refuses it although the recording runs: it is tried again, at a steady pace."""
    first, second = replicas(world, 2)
    first.start()
    world.advance(30)
    plan(world, "stop", *[Fate(hears="refused", lands=None, reply=0.01)] * NEVER)
    world.upstream.list_failures = 0
    first.start()
    world.advance(0.005)
    second.stop(timeout=0.01)
    world.advance(10)
    assert 1 <= len(sent(world, "stop")) <= 15


def test_stop_survives_a_start_that_was_released(world: World) -> None:
    """A start is released by its gate while a stop waits for it, and tried again: the stop still comes after it."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(connect=2.5))
    first.start()
    world.advance(1)
    stop = second.stop(timeout=0.3)
    world.advance(0.5)
    second.crash()
    assert stop.outcome == "stop_requested"
    world.advance(6)
    assert len(sent(world, "start")) == 1
    rest(world, recording=False)


def test_stop_whose_claim_was_heard_and_not_answered_is_carried_out_once(new_world: Callable[..., World]) -> None:
    """A stop left its wish behind a start, and the reply was lost; it was carried out, and somebody started again.

    When it asks again, what records is newer than what it was asked about.
    """
    world = new_world(settling=False)
    first, second, third = replicas(world, 3)
    # So that it need not ask Redis for the time.
    world.look(second)
    plan(world, "start", Fate(reply=0.3, lands=0.2))
    first.start()
    sends(world, "start", 1)
    second.wire.faults.append("lost")
    stop = second.stop()
    sends(world, "stop", 1)
    world.advance(0.3)
    start = third.start()
    world.until(lambda: start.returned is not None)
    assert stop.returned is None
    world.until(lambda: stop.returned is not None)
    assert (stop.outcome, start.outcome) == ("joined", "started")
    assert len(sent(world, "stop")) == 1
    rest(world, recording=True)


def test_stop_that_redis_never_received_is_about_what_a_probe_found(new_world: Callable[..., World]) -> None:
    """What a look found bears the look's number, although it may have recorded for long: the stop is about it too."""
    world = new_world(timing=Timing(verify_absent="always"), settling=False)
    first, second = replicas(world, 2)
    world.look(second)
    world.upstream.rows.append(Row("somebody else", start=world.now, visible=world.now))
    world.advance(5)
    second.wire.faults.append("hung")
    stop = second.stop()
    world.advance(0.2)
    found = first.start()
    world.until(lambda: found.returned is not None)
    world.until(lambda: stop.returned is not None)
    assert (found.outcome, stop.outcome) == ("already_recording", "stopped")
    rest(world, recording=False)


def test_stop_that_was_answered_does_not_stop_a_later_start(world: World) -> None:
    """A start is released while a stop waits; the stop is told that nothing records. A start after that stays."""
    first, second, third = replicas(world, 3)
    first.start()
    world.advance(1)
    first.stop()
    world.advance(1)
    plan(world, "start", Fate(connect=2.5))
    first.start(timeout=1)
    world.advance(0.5)
    stop = second.stop()
    world.until(lambda: stop.returned is not None)
    assert stop.success
    world.advance(0.5)
    call = third.start()
    world.advance(3)
    assert call.outcome == "started"
    rest(world, recording=True)


def test_start_that_waits_behind_a_look_supersedes_the_stop_before_it(world: World) -> None:
    """A stop over an unknown start was answered; the settler looks for the zombie just when somebody starts again.

    The newcomer finds the track held, waits, and is told of the recording that was found: that must then stay.
    """
    first, second, third = replicas(world, 3)
    plan(world, "start", Fate(hears="reset", lands=14.5))
    first.start(timeout=1)
    world.advance(4)
    stop = second.stop()
    world.until(lambda: stop.returned is not None)
    world.upstream.list_failures = 1
    world.until(lambda: world.upstream.open)
    world.upstream.list_failures = 1
    world.until(lambda: world.record().get("action") == "probe")
    call = third.start()
    world.advance(3)
    assert call.success
    rest(world, recording=True)


def test_zombie_that_lands_just_before_a_stop_is_written_is_found(new_world: Callable[..., World]) -> None:
    """A stop finds nothing, for the unknown start landed a moment ago and the list does not show it yet.

    For a while after a stop the list is not believed about what began before it was written; that must not hide this.
    """
    world = new_world(settling=False)
    [process] = replicas(world, 1)
    plan(world, "start", Fate(hears="reset", lands=13.3, lag=1.5))
    process.start(timeout=1)
    world.advance(12.5)
    plan(world, "stop", Fate(reply=1.0))
    stop = process.stop()
    world.until(lambda: stop.returned is not None)
    assert stop.outcome == "not_recording"
    assert world.upstream.open
    reconciler_loop = world.process()
    world.until(lambda: world.redis_us // 1000 > int(world.record()["start_may_land_until"]))
    reconciler_loop.do(reconciler_loop.settle())
    world.advance(1)
    rest(world, recording=False)


def test_start_behind_a_stop_without_evidence_is_not_kept_for_long(world: World) -> None:
    """A stop is refused and the list cannot be had, once: it is tried again soon, and the start behind it goes on."""
    first, second = replicas(world, 2)
    world.upstream.list_failures = 1
    first.stop(timeout=1)
    world.until(lambda: not world.upstream.list_failures)
    call = second.start()
    world.advance(10)
    assert call.outcome == "started"


def test_failing_stop_is_repeated_at_a_steady_pace(world: World) -> None:
    """A start waits behind a stop that VideoSDK does not answer: it is repeated when due, not as fast as it fails."""
    [process] = replicas(world, 1)
    process.start()
    world.advance(25)
    plan(world, "stop", *[Fate(hears="reset", lands=None, reply=0.01)] * NEVER)
    process.stop(timeout=1)
    world.advance(0.5)
    before = len(sent(world, "stop"))
    process.start(timeout=10)
    world.advance(10)
    assert len(sent(world, "stop")) - before <= 12


# --- clocks and lost replies -----------------------------------------------------------------------------------------


def test_window_counts_from_the_claim_that_won_not_from_its_retry(new_world: Callable[..., World]) -> None:
    """The claim won and its reply was lost for 1.5 s; asked again it answers the same. Redis counts from the first.

    Then the send window must, too: else the call leaves later than the next leader has reckoned with.
    """
    world = new_world(settling=False)
    (first,) = replicas(world, 1)
    started(world, first)
    stop = first.stop()
    world.until(lambda: stop.returned is not None)
    # Until nothing is left that Redis would be told again, which would meet the fault.
    world.advance(12)
    granted_at = world.now
    first.wire.faults.append("lost")
    # Within the window of the retry, and past that of the claim.
    plan(world, "start", Fate(connect=1.0, hears="silence", lands=14.9))
    first.start()
    world.until(lambda: world.record()["state"] == "starting")
    granted = world.record()["holder"]
    world.advance(granted_at + 3.5 - world.now)
    assert granted not in {flight.attempt for flight in world.upstream.flights}
    rest(world, recording=True)


def test_claim_that_runs_late_does_nothing(world: World) -> None:
    """A stopped server runs what its clients gave up on: nobody waits for that claim any more."""
    first, second = replicas(world, 2)
    first.wire.faults.extend(["delayed"] * 3)
    call = first.start()
    world.advance(4)
    assert call.outcome in {"coordination-unavailable", "started"}
    second.start()
    world.advance(8)
    assert len(sent(world, "start")) == 1


def test_finish_without_an_answer_is_repeated(world: World) -> None:
    """The result cannot be written: who waits here is told at once, the others as soon as it can be."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(reply=0.5, lands=0.2))
    leader = first.start()
    world.advance(0.3)
    joiner = second.start()
    world.advance(0.1)
    first.wire.faults.extend(["refused", "refused"])
    world.advance(3)
    assert leader.outcome == "started"
    assert joiner.success
    assert len(sent(world, "start")) == 1


def test_result_that_is_not_yet_written_is_not_asked_for_in_a_rush(new_world: Callable[..., World]) -> None:
    """A result is known here and not yet written; a stop that needs the record has to wait for it, not to hammer."""
    world = new_world(settling=False)
    [process] = replicas(world, 1)
    plan(world, "start", Fate(reply=0.5, lands=0.2))
    process.start()
    process.stop()
    world.until(lambda: world.upstream.open)
    process.wire.faults.append("refused")
    world.until(lambda: not process.wire.faults)
    before = world.script_calls
    world.advance(0.09)
    assert world.script_calls - before <= 4


def test_claim_that_is_late_by_our_own_fault_is_asked_again(world: World) -> None:
    """A replica that was stopped for a while finds its first claim late. Redis is well: that is no outage."""
    [process] = replicas(world, 1)
    process.start()
    world.advance(15)
    call = process.stop()
    process.stall()
    world.advance(10)
    process.resume()
    world.advance(2)
    assert call.outcome == "stopped"


def test_stop_that_was_answered_after_its_lease_was_lost_is_true(world: World) -> None:
    """Its leader slept, and another carried the stop out: what VideoSDK then answers the first is no less true."""
    first, second = replicas(world, 2)
    started(world, first)
    plan(world, "stop", Fate(reply=0.2, lands=0.1))
    one = first.stop()
    sends(world, "stop", 1)
    first.stall()
    world.advance(world.timing.lease + 1)
    other = second.stop()
    world.until(lambda: other.returned)
    first.resume()
    world.advance(0.05)
    assert (one.outcome, other.success) == ("stopped", True)


# --- evidence --------------------------------------------------------------------------------------------------------


def test_list_that_is_empty_once_does_not_end_a_recording(world: World) -> None:
    """It has recorded for long; one list without it is no proof that it ended, and no reason to start again."""
    first, second = replicas(world, 2)
    started(world, first)
    world.advance(60)
    world.upstream.list_blanks = 1
    call = second.start()
    world.until(lambda: call.returned is not None)
    assert not world.upstream.list_blanks
    assert call.outcome == "already_recording"
    assert len(sent(world, "start")) == 1
    rest(world, recording=True)


def test_list_that_lags_does_not_end_a_recording(world: World) -> None:
    """A start is answered slowly, the list shows it late, and just then somebody doubts it: it still runs."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(lands=8.9, reply=9.0, lag=4.0))
    first.start()
    world.advance(9.5)
    second.do(second.invalidate())
    world.advance(0.1)
    call = second.start()
    world.advance(8)
    assert call.outcome == "already_recording"
    assert len(sent(world, "start")) == 1


def test_sight_of_long_ago_is_no_fresh_confirmation(world: World) -> None:
    """A leader sees the recording, is stopped for a minute, and writes what it saw: that was a minute ago."""
    first, second = replicas(world, 2)
    first.start()
    world.advance(15)
    first.start()
    world.advance(0.015)
    first.stall()
    world.advance(1)
    world.upstream.end(0)
    for replica in world.processes:
        if replica is not first:
            replica.stall()
    world.advance(60)
    first.resume()
    world.advance(0.5)
    second.resume()
    call = second.start()
    world.until(lambda: call.returned is not None)
    assert call.outcome == "started"


def test_recording_that_ended_by_itself_is_started_again(world: World) -> None:
    """Within the trust it is believed; after it the list is asked, and a new recording begins."""
    first, second = replicas(world, 2)
    first.start()
    world.advance(20)
    world.upstream.end(0)
    call = second.start()
    world.advance(5)
    assert call.outcome == "started"
    rest(world, recording=True)


def test_stop_behind_the_first_look_at_a_track_is_answered(world: World) -> None:
    """Nothing is known of the track yet, somebody looks, a stop waits for that, and its caller leaves: no error."""
    first, second = replicas(world, 2)
    plan(world, "start", Fate(reply=4.0, lands=3.0))
    world.upstream.list_failures = 3
    first.start()
    world.advance(0.01)
    stop = second.stop(timeout=0.3)
    world.advance(1)
    assert stop.outcome == "stop_requested"


def test_invalidate_in_the_moment_of_the_grant_is_not_lost(track: Track) -> None:
    """Within one millisecond nobody can tell which came first: then the doubt counts."""
    track.started()
    track.wait(TRUST + 1)
    lead = track.claim("start")
    track.invalidate()
    track.finish(lead, "recording", confirmed_by="list")
    assert track.claim("start")["verdict"] == "lead"


def test_stop_by_two_waiters_answers_both_after_the_stop(track: Track) -> None:
    """Two stops wait for a start that had to look first; one then stops, and the other must not be told that it did."""
    track.invalidate()
    track.wait(1)
    start = track.claim("start")
    assert (start["verdict"], start["action"]) == ("lead", "probe")
    stops = [track.claim("stop") for _ in range(2)]
    assert {stop["verdict"] for stop in stops} == {"wait"}
    numbers = [stop["asked_at"] for stop in stops]
    assert track.promote_to_start(start)["how"] == "ok"
    assert track.finish(start, "recording")["stop"]
    first, second = (track.claim("stop", asked_at=number) for number in numbers)
    assert (first["verdict"], first["action"]) == ("lead", "stop")
    assert (second["verdict"], second["action"]) == ("wait", "stop")
    track.finish(first, "stopped", answered=True)
    assert track.claim("stop", asked_at=numbers[1])["verdict"] in {"idle", "gone"}


def test_leader_after_an_unexpected_error_stops_renewing(new_world: Callable[..., World]) -> None:
    """Its lease is renewed no more: whoever comes next finds out what became of it, and nobody waits for ever."""

    class Mistaken(Leader):
        mistakes = 1

        async def _lead(self, operation: Operation) -> Result:
            if operation.command == "start" and Mistaken.mistakes:
                Mistaken.mistakes -= 1
                raise RuntimeError("a mistake")
            return await super()._lead(operation)

    world = new_world(code={"Leader": Mistaken}, settling=False)
    process = world.process()
    world.look(process)
    process.start()
    world.advance(1)
    assert not process.leases
    again = process.start(timeout=60)
    world.until(lambda: again.returned is not None)
    assert again.outcome == "started"
