"""The decision table of `claim.lua`, cell by cell: what each command is answered of each kind of record."""

from collections.abc import Callable

import pytest

from tests.coordinator.track import LEASE, QUIET, TRUST, Reply, Track


def starting(track: Track) -> None:
    """A start is under way."""
    ended(track)
    track.claim("start")


def held(track: Track) -> None:
    """Somebody looks."""
    stale(track)
    assert track.claim("reconcile")["verdict"] == "lead"


def stop_due(track: Track) -> None:
    """A start was answered, and a stop waits for it."""
    ended(track)
    lead = track.claim("start")
    track.claim("stop")
    track.finish(lead, "recording")


def stop_due_later(track: Track) -> None:
    """A stop had no answer and is repeated in a second."""
    track.started()
    track.finish(track.claim("stop"), "stopping", confirmed_by="", due_in=1000)


def stop_lapsed(track: Track) -> None:
    """Whoever led a stop has died."""
    track.started()
    track.claim("stop")
    track.wait(LEASE)


def recording(track: Track) -> None:
    """It records, confirmed just now."""
    track.started()


def stale(track: Track) -> None:
    """It recorded when that was confirmed, which is long ago."""
    track.started()
    track.wait(TRUST + 1)


def doubted(track: Track) -> None:
    """It recorded just now, and its end was heard of."""
    track.started()
    track.invalidate("ended")


def overdue(track: Track) -> None:
    """It records, was confirmed just now, and has recorded for as long as it may."""
    track.started(max_duration=TRUST)
    track.wait(TRUST)


def overdue_while_held(track: Track) -> None:
    """It has recorded for as long as it may, and a probe looks at it."""
    track.started(max_duration=TRUST)
    track.wait(TRUST - 1)
    track.claim("reconcile")
    track.wait(1)


def unknown(track: Track) -> None:
    """A start had no answer."""
    ended(track)
    track.finish(track.claim("start"), "unknown", confirmed_by="", due_in=1000)


def start_may_land(track: Track) -> None:
    """A stop over an unknown start was answered."""
    unknown(track)
    track.finish(track.claim("stop"), "stopped", answered=True)


def stop_may_land(track: Track) -> None:
    """A stop had no answer, and another one had."""
    stop_due_later(track)
    track.finish(track.claim("stop"), "stopped", answered=True)


def ended_in_doubt(track: Track) -> None:
    """It was stopped, and something happened since."""
    ended(track)
    track.invalidate()


def suspect(track: Track) -> None:
    """It was stopped before the epoch of this server."""
    ended(track)
    track.lose(track.snapshot())
    track.claim("reconcile")
    track.wait(QUIET)


def nothing(track: Track) -> None:
    """There is no record, and never was as far as this server knows."""


def ended(track: Track) -> None:
    """It was stopped, confirmed just now."""
    track.started()
    track.stopped()


def ended_long_ago(track: Track) -> None:
    """It was stopped, which is longer ago than is trusted."""
    ended(track)
    track.wait(TRUST + 1)


Row = tuple[Callable[[Track], None], str, str, str, str]

TABLE: list[Row] = [
    # record           start             start, other parameters  stop          check
    (starting,         "wait start",     "conflict",              "wait start",  "busy"),
    (held,             "wait probe",    "wait probe",           "wait probe", "busy"),
    (stop_due,         "lead stop",      "lead stop",             "lead stop",   "lead stop"),
    (stop_due_later,   "wait stop",      "wait stop",             "lead stop",   "wait stop"),
    (stop_lapsed,      "lead stop",      "lead stop",             "lead stop",   "lead stop"),
    (recording,        "running",        "conflict",              "lead stop",   "lead probe"),
    (stale,            "lead probe",    "lead probe",           "lead stop",   "lead probe"),
    (doubted,          "lead probe",    "lead probe",           "lead stop",   "lead probe"),
    (overdue,          "lead stop",      "lead stop",             "lead stop",   "lead stop"),
    (overdue_while_held, "lead stop",    "lead stop",             "wait probe", "lead stop"),
    (unknown,          "lead probe",   "lead probe",          "lead stop",   "lead probe"),
    (start_may_land,   "lead probe",   "lead probe",          "lead stop",   "lead probe"),
    (stop_may_land,    "lead probe",   "lead probe",          "idle",        "noop"),
    (ended_in_doubt,   "lead probe",   "lead probe",          "lead stop",   "lead probe"),
    (suspect,          "lead probe",   "lead probe",          "lead stop",   "noop"),
    (nothing,          "lead probe",   "lead probe",          "lead stop",   "noop"),
    (ended,            "lead start",     "lead start",            "idle",        "noop"),
    (ended_long_ago,   "lead start",     "lead start",            "lead stop",   "noop"),
]  # fmt: skip


def _cells() -> list[tuple[Callable[[Track], None], str, str, str]]:
    """Return the table cell by cell."""
    commands = [("start", "A"), ("start", "B"), ("stop", ""), ("reconcile", "")]
    return [
        (begin, command, parameters, decision)
        for begin, *decisions in TABLE
        for (command, parameters), decision in zip(commands, decisions, strict=True)
    ]


def _said(reply: Reply) -> str:
    return f"{reply['verdict']} {reply['action']}".strip()


@pytest.mark.parametrize(("begin", "command", "parameters", "decision"), _cells())
def test_command_on_record_gets_its_cell(
    track: Track, begin: Callable[[Track], None], command: str, parameters: str, decision: str
) -> None:
    """The verdict and the action are the table's; only a leader holds the track; a stop that waits is noted."""
    begin(track)
    before = track.record
    reply = track.claim(command, fingerprint=parameters)
    assert _said(reply) == decision
    if command == "stop" and decision.startswith("wait"):
        assert track.record["stop_requested_at"] == reply["asked_at"]
    leads = decision.startswith("lead")
    assert track.record.get("holder", "") == (reply["attempt"] if leads else before.get("holder", ""))
