"""Every transition of the scripts, on each kind of server: what a claim is answered, what a write changes.

Time is the test's own (`Track.ms`), so nothing waits. A story in several acts is told in `test_regressions`.
"""

import json
from typing import Any, cast

import msgspec
import pytest

from gateway.coordinator import Record
from gateway.coordinator.scripts import SCRIPTS
from tests.coordinator.track import GRACE, LEASE, MEMORY, QUIET, SETTLE, TRUST, Reply, Track
from tests.model.world import Fate, World


def say(reply: Reply) -> tuple[str, str]:
    """Return what a claim was answered."""
    return reply["verdict"], reply["action"]


def unchanged(track: Track, before: dict[str, str], *but: str) -> None:
    """Fail where the record is another than before, except in these fields."""
    after = track.record
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert differing <= set(but)


# --- states to begin from --------------------------------------------------------------------------------------------


def nothing(track: Track) -> None:
    """Nobody ever asked for it."""


def fresh_stop(track: Track) -> None:
    """Nothing records, confirmed just now."""
    track.started()
    track.stopped()


def starting(track: Track) -> Reply:
    """A start is under way."""
    fresh_stop(track)
    return track.claim("start")


def unknown(track: Track) -> Reply:
    """A start was sent and nobody knows."""
    lead = starting(track)
    track.finish(lead, "unknown", confirmed_by="", due_in=1000)
    return lead


def stopping(track: Track) -> Reply:
    """A stop was sent and nobody knows."""
    track.started()
    lead = track.claim("stop")
    track.finish(lead, "stopping", confirmed_by="", due_in=1000)
    return lead


# --- claim: nobody holds the track -----------------------------------------------------------------------------------


def test_first_start_on_a_server_that_may_have_forgotten_looks_first(track: Track) -> None:
    """Nothing is known, so it may be forgotten: the list is asked before anything is sent."""
    assert say(track.claim("start")) == ("lead", "probe")
    assert track.record["state"] == ""


@pytest.mark.parametrize(("verify_absent", "action"), [("auto", "probe"), ("never", "start"), ("always", "probe")])
def test_first_start_obeys_the_operator(track: Track, verify_absent: str, action: str) -> None:
    """Whether an unknown track is looked up is the operator's to say."""
    assert say(track.claim("start", verify_absent=verify_absent)) == ("lead", action)


@pytest.mark.parametrize(("verify_absent", "action"), [("auto", "start"), ("never", "start"), ("always", "probe")])
def test_start_of_a_track_known_to_rest(track: Track, verify_absent: str, action: str) -> None:
    """What this server itself saw end is started at once, unless the operator never wants that."""
    fresh_stop(track)
    assert say(track.claim("start", verify_absent=verify_absent)) == ("lead", action)


def test_start_takes_a_lease_a_number_and_a_horizon(track: Track) -> None:
    """The grant of a start is what everything else counts from."""
    fresh_stop(track)
    lead = track.claim("start", fingerprint="B", recording="{}")
    assert lead["op"] == lead["generation"]
    assert 0 <= int(lead["op"]) - track.ms * 1000 <= 3
    record = track.record
    assert (record["state"], record["holder"], record["action"]) == ("starting", lead["attempt"], "start")
    assert (record["fingerprint"], record["recording"]) == ("B", "{}")
    assert (track.left("lease"), track.left("start_may_land_until"), track.left("started_at")) == (LEASE, QUIET, 0)
    assert track.due == LEASE


def test_numbers_grow_even_when_the_clock_does_not(track: Track) -> None:
    """Two operations in one moment, and one after the clock stepped back, have numbers that grow."""
    numbers = [int(track.started()["op"]), int(track.stopped()["op"])]
    track.ms -= 500
    numbers.append(int(track.claim("start")["op"]))
    assert numbers == sorted(set(numbers))


def test_repeat_of_a_start_is_answered_while_it_is_trusted(track: Track) -> None:
    """Up to the last millisecond of the trust it runs; then somebody looks."""
    track.started()
    track.wait(TRUST)
    reply = track.claim("start")
    assert (say(reply), reply["confirmed_by"]) == (("running", ""), "reply")
    track.wait(1)
    assert say(track.claim("start")) == ("lead", "probe")


def test_conflict_is_with_other_parameters_only(track: Track) -> None:
    """While it runs, and while it starts; never where the running parameters are unknown."""
    lead = starting(track)
    assert say(track.claim("start", fingerprint="B"))[0] == "conflict"
    assert say(track.claim("start")) == ("wait", "start")
    track.finish(lead, "recording")
    assert say(track.claim("start", fingerprint="B"))[0] == "conflict"
    assert say(track.claim("start"))[0] == "running"
    track.stopped()
    found = track.claim("start")
    track.finish(found, "recording", fingerprint="", confirmed_by="list")
    assert say(track.claim("start", fingerprint="B"))[0] == "running"


def test_conflict_is_never_with_something_doubtful(track: Track) -> None:
    """Other parameters on a recording that may be over: first it is looked whether it is."""
    track.started()
    track.wait(TRUST + 1)
    assert say(track.claim("start", fingerprint="B")) == ("lead", "probe")
    assert say(track.claim("start")) == ("wait", "probe")


@pytest.mark.parametrize("begin", [unknown, starting])
def test_start_over_something_unsettled_looks_first(track: Track, begin: Any) -> None:
    """A start that may have happened is never sent again blindly; who takes over learns how long to wait."""
    begin(track)
    track.wait(LEASE + 1)
    reply = track.claim("start")
    assert say(reply) == ("lead", "probe")
    assert reply["start_may_land_ms"] == QUIET - LEASE - 1


def test_start_over_a_passed_horizon_still_looks_first(track: Track) -> None:
    """That nothing can land any more does not say that nothing has."""
    unknown(track)
    track.wait(2 * QUIET)
    reply = track.claim("start")
    assert (say(reply), reply["start_may_land_ms"]) == (("lead", "probe"), 0)


def test_start_behind_a_stop_without_an_answer_stops_first(track: Track) -> None:
    """A stop is owed before anything new may begin."""
    stopping(track)
    track.wait(1000)
    reply = track.claim("start")
    assert say(reply) == ("lead", "stop")
    track.finish(reply, "stopped", answered=True)
    again = track.claim("start")
    assert say(again) == ("lead", "probe")
    assert 0 < again["stop_may_land_ms"] <= QUIET


def test_start_within_the_horizon_of_a_stop_waits_it_out(track: Track) -> None:
    """A stop that may still land would meet the new recording."""
    stopping(track)
    track.wait(1000)
    track.finish(track.claim("stop"), "stopped", answered=True)
    track.wait(QUIET - 1001)
    assert say(track.claim("start")) == ("lead", "probe")
    track.redis.delete(track.keys[0])


def test_retry_yields_to_a_stop_asked_for_since(track: Track) -> None:
    """Asked first, then a stop, then the retry: nothing is led for it, whatever became of the track; a new start is."""
    asked = str(track.ms * 1000)
    track.wait(1)
    track.started()
    assert track.claim("start", asked_at=asked)["verdict"] == "running"
    stop = track.claim("stop")
    assert track.claim("start", asked_at=asked)["verdict"] == "gone"
    track.finish(stop, "stopped", answered=True)
    assert track.claim("start", asked_at=asked)["verdict"] == "gone"
    later = str(track.ms * 1000 + 999)
    track.wait(1)
    lead = track.claim("start", asked_at=later)
    assert say(lead) == ("lead", "start")
    # What is in flight may be the retry's own: it waits for that, and hears what came of it.
    assert track.claim("stop")["verdict"] == "wait"
    assert say(track.claim("start", asked_at=later)) == ("wait", "start")
    track.finish(lead, "unknown")
    assert track.claim("start", asked_at=later)["verdict"] == "gone"
    assert track.claim("start")["verdict"] == "lead"


def test_stop_of_what_rests_is_answered_while_that_is_trusted(track: Track) -> None:
    """Nothing to do, and then, when it was long ago, better once too often."""
    fresh_stop(track)
    assert say(track.claim("stop"))[0] == "idle"
    track.wait(TRUST + 1)
    assert say(track.claim("stop")) == ("lead", "stop")


def test_stop_of_an_unknown_track_is_passed_on(track: Track) -> None:
    """It costs little, and the record may be wrong."""
    lead = track.claim("stop")
    assert say(lead) == ("lead", "stop")
    assert track.left("stop_may_land_until") == QUIET
    assert track.record["state"] == "stopping"


def test_stop_over_an_unknown_start_is_sent_now(track: Track) -> None:
    """It need not be known what there is to stop."""
    unknown(track)
    assert say(track.claim("stop")) == ("lead", "stop")
    assert track.left("start_may_land_until") == QUIET


def test_stop_is_not_about_a_newer_recording(track: Track) -> None:
    """What a stop was about is over when a newer recording runs; its own it stops."""
    lead = starting(track)
    asked = [track.claim("stop")["asked_at"] for _ in range(2)]
    track.finish(lead, "recording")
    track.finish(track.claim("stop", asked_at=asked[0]), "stopped", answered=True)
    track.started()
    assert say(track.claim("stop", asked_at=asked[1]))[0] == "gone"
    assert say(track.claim("stop")) == ("lead", "stop")


@pytest.mark.parametrize(
    ("begin", "answer"),
    [
        (fresh_stop, ("noop", "")),
        (Track.started, ("lead", "probe")),
        (unknown, ("lead", "probe")),
        (stopping, ("wait", "stop")),
        (starting, ("busy", "")),
        (nothing, ("noop", "")),
    ],
)
def test_reconcile_claims_what_is_uncertain_and_nothing_else(track: Track, begin: Any, answer: tuple[str, str]) -> None:
    """A settler looks after what is uncertain, and leaves alone what is held or at rest."""
    begin(track)
    assert say(track.claim("reconcile")) == answer


def test_reconcile_of_what_rests_removes_its_due_time(track: Track) -> None:
    """A track that needs nobody is not due any more."""
    fresh_stop(track)
    track.redis.zadd(track.keys[1], {track.keys[0]: track.ms})
    track.claim("reconcile")
    assert track.due is None


# --- claim: somebody holds it, or it is asked again ------------------------------------------------------------------


@pytest.mark.parametrize("command", ["start", "stop"])
def test_second_attempt_waits_and_says_so(track: Track, command: str) -> None:
    """Whoever comes while it is held waits for that operation, and the holder will have to publish."""
    lead = starting(track)
    assert track.record["waiting"] == "0"
    reply = track.claim(command)
    assert (say(reply), reply["op"], reply["lease_left"]) == (("wait", "start"), lead["op"], LEASE)
    assert track.record["waiting"] == "1"


@pytest.mark.parametrize("command", ["start", "stop", "reconcile"])
@pytest.mark.parametrize("begin", [fresh_stop, Track.started, unknown, stopping])
def test_same_attempt_is_given_the_same_answer(track: Track, begin: Any, command: str) -> None:
    """A reply was lost and is asked for again: it is the same grant, and not a second one."""
    begin(track)
    track.wait(TRUST + 1)
    first = track.claim(command, "mine")
    before = track.record
    track.wait(500)
    second = track.claim(command, "mine")
    same = ("verdict", "action", "op", "generation", "fingerprint", "recording", "state")
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    unchanged(track, before)


def test_retry_says_how_old_the_grant_is(track: Track) -> None:
    """What is left of the lease tells when Redis granted it."""
    fresh_stop(track)
    track.claim("start", "mine")
    track.wait(900)
    assert track.claim("start", "mine")["lease_left"] == LEASE - 900


def test_lapsed_lease_is_taken_over_under_the_same_number(track: Track) -> None:
    """Those who wait for it stay attached."""
    lead = starting(track)
    track.wait(LEASE - 1)
    assert say(track.claim("start")) == ("wait", "start")
    track.wait(1)
    reply = track.claim("start")
    assert (say(reply), reply["op"]) == (("lead", "probe"), lead["op"])
    assert track.record["holder"] == reply["attempt"]


def test_lapsed_stop_is_done_again_by_the_next_claim(track: Track) -> None:
    """A stop that was granted is owed, whether or not it was sent."""
    track.started()
    track.claim("stop")
    track.wait(LEASE)
    assert say(track.claim("start")) == ("lead", "stop")


def test_lapsed_probe_is_done_again(track: Track) -> None:
    """Who looked is gone: the next one looks."""
    track.started()
    track.wait(TRUST + 1)
    track.claim("start")
    track.wait(LEASE)
    assert say(track.claim("start")) == ("lead", "probe")


def test_joiner_is_handed_the_result_of_its_operation_only(track: Track) -> None:
    """The awaited operation finished: its payload. Another one did: contend again."""
    lead = starting(track)
    track.claim("start")
    track.finish(lead, "recording", result="it began")
    reply = track.claim("start", seen=lead["op"])
    assert say(reply)[0] == "done"
    assert json.loads(reply["result"])["answer"] == "it began"
    track.wait(TRUST + 1)
    assert say(track.claim("start", seen=str(int(lead["op"]) - 1))) == ("lead", "probe")


def test_result_that_nobody_waits_for_is_not_kept(track: Track) -> None:
    """It repeats the record, and none but those who were told to wait can ask for it."""
    track.finish(starting(track), "recording", result="alone")
    assert track.record["result"] == ""


def test_joiner_of_an_operation_that_was_taken_over_is_handed_its_result(track: Track) -> None:
    """Its leader is dead. It goes on under its number, and with those who wait for it."""
    lead = starting(track)
    track.claim("start")
    track.wait(LEASE)
    second = track.claim("start")
    assert (say(second), second["op"]) == (("lead", "probe"), lead["op"])
    with track.listening() as heard:
        track.finish(second, "recording", confirmed_by="list", result="found")
        assert len(heard()) == 1
    reply = track.claim("start", seen=lead["op"])
    assert (say(reply)[0], json.loads(reply["result"])["answer"]) == ("done", "found")


def test_field_that_says_nothing_is_not_kept(track: Track) -> None:
    """Empty or 0: of a recording that runs no more is there than what is true of it."""
    track.finish(starting(track), "recording")
    fields = cast("dict[str, str]", track.redis.hgetall(track.keys[0]))
    assert fields.keys() & {"holder", "action", "lease", "before", "suspect_since"} == set()
    assert not {"", "0"} & set(fields.values())


def test_claim_after_its_time_does_nothing(track: Track) -> None:
    """Nobody waits for it any more."""
    fresh_stop(track)
    before = track.record
    assert say(track.claim("start", not_after=track.ms - 1))[0] == "late"
    unchanged(track, before)
    assert say(track.claim("start", not_after=track.ms)) == ("lead", "start")


# --- claim: a server that forgot -------------------------------------------------------------------------------------


def test_clock_that_was_set_back_is_no_long_grace(track: Track) -> None:
    """What the mark dates lies in the future: it counts anew, and nobody waits until the clock has caught up."""
    track.lose()
    track.claim("reconcile")
    track.wait(-60_000)
    assert (say(reply := track.claim("start")), reply["lease_left"]) == (("wait", "grace"), GRACE)
    track.wait(GRACE + 1)
    assert say(track.claim("start")) == ("lead", "probe")


@pytest.mark.parametrize("command", ["start", "stop", "reconcile"])
@pytest.mark.parametrize("kept", [False, True])
def test_claim_within_the_grace_waits(track: Track, command: str, kept: bool) -> None:
    """Those who hold what was forgotten come first; the answer says how long to wait."""
    fresh_stop(track)
    track.wait(500)
    track.lose(track.snapshot() if kept else None)
    reply = track.claim(command)
    assert (say(reply), reply["lease_left"]) == (("wait", "grace"), GRACE)
    track.wait(GRACE - 1)
    assert track.claim(command)["lease_left"] == 1
    track.wait(1)
    assert say(track.claim(command))[0] in {"lead", "noop"}


@pytest.mark.parametrize(("begin", "start", "stop"), [(Track.started, "probe", "stop"), (fresh_stop, "probe", "stop")])
def test_claim_of_a_record_before_the_epoch_is_probed(track: Track, begin: Any, start: str, stop: str) -> None:
    """After a failover neither running nor idle is answered from the record, however young it is."""
    begin(track)
    track.lose(track.snapshot())
    track.claim("reconcile")
    track.wait(GRACE)
    reply = track.claim("start")
    assert reply["verdict"] == "lead"
    assert reply["action"] in {start, "probe"}
    track.release(reply)
    assert say(track.claim("stop")) == ("lead", stop)


def test_claim_of_a_record_after_the_epoch_is_answered_from_it(track: Track) -> None:
    """The first write of the new epoch makes the track a normal one."""
    track.lose()
    track.claim("reconcile")
    track.wait(QUIET)
    track.started()
    assert say(track.claim("start"))[0] == "running"
    track.stopped()
    assert say(track.claim("start")) == ("lead", "start")


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("command", ["start", "stop"])
def test_claim_before_the_floor_waits_for_what_may_be_forgotten(track: Track, command: str, kept: bool) -> None:
    """Until Q has passed since the epoch a start and a stop may land that the server forgot; the record says so too."""
    fresh_stop(track)
    track.lose(track.snapshot() if kept else None)
    track.claim("reconcile")
    track.wait(GRACE)
    reply = track.claim(command)
    assert reply["start_may_land_ms"] == reply["stop_may_land_ms"] == QUIET - GRACE
    assert track.left("start_may_land_until") == QUIET - GRACE


def test_claim_after_the_floor_waits_for_nothing_forgotten(track: Track) -> None:
    """When Q has passed since the epoch, everything that was sent before it has landed."""
    fresh_stop(track)
    track.lose(track.snapshot())
    track.claim("reconcile")
    track.wait(QUIET)
    reply = track.claim("start")
    assert (say(reply), reply["start_may_land_ms"], reply["stop_may_land_ms"]) == (("lead", "probe"), 0, 0)


def test_start_after_a_stop_before_the_floor_looks_first(track: Track) -> None:
    """The stop was answered, and a forgotten start may still land: the next start is not sent at once."""
    track.lose()
    track.claim("reconcile")
    track.wait(GRACE)
    track.stopped()
    reply = track.claim("start")
    assert (say(reply), reply["start_may_land_ms"]) == (("lead", "probe"), QUIET - GRACE)


def test_claim_waits_for_what_was_sent_without_redis(track: Track) -> None:
    """Until it has landed, and the list shows it, neither the record nor the list proves anything; then both do."""
    track.started()
    track.invalidate(may_land=3000)
    track.wait(1000)
    track.invalidate(may_land=500)
    for left in (2000, 0):
        reply = track.claim("start")
        assert (say(reply), reply["start_may_land_ms"], reply["stop_may_land_ms"]) == (("lead", "probe"), left, left)
        track.release(reply)
        track.wait(2000)


def test_recording_found_before_the_floor_is_not_believed(track: Track) -> None:
    """A forgotten stop may still land: whoever leads has to wait for that, too."""
    track.started()
    track.lose(track.snapshot())
    track.claim("reconcile")
    track.wait(GRACE)
    for command in ("start", "reconcile"):
        reply = track.claim(command)
        assert (say(reply), reply["stop_may_land_ms"]) == (("lead", "probe"), QUIET - GRACE)
        track.release(reply)


@pytest.mark.parametrize(("age", "left"), [(0, 0), (60_000, 60_000)])
def test_mark_dates_only_a_server_without_one(track: Track, age: int, left: int) -> None:
    """Where no mark stands it is as old as is said; where one stands, or another server's came back, that counts."""
    marked = track.mark(age)["since"]
    assert marked < track.ms - GRACE
    track.lose()
    assert track.mark(age)["since"] == track.ms - left
    track.lose({"record": {}, "due": None})
    assert track.mark(age)["since"] == track.ms


def test_write_in_the_epochs_own_millisecond_is_not_believed(track: Track) -> None:
    """Nobody can tell which came first."""
    lead = starting(track)
    track.lose(track.snapshot())
    track.finish(lead, "recording")
    assert track.claim("start")["epoch"] == track.ms
    track.wait(GRACE)
    assert track.claim("start")["verdict"] == "lead"


def test_claim_after_the_longest_recording_ends_the_doubt(track: Track) -> None:
    """Whatever was forgotten is over by then."""
    track.lose()
    track.claim("reconcile")
    track.wait(MEMORY)
    assert say(track.claim("start")) == ("lead", "probe")
    track.redis.delete(track.keys[0])
    track.wait(1)
    assert say(track.claim("start")) == ("lead", "start")


def test_epoch_mark_is_made_once_and_kept(track: Track) -> None:
    """The mark is made once and kept, with a TTL that every claim prolongs."""
    track.lose()
    since = track.claim("reconcile")["epoch"]
    track.wait(5000)
    assert track.claim("reconcile")["epoch"] == since
    assert track.redis.pttl(track.keys[2]) > MEMORY


# --- finish ----------------------------------------------------------------------------------------------------------


def test_finish_frees_the_track_and_says_what_is(track: Track) -> None:
    """All that a reader and the next claim need."""
    lead = starting(track)
    track.wait(300)
    nothing_lands = {"start_may_land_ms": 0, "stop_may_land_ms": 0}
    finished = track.finish(lead, "recording")
    assert finished == {"how": "ok", "stop": False, "now": track.ms, **nothing_lands}
    record = track.record
    assert (record["state"], record["holder"], record["action"], record["lease"]) == ("recording", "", "", "0")
    assert (record["done"], record["generation"]) == (lead["op"], lead["op"])
    assert (record["confirmed_by"], track.left("confirmed"), track.left("written")) == ("reply", 0, 0)
    assert record["start_may_land_until"] == "0"
    assert track.due is None


def test_finish_twice_changes_nothing(track: Track) -> None:
    """Its reply was lost, and it is sent again, perhaps much later."""
    lead = starting(track)
    track.finish(lead, "recording")
    before = track.record
    track.wait(700)
    assert track.finish(lead, "recording")["how"] == "repeated"
    unchanged(track, before)


@pytest.mark.parametrize(("found", "how"), [("recording", "repeated"), ("unknown", "stale")])
def test_finish_of_a_start_that_a_probe_has_found_adds_nothing(track: Track, found: str, how: str) -> None:
    """A paused leader brings its success after another saw the same in the list: its callers hear that it started."""
    lead = starting(track)
    track.wait(LEASE + 1)
    probe = track.claim("start")
    track.finish(probe, found, confirmed_by="list" if found == "recording" else "", due_in=1000)
    before = track.record
    track.wait(700)
    assert track.finish(lead, "recording")["how"] == how
    unchanged(track, before)


def test_finish_of_a_start_is_stale_once_another_began(track: Track) -> None:
    """What records now is another recording than the one that this leader has started."""
    lead = starting(track)
    track.wait(LEASE + 1)
    track.finish(track.claim("start"), "failed", confirmed_by="list", settled=True)
    track.started()
    assert track.finish(lead, "recording")["how"] == "stale"


def test_finish_by_another_attempt_is_refused(track: Track) -> None:
    """Only who holds the track writes."""
    lead = starting(track)
    before = track.record
    stranger = lead | {"attempt": "stranger"}
    assert track.finish(stranger, "recording")["how"] == "stale"
    unchanged(track, before)


def test_finish_of_an_earlier_operation_is_refused(track: Track) -> None:
    """The track has moved on."""
    old = starting(track)
    track.wait(LEASE)
    track.finish(track.claim("stop"), "stopped", answered=True)
    before = track.record
    assert track.finish(old, "recording")["how"] == "stale"
    unchanged(track, before)


@pytest.mark.parametrize(("state", "how"), [("recording", "late"), ("unknown", "stale"), ("failed", "stale")])
def test_finish_by_the_former_leader_is_accepted_for_a_success_only(track: Track, state: str, how: str) -> None:
    """While another looks for our operation, that it runs is what it looks for; that we do not know helps nobody."""
    lead = starting(track)
    track.wait(LEASE)
    assert say(track.claim("start")) == ("lead", "probe")
    assert track.finish(lead, state)["how"] == how


def test_finish_restores_what_was_forgotten(track: Track) -> None:
    """The record is gone, or tells of an earlier operation: the truth is written all the same."""
    for keep in (False, True):
        fresh_stop(track)
        snapshot = track.snapshot() if keep else None
        track.wait(10)
        lead = track.claim("start")
        track.lose(snapshot)
        assert track.finish(lead, "recording")["how"] == "restored"
        assert (track.record["state"], track.record["op"]) == ("recording", lead["op"])
        track.claim("reconcile")
        track.wait(GRACE)
        track.stopped()


@pytest.mark.parametrize(("state", "field"), [("unknown", "start_may_land_until"), ("stopping", "stop_may_land_until")])
def test_restored_uncertainty_has_a_new_horizon(track: Track, state: str, field: str) -> None:
    """It was lost with the record, and counting from now is never too short."""
    fresh_stop(track)
    lead = track.claim("start" if state == "unknown" else "stop", trust=0)
    track.lose()
    track.finish(lead, state, confirmed_by="", due_in=1000)
    assert track.left(field) == QUIET
    assert track.due == 1000


def test_restored_start_began_when_it_did(track: Track) -> None:
    """A list may be behind a start: how far is counted from its sending, not from that of a recording before it."""
    fresh_stop(track)
    lead = track.claim("start")
    track.wait(1000)
    track.lose()
    track.finish(lead, "recording")
    assert int(track.record["started_at"]) == lead["started_at"]


def test_restored_record_within_the_grace_waits(track: Track) -> None:
    """A later operation may be told within the grace, too: until then nobody acts on the earlier one."""
    lead = track.claim("start")
    track.lose(track.snapshot())
    track.claim("reconcile")
    track.wait(1)
    track.finish(lead, "recording", answered=True)
    assert say(track.claim("stop")) == ("wait", "grace")


@pytest.mark.parametrize(("state", "look"), [("recording", "probe"), ("failed", "probe")])
def test_finish_of_a_claim_before_the_epoch_leaves_the_record_suspect(track: Track, state: str, look: str) -> None:
    """Others may have come after it, whom the server forgot: it is looked at, by the settler where nobody asks."""
    lead = track.claim("start")
    track.lose(track.snapshot())
    track.claim("reconcile")
    track.wait(QUIET)
    track.finish(lead, state, answered=True, due_in=60_000)
    assert track.due == 0
    assert track.claim("reconcile")["action"] == look


def test_ambiguous_start_keeps_its_horizon_and_is_due(track: Track) -> None:
    """It may still land."""
    lead = starting(track)
    track.wait(3000)
    track.finish(lead, "unknown", confirmed_by="", due_in=1000)
    assert (track.left("start_may_land_until"), track.due, track.record["confirmed"]) == (QUIET - 3000, 1000, "0")


def test_refused_start_leaves_no_horizon(track: Track) -> None:
    """VideoSDK answered: it did nothing, so the next may be sent at once."""
    lead = starting(track)
    track.finish(lead, "failed", confirmed_by="list", answered=True)
    assert track.record["start_may_land_until"] == "0"
    assert say(track.claim("start")) == ("lead", "start")


def test_ambiguous_stop_keeps_its_horizon(track: Track) -> None:
    """It may still land, and a start waits for that."""
    lead = stopping(track)
    assert (track.left("stop_may_land_until"), track.due, track.record["state"]) == (QUIET, 1000, "stopping")
    track.wait(1000)
    again = track.claim("reconcile")
    assert (say(again), again["op"] == lead["op"]) == (("lead", "stop"), False)
    track.finish(again, "stopped", answered=True)
    assert track.left("stop_may_land_until") == QUIET - 1000


def test_answered_stop_leaves_no_horizon(track: Track) -> None:
    """It has landed."""
    fresh_stop(track)
    assert track.record["stop_may_land_until"] == "0"
    assert track.left("ended_at") == 0


def test_finish_with_an_empty_list_ends_both_horizons(track: Track) -> None:
    """Nothing runs, and so late that nothing sent earlier can land."""
    unknown(track)
    track.wait(QUIET + 1)
    look = track.claim("reconcile")
    track.finish(look, "stopped", confirmed_by="list", settled=True)
    assert (track.record["start_may_land_until"], track.record["stop_may_land_until"], track.due) == ("0", "0", None)


def test_finish_without_waiters_publishes_nothing(track: Track) -> None:
    """Messages are for those who wait in other processes; where nobody does, none is sent."""
    with track.listening() as heard:
        track.finish(starting(track), "recording", result="alone")
        lead = track.claim("stop")
        track.claim("stop")
        track.finish(lead, "stopped", answered=True, result="awaited")
        messages = heard()
        assert len(messages) == 1
        key, operation, payload = messages[0].split("\n")
        assert (key, operation, json.loads(payload)["answer"]) == (track.keys[0], lead["op"], "awaited")


# --- renew -----------------------------------------------------------------------------------------------------------


def test_renewal_lengthens_the_lease_and_nothing_else(track: Track) -> None:
    """Above all not the quiet time: that counts from the grant."""
    lead = starting(track)
    before = track.record
    track.wait(1000)
    for _ in range(2):
        assert track.renew(lead)["how"] == "ok"
    assert (track.left("lease"), track.left("start_may_land_until"), track.due) == (LEASE, QUIET - 1000, LEASE)
    unchanged(track, before, "lease")


def test_renewal_of_a_lost_lease_is_refused(track: Track) -> None:
    """Not from who took over, not from who finished, not from who released."""
    lead = starting(track)
    track.wait(LEASE)
    other = track.claim("start")
    assert track.renew(lead)["how"] == "lost"
    assert track.record["holder"] == other["attempt"]
    track.finish(other, "recording")
    before = track.record
    assert track.renew(other)["how"] == "lost"
    unchanged(track, before)
    released = track.claim("stop")
    track.release(released)
    assert track.renew(released)["how"] == "lost"


@pytest.mark.parametrize("kept", [False, True])
def test_renewal_restores_a_start_with_its_horizon(track: Track, kept: bool) -> None:
    """The record is gone, or tells of an earlier operation: the live leader is believed."""
    fresh_stop(track)
    snapshot = track.snapshot()
    lead = track.claim("start")
    track.wait(1000)
    track.lose(snapshot if kept else None)
    assert track.renew(lead)["how"] == "restored"
    record = track.record
    assert (record["state"], record["holder"], record["op"]) == ("starting", lead["attempt"], lead["op"])
    assert (track.left("start_may_land_until"), track.left("lease"), record["fingerprint"]) == (QUIET, LEASE, "A")
    assert say(track.claim("start")) == ("wait", "start")
    assert track.finish(lead, "recording")["how"] == "ok"


@pytest.mark.parametrize(
    ("command", "begin", "state"), [("stop", Track.started, "stopping"), ("reconcile", unknown, "unknown")]
)
def test_renewal_restores_whatever_was_held(track: Track, command: str, begin: Any, state: str) -> None:
    """A stop comes back with a horizon of its own, a look with that of what it looks for."""
    begin(track)
    lead = track.claim(command)
    track.lose()
    assert track.renew(lead)["how"] == "restored"
    assert track.record["state"] == state
    assert track.left("stop_may_land_until" if command == "stop" else "start_may_land_until") == QUIET


def test_renewal_without_restore_creates_nothing(track: Track) -> None:
    """What is gone stays gone."""
    lead = starting(track)
    track.lose()
    assert track.renew(lead, restore=False)["how"] == "lost"
    assert not track.record


def test_released_operation_that_was_taken_up_again_is_restored(track: Track) -> None:
    """The server knows only of the release: who holds it since, under the same number, gets its claim back."""
    first = starting(track)
    track.release(first)
    released = track.snapshot()
    lead = track.claim("start")
    assert lead["op"] == first["op"]
    track.lose(released)
    track.claim("reconcile")
    assert track.renew(lead)["how"] == "restored"


def test_operation_taken_up_since_the_epoch_is_not_replaced_by_a_restored_one(track: Track) -> None:
    """Two attempts at one operation: the one that this server itself granted since its epoch stays."""
    first = starting(track)
    track.wait(LEASE)
    again = track.claim("start")
    assert again["op"] == first["op"]
    assert track.renew(first)["how"] == "lost"
    assert track.record["holder"] == again["attempt"]


def test_later_operation_is_not_replaced_by_a_restored_one(track: Track) -> None:
    """Somebody has begun anew since: who comes too late has lost."""
    lead = starting(track)
    track.lose()
    track.claim("reconcile")
    track.wait(GRACE)
    newer = track.claim("start")
    assert track.renew(lead)["how"] == "lost"
    assert track.record["holder"] == newer["attempt"]


def test_promotion_turns_a_probe_into_a_start(track: Track) -> None:
    """The quiet time counts from now; the generation is a new one, the parameters are the caller's."""
    unknown(track)
    track.wait(QUIET)
    lead = track.claim("start", fingerprint="B")
    track.wait(1500)
    reply = track.promote_to_start(lead, fingerprint="B")
    record = track.record
    assert (reply["how"], record["state"], record["action"]) == ("ok", "starting", "start")
    assert int(record["generation"]) == int(reply["generation"]) >= int(lead["op"])
    assert (record["fingerprint"], track.left("start_may_land_until"), track.left("lease")) == ("B", QUIET, LEASE)


def test_promotion_by_another_attempt_is_refused(track: Track) -> None:
    """Who was taken over must not send."""
    unknown(track)
    first = track.claim("start")
    track.wait(LEASE)
    second = track.claim("start")
    assert track.promote_to_start(first)["how"] == "lost"
    assert track.record["holder"] == second["attempt"]


# --- release ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "command", "state"), [(fresh_stop, "start", "stopped"), (Track.started, "stop", "recording")]
)
def test_release_leaves_no_trace_but_the_number(track: Track, begin: Any, command: str, state: str) -> None:
    """Nothing was sent: state and horizons are as they were, and the operation goes on under its number."""
    begin(track)
    before = track.record
    lead = track.claim(command)
    assert track.release(lead) == {"how": "ok", "now": track.ms}
    assert track.record["state"] == state
    assert (track.record["start_may_land_until"], track.record["stop_may_land_until"]) == (
        before["start_may_land_until"],
        before["stop_may_land_until"],
    )
    again = track.claim(command)
    assert (say(again), again["op"]) == (("lead", command), lead["op"])


def test_release_twice_or_by_another_attempt_does_nothing(track: Track) -> None:
    """Only who holds it gives it back, and once."""
    lead = starting(track)
    assert track.release(lead | {"attempt": "stranger"})["how"] == "lost"
    track.release(lead)
    before = track.record
    assert track.release(lead)["how"] == "lost"
    unchanged(track, before)


def test_release_of_the_very_first_claim_is_a_failure_not_a_gap(track: Track) -> None:
    """There was no state before: nothing records."""
    track.release(track.claim("start", verify_absent="never"))
    assert (track.record["state"], track.record["start_may_land_until"]) == ("failed", "0")


def test_release_keeps_an_earlier_horizon(track: Track) -> None:
    """A look that is given back says nothing of what it looked for; a stop that was not sent leaves the one before."""
    unknown(track)
    track.wait(1000)
    track.release(track.claim("reconcile"))
    assert (track.record["state"], track.left("start_may_land_until"), track.due) == ("unknown", QUIET - 1000, 0)
    stop = track.claim("stop")
    track.finish(stop, "stopping", confirmed_by="", due_in=1000)
    track.wait(1000)
    track.release(track.claim("stop"))
    assert (track.record["state"], track.left("stop_may_land_until")) == ("stopping", QUIET - 1000)


def test_release_wakes_waiters(track: Track) -> None:
    """They contend again at once."""
    lead = starting(track)
    track.claim("start")
    with track.listening() as heard:
        track.release(lead)
        assert heard() == [f"{track.keys[0]}\n{lead['op']}\nreleased"]


# --- a stop that waits -----------------------------------------------------------------------------------------------


def test_stop_behind_a_start_is_reported_at_renewal_and_finish(track: Track) -> None:
    """Whoever renews learns of it, and whoever finishes the start has a stop to carry out, now."""
    lead = starting(track)
    assert say(track.claim("stop")) == ("wait", "start")
    assert track.stop_due
    assert track.renew(lead)["stop"] is True
    finished = track.finish(lead, "recording")
    assert (finished["how"], finished["stop"]) == ("ok", True)
    assert track.due == 0
    for command in ("reconcile", "start"):
        reply = track.claim(command)
        assert say(reply) == ("lead", "stop")
        track.release(reply)


def test_stop_behind_a_stop_shares_what_is_under_way(track: Track) -> None:
    """One stop answers both; where that one fails and its caller learns it, the other is still due."""
    track.started()
    first = track.claim("stop")
    assert say(track.claim("stop")) == ("wait", "stop")
    track.finish(first, "recording")
    assert track.stop_due
    track.finish(track.claim("stop"), "stopped", answered=True)
    assert not track.stop_due


@pytest.mark.parametrize("released", [False, True])
def test_stop_that_failed_is_not_due_once_its_caller_knows(track: Track, released: bool) -> None:
    """Refused, or never sent: who asked for it learns that, so nobody repeats it."""
    track.started()
    stop = track.claim("stop")
    assert track.stop_due
    assert (track.release(stop) if released else track.finish(stop, "recording"))["how"] == "ok"
    assert not track.stop_due
    assert say(track.claim("start"))[0] == "running"


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_requested_stop_ends_where_nothing_runs(track: Track, state: str) -> None:
    """The start came to nothing: there is nothing to stop."""
    lead = starting(track)
    track.claim("stop")
    assert track.finish(lead, state, answered=True)["stop"] is False
    assert not track.stop_due


def test_requested_stop_survives_an_unknown_outcome(track: Track) -> None:
    """The start may have happened: what is done next is to stop it."""
    lead = starting(track)
    track.claim("stop")
    track.finish(lead, "unknown", confirmed_by="", due_in=1000)
    assert say(track.claim("reconcile")) == ("lead", "stop")


def test_stop_over_an_unknown_start_holds_until_nothing_can_land(track: Track) -> None:
    """The stop was answered, the start may still land: at its horizon somebody looks, and stops what is there."""
    unknown(track)
    stop = track.claim("stop")
    track.finish(stop, "stopped", answered=True)
    assert (track.stop_due, track.due) == (True, QUIET + 1)
    track.wait(QUIET + 1)
    look = track.claim("reconcile")
    assert say(look) == ("lead", "probe")
    assert track.finish(look, "recording", confirmed_by="list")["stop"] is True
    assert say(track.claim("reconcile")) == ("lead", "stop")


def test_recording_found_after_a_stop_was_carried_out_is_not_stopped(track: Track) -> None:
    """Somebody else began it: the stop before was about another one, and a stop that is asked for now is about it."""
    fresh_stop(track)
    track.invalidate()
    track.wait(1)
    look = track.claim("reconcile")
    assert track.finish(look, "recording", generation=look["op"], confirmed_by="list")["stop"] is False
    assert not track.stop_due
    assert say(track.claim("stop")) == ("lead", "stop")


def test_stop_during_a_look_is_about_what_the_look_finds(track: Track) -> None:
    """It may have run all along, whatever number it is known by."""
    fresh_stop(track)
    track.invalidate()
    track.wait(1)
    look = track.claim("reconcile")
    stop = track.claim("stop")
    assert track.finish(look, "recording", generation=look["op"], confirmed_by="list")["stop"] is True
    assert say(track.claim("stop", asked_at=stop["asked_at"])) == ("lead", "stop")


def test_start_after_an_idle_stop_is_not_what_that_was_about(track: Track) -> None:
    """A start was given back, and the stop that waited for it told that nothing runs: the next has a new number."""
    lead = starting(track)
    stop = track.claim("stop")
    track.release(lead)
    assert say(track.claim("stop", asked_at=stop["asked_at"]))[0] == "idle"
    again = track.claim("start")
    assert int(again["op"]) > int(stop["asked_at"]) > int(lead["op"])
    assert track.finish(again, "recording")["stop"] is False


def test_requested_stop_survives_a_release(track: Track) -> None:
    """Who was to start tries again at once, under the same number: the stop still comes after it."""
    lead = starting(track)
    track.claim("stop")
    track.release(lead)
    again = track.claim("start")
    assert again["op"] == lead["op"]
    assert track.finish(again, "recording")["stop"] is True


def test_newer_start_supersedes_an_older_stop(track: Track) -> None:
    """Somebody wants it recorded since: the stop before that is carried out and over."""
    unknown(track)
    track.finish(track.claim("stop"), "stopped", answered=True)
    reply = track.claim("start")
    assert (say(reply), track.stop_due) == (("lead", "probe"), False)


@pytest.mark.parametrize("mine", [False, True])
def test_promotion_ends_a_stop_of_an_earlier_recording(track: Track, mine: bool) -> None:
    """Proven gone, a recording needs no stop; a stop that waits for this very start stays."""
    track.started()
    track.wait(TRUST + 1)
    lead = track.claim("start")
    track.claim("stop", **({} if mine else {"asked_at": str(int(lead["op"]) - 1)}))
    assert track.stop_due
    track.promote_to_start(lead)
    assert track.stop_due is mine


# --- doubt -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("begin", "action"), [(Track.started, "probe"), (fresh_stop, "probe"), (nothing, "probe")])
def test_invalidate_has_the_next_claim_probe(track: Track, begin: Any, action: str) -> None:
    """Whoever comes next looks first; if nobody does, the settler."""
    begin(track)
    track.invalidate()
    assert track.due == 0
    assert say(track.claim("reconcile")) == ("lead", action)


def test_invalidate_during_an_operation_outlives_it(track: Track) -> None:
    """Its result is written unconfirmed, and due at once; the next look ends the doubt."""
    lead = starting(track)
    track.wait(10)
    track.invalidate()
    track.wait(10)
    track.finish(lead, "recording")
    assert (track.record["confirmed"], track.due) == ("0", 0)
    track.wait(10)
    look = track.claim("reconcile")
    track.finish(look, "recording", confirmed_by="list")
    assert (track.record["suspect_since"], say(track.claim("start"))[0]) == ("0", "running")


# --- observe ---------------------------------------------------------------------------------------------------------


def test_confirm_counts_from_when_the_list_was_asked(track: Track) -> None:
    """The list says no more than was so when it was asked; what it tells is kept, and the next look is planned."""
    track.started()
    track.wait(5000)
    before = track.record
    assert track.confirm("recording", seen_ago=300, evidence="{}", due_in=9000) == {"how": "ok", "now": track.ms}
    record = track.record
    assert (track.left("confirmed"), record["confirmed_by"], record["evidence"]) == (-300, "list", "{}")
    assert track.due == 9000
    unchanged(track, before, "confirmed", "confirmed_by", "evidence")
    assert track.claim("start")["verdict"] == "running"


def test_confirm_twice_changes_only_the_due_time(track: Track) -> None:
    """Its reply was lost; or another replica compared the same with an older list."""
    track.started()
    track.wait(5000)
    track.confirm("recording", seen_ago=300, evidence="{}", due_in=9000)
    before = track.record
    for ago in (300, 800):
        assert track.confirm("recording", seen_ago=ago, evidence="", due_in=9000)["how"] == "ok"
        unchanged(track, before)
    assert track.due == 9000
    assert track.confirm("recording", due_in=0)["how"] == "ok"
    assert track.due is None


def test_confirm_prolongs_what_runs_and_not_what_ended(track: Track) -> None:
    """A recording that goes on is not forgotten; one that is over is kept no longer because somebody reads it."""
    track.started()
    track.wait(5000)
    track.redis.pexpire(track.keys[0], 50_000)
    track.confirm("recording")
    assert track.redis.pttl(track.keys[0]) > 50_000
    track.stopped()
    track.wait(5000)
    track.redis.pexpire(track.keys[0], 50_000)
    assert track.confirm("stopped", evidence="{}")["how"] == "ok"
    assert 0 < track.redis.pttl(track.keys[0]) <= 50_000


def written_after_the_look(track: Track) -> dict[str, Any]:
    """The list was asked before the record said so."""
    track.started()
    return {"seen_ago": 0}


def asked_before_the_start(track: Track) -> dict[str, Any]:
    """The list is of before."""
    track.started()
    track.wait(1000)
    return {"seen_ago": 1001}


def another_state(track: Track) -> dict[str, Any]:
    """It was stopped meanwhile."""
    track.started()
    track.stopped()
    track.wait(1000)
    return {}


def another_generation(track: Track) -> dict[str, Any]:
    """It is another recording by now."""
    old = track.started()
    track.stopped()
    track.started()
    track.wait(1000)
    return {"generation": old["generation"]}


def somebody_holds_it(track: Track) -> dict[str, Any]:
    """Whoever verifies it finds out."""
    track.started()
    track.wait(TRUST + 1)
    assert track.claim("start")["action"] == "probe"
    return {}


def a_holder_is_gone(track: Track) -> dict[str, Any]:
    """Its claim has lapsed, and what became of it nobody knows."""
    somebody_holds_it(track)
    track.wait(LEASE + 1)
    return {}


def a_stop_is_owed(track: Track) -> dict[str, Any]:
    """It records, and is to be stopped."""
    lead = starting(track)
    track.claim("stop")
    track.finish(lead, "recording")
    track.wait(1000)
    return {}


def something_may_land(track: Track) -> dict[str, Any]:
    """A stop was answered, and the start before it was not."""
    unknown(track)
    track.finish(track.claim("stop"), "stopped", answered=True)
    track.redis.hset(track.keys[0], "stop_requested_at", "0")
    track.wait(1000)
    return {"state": "stopped"}


def in_doubt(track: Track) -> dict[str, Any]:
    """Something happened of which the list may not tell yet."""
    track.started()
    track.wait(1000)
    track.invalidate()
    track.wait(1000)
    return {}


def unanswered_hint(track: Track) -> dict[str, Any]:
    """Its end was heard of, and the list could not be had."""
    track.started()
    track.wait(1000)
    track.invalidate("ended")
    track.wait(10)
    track.finish(track.claim("reconcile"), "recording", confirmed_by="")
    track.wait(1000)
    return {}


def predates_epoch(track: Track) -> dict[str, Any]:
    """The server knows it from before its epoch: it may have forgotten what came after."""
    track.started()
    track.lose(track.snapshot())
    track.claim("reconcile")
    track.wait(GRACE)
    return {}


@pytest.mark.parametrize("agrees", [True, False])
@pytest.mark.parametrize(
    "begin",
    [
        written_after_the_look, asked_before_the_start, another_state, another_generation, somebody_holds_it,
        a_holder_is_gone, a_stop_is_owed, something_may_land, in_doubt, unanswered_hint, predates_epoch, nothing,
    ],
)  # fmt: skip
def test_confirm_of_a_changed_record_writes_nothing(track: Track, begin: Any, agrees: bool) -> None:
    """Nothing is written and nothing planned: somebody who claims it has to look."""
    arguments = {"state": "recording", **(begin(track) or {})}
    before, due = track.record, track.redis.zscore(track.keys[1], track.keys[0])
    reply = track.confirm(**arguments, agrees=agrees, evidence="{}" if agrees else "", due_in=9000)
    # Where the list could not be had nothing is said of the recording, so it need not be younger than anything.
    only_planned = not agrees and begin in {written_after_the_look, asked_before_the_start, predates_epoch}
    assert reply["how"] == ("ok" if only_planned else "stale")
    unchanged(track, before)
    assert track.redis.zscore(track.keys[1], track.keys[0]) == (track.ms + 9000 if only_planned else due)


def test_confirm_without_a_list_only_plans_the_next(track: Track) -> None:
    """Only the next look is planned."""
    track.started()
    track.wait(5000)
    before = track.record
    assert track.confirm("recording", agrees=False, due_in=7000)["how"] == "ok"
    assert track.due == 7000
    unchanged(track, before)


# --- take away -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "command", "next_one"),
    [
        (fresh_stop, "start", ("lead", "probe")),
        (Track.started, "stop", ("lead", "stop")),
        (unknown, "reconcile", ("lead", "probe")),
        (stopping, "stop", ("lead", "stop")),
    ],
)
def test_revoke_has_the_next_claim_recover(track: Track, begin: Any, command: str, next_one: tuple[str, str]) -> None:
    """As if the claim had lapsed: due now, under the same number, and what was sent keeps its quiet time."""
    begin(track)
    lead = track.claim(command)
    track.wait(300)
    before = track.record
    assert track.revoke(lead["attempt"]) == {"how": "ok", "now": track.ms}
    unchanged(track, before, "holder", "owner", "lease", "suspect_since", "confirmed")
    assert track.due == 0
    reply = track.claim("start")
    assert (say(reply), reply["op"]) == (next_one, lead["op"])
    assert reply["start_may_land_ms"] == max(int(before["start_may_land_until"] or 0) - track.ms, 0)


def test_revoke_refuses_every_write_of_the_former_holder(track: Track) -> None:
    """Neither its result nor a renewal, and it sends nothing; taken away twice it is as taken away once."""
    lead = starting(track)
    assert track.revoke(lead["attempt"])["how"] == "ok"
    before = track.record
    assert track.revoke(lead["attempt"])["how"] == "lost"
    assert track.renew(lead)["how"] == "lost"
    assert track.promote_to_start(dict(lead))["how"] == "lost"
    assert track.finish(lead, "recording")["how"] == "stale"
    assert track.release(lead)["how"] == "lost"
    unchanged(track, before)


@pytest.mark.parametrize("begin", [nothing, fresh_stop, starting])
def test_revoke_of_another_claim_changes_nothing(track: Track, begin: Any) -> None:
    """It may have been finished, or taken over, since the operator looked."""
    begin(track)
    before, due = track.record, track.due
    assert track.revoke("stranger")["how"] == "lost"
    assert (track.record, track.due) == (before, due)


def test_revoke_wakes_waiters(track: Track) -> None:
    """They contend at once; a payload there is none."""
    lead = starting(track)
    track.claim("start")
    with track.listening() as heard:
        track.revoke(lead["attempt"])
        assert heard() == [f"{track.keys[0]}\n{lead['op']}\n"]


def test_invalidate_by_the_operator_ends_with_the_next_probe(track: Track) -> None:
    """Looked at, the track is an ordinary one."""
    track.started()
    track.revoke(track.claim("stop")["attempt"])
    track.wait(10)
    track.finish(track.claim("reconcile"), "stopped", answered=True)
    assert (track.record["suspect_since"], say(track.claim("stop"))[0]) == ("0", "idle")


# --- room ------------------------------------------------------------------------------------------------------------


def test_room_returns_public_fields_and_the_last_event(track: Track) -> None:
    """Its records, and the last event that is part of them; nothing of claims."""
    assert track.room() == {"last": "0-0"}
    fresh_stop(track)
    room = track.room()
    ((key, fields),) = room["records"]
    shown = json.loads(fields)
    assert (key, shown["state"], shown["generation"]) == (track.keys[0], "stopped", track.record["generation"])
    assert not shown.keys() & {"result", "owner", "lease", "before_state", "granted"}
    ((last, event),) = cast("Any", track.redis.xrevrange(track.keys[4], count=1))
    assert (room["last"], event["record"]) == (last, fields)


def test_room_removes_expired_records(track: Track) -> None:
    """A record that ended long ago is not there any more, and then not in its room."""
    fresh_stop(track)
    track.redis.delete(track.keys[0])
    assert "records" not in track.room()
    assert track.redis.zcard(track.keys[3]) == 0


def test_room_without_readers_is_trimmed_by_changes(track: Track) -> None:
    """Every change strikes some of what is long gone."""
    gone = {f"{track.keys[0]}-{number}": track.ms - 1000 + number for number in range(4)}
    track.redis.zadd(track.keys[3], gone)
    track.redis.pexpire(track.keys[3], MEMORY)
    fresh_stop(track)
    assert track.redis.zrange(track.keys[3], 0, -1) == [track.keys[0]]


def test_room_returns_the_latest_changed(track: Track) -> None:
    """As many as are asked for."""
    fresh_stop(track)
    track.redis.zadd(track.keys[3], {f"{track.keys[0]}-older": track.ms - 1})
    assert [key for key, _ in track.room(most=1)["records"]] == [track.keys[0]]
    assert track.redis.zcard(track.keys[3]) == 2


def test_room_returns_what_runs_before_what_has_ended(track: Track) -> None:
    """However many have ended since: what runs is not pushed out, until it has ended too."""
    track.started()
    ended = {f"{track.keys[0]}-{number}": track.ms + 1000 + number for number in range(3)}
    track.redis.zadd(track.keys[3], ended)
    for name in ended:
        track.redis.hset(name, "state", "stopped")
        track.redis.pexpire(name, MEMORY)
    assert [key for key, _ in track.room(most=1)["records"]] == [track.keys[0]]
    assert len(track.room(most=2)["records"]) == 2
    track.stopped()
    assert [key for key, _ in track.room(most=1)["records"]] == [f"{track.keys[0]}-2"]


# --- what nothing was known of ---------------------------------------------------------------------------------------

BRIEFLY = SETTLE + 60_000


def not_found(track: Track, lead: Reply, **more: Any) -> Reply:
    """Write down that VideoSDK refused a stop, and that the list shows nothing."""
    return track.finish(lead, "stopped", confirmed_by="list", because="stopped", **{"answered": True} | more)


def told(track: Track) -> tuple[int, int]:
    """Return how many events the room has, and how many targets."""
    return int(cast("Any", track.redis.xlen(track.keys[4]))), int(cast("Any", track.redis.zcard(track.keys[3])))


def test_stop_of_what_never_was_tells_nobody_and_goes_soon(track: Track) -> None:
    """No event and no place in the room; for a while it is known that nothing was there, and then it is forgotten."""
    lead = track.claim("stop")
    assert (lead["action"], track.record["state"]) == ("stop", "stopping")
    assert 0 < track.redis.pttl(track.keys[0]) <= MEMORY
    assert track.redis.pttl(track.keys[0]) > BRIEFLY
    not_found(track, lead, due_in=2000)
    assert told(track) == (0, 0)
    assert "records" not in track.room()
    assert track.redis.pttl(track.keys[0]) <= BRIEFLY
    # The list is asked once more when it has had time, and no more.
    assert track.due == SETTLE + 100
    assert say(track.claim("stop"))[0] == "idle"
    track.wait(SETTLE + 100)
    assert track.confirm("stopped", due_in=5000)["how"] == "ok"
    assert track.due is None
    assert told(track) == (0, 0)


def test_list_that_had_no_time_is_asked_again_for_what_never_was(track: Track) -> None:
    """An earlier look says nothing of what began a moment ago."""
    not_found(track, track.claim("stop"), due_in=2000)
    track.wait(SETTLE - 1)
    track.confirm("stopped", due_in=1000)
    assert track.due == 1000


@pytest.mark.parametrize("state", ["stopping", "recording", "stopped"])
def test_stop_of_the_unheard_of_that_finds_something_is_told(track: Track, state: str) -> None:
    """VideoSDK stopped something, or says that it records: readers hear of it. Not while that is not known."""
    lead = track.claim("stop")
    track.finish(lead, state, confirmed_by="reply" if state == "stopped" else "", due_in=1000)
    assert told(track) == ((0, 0) if state == "stopping" else (1, 1))
    assert track.redis.pttl(track.keys[0]) > BRIEFLY


def test_stop_of_the_unheard_of_is_kept_while_anything_may_land(track: Track) -> None:
    """Right after the epoch a start that was forgotten may land: the stop is due until a probe has looked."""
    track.lose()
    track.claim("reconcile")
    track.wait(GRACE)
    lead = track.claim("stop")
    not_found(track, lead)
    assert (track.stop_due, track.left("start_may_land_until")) == (True, QUIET - GRACE)
    assert track.redis.pttl(track.keys[0]) > BRIEFLY
    track.wait(QUIET)
    not_found(track, track.claim("reconcile"), settled=True)
    assert not track.stop_due
    assert track.redis.pttl(track.keys[0]) <= BRIEFLY
    assert told(track) == (0, 0)


def test_stop_of_the_unheard_of_that_was_not_sent_goes_soon(track: Track) -> None:
    """Its caller is told so; another stop that waits is not forgotten with it."""
    track.release(track.claim("stop"))
    assert track.redis.pttl(track.keys[0]) <= BRIEFLY
    lead = track.claim("stop")
    track.claim("stop")
    track.release(lead)
    assert track.stop_due
    assert track.redis.pttl(track.keys[0]) > BRIEFLY
    assert told(track) == (0, 0)


def test_stop_of_what_readers_know_is_told_as_ever(track: Track) -> None:
    """A start that VideoSDK refused, one that was given up, and a recording: the room was shown them."""
    fresh_stop(track)
    track.wait(TRUST + 1)
    events, _ = told(track)
    not_found(track, track.claim("stop"))
    assert told(track) == (events + 2, 1)
    assert track.redis.pttl(track.keys[0]) > BRIEFLY


def test_stop_of_what_a_list_has_shown_is_told(track: Track) -> None:
    """Something was seen that no record tells of: it is not unheard of."""
    track.invalidate()
    track.claim("stop")
    assert told(track) == (1, 1)


def test_finish_of_a_stop_of_what_never_was_may_be_repeated(track: Track) -> None:
    """A reply that was lost: written once. A rewrite after a failover is looked at again, like all that was before."""
    lead = track.claim("stop")
    not_found(track, lead)
    assert not_found(track, lead)["how"] == "repeated"
    track.lose()
    track.claim("reconcile")
    track.wait(QUIET + GRACE)
    assert not_found(track, lead, late=True)["how"] == "restored"
    assert (track.due, track.redis.pttl(track.keys[0]) > BRIEFLY) == (0, True)


# --- room, for its readers -------------------------------------------------------------------------------------------


def test_room_without_events_gives_a_reader_a_mark(track: Track) -> None:
    """A mark, made once; who only looks makes none."""
    track.room()
    assert not track.redis.exists(track.keys[4])
    first = track.room(watch=True)["last"]
    assert first != "0-0"
    assert track.room(watch=True)["last"] == track.room()["last"] == first
    assert track.redis.pttl(track.keys[4]) > 0


def test_room_with_a_lost_record_shows_no_state(track: Track) -> None:
    """The record was gone, its place in the room was not, and somebody saw the track record: no reader may stumble."""
    fresh_stop(track)
    track.redis.delete(track.keys[0])
    track.invalidate()
    ((_, fields),) = track.room()["records"]
    record = msgspec.convert(json.loads(fields), Record, strict=False)
    assert (record.state, record.generation) == ("", "0")


@pytest.mark.parametrize("held", [True, False], ids=["under way", "at rest"])
def test_what_a_later_version_wrote_is_not_touched(track: Track, held: bool) -> None:
    """No script of this one answers from such a record, writes to it or plans anything for it, even for its holder."""
    lead = starting(track)
    if not held:
        track.finish(lead, "recording")
    track.redis.hset(track.keys[0], "v", "2")
    before, due = track.record, track.redis.zscore(track.keys[1], track.keys[0])
    for command in ("start", "stop", "reconcile"):
        assert track.claim(command)["verdict"] == "newer"
    assert track.claim("start", attempt=lead["attempt"])["verdict"] == "newer"
    track.wait(LEASE + QUIET + MEMORY // 4)
    assert track.claim("start")["verdict"] == "newer"
    assert track.renew(lead)["how"] == "lost"
    assert track.promote_to_start(dict(lead))["how"] == "lost"
    assert track.finish(lead, "recording")["how"] == "stale"
    assert track.release(lead)["how"] == "lost"
    assert track.invalidate()["how"] == "ignored"
    assert track.confirm("recording")["how"] == "stale"
    assert track.confirm("recording", agrees=False)["how"] == "stale"
    assert track.revoke(lead["attempt"])["how"] == "lost"
    assert (track.record, track.redis.zscore(track.keys[1], track.keys[0])) == (before, due)


def test_script_tables_pass_the_coordinators_arguments(track: Track, world: World) -> None:
    """Otherwise they would tell of scripts that nobody calls like that."""
    process = world.process()
    world.look(process)
    world.advance(world.timing.quiet)
    process.start()
    world.advance(1)
    world.upstream.fates["stop"].append(Fate(hears="unreachable", lands=None))
    process.stop()
    process.do(process.invalidate())
    world.advance(2)
    track.started()
    track.invalidate()
    track.release(track.claim("stop"))
    process.do(process.use_the_rest())
    world.advance(1)
    track.confirm("recording")
    track.revoke("nobody")
    track.mark()
    track.move_end(track.claim("start"))
    track.room()
    assert track.arguments == world.arguments
    assert track.arguments.keys() == set(SCRIPTS)


def test_arguments_are_json_and_answers_too(track: Track) -> None:
    """Whatever bytes a caller's words hold, they come back as they were."""
    words = json.dumps({"requestedBy": 'a "b" \\ \n €'})
    fresh_stop(track)
    assert track.claim("start", recording=words)["recording"] == words
    assert track.record["recording"] == words
