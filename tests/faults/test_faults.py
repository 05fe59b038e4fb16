"""The short form of the fault harness, and the checker's own tests: one good history, and a bad one for each rule."""

import asyncio
import math
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast, get_args

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from gateway.sandbox.faults import Endpoint, Fault, Faults, Subject
from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.faults.checker import Judgement, check, count_duplicates, judge
from tests.faults.clients import Track
from tests.faults.ends import late
from tests.faults.history import AtRest, ClientCall, End, History, Interval, Limits, Trouble, UpstreamCall
from tests.faults.linearize import linearize
from tests.faults.rows import ROWS, SHORT
from tests.faults.run import Report, heal_times, play_rows, table, too_busy
from tests.faults.scene import MODES, in_every_mode
from tests.faults.timeline import timeline
from tests.faults.truth import FATES, HAPPENINGS, Cell, Server, Times, find_truth, truth_table
from tests.faults.waits import Waits, waited
from tests.faults.zygote import Child, Zygote

TRACK = "room/p1/video"


def call(op: Any, begun: float, ended: float, outcome: str = "", **more: Any) -> ClientCall:
    """Return a call of a client; successful where it has an outcome."""
    status = {"": 0, "started": 201, "stop_requested": 202}.get(outcome, 200)
    known: dict[str, Any] = {"status": status, "outcome": outcome, "id": "rec_1", "process": "g1", **more}
    return ClientCall(op=op, track=TRACK, begun=begun, ended=ended, **known)


def post(endpoint: str, received: float, ended: float, **more: Any) -> UpstreamCall:
    """Return a call as the simulator saw it."""
    known: dict[str, Any] = {"answered": ended, "status": 200, "attempt": "boot.1", **more}
    return UpstreamCall(endpoint=endpoint, track=TRACK, received=received, applied=received, **known)


GOOD = History(
    calls=[
        call("start", 1.0, 1.3, "started"),
        call("start", 1.1, 1.3, "joined", process="g2"),
        call("start", 2.0, 2.1, "already_recording"),
        call("start", 2.2, 2.3, status=409, problem="parameters-differ", params="other", id=""),
        call("start", 2.4, 2.5, process="g3"),
        call("stop", 3.0, 3.2, "stopped"),
        call("stop", 3.1, 3.2, "joined"),
        call("stop", 4.0, 4.1, "not_recording"),
        call("start", 5.0, 6.6, status=504, problem="outcome-unknown", id=""),
        call("stop", 12.0, 12.2, "stopped", id="rec_2"),
    ],
    upstream=[
        post("start", 1.1, 1.2),
        post("stop", 3.1, 3.2, attempt="boot.2"),
        post("start", 5.1, 6.6, answered=None, gone=6.6, status=None, fault="hang_after", attempt="boot.3"),
        post("stop", 12.1, 12.2, attempt="boot.4"),
    ],
    intervals=[Interval(track=TRACK, opened=1.1, closed=3.1), Interval(track=TRACK, opened=5.1, closed=12.1)],
    troubles=[Trouble(what="kill", begun=2.45, ended=2.45, process="g3")],
    finals=[AtRest(track=TRACK, status=200, state="stopped", at=20.0)],
)


def but(**changes: Any) -> History:
    """Return the good history with something else in its place."""
    return msgspec.structs.replace(GOOD, **changes)


def plus(*calls: ClientCall) -> History:
    """Return the good history with more calls."""
    return but(calls=[*GOOD.calls, *calls])


def rules(history: History) -> set[str]:
    """Return the rules that a history breaks."""
    return {violation.rule for violation in check(history)}


REDIS_AWAY = Trouble(what="redis", begun=12.0, ended=13.0)


@pytest.mark.parametrize(
    ("stop", "troubles", "what"),
    [
        (12.1, [], ""),
        (15.9, [], ""),
        (16.1, [], "5.1 s after"),
        (None, [], "inf s after"),
        (10.5, [], "0.5 s before"),
        (16.1, [REDIS_AWAY], ""),
        (16.1, [Trouble(what="redis", begun=9.0, ended=10.5)], "5.1 s after"),
        (19.0, [REDIS_AWAY], "8.0 s after"),
        (19.0, [REDIS_AWAY, Trouble(what="redis", begun=16.0, ended=17.0)], ""),
        (24.0, [REDIS_AWAY, Trouble(what="redis", begun=18.5, ended=22.0)], "13.0 s after"),
        (16.1, [Trouble(what="kill", begun=12.0, ended=13.0, process="g1")], "5.1 s after"),
    ],
)
def test_checker_finds_a_recording_that_is_stopped_late_or_early(
    stop: float | None, troubles: list[Trouble], what: str
) -> None:
    """Within 5 s of its end, or of the moment from which a replica can reach Redis and VideoSDK again."""
    posts = [post("stop", stop, stop + 0.1, attempt="boot.4")] if stop is not None else []
    history = but(ends=[End(track=TRACK, at=11.0)], upstream=posts, troubles=troubles)
    assert [what in text for text in late(history)] == ([True] if what else [])


def test_checker_finds_nothing_in_a_good_history() -> None:
    """Starts, joins, a conflict, a crash, an unknown outcome and stops, all of them kept promises."""
    assert check(GOOD) == []


BAD: dict[str, tuple[str, History]] = {
    "two recordings at once": (
        "duplicate",
        but(intervals=[*GOOD.intervals, Interval(track=TRACK, opened=2.0, closed=3.1)]),
    ),
    "success with the parameters of somebody else": (
        "R1",
        plus(call("start", 2.0, 2.1, "joined", params="other")),
    ),
    "201 that did not start": ("R1", plus(call("start", 2.0, 2.1, "already_recording", status=201))),
    "a start that was swallowed": ("R2", plus(call("start", 4.2, 4.4, "already_recording"))),
    "an unknown outcome of nothing": (
        "R3",
        but(calls=[*GOOD.calls, call("start", 40, 41, status=504, problem="outcome-unknown")], finals=[]),
    ),
    "a refusal that VideoSDK did not utter": (
        "R3",
        plus(call("start", 3.3, 3.4, status=422, problem="upstream-refused")),
    ),
    "no answer, and nobody died": ("R3", plus(call("start", 8.0, 8.2))),
    "a mistake of the gateway": ("R3", plus(call("stop", 8.0, 8.2, status=500, problem="internal"))),
    "Redis blamed without cause": ("R3", plus(call("start", 8.0, 8.2, status=503, problem="coordination-unavailable"))),
    "Redis blamed late": (
        "R3",
        but(
            calls=[*GOOD.calls, call("start", 8.0, 12.9, status=503, problem="coordination-unavailable")],
            troubles=[*GOOD.troubles, Trouble(what="redis", begun=7.9, ended=13.0)],
        ),
    ),
    "a deadline that had not come": (
        "R3",
        plus(call("start", 8.0, 8.2, status=504, problem="deadline-exceeded", deadline=2.0)),
    ),
    "a stop that did not": ("R4", plus(call("stop", 1.5, 2.0, "not_recording"))),
    "a stop that overtakes a start": (
        "R5",
        but(upstream=[*GOOD.upstream, post("stop", 1.15, 1.16, attempt="boot.9")]),
    ),
    "two who both started it": ("R7", plus(call("start", 1.0, 1.4, "started"))),
    "one id for two recordings": ("R7", plus(call("start", 7.0, 7.1, "already_recording"))),
    "two ids for one recording": ("R7", plus(call("start", 2.0, 2.1, "already_recording", id="rec_9"))),
    "a conflict with nothing": (
        "R8",
        plus(call("start", 4.5, 4.6, status=409, problem="parameters-differ")),
    ),
    "unknown for ever": ("R9", but(finals=[AtRest(track=TRACK, status=200, state="unknown", at=20.0)])),
    "a record that is wrong at rest": ("R9", but(finals=[AtRest(track=TRACK, status=200, state="recording", at=20.0)])),
    "an error at rest": ("R9", but(finals=[AtRest(track=TRACK, status=503, at=20.0)])),
    "a lost stop": (
        "R9",
        but(
            calls=[*GOOD.calls[:-1], call("stop", 12.0, 12.2, "stop_requested")],
            intervals=[GOOD.intervals[0], Interval(track=TRACK, opened=5.1)],
            finals=[AtRest(track=TRACK, status=200, state="recording", at=20.0)],
        ),
    ),
    "a lost start": (
        "R9",
        but(calls=[*GOOD.calls, call("start", 14.5, 15.0, "started", id="rec_3")]),
    ),
    "a key for ever": ("R9", but(keys_without_ttl=["rec:{01}:a:b:c:video"])),
}


@pytest.mark.parametrize(("rule", "history"), BAD.values(), ids=BAD)
def test_checker_finds_each_broken_rule(rule: str, history: History) -> None:
    """Each rule can fail, and says where."""
    assert rule in rules(history)
    first = next(violation for violation in check(history) if violation.rule == rule)
    assert timeline(history, first.track, first.at)


STALLED = [Trouble(what="stall", begun=0.0, ended=50.0, process=process) for process in ("", "g1", "g2", "g3")]
"""The machine was busy all the time, and kept everything from its work."""


def stalled(history: History, *stalls: Trouble) -> History:
    """Return a history in which the machine kept processes from their work."""
    return msgspec.structs.replace(history, troubles=[*history.troubles, *(stalls or STALLED)])


TIMED_OUT = {"an unknown outcome of nothing", "Redis blamed without cause", "Redis blamed late"}


@pytest.mark.parametrize(("rule", "history"), BAD.values(), ids=BAD)
def test_checker_excuses_only_time_outs_of_a_busy_machine(
    rule: str, history: History, request: pytest.FixtureRequest
) -> None:
    """However long everything stood still: what is wrong is wrong, but for the answers that come of a time-out."""
    if request.node.callspec.id in TIMED_OUT:
        assert judge(stalled(history)).violations == []
        assert judge(stalled(history)).excused == 1
    else:
        assert rule in rules(stalled(history))
        assert judge(stalled(history)).excused == 0


def stall(process: str, begun: float, ended: float) -> Trouble:
    """Return a time in which the machine kept a process from its work."""
    return Trouble(what="stall", begun=begun, ended=ended, process=process)


UNAVAILABLE = plus(call("start", 28.0, 29.5, status=503, problem="coordination-unavailable"))
NEVER_SENT = plus(call("start", 28.0, 29.5, status=503, problem="upstream-unavailable"))
DOUBTED = plus(call("get", 28.0, 29.5, status=504, problem="outcome-unknown"))
SILENT = plus(call("get", 20.0, 34.0, deadline=10.0))
BROKEN_OFF = plus(call("get", 28.0, 28.5, deadline=10.0))

EXCUSED: dict[str, tuple[History, Trouble]] = {
    "the gateway that was asked could not hear Redis": (UNAVAILABLE, stall("g1", 28.2, 29.4)),
    "a moment before, and the gateway tries again only now and then": (UNAVAILABLE, stall("g1", 26.0, 27.0)),
    "Redis, or the way to it": (UNAVAILABLE, stall("", 28.2, 29.4)),
    "the gateway that was to send it": (NEVER_SENT, stall("g2", 28.2, 29.4)),
    "the gateway that had sent it": (DOUBTED, stall("g2", 25.0, 26.5)),
    "the gateway that was to answer": (SILENT, stall("g1", 24.0, 33.0)),
}

NOT_EXCUSED: dict[str, tuple[History, Trouble]] = {
    "another gateway that could not hear Redis": (UNAVAILABLE, stall("g2", 28.2, 29.4)),
    "long before": (UNAVAILABLE, stall("g1", 20.0, 25.0)),
    "after the answer": (UNAVAILABLE, stall("g1", 29.6, 31.0)),
    "long before it was to be sent": (NEVER_SENT, stall("g2", 20.0, 25.0)),
    "an unknown outcome that nobody has found out": (DOUBTED, stall("g2", 10.0, 15.0)),
    "another gateway, when one did not answer": (SILENT, stall("g2", 24.0, 33.0)),
    "a connection that was broken off": (BROKEN_OFF, stall("g1", 28.0, 28.4)),
}


@pytest.mark.parametrize(("history", "why"), EXCUSED.values(), ids=EXCUSED)
def test_checker_counts_time_outs_during_a_stall(history: History, why: Trouble) -> None:
    """Without the stall the answer has no cause; with it, it is counted and not blamed on the gateway."""
    assert rules(history) == {"R3"}
    judgement = judge(stalled(history, why))
    assert (judgement.violations, judgement.excused) == ([], 1)


@pytest.mark.parametrize(("history", "why"), NOT_EXCUSED.values(), ids=NOT_EXCUSED)
def test_checker_ignores_stalls_of_another_time_or_process(history: History, why: Trouble) -> None:
    """A stall has to be where the answer came from, and then; and nothing breaks a connection off but a death."""
    judgement = judge(stalled(history, why))
    assert ([one.rule for one in judgement.violations], judgement.excused) == (["R3"], 0)


def test_run_with_many_excuses_says_that_it_proves_nothing() -> None:
    """Two in a hundred calls may be excused; of more than that is said that the machine was too busy."""
    calls = [call("get", 1.0, 1.1, "recording") for _ in range(99)]

    def report(excused: int) -> Report:
        judgement = Judgement([], excused=excused)
        history = but(calls=[*calls, call("get", 1.0, 1.1, "recording")])
        return Report(row=ROWS[0], history=history, log="", judgement=judgement, shortfalls=[], seconds=1)

    assert too_busy([report(2), report(2)]) == ""
    assert "too busy to judge: 5 of 200 calls" in too_busy([report(3), report(2)])
    assert "  3  " in table([report(3)])


_SPIN = "import time\nuntil = time.monotonic() + 60\nwhile time.monotonic() < until: pass"


@pytest.mark.anyio
@pytest.mark.skipif(waited(os.getpid()) is None, reason="the kernel does not tell for how long processes wait")
async def test_stall_watch_notices_a_process_kept_from_running() -> None:
    """Three that share one processor wait most of the time; one that sleeps, or is stopped, is kept from nothing."""
    one = min(os.sched_getaffinity(0))
    with ExitStack() as running:

        def start(code: str) -> subprocess.Popen[bytes]:
            ready = f"print(flush=True)\n{code}"
            process = running.enter_context(
                subprocess.Popen([sys.executable, "-I", "-S", "-c", ready], stdout=subprocess.PIPE)
            )
            running.callback(process.kill)
            assert process.stdout
            process.stdout.readline()
            return process

        sleeping, stopped, *spinning = start("import time; time.sleep(60)"), *(start(_SPIN) for _ in range(4))
        for process in spinning:
            os.sched_setaffinity(process.pid, {one})
        os.kill(stopped.pid, signal.SIGSTOP)
        harness.wait_until(lambda: ") T " in Path(f"/proc/{stopped.pid}/stat").read_text())
        watched = [("g1", "", spinning[0].pid), ("g2", "", sleeping.pid), ("g3", "", stopped.pid)]
        async with Waits(lambda: watched) as waits:
            await harness.eventually(lambda: any(stall.process == "g1" for stall in waits.stalls()))
            found = waits.stalls()
    assert {stall.process for stall in found} <= {"g1", ""}
    kept = next(stall for stall in found if stall.process == "g1")
    assert kept.what == "stall"
    assert kept.ended - kept.begun >= 0.5


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_zygote_forks_a_gateway_like_any_other(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """It has its own settings and log, ends as asked with its own code, and does not outlive what forked it."""
    settings = harness.environment(valkey.url, simulator.url, demo.file)
    log = tmp_path / "log"
    with Zygote() as zygote:

        async def gateway() -> Child:
            port = free_port()
            child = zygote.fork(["serve"], {**os.environ, **settings, "GATEWAY_PORT": str(port)}, log)
            async with harness.client(f"http://127.0.0.1:{port}", demo.key) as client:

                async def listed() -> int:
                    try:
                        return (await client.get("/v1/recordings?roomId=room")).status_code
                    except httpx.TransportError:
                        return 0

                assert await harness.until(listed, bool) == 200
            return child

        asked, killed, left = await asyncio.gather(gateway(), gateway(), gateway())
        assert len({os.getpid(), asked.pid, killed.pid, left.pid}) == 4
        asked.terminate()
        assert await asyncio.to_thread(asked.wait, 20) == 0
        os.kill(killed.pid, signal.SIGKILL)
        assert await asyncio.to_thread(killed.wait, 20) == 128 + signal.SIGKILL
        assert left.poll() is None
        refused = zygote.fork(["serve"], dict(os.environ), log)
        assert await asyncio.to_thread(refused.wait, 20) == 2
    harness.wait_until(lambda: not Path(f"/proc/{left.pid}").exists())
    assert log.read_text().count("Started server process") == 3
    assert "GATEWAY_REDIS_URL" in log.read_text()


def only(*calls: ClientCall, recorded: tuple[float, float], **more: Any) -> History:
    """Return a history of these calls and one recording, begun and ended by calls that VideoSDK saw."""
    begun, ended = recorded
    return History(
        calls=list(calls),
        upstream=[post("start", begun, begun), post("stop", ended, ended, attempt="boot.2")],
        intervals=[Interval(track=TRACK, opened=begun, closed=ended)],
        **more,
    )


UNORDERED: dict[str, History] = {
    "two who both ended the one recording": only(
        call("start", 1.0, 1.3, "started"),
        call("stop", 2.0, 2.5, "stopped"),
        call("stop", 2.1, 2.6, "stopped", process="g2"),
        recorded=(1.1, 2.2),
    ),
    "a start that began what others had seen before": only(
        call("start", 1.0, 1.3, "joined"),
        call("start", 1.5, 1.8, "started"),
        recorded=(1.1, 2.2),
    ),
    "a recording that was there before anybody began it": only(
        call("start", 1.0, 1.2, "already_recording"),
        call("start", 1.1, 1.3, "started", id="rec_2"),
        recorded=(1.15, 2.2),
    ),
    "seen again after its end was told": only(
        call("start", 1.0, 1.3, "started"),
        call("stop", 2.0, 2.1, "not_recording"),
        call("start", 2.15, 2.3, "already_recording"),
        recorded=(1.1, 2.05),
    ),
}


@pytest.mark.parametrize("name", UNORDERED)
def test_linearize_finds_contradicting_answers(name: str) -> None:
    """Each answer for itself could be right; there is no order in which they all are, on a busy machine either."""
    assert "WG" in rules(UNORDERED[name])
    assert "WG" in rules(stalled(UNORDERED[name]))


def test_linearize_finds_what_the_other_rules_miss() -> None:
    """Two were told that they ended the one recording there was; all other rules find nothing wrong."""
    assert rules(UNORDERED["two who both ended the one recording"]) == {"WG"}


ORDERED: dict[str, History] = {
    "an end by itself, believed in for a while": only(
        call("start", 1.0, 1.3, "started"),
        call("start", 2.5, 2.6, "already_recording"),
        call("start", 2.9, 3.2, "started", id="rec_2"),
        recorded=(1.1, 2.2),
        limits=Limits(trust=1.0),
    ),
    "a stop that was promised, and a start after it": only(
        call("start", 1.0, 1.3, "started"),
        call("stop", 1.4, 1.5, "stop_requested"),
        call("start", 3.0, 3.3, "started", id="rec_2"),
        recorded=(1.1, 2.2),
    ),
    "a start whose caller hung up": only(
        call("start", 1.0, 1.05, left=True, id=""),
        call("start", 1.2, 1.3, "already_recording"),
        call("stop", 2.0, 2.4, "stopped"),
        recorded=(1.1, 2.2),
    ),
    "a start without an answer, found by itself": only(
        call("start", 1.0, 2.0, "already_recording"),
        call("start", 1.0, 2.0, "already_recording", process="g2"),
        call("stop", 2.0, 2.4, "stopped"),
        recorded=(1.1, 2.2),
    ),
    "two crowds at once": only(
        *[call("start", 1.0, 1.5, "joined", process=f"g{number}") for number in range(50)],
        call("start", 1.0, 1.5, "started"),
        *[call("stop", 2.0, 2.5, "joined", process=f"g{number}") for number in range(50)],
        call("stop", 2.0, 2.5, "stopped"),
        recorded=(1.1, 2.2),
    ),
}


@pytest.mark.parametrize("name", ORDERED)
def test_linearize_accepts_answers_that_fit_together(name: str) -> None:
    """Whatever may have happened unseen is tried out before anything is called wrong."""
    unseen = [msgspec.structs.replace(one, unseen="by itself" in name) for one in ORDERED[name].intervals]
    history = msgspec.structs.replace(ORDERED[name], intervals=unseen)
    assert linearize(history.calls, unseen, history.upstream, history.limits).good


def test_linearize_accepts_a_start_that_was_taken_over() -> None:
    """Its leader was stopped before it read an answer; somebody stopped what it began, and its caller got the next."""
    calls = [
        call("start", 1.0, 5.0, "joined", id="rec_2"),
        call("stop", 1.5, 3.0, "stopped", process="g2"),
        call("start", 3.5, 5.0, "started", id="rec_2", process="g2"),
    ]
    intervals = [Interval(track=TRACK, opened=1.1, closed=2.9), Interval(track=TRACK, opened=4.5, closed=9.0)]
    unanswered = UpstreamCall(endpoint="start", track=TRACK, received=1.1, applied=1.1, gone=3.4)
    assert linearize(calls, intervals, [unanswered], Limits()).good
    answered = msgspec.structs.replace(unanswered, answered=1.2, gone=None, status=200)
    assert not linearize(calls, intervals, [answered], Limits()).good
    stopped = Trouble(what="pause", begun=1.19, ended=4.0, process="g1")
    assert linearize(calls, intervals, [answered], Limits(), [stopped]).good
    assert not linearize(calls, intervals, [answered], Limits(), [stall("g1", 1.19, 4.0)]).good
    long_before = Trouble(what="pause", begun=0.1, ended=0.5, process="g1")
    assert not linearize(calls, intervals, [answered], Limits(), [long_before]).good


def test_linearize_gives_up_a_search_that_grows_too_big() -> None:
    """A dozen different starts and as many stops, all at once, have too many orders; that is said, not passed over."""
    stops = [call("stop", 1.0, 3.0, "stopped") for _ in range(12)]
    starts = [call("start", 1.0, 3.0, "started", id=f"rec_{number}") for number in range(12)]
    found = linearize([*starts, *stops], [], [], Limits())
    assert found.too_big


def test_what_went_around_the_protocol_may_be_believed_in_for_the_trust_time() -> None:
    """A recording that ended by itself is believed in for a while, one that was stopped is not."""
    unseen = [Interval(track=TRACK, opened=1.1, closed=3.1, unseen=True), GOOD.intervals[1]]
    swallowed = plus(call("start", 4.2, 4.4, "already_recording"))
    assert "R2" not in rules(msgspec.structs.replace(swallowed, intervals=unseen))
    assert "R2" in rules(msgspec.structs.replace(swallowed, intervals=unseen, limits=Limits(trust=0.5)))


def test_two_calls_may_overlap_upstream_where_nobody_knows_how_the_first_ended() -> None:
    """A stop while a start hangs is right; a stop while it is merely slow is not."""
    hanging = but(upstream=[*GOOD.upstream, post("stop", 6.0, 6.1, attempt="boot.9")])
    assert "R5" not in rules(hanging)


def test_duplicates_are_counted_where_they_are_allowed() -> None:
    """Where none are promised not to happen, they are no violation; how long they last can be asked for."""
    twice = but(
        intervals=[*GOOD.intervals, Interval(track=TRACK, opened=2.0, closed=3.1)], limits=Limits(duplicates=None)
    )
    assert check(twice) == []
    assert (count_duplicates(twice), count_duplicates(twice, lasting=2.0)) == (1, 0)


def test_time_to_heal_counts_from_the_kill_to_the_first_answer() -> None:
    """Of a track that lost a call by it; one that is never answered again has not healed."""
    (healed,) = heal_times(GOOD)
    assert healed == pytest.approx(0.75)
    (never,) = heal_times(but(calls=GOOD.calls[:5]))
    assert never == math.inf


def test_truth_table_finds_a_wrong_record() -> None:
    """A cell is good only where every record was right in time and stayed so; the table says where it was not."""
    cells = [
        Cell(fate=fate, happening=happening, seconds=[0.1] * 19 + [4.9], wrong=[], bound=5)
        for fate in FATES
        for happening in HAPPENINGS
    ]
    assert all(cell.good for cell in cells)
    assert "0.1 4.9" in truth_table(cells)
    good = cells[0]
    for change in ({"seconds": [0.1] * 19 + [5.1]}, {"seconds": [math.inf]}, {"wrong": ["room/p1/video: stopped"]}):
        cells[0] = msgspec.structs.replace(good, **change)
        assert not cells[0].good
    assert "room/p1/video: stopped" in truth_table(cells)


@pytest.mark.anyio
async def test_records_are_right_whatever_becomes_of_the_webhooks(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """The table of the full run with times scaled down, two tracks in each cell."""
    often = {
        **harness.FAST,
        "GATEWAY_CHECK_SECONDS": "0.5",
        "GATEWAY_TRUST_SECONDS": "0.5",
        # Sixty tracks at once in one process: what is slow must not look like what is lost.
        "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "4",
        "GATEWAY_SEND_WINDOW_SECONDS": "3",
        "GATEWAY_LEASE_SECONDS": "4",
        "GATEWAY_REQUEST_DEADLINE_SECONDS": "13",
    }
    settings = harness.environment(valkey.url, simulator.url, demo.file, **often)
    times = Times(starts=5, runs=(0.5, 1), swapped=0.4, told=30, untold=60)
    async with harness.serve(settings, public=True) as url, Redis.from_url(valkey.url, decode_responses=True) as redis:
        gateway = Server("g1", int(url.rpartition(":")[2]))
        cells = await find_truth(simulator, redis, [gateway], demo.key, times, tracks=2, seed=1)
    assert all(cell.good for cell in cells), truth_table(cells)


def test_faults_of_an_endpoint_strike_it_in_every_mode() -> None:
    """What goes wrong with starts, stops and lists of tracks goes wrong with those of participants and rooms."""
    for verb in ("start", "stop", "list"):
        faults = Faults()
        faults.add(in_every_mode([Fault(action="error", endpoint=cast("Any", verb), times=None)]))
        struck = {
            endpoint
            for endpoint in get_args(Endpoint)
            if faults.plan(Subject(endpoint, "room", None, None)).fault is not None
        }
        assert struck == {verb, f"participant-{verb}", f"room-{verb}"}
    others = [Fault(action="error", endpoint="sessions"), Fault(action="webhook_lost")]
    assert in_every_mode(others) == others


def test_targets_of_every_mode_have_names_bodies_and_modes() -> None:
    """What clients send is what the mode takes, and names in a history tell modes apart."""
    ids = {"roomId": "r", "participantId": "p"}
    assert {
        mode: (target.name, target.mode, target.body)
        for mode in MODES
        for target in [Track.of(mode, "r", "p")]
    } == {
        "track": ("r/p/video", "track", {**ids, "kind": "video"}),
        "participant": ("r/p/participant", "participant", ids),
        "room": ("r//room", "room", {"roomId": "r"}),
    }  # fmt: skip


@pytest.mark.anyio
@pytest.mark.blackbox
async def test_short_form_of_the_fault_matrix_keeps_every_promise() -> None:
    """Leaders killed and stopped at each step, Redis emptied, VideoSDK misbehaving: no duplicate, no violation."""
    rows = [row for row in ROWS if row.number in SHORT]
    lines: list[str] = []
    reports = await play_rows(rows, seconds=6, seed=1, show=lines.append)
    assert all(report.good for report in reports), "\n\n".join(
        [report.explain() for report in reports if not report.good] + [table(reports)]
    )
    assert sum(report.duplicates for report in reports) == 0
    assert sum(report.kills for report in reports) > 0
    for report in reports:
        begun = {post.track.rpartition("/")[2] for post in report.history.upstream if post.endpoint == "start"}
        assert begun == {"video", "participant", "room"}, report.row.name
