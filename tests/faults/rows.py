"""The table of scenarios: what goes wrong, and what is allowed to come of it."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from gateway.sandbox.faults import Fault
from tests.faults import nemeses
from tests.faults.checker import count_duplicates, peak_open
from tests.faults.clients import Pace
from tests.faults.groups import Cluster, Group, Sentinels, server_binary
from tests.faults.history import History, Limits
from tests.faults.scene import Row
from tests.faults.variants import blockable, lacks_faketime, other_clocks, server_with_clock, two_versions

__all__ = ["ROWS", "SHORT"]


def _sometimes(action: Any, probability: float, **more: Any) -> Fault:
    return Fault(action=action, probability=probability, times=None, **more)


_STARTS: Final[Sequence[Fault]] = (
    _sometimes("hang_before", 0.04, endpoint="start"),
    _sometimes("hang_after", 0.04, endpoint="start"),
    _sometimes("error", 0.04, endpoint="start", status=500),
    _sometimes("error", 0.03, endpoint="start", status=503),
    _sometimes("error_after_apply", 0.04, endpoint="start", status=502),
    _sometimes("error_after_apply", 0.03, endpoint="start", status=504),
    _sometimes("refuse", 0.03, endpoint="start", status=429, headers={"Retry-After": "1"}),
    _sometimes("refuse", 0.02, endpoint="start", status=404),
    _sometimes("reset_before", 0.04, endpoint="start"),
    _sometimes("reset_after", 0.04, endpoint="start"),
    _sometimes("half_response", 0.03, endpoint="start", applied=True),
    _sometimes("half_response", 0.02, endpoint="start"),
    _sometimes("garbage", 0.03, endpoint="start", applied=True),
    _sometimes("apply_late", 0.04, endpoint="start", seconds=1.7),
    _sometimes("delay", 0.05, endpoint="start", seconds=1.0),
)
"""Nearly half of all starts go wrong in some way. What lands late does so after its time-out (1.5 s), and is listed
before the time in which it may land is over (0.7 s more)."""

_STOPS: Final[Sequence[Fault]] = (
    _sometimes("hang_before", 0.04, endpoint="stop"),
    _sometimes("hang_after", 0.04, endpoint="stop"),
    _sometimes("error", 0.05, endpoint="stop", status=500),
    _sometimes("error_after_apply", 0.05, endpoint="stop", status=500),
    _sometimes("reset_before", 0.04, endpoint="stop"),
    _sometimes("reset_after", 0.04, endpoint="stop"),
    _sometimes("apply_late", 0.04, endpoint="stop", seconds=1.7),
    _sometimes("delay", 0.05, endpoint="stop", seconds=0.8),
)

_LISTS: Final[Sequence[Fault]] = (
    _sometimes("error", 0.1, endpoint="list", status=500),
    _sometimes("hang_before", 0.03, endpoint="list"),
    _sometimes("delay", 0.1, endpoint="list", seconds=0.3),
)


_FOREIGN: Final = ((200, "html"), (202, "empty"), (204, "empty"))
_PAGES: Final[Sequence[Fault]] = tuple(
    _sometimes(action, 0.04, endpoint=endpoint, status=status, body=body)
    for endpoint in ("start", "stop")
    for action in ("error", "error_after_apply")
    for status, body in _FOREIGN
)
"""One start and stop in four gets a success that VideoSDK did not write, and half of those never reached it."""

_REFUSALS: Final[Sequence[Fault]] = (
    _sometimes("refuse", 0.12, endpoint="start", status=400),
    _sometimes("refuse", 0.06, endpoint="start", status=401),
    _sometimes("refuse", 0.08, endpoint="start", status=403),
    _sometimes("refuse", 0.05, endpoint="stop", status=400),
    _sometimes("refuse", 0.05, endpoint="stop", status=403),
    _sometimes("refuse", 0.04, endpoint="list", status=400),
    _sometimes("refuse", 0.04, endpoint="list", status=401),
    _sometimes("refuse", 0.04, endpoint="list", status=403),
)
"""About the room, the participant or the token: a harmless call tells, and it is refused now and then as well."""


def _detected(history: History, log: str) -> list[str]:
    """Where duplicates cannot be excluded, those that last have to be noticed."""
    if count_duplicates(history, lasting=history.limits.trust + _NOTICED) and "duplicate.suspected" not in log:
        return ["there were duplicates that lasted, and no gateway suspected any"]
    return []


def _at_most(history: History, log: str, most: int) -> list[str]:
    duplicates = count_duplicates(history)
    found = [] if duplicates <= most else [f"{duplicates} duplicates, where {most} are allowed"]
    return found + _detected(history, log)


def _one_for_each_track(history: History, log: str) -> list[str]:
    splits = sum(trouble.detail == "split" for trouble in history.troubles)
    return _at_most(history, log, splits * len(history.tracks))


def _one_for_each_kill(history: History, log: str) -> list[str]:
    return _at_most(history, log, sum(trouble.what == "kill" for trouble in history.troubles))


def _one_for_each_late_start(history: History, log: str) -> list[str]:
    return _at_most(history, log, sum(call.fault == "apply_late" for call in history.upstream))


def _one_for_each_replica(history: History, log: str) -> list[str]:
    """Without Redis each gateway starts once; then there is one recording for each of them at most."""
    most = max((peak_open(history, track) for track in history.tracks), default=0)
    found = [] if most <= 3 else [f"{most} recordings of one track at once, and three gateways"]
    return found + _detected(history, log)


def _one_for_each_empty_list(history: History, log: str) -> list[str]:
    return _at_most(history, log, sum(call.fault == "empty_once" for call in history.upstream))


def _one_for_each_step(history: History, log: str) -> list[str]:
    forward = sum(one.what == "clock" and one.detail.startswith("+60") for one in history.troubles)
    return _at_most(history, log, forward * len(history.tracks))


def _some_were_turned_away(history: History, _: str) -> list[str]:
    """The bound was met, and whoever was within it was answered."""
    problems = Counter(call.problem for call in history.calls)
    return [] if problems["too-many-waiting"] else [f"nobody was turned away: {dict(problems)}"]


def _none_outlives_a_stop(history: History, log: str) -> list[str]:
    """However many recordings there were of a track: none is left where a stop came last, and they were noticed."""
    last = {call.track: call for call in sorted(history.calls, key=lambda call: call.begun) if call.op != "get"}
    stopped = {track for track, call in last.items() if call.op == "stop" and call.ok}
    left = {one.track for one in history.intervals if one.closed == math.inf} & stopped
    return [f"{track} is stopped, and recorded" for track in sorted(left)] + _detected(history, log)


def _sentinels(folder: Path) -> Group:
    return Sentinels(folder, server_binary())


def _cluster(_: Path) -> Group:
    return Cluster(server_binary())


_DISTRUSTFUL: Final = Limits(trust=0.8)
"""Where something goes around the protocol, nobody may believe in what was for long."""
_FORGETFUL: Final = Limits(trust=0.8, loses_data=True)
_DOUBTFUL: Final = Limits(trust=0.8)
"""Where the list is to be asked often."""
_UNPROMISED: Final = Limits(trust=0.8, loses_data=True, duplicates=None)

_SLOW: Final = (_sometimes("delay", 1.0, endpoint="start", seconds=0.05, when="after"),)
"""Long enough for others to meet the leader at work."""

_NOTICED: Final = 2.0
"""Seconds from when a record is not believed any more until somebody has asked and looked."""

ROWS: Final[Sequence[Row]] = (
    Row("0", "calm", faults=_SLOW),
    Row("1", "kill -9 a gateway at random", nemeses.kill_at_random, faults=_SLOW, replicas=5, longer=1.2),
    Row("1 steps", "kill -9 the leader at each step", nemeses.kill_leaders, faults=_SLOW, replicas=5, longer=1.4),
    Row("2", "kill -9 all gateways at once", nemeses.kill_all, faults=_SLOW),
    Row("3", "stop leaders in their tracks", nemeses.pause_leaders, faults=_SLOW, replicas=4),
    Row("4", "block leaders' event loops", nemeses.block_leaders, faults=_SLOW, replicas=4, longer=2.2,
        stage={"variants": blockable}),
    Row("5", "stop Redis in its tracks", nemeses.pause_server, faults=_SLOW, limits=_DISTRUSTFUL),
    Row("5 long", "stop Redis for longer than anybody waits", nemeses.pause_server_long, faults=_SLOW,
        limits=_DISTRUSTFUL, longer=2.4),
    Row("6", "Redis slow, replies lost, resets", nemeses.spoil_network, faults=_SLOW, limits=_DISTRUSTFUL),
    Row("7", "Redis emptied", nemeses.empty_server, faults=_SLOW, limits=_FORGETFUL, longer=2.2),
    Row("7 file", "Redis restarted with its file", nemeses.restart_server, faults=_SLOW,
        valkey=("--appendonly", "yes", "--appendfsync", "everysec"), limits=_FORGETFUL,
        longer=1.5),
    Row("8", "failover that loses the last 0.6 s", nemeses.fail_over, faults=_SLOW, limits=_FORGETFUL),
    Row("8 cold", "the same, 60 tracks seldom touched", nemeses.fail_over, faults=_SLOW, tracks=60,
        pace=Pace(think=0.2), limits=_FORGETFUL),
    Row("8 demoted", "a pair behind one address changes roles", nemeses.change_roles, faults=_SLOW, longer=1.5,
        limits=_FORGETFUL),
    Row("8 sentinel", "Sentinels lose a master, and its last 0.5 s", nemeses.lose_masters, faults=_SLOW, longer=2.3,
        stage={"group": _sentinels}, limits=_FORGETFUL),
    Row("8 cluster", "a Cluster loses a master, and its last 0.5 s", nemeses.lose_masters, faults=_SLOW, longer=2.3,
        tracks=18, stage={"group": _cluster}, limits=_FORGETFUL),
    Row("9", "old master keeps half the gateways", nemeses.split_brain, faults=_SLOW, pace=Pace(stops=0.05),
        limits=_UNPROMISED, judge=_one_for_each_track),
    Row("10", "Redis emptied and its leader killed", nemeses.lose_leader_and_data, faults=_SLOW, replicas=4,
        longer=2.0,
        limits=_UNPROMISED, judge=_one_for_each_kill),
    Row("11", "Redis away", nemeses.server_away, faults=_SLOW, limits=_DISTRUSTFUL),
    Row("11 degrade", "Redis away, starts are done all the same", nemeses.server_away, faults=_SLOW,
        settings={"GATEWAY_WITHOUT_REDIS": "degrade"}, limits=_UNPROMISED, judge=_one_for_each_replica),
    Row("12", "subscribers cut off", nemeses.cut_subscribers, faults=_SLOW),
    Row("12 acl", "subscribing forbidden, then the channel", nemeses.forbid_subscribing, faults=_SLOW,
        limits=_DISTRUSTFUL),
    Row("13", "VideoSDK misbehaves", faults=[*_STARTS, *_STOPS, *_LISTS], tracks=18),
    Row("13+1", "VideoSDK misbehaves, and kill -9", nemeses.kill_at_random, faults=[*_STARTS, *_STOPS], replicas=5,
        tracks=18),
    Row("13 pages", "successes that VideoSDK did not write", faults=_PAGES, tracks=18),
    Row("13 refusals", "refusals of the room and of the token", faults=[*_REFUSALS, *_SLOW], tracks=18,
        settings={"GATEWAY_RETRY_REFUSED_SECONDS": "1.5"}),
    Row("14", "VideoSDK's list lags", faults=[*_STARTS, *_SLOW], tracks=18, simulator={"list_lag_seconds": 0.4}),
    Row("14 wrong", "VideoSDK's list fails, ignores filters, has pages", tracks=18,
        faults=[_sometimes("unfiltered", 0.3, endpoint="list"), _sometimes("error", 0.2, endpoint="list", status=500),
                *_STARTS, *_SLOW],
        simulator={"most_per_page": 5}, limits=_DOUBTFUL),
    Row("14 empty", "VideoSDK's list is empty now and then", tracks=18,
        faults=[_sometimes("empty_once", 0.1, endpoint="list"), *_STARTS, *_SLOW],
        limits=_UNPROMISED, judge=_one_for_each_empty_list),
    Row("15", "VideoSDK applies after the quiet time", tracks=18, pace=Pace(stops=0.04),
        faults=[*_SLOW, _sometimes("apply_late", 0.15, endpoint="start", seconds=4.5)],
        limits=_UNPROMISED, judge=_one_for_each_late_start),
    Row("16", "recordings end by themselves", nemeses.end_recordings, faults=_SLOW, limits=_DISTRUSTFUL),
    Row("16 open", "sessions end, and their rows stay open for ever", nemeses.leave_rows_open, faults=_SLOW,
        limits=_DISTRUSTFUL),
    Row("16 two", "another client starts what is recorded, and a stop ends one of two", nemeses.start_beside,
        faults=_SLOW, simulator={"duplicates": "accept", "stops": "one"}, settings={"GATEWAY_CHECK_SECONDS": "1"},
        limits=_UNPROMISED, judge=_none_outlives_a_stop),
    Row("17 near", "Redis's clock steps by 2/5 of the settle time", nemeses.step_near, faults=_SLOW,
        stage={"binary": server_with_clock}, limits=_FORGETFUL, needs=lacks_faketime),
    Row("17 far", "Redis's clock steps by a minute", nemeses.step_far, faults=_SLOW,
        stage={"binary": server_with_clock}, limits=_UNPROMISED, judge=_one_for_each_step, needs=lacks_faketime),
    Row("17 wall", "gateways an hour fast, slow and right", nemeses.kill_leaders, faults=_SLOW, replicas=4,
        stage={"variants": other_clocks}, needs=lacks_faketime),
    Row("18", "clients that leave or hurry", faults=[*_SLOW, _sometimes("delay", 0.3, endpoint="start", seconds=0.4)],
        pace=Pace(hurried=0.25, leaving=0.25)),
    Row("19", "more callers than may wait, few places at VideoSDK", nemeses.crowd,
        faults=[_sometimes("delay", 1.0, endpoint="start", seconds=0.3)], pace=Pace(think=0.4),
        settings={"GATEWAY_UPSTREAM_CONCURRENCY": "2", "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "10",
            "GATEWAY_REQUEST_DEADLINE_SECONDS": "20"},
        limits=Limits(upstream_timeout=10.0, quiet=11.65), judge=_some_were_turned_away),
    Row("20", "rolling restarts", nemeses.roll, faults=_SLOW),
    Row("20 two", "two versions of the scripts, and forgotten ones", nemeses.roll_and_forget, faults=_SLOW,
        stage={"variants": two_versions}),
    Row("refused", "VideoSDK refuses connections", nemeses.refuse_connections, faults=_SLOW, stage={"door": True}),
    Row("start after stop", "VideoSDK refuses a start right after a stop", faults=_SLOW,
        simulator={"processing_seconds": 0.8}),
)  # fmt: skip

SHORT: Final = ("1 steps", "7", "13", "3")
"""The rows of the short form."""
