"""The protocol broken on purpose, one rule at a time: each time something must go red.

A mutant names a rule of the source (`-- rule: fence`) and what becomes of it (`tests/mutants/README.md`); changes are
made to texts in memory. Each mutant is shown the cheapest thing that kills it: a story of
`tests.coordinator.test_regressions`, a row of `test_scripts`, or, where it finds the mutant quickly, the random walk.
A mutant whose rule is no longer there fails too, so that nobody believes in a mutant that mutates nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import redis

from gateway.coordinator import Timing
from tests.coordinator import test_max_duration as ends
from tests.coordinator import test_regressions as stories
from tests.coordinator import test_scripts as rows
from tests.coordinator.track import Track
from tests.model import test_protocol_model as model
from tests.model.mutation import leader, scripts
from tests.model.world import World
from tests.mutants.rules import Change, always, becomes, drop, never, value

WALKS = 1_000
"""Far more than the random search needs for the mutants that are left to it (a few dozen), so that no seed fails."""


class NoQuiet(Timing, frozen=True, kw_only=True):
    """Nobody waits for what may still land."""

    @property
    def quiet(self) -> float:
        """Return Q."""
        return 0.0


class QuietWithoutWindow(Timing, frozen=True, kw_only=True):
    """The quiet time forgets that the call leaves up to W after the grant."""

    @property
    def quiet(self) -> float:
        """Return Q."""
        return self.upstream_timeout + self.settle


def changed(script: str, *changes: Change) -> Callable[[], Mapping[str, Any]]:
    """Return code with one script changed."""
    return lambda: scripts({script: changes})


def led(*changes: Change) -> Callable[[], Mapping[str, Any]]:
    """Return code with the leader changed."""
    return lambda: {"Leader": leader(*changes)}


BLIND = changed(
    "claim",
    becomes(
        "look-first", "['may land'] = { start = lead_start, stop = lead_stop_or_idle, reconcile = probe_or_noop },"
    ),
)
ANY_ERROR = led(always("release-what-was-not-sent"))
ENDLESS = changed("claim", becomes("time-is-over", "and false"))
HOUR = ends.HOUR


def granted(asked: int, setting: int, expected: int, track: Track, *, promoted: bool) -> None:
    """See when a start ends that is granted."""
    ends.test_start_that_is_granted_ends_after_the_smaller_duration(track, asked, setting, expected, promoted)


def joined(had: int, asked: int, more: dict[str, Any], left: int, track: Track) -> None:
    """See when a recording ends that a start joins."""
    ends.test_start_that_joins_moves_the_end(track, had, asked, more, left)


STORIES: dict[str, tuple[Callable[[], Mapping[str, Any]], Callable[[World], None]]] = {
    "blind takeover": (BLIND, partial(stories.test_quiet_time_passes_before_a_start_is_sent_again, list_seconds=0.02)),
    "believed for ever": (
        changed("claim", drop("trust")),
        stories.test_recording_that_ended_by_itself_is_started_again,
    ),
    "epoch ignored": (
        changed("claim", value("forgotten", "false")),
        stories.test_start_after_flushall_joins_the_live_leader,
    ),
    "no floor": (
        changed("claim", value("floor", "0")),
        stories.test_start_of_a_leader_that_died_while_redis_forgot_is_waited_for,
    ),
    "a forgotten stop is no reason to wait": (
        changed("claim", drop("floor-of-stops")),
        stories.test_stop_of_a_leader_that_died_while_redis_forgot_is_waited_for,
    ),
    "no grace": (
        changed("claim", never("grace")),
        stories.test_start_after_flushall_joins_the_live_leader,
    ),
    "no claiming again": (
        changed("renew", value("restore", "false")),
        stories.test_start_after_flushall_joins_the_live_leader,
    ),
    "no stop intent": (
        changed("claim", drop("note-stop")),
        stories.test_stop_behind_a_start_outlives_its_caller,
    ),
    "release on any error": (ANY_ERROR, stories.test_stop_over_an_unknown_start_stops_it_when_it_lands),
    "no send gate": (
        led(value("send-gate", "True")),
        stories.test_start_held_back_by_the_send_gate_is_retried,
    ),
    "a refusal settles all": (
        changed("finish", becomes("settled", "if a.answered then start_may_land_until = 0 end")),
        stories.test_refused_stop_does_not_settle_what_else_is_on_its_way,
    ),
    "zombie not waited for after a stop": (
        changed("finish", becomes("stop-what-may-land", "if over then")),
        stories.test_stop_over_an_unknown_start_stops_it_when_it_lands,
    ),
}  # fmt: skip
"""What is changed, and the story that is told in vain then."""

ROWS: dict[str, tuple[Callable[[], Mapping[str, Any]], Callable[[Track], None]]] = {
    "finish without a fence": (
        changed("finish", always("fence")),
        rows.test_finish_of_an_earlier_operation_is_refused,
    ),
    "what is told again is believed": (
        changed("claim", drop("claimed-before-the-epoch")),
        rows.test_restored_record_within_the_grace_waits,
    ),
    "renewal without a fence": (
        changed("renew", never("fence")),
        rows.test_renewal_of_a_lost_lease_is_refused,
    ),
    "release without a fence": (
        changed("release", never("fence")),
        rows.test_release_twice_or_by_another_attempt_does_nothing,
    ),
    "every stop is told": (
        changed("claim", becomes("quiet-stop", "save(changes, a.ttl)")),
        rows.test_stop_of_what_never_was_tells_nobody_and_goes_soon,
    ),
    "what never was is forgotten though a start may land": (
        changed("finish", value("keep-what-may-land", "never")),
        rows.test_stop_of_the_unheard_of_is_kept_while_anything_may_land,
    ),
    "no seen": (
        changed("claim", never("hand-over")),
        rows.test_joiner_is_handed_the_result_of_its_operation_only,
    ),
    "any result is the awaited one": (
        changed("claim", drop("own-result")),
        rows.test_joiner_is_handed_the_result_of_its_operation_only,
    ),
    "no not_after": (
        changed("claim", never("not-after")),
        rows.test_claim_after_its_time_does_nothing,
    ),
    "arm restores": (
        changed("renew", value("restore", "true"), never("promote-in-the-epoch-of-the-claim")),
        stories.test_promotion_after_the_record_was_lost_is_refused,
    ),
    "arm in any epoch": (
        changed("renew", never("promote-in-the-epoch-of-the-claim")),
        stories.test_promotion_after_another_epoch_is_refused_although_the_record_was_restored,
    ),
    "ghost of the same number wins": (
        changed("renew", value("one-attempt-of-two", "true")),
        rows.test_released_operation_that_was_taken_up_again_is_restored,
    ),
    "any attempt at the same number is restored": (
        changed("renew", value("one-attempt-of-two", "false")),
        rows.test_operation_taken_up_since_the_epoch_is_not_replaced_by_a_restored_one,
    ),
    "late truth from anybody": (
        changed("finish", drop("late-truth-while-recovering")),
        stories.test_finish_by_the_former_leader_is_accepted_until_another_may_send,
    ),
    "renewal lengthens the quiet time": (
        changed(
            "renew", value("renew-the-lease-only", "{ lease = now + a.lease, start_may_land_until = now + a.quiet }")
        ),
        rows.test_renewal_lengthens_the_lease_and_nothing_else,
    ),
    "no horizon after a restore": (
        changed("finish", drop("restored-horizon")),
        stories.test_unknown_outcome_written_to_an_empty_redis_has_a_quiet_time,
    ),
    "an old number after a stop was carried out": (
        changed("claim", drop("new-number-after-a-stop")),
        rows.test_start_after_an_idle_stop_is_not_what_that_was_about,
    ),
    "a stop that was carried out is due again": (
        changed("finish", drop("stop-is-carried-out")),
        rows.test_recording_found_after_a_stop_was_carried_out_is_not_stopped,
    ),
    "a stop that failed is due for ever": (
        changed("finish", never("failed-stop-is-withdrawn")),
        lambda track: rows.test_stop_that_failed_is_not_due_once_its_caller_knows(track, released=False),
    ),
    "intent without a consequence": (
        changed("claim", drop("stop-is-due")),
        rows.test_requested_stop_survives_an_unknown_outcome,
    ),
    "nobody is told": (
        changed("claim", drop("wake-waiters")),
        rows.test_finish_without_waiters_publishes_nothing,
    ),
    "a second grant on a retry": (
        changed("claim", never("one-grant-an-attempt")),
        lambda track: rows.test_same_attempt_is_given_the_same_answer(track, Track.started, "start"),
    ),
    "no end": (
        ENDLESS,
        ends.test_reconcile_leads_the_stop_from_the_end_on_and_not_before,
    ),
    "the end is always": (
        changed("claim", drop("time-is-over")),
        ends.test_reconcile_leads_the_stop_from_the_end_on_and_not_before,
    ),
    "no reason why it was stopped": (
        changed("claim", never("reason-of-a-timed-stop")),
        ends.test_reconcile_leads_the_stop_from_the_end_on_and_not_before,
    ),
    "a probe holds the end up": (
        changed("claim", value("end-before-a-probe", "false")),
        ends.test_end_overtakes_a_probe,
    ),
    "a start that is sent is overtaken": (
        changed("claim", value("end-before-a-probe", "timed_stop > 0")),
        ends.test_end_during_a_start_waits_for_it,
    ),
    "no caller is bounded": (
        changed("claim", value("bound-of-a-start", "0")),
        partial(granted, HOUR, 0, HOUR, promoted=False),
    ),
    "no promoted start is bounded": (
        changed("renew", value("bound-of-a-promoted-start", "0")),
        partial(granted, HOUR, 0, HOUR, promoted=True),
    ),
    "the caller's duration counts": (
        changed("claim", drop("smallest-counts")),
        partial(granted, 2 * HOUR, HOUR, HOUR, promoted=False),
    ),
    "nobody looks for the end": (
        changed("claim", drop("schedule-the-end")),
        partial(granted, HOUR, 0, HOUR, promoted=False),
    ),
    "every start puts the end off": (
        changed("claim", drop("shorten-only")),
        partial(joined, HOUR, 2 * HOUR, {}, HOUR - ends.PASSED),
    ),
    "every start brings the end of others forward": (
        changed("claim", value("bound-only-what-one-may-stop", "true")),
        partial(joined, 2 * HOUR, HOUR, {"only_of": "b"}, 2 * HOUR - ends.PASSED),
    ),
    "who may lengthen is not bounded by the setting": (
        changed("claim", drop("never-beyond-the-setting")),
        partial(joined, HOUR, 3 * HOUR, {"lengthens": True, "longest": 2 * HOUR}, 2 * HOUR - ends.PASSED),
    ),
    "a start that was forgotten is restored without its end": (
        changed("renew", drop("restore-the-end")),
        lambda track: ends.test_start_that_was_forgotten_is_restored_with_its_end(track, promoted=False),
    ),
    "a move is repeated over a later one": (
        changed("move_end", drop("move-once")),
        ends.test_move_is_not_repeated_over_a_later_one,
    ),
}  # fmt: skip
"""What is changed, and the row of the script tables that forbids it."""


@pytest.mark.parametrize("name", STORIES)
def test_mutant_is_killed_by_its_story(name: str, client: "redis.Redis") -> None:
    """The story that tells why the rule is there goes red without it."""
    code, story = STORIES[name]
    with World(client, code=code()) as world, pytest.raises(AssertionError):
        story(world)


@pytest.mark.parametrize("name", ROWS)
def test_mutant_is_killed_by_its_row(name: str, client: "redis.Redis") -> None:
    """The row of the script tables that holds the rule goes red without it."""
    code, row = ROWS[name]
    with pytest.raises(AssertionError):
        row(Track(client, code=code()))


@pytest.mark.parametrize("timing", [NoQuiet(), QuietWithoutWindow()], ids=lambda timing: type(timing).__name__)
def test_wrong_quiet_time_is_killed_by_its_story(timing: Timing, client: "redis.Redis") -> None:
    """No quiet time, and one that forgets the send window."""
    with World(client, timing=timing) as world, pytest.raises(AssertionError):
        stories.test_quiet_time_counts_the_send_window(world)


@pytest.mark.parametrize("code", [BLIND, ANY_ERROR, ENDLESS], ids=["blind takeover", "release on any error", "no end"])
def test_mutant_is_killed_by_the_random_walk(code: Callable[[], Mapping[str, Any]], client: "redis.Redis") -> None:
    """The random walk finds the gravest by itself, long before its walks are over."""
    with pytest.raises(AssertionError):
        model.walk(client, WALKS, code=code(), shrink=False)
