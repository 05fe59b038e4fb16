"""Decides from a history alone whether the gateway kept its promises.

The rules, for each track by itself:

    duplicates  no start took effect while an earlier recording was open
    R1 R2       a start that succeeded overlaps a time when the track was recorded, with the parameters asked for; where
                a recording ended by itself, or by a stop that went around Redis, a gateway may believe in it for the
                trust time
    R3          an error belongs to something that happened upstream, to Redis or to the process during the call
    R4          a stop that succeeded overlaps a time when nothing recorded
    R5          starts and stops of one track do not overlap upstream, unless nobody can know how the earlier one ended,
                or one of them is a stop that went around Redis
    R7          those who are told one id were told of one recording, and one recording has one id
    R8          "other parameters" only where there were other parameters
    WG          there is one order of all calls in which one register gives the same answers (`linearize`)
    R9          at rest everything is known, nothing is open twice, and the last wish is what is true

Only from R3 is a call excused where the machine had kept a process from its work, and only where its answer is one that
comes of a time-out. How many were is counted: a history of many such calls says little about the gateway.
"""

import math
from collections.abc import Iterator

from msgspec import Struct

from tests.faults.history import LOST, ClientCall, History, Interval
from tests.faults.linearize import linearize

__all__ = ["Judgement", "Violation", "check", "count_duplicates", "judge", "peak_open"]

_SLACK = 0.25
"""Seconds between an event and its traces: wake-ups, a busy machine."""
_AFTERMATH = 2.0
"""Seconds for which trouble is felt after it has ended: reconnecting, time-outs that had begun."""
_LATE_EFFECT = 1.5
"""Seconds within which a request whose client has gone may still be taken up."""
_REDIS_PATIENCE = 3.0 + _SLACK
"""Seconds within which a caller is told that Redis does not answer."""
_MAX_WAITING = 1_000
"""How many callers may wait for one track in one process."""
_RECOVERY = 12.0
"""How long after the quiet time a gateway goes on asking a list that fails."""


class Violation(Struct, frozen=True):
    """A broken promise: which rule, of which track, around which moment."""

    rule: str
    track: str
    at: float
    text: str


class Judgement(Struct, frozen=True):
    """What came of a history.

    Attributes:
        violations: Every broken promise, the earliest first.
        searches: For how many tracks an order of the calls was searched.
        given_up: How many of these searches grew too big, and say nothing.
        excused: How many calls ended in a time-out for which the machine is to blame.
    """

    violations: list[Violation]
    searches: int = 0
    given_up: int = 0
    excused: int = 0


def check(history: History) -> list[Violation]:
    """Return every violation, the earliest first."""
    return judge(history).violations


def judge(history: History) -> Judgement:
    """Hold a history against every rule."""
    found: list[Violation] = []
    searches = given_up = excused = 0
    for track in history.tracks:
        view = _View(history, track)
        # Where duplicates cannot be excluded, neither can answers that speak of the other recording.
        rules = (_errors,) if history.limits.duplicates is None else _RULES
        for rule in rules:
            found.extend(rule(view))
        excused += view.excused
        if history.limits.duplicates is not None:
            verdict = linearize(view.calls, view.intervals, view.posts, view.limits, view.troubles)
            searches += 1
            given_up += verdict.too_big
            if not verdict.good:
                found.append(view.violation("WG", verdict.at, f"no order of the calls allows {verdict.text}"))
    duplicates = _duplicates(history)
    if history.limits.duplicates is not None and len(duplicates) > history.limits.duplicates:
        found.extend(duplicates)
    found.extend(Violation("R9", key, 0.0, "a key without a TTL") for key in history.keys_without_ttl)
    return Judgement(sorted(found, key=lambda violation: violation.at), searches, given_up, excused)


def count_duplicates(history: History, *, lasting: float = 0.0) -> int:
    """Return how many starts took effect while an earlier recording of the track was open, and stayed so for a time."""
    return len(_duplicates(history, lasting))


def peak_open(history: History, track: str) -> int:
    """Return how many recordings of a track were open at the same time, at most."""
    one_track = [one for one in history.intervals if one.track == track]
    return max((sum(other.opened <= one.opened < other.closed for other in one_track) for one in one_track), default=0)


def _duplicates(history: History, lasting: float = 0.0) -> list[Violation]:
    found: list[Violation] = []
    by_track: dict[str, list[Interval]] = {}
    for interval in sorted(history.intervals, key=lambda interval: interval.opened):
        earlier = by_track.setdefault(interval.track, [])
        if any(min(other.closed, interval.closed) > interval.opened + lasting for other in earlier):
            found.append(Violation("duplicate", interval.track, interval.opened, "started while it was recorded"))
        earlier.append(interval)
    return found


class _View:
    """The history of one track."""

    def __init__(self, history: History, track: str) -> None:
        self.track = track
        self.limits = history.limits
        self.troubles = history.troubles
        self.calls = [call for call in history.calls if call.track == track]
        self.intervals = sorted(
            (interval for interval in history.intervals if interval.track == track), key=lambda one: one.opened
        )
        self.posts = sorted(
            (call for call in history.upstream if call.track == track and call.endpoint in {"start", "stop"}),
            key=lambda call: call.received,
        )
        place = track.rpartition("/")[0]
        self.listings = [call for call in history.upstream if call.endpoint == "list" and call.track == place]
        self.finals = [final for final in history.finals if final.track == track]
        self.excused = 0

    def violation(self, rule: str, at: float, text: str) -> Violation:
        return Violation(rule, self.track, at, text)

    def believable(self, call: ClientCall) -> list[Interval]:
        """Return the recordings that a start answered in this window may have been told of."""
        return [
            one
            for one in self.intervals
            if one.opened <= call.ended and (one.closed + self.limits.trust if one.unseen else one.closed) >= call.begun
        ]

    def troubled(self, call: ClientCall, *kinds: str, own: bool = False, after: float = _AFTERMATH) -> bool:
        """Return whether trouble of one of these kinds was, or had just been, during a call."""
        return any(
            trouble.what in kinds
            and (not own or trouble.process == call.process)
            and trouble.begun <= call.ended + _SLACK
            and trouble.ended + after >= call.begun
            for trouble in self.troubles
        )


def _started(view: _View) -> Iterator[Violation]:
    for call in view.calls:
        if call.op != "start" or not call.ok:
            continue
        if call.status == 201 and call.outcome != "started":
            yield view.violation("R1", call.ended, f"201 with the outcome {call.outcome}")
        recordings = view.believable(call)
        if not recordings:
            yield view.violation("R2", call.ended, f"{call.outcome} while nothing was recorded")
        elif call.outcome in {"started", "joined"} and all(one.params != call.params for one in recordings):
            yield view.violation("R1", call.ended, f"{call.outcome}, but with other parameters than {call.params!r}")


def _stopped(view: _View) -> Iterator[Violation]:
    for call in view.calls:
        if call.op == "stop" and call.status == 200 and not _free_moment(view.intervals, call.begun, call.ended):
            yield view.violation("R4", call.ended, f"{call.outcome} while it was recorded all the time")


def _free_moment(intervals: list[Interval], begun: float, ended: float) -> bool:
    """Return whether there is an instant between two at which no recording was open."""
    covered = begun
    for interval in intervals:
        if interval.opened > covered:
            break
        covered = max(covered, interval.closed)
    return covered < ended


def _errors(view: _View) -> Iterator[Violation]:
    for call in view.calls:
        if not call.ok and (wrong := _unexplained(view, call)):
            if _kept_from_its_work(view, call):
                view.excused += 1
            else:
                yield view.violation("R3", call.ended, f"{call.op}: {wrong}")


def _kept_from_its_work(view: _View, call: ClientCall) -> bool:
    """Return whether an answer is such as comes of a time-out, and may come of a stall that the machine caused."""
    stalls = [stall for stall in view.troubles if stall.what == "stall" and stall.begun <= call.ended]
    # The process that was asked, or what it and all others depend on.
    own = [stall for stall in stalls if stall.process in {call.process, ""}]
    match call.problem:
        case "coordination-unavailable":
            return any(stall.ended + _AFTERMATH >= call.begun for stall in own)
        case "upstream-unavailable":
            # Whoever led the operation may be another process.
            return any(stall.ended + _AFTERMATH >= call.begun for stall in stalls)
        case "outcome-unknown":
            # Nobody knows better until the quiet time is over, and somebody has claimed the track and asked.
            unknown = view.limits.quiet + view.limits.lease + _AFTERMATH
            return any(stall.ended + unknown >= call.begun for stall in stalls)
        case "" if call.status == LOST and call.ended - call.begun >= call.deadline:
            return any(stall.ended >= call.begun for stall in own)
        case _:
            return False


_REFUSALS = {
    "upstream-refused": {400, 401, 402, 403, 404, 409, 422},
    "upstream-credentials-refused": {400, 401, 403},
    "upstream-limited": {429, 503},
}
"""What VideoSDK has to have answered for each of these problems."""


def _unexplained(view: _View, call: ClientCall) -> str:
    """Return what is wrong with an answer that is no success; nothing where it is explained."""
    longest = view.limits.upstream_timeout
    match call.problem:
        case "" if call.status == LOST:
            explained = call.left or view.troubled(call, "kill", "pause", "term", own=True)
        case "not-found" if call.op == "get":
            explained = True
        case "parameters-differ":
            explained = True  # R8
        case "outcome-unknown":
            back = view.limits.quiet + _RECOVERY
            # Whoever finds a track that nobody finished does not know whether a call was sent for it.
            # Nor does whoever cannot ask the list.
            doubts = [post for post in view.posts if post.ambiguous(longest)]
            doubts += [listing for listing in view.listings if listing.ambiguous(longest) or listing.status != 200]
            explained = view.troubled(call, "kill", "pause", "redis", "upstream", after=back) or any(
                call.begun - back <= doubt.received <= call.ended for doubt in doubts
            )
        case refusal if refusal in _REFUSALS:
            explained = _answered(view, call, _REFUSALS[refusal])
        case "upstream-unavailable":
            explained = view.troubled(call, "upstream", "pause")
        case "coordination-unavailable":
            explained = view.troubled(call, "redis", "pause")
            waited = call.ended - _redis_gone(view, call)
            if explained and not view.troubled(call, "pause") and waited > _REDIS_PATIENCE:
                return f"{call.status} {call.problem} only after {waited:.1f} s"
        case "too-many-waiting":
            explained = sum(one.begun <= call.ended and one.ended >= call.begun for one in view.calls) > _MAX_WAITING
        case "deadline-exceeded":
            explained = call.ended - call.begun >= call.deadline - _SLACK
        case _:
            explained = False
    return "" if explained else f"{call.status} {call.problem or 'no answer'} without a cause"


def _redis_gone(view: _View, call: ClientCall) -> float:
    """Return when a call was first kept waiting by Redis, as opposed to an operation that it waited for."""
    troubles = [one.begun for one in view.troubles if one.what == "redis" and one.begun <= call.ended]
    return max([call.begun, *troubles])


def _answered(view: _View, call: ClientCall, statuses: set[int]) -> bool:
    """Return whether something upstream answered so while the call, or the operation that it joined, was under way."""
    back = call.begun - view.limits.upstream_timeout - _SLACK
    return any(
        other.status in statuses and other.ended >= back and other.received <= call.ended
        for other in [*view.posts, *view.listings]
    )


def _upstream_overlaps(view: _View) -> Iterator[Violation]:
    posts = [post for post in view.posts if post.attempt]
    for position, earlier in enumerate(posts):
        if earlier.ambiguous(view.limits.upstream_timeout):
            continue
        for later in posts[position + 1 :]:
            if later.received < earlier.ended:
                text = f"{later.endpoint} {later.attempt} was sent during {earlier.endpoint} {earlier.attempt}"
                yield view.violation("R5", later.received, text)


def _ids(view: _View) -> Iterator[Violation]:
    told: dict[str, list[ClientCall]] = {}
    for call in view.calls:
        if call.op == "start" and call.ok and call.id:
            told.setdefault(call.id, []).append(call)
    only: dict[float, str] = {}
    for name, calls in told.items():
        firsts = [call for call in calls if call.outcome == "started"]
        if len(firsts) > 1 and not view.limits.loses_data:
            yield view.violation("R7", firsts[1].ended, f"two requests were told that they started {name}")
        shared = [one for one in view.intervals if all(one in view.believable(call) for call in calls)]
        if not shared and not view.limits.loses_data and all(view.believable(call) for call in calls):
            yield view.violation("R7", calls[-1].ended, f"{name} is the id of more than one recording")
        if len(shared) == 1:
            other = only.setdefault(shared[0].opened, name)
            if other != name and not view.limits.loses_data:
                yield view.violation("R7", calls[0].ended, f"one recording has the ids {other} and {name}")


def _conflicts(view: _View) -> Iterator[Violation]:
    for call in view.calls:
        if call.problem != "parameters-differ":
            continue
        recorded = any(one.params != call.params for one in view.believable(call))
        asked = any(
            other.op == "start"
            and other.params != call.params
            and other.begun <= call.ended
            and _effect_ends(view, other) + view.limits.lease >= call.begun
            for other in view.calls
        )
        if not recorded and not asked:
            yield view.violation("R8", call.ended, f"nothing had other parameters than {call.params!r}")


def _effect_ends(view: _View, call: ClientCall) -> float:
    """Return until when a request may begin to have an effect."""
    if call.definite:
        return call.ended
    paused = [one.ended for one in view.troubles if one.what == "pause" and one.begun <= call.ended <= one.ended]
    return max([call.ended, *paused]) + _LATE_EFFECT


def _rest(view: _View) -> Iterator[Violation]:
    still_open = [one for one in view.intervals if one.closed == math.inf]
    for final in view.finals:
        if final.status not in {200, 404}:
            yield view.violation("R9", final.at, f"at rest the gateway answers {final.status}")
        elif final.status == 200 and final.state in {"unknown", "starting", "stopping"}:
            yield view.violation("R9", final.at, f"at rest it is still {final.state}")
        elif (final.state == "recording") != bool(still_open):
            truth = "it is recorded" if still_open else "nothing is recorded"
            yield view.violation("R9", final.at, f"the gateway says {final.state or final.status}, but {truth}")
        if len(still_open) > 1 and view.limits.duplicates == 0:
            yield view.violation("R9", final.at, f"{len(still_open)} recordings are open at rest")
        last = _last_wish(view)
        if last is None:
            continue
        if last.op == "stop" and still_open:
            yield view.violation("R9", final.at, f"recorded at rest, though the last wish was a stop ({last.outcome})")
        ended_alone = bool(view.intervals) and view.intervals[-1].unseen
        if last.op == "start" and not still_open and not ended_alone:
            yield view.violation("R9", final.at, f"not recorded at rest, though the last wish was a start ({last.id})")


def _last_wish(view: _View) -> ClientCall | None:
    """Return the request that was granted and came after every other had had its effect, where there is one."""
    wishes = [call for call in view.calls if call.op != "get"]
    last = max((call for call in wishes if call.ok), key=lambda call: call.begun, default=None)
    if last is None or any(other is not last and _effect_ends(view, other) > last.begun for other in wishes):
        return None
    return last


_RULES = (_started, _errors, _stopped, _upstream_overlaps, _ids, _conflicts, _rest)
