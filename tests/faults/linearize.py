"""Wing and Gong's search: is there one order of a track's calls in which a single register gives the same answers?

Each call takes effect at one instant between its beginning and its end, and the register is recorded or not. The other
rules judge each call against what really was. This one looks at the clients' answers alone, and together: two who were
both told that they ended the one recording there was contradict each other, though each could be right.

    start   started                    nothing -> a recording with this id, which is new, and these parameters
            joined, already_recording  a recording with this id
            without a definite answer  perhaps: nothing -> a recording
    stop    stopped                    a recording -> nothing
            not_recording              nothing; where Redis forgets, also a recording -> nothing: its own doing, which
                                       nobody remembers
            joined                     nothing, or a recording -> nothing: whoever led the start before it did it
            without a definite answer  perhaps: a recording -> nothing
    selfend                            a recording -> nothing; callers may believe in it for the trust time
    a start that VideoSDK carried out and could not answer, or answered when a gateway had just been stopped or killed:
    perhaps nothing -> a recording. Its leader may have lost its claim before it read the answer, and its callers then
    be told of the next one, begun after somebody stopped this one

Calls that change nothing are put in as soon as they fit, which loses no order, and of those that do the same the one
that ends first; so only different changes are tried out, and the search also ends for crowds. Where there is too much
to try it gives up, and says so (`too_big`).
"""

import math
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from msgspec import Struct

from tests.faults.history import ClientCall, Interval, Limits, Trouble, UpstreamCall

__all__ = ["Verdict", "linearize"]

_MAX_CONFIGURATIONS: Final = 5_000
_NO_EFFECT: Final = frozenset({
    "parameters-differ", "upstream-refused", "upstream-limited", "upstream-unavailable", "too-many-waiting",
    "coordination-unavailable",
})  # fmt: skip
"""Answers to a start that say that it did nothing."""
_SLACK: Final = 0.25
_LATE: Final = 15.0
"""Seconds for which a start whose caller knows nothing may still be carried out."""
_ANY: Final = "*"


_Does = Literal["begin", "see", "begin-or-see", "end", "end-or-miss", "miss", "self-end"]


class _Operation(Struct, frozen=True, kw_only=True):
    """One step of the register, somewhere between two moments."""

    number: int
    does: _Does
    begun: float
    ended: float
    perhaps: bool = False
    """It need not have happened."""
    id: str = _ANY
    params: str = _ANY
    text: str = ""


State = tuple[str, str] | None
"""Id and parameters of what is recorded."""


class _Configuration(Struct, frozen=True):
    """What the register may be, which of the operations under way are over, and which ids there have been."""

    state: State
    over: frozenset[int] = frozenset()
    known: frozenset[str] = frozenset()


_OUTCOMES: Final[dict[str, _Does]] = {"started": "begin", "joined": "see"}
_OUTCOMES_OF_STOPS: Final[dict[str, _Does]] = {"stopped": "end", "not_recording": "miss"}


class Verdict(Struct, frozen=True):
    """What came of a search: nothing wrong, or the operation that fits nowhere, and when it had to."""

    good: bool
    at: float = 0.0
    text: str = ""
    too_big: bool = False


def linearize(
    calls: Iterable[ClientCall],
    intervals: Iterable[Interval],
    posts: Iterable[UpstreamCall],
    limits: Limits,
    troubles: Iterable[Trouble] = (),
) -> Verdict:
    """Search an order for the calls of one track.

    Args:
        calls: What its clients asked and were told.
        intervals: What was recorded: of these, only which ended by themselves, and when anything began.
        posts: What VideoSDK saw: of these, only the stops that went around Redis and the starts that got no answer.
        limits: Trust and quiet time; where Redis forgets, ids mean nothing.
        troubles: What was done to the gateways: of these, only when one was stopped or killed.
    """
    deaf = [trouble for trouble in troubles if trouble.what in {"pause", "kill"}]
    operations = list(_operations(list(calls), list(intervals), list(posts), limits, deaf))
    # What begins at the moment at which something else ends was under way together with it.
    moments = sorted(
        [(one.begun, 0, one.number) for one in operations] + [(one.ended, 1, one.number) for one in operations]
    )
    told = {one.id for one in operations if one.does == "begin" and not one.perhaps}
    under_way: dict[int, _Operation] = {}
    reached = {_Configuration(None)}
    for moment, ends, number in moments:
        if moment == math.inf:
            break
        one = operations[number]
        if not ends:
            under_way[number] = one
            reached = {_with_reads(configuration, under_way, told) for configuration in reached}
            continue
        if not one.perhaps:
            found = _until(one, reached, under_way, told)
            if found is None:
                return Verdict(good=True, at=moment, too_big=True)
            if not found:
                return Verdict(good=False, at=moment, text=one.text)
            reached = found
        del under_way[number]
        reached = {
            _Configuration(configuration.state, configuration.over - {number}, configuration.known)
            for configuration in reached
        }
    return Verdict(good=True)


def _operations(
    calls: list[ClientCall],
    intervals: list[Interval],
    posts: list[UpstreamCall],
    limits: Limits,
    deaf: list[Trouble],
) -> Iterator[_Operation]:
    around = [post for post in posts if post.endpoint == "stop" and not post.attempt]
    number = 0
    for call in calls:
        # Of a stop that went around the protocol nobody is told at once: what it did counts as an end by itself. But it
        # may have been carried out within the protocol before.
        uncertain_since = any(post.received <= call.ended and post.ended >= call.begun for post in around)
        if call.op == "start":
            operation = _start(number, call, intervals, limits)
        else:
            operation = _stop(number, call, limits, uncertain_since=uncertain_since)
        if operation is not None:
            yield operation
            number += 1
    for post in posts:
        if post.endpoint == "start" and post.applied is not None and _unheard(post, deaf):
            yield _Operation(
                number=number, does="begin", begun=post.received, ended=post.received + limits.quiet + _LATE,
                perhaps=True, text="a start without an answer",
            )  # fmt: skip
            number += 1
    for one in intervals:
        if one.unseen and one.closed != math.inf:
            until = one.closed + limits.trust + _SLACK
            yield _Operation(number=number, does="self-end", begun=one.closed, ended=until, text="an end by itself")
            number += 1


def _unheard(post: UpstreamCall, deaf: list[Trouble]) -> bool:
    """Return whether nobody may have read the answer to a call. Which gateway had sent it is not known here."""
    if post.answered is None:
        return post.gone is not None
    return any(one.begun - _SLACK <= post.answered <= one.ended + _SLACK for one in deaf)


def _start(number: int, call: ClientCall, intervals: list[Interval], limits: Limits) -> _Operation | None:
    text = f"start({call.params}): {call.outcome or call.problem} {call.id[-6:]}"
    name = _ANY if limits.loses_data or not call.id else call.id
    if call.ok:
        does = _OUTCOMES.get(call.outcome, "begin-or-see")
        params = _ANY if does == "begin-or-see" else call.params
        return _Operation(
            number=number, does=does, begun=call.begun, ended=call.ended, id=name, params=params, text=text
        )
    until = call.ended + limits.quiet + _LATE
    really = any(one.params == call.params and call.begun <= one.opened <= until for one in intervals)
    if call.problem in _NO_EFFECT or not really:
        return None
    return _Operation(
        number=number, does="begin", begun=call.begun, ended=until, perhaps=True, params=call.params, text=text
    )


def _stop(number: int, call: ClientCall, limits: Limits, *, uncertain_since: bool) -> _Operation | None:
    if call.op != "stop":
        return None
    text = f"stop: {call.outcome or call.problem}"
    if call.status == 200 and not uncertain_since:
        does = _OUTCOMES_OF_STOPS.get(call.outcome, "end-or-miss")
        if does == "miss" and limits.loses_data:
            does = "end-or-miss"
        return _Operation(number=number, does=does, begun=call.begun, ended=call.ended, text=text)
    # Whoever was promised a stop, or does not know, may have it at any time.
    return _Operation(number=number, does="end", begun=call.begun, ended=math.inf, perhaps=True, text=text)


def _until(
    wanted: _Operation, reached: set[_Configuration], under_way: dict[int, _Operation], told: set[str]
) -> set[_Configuration] | None:
    """Try out every order of what is under way until an operation is over; None where that is too much."""
    found: set[_Configuration] = set()
    seen = set(reached)
    left = list(reached)
    while left:
        configuration = left.pop()
        if wanted.number in configuration.over:
            found.add(configuration)
            continue
        for one in _different(under_way, configuration):
            for after in _changes(one, configuration, told):
                settled = _with_reads(after, under_way, told)
                if settled not in seen:
                    seen.add(settled)
                    left.append(settled)
        if len(seen) > _MAX_CONFIGURATIONS:
            return None
    return found


def _different(under_way: dict[int, _Operation], configuration: _Configuration) -> Iterable[_Operation]:
    """Return what is under way and not over; of those that do the same, the one that ends first."""
    firsts: dict[object, _Operation] = {}
    for number, one in under_way.items():
        if number not in configuration.over:
            alike = (one.does, one.perhaps, one.id, one.params)
            if alike not in firsts or one.ended < firsts[alike].ended:
                firsts[alike] = one
    return firsts.values()


def _changes(one: _Operation, before: _Configuration, told: set[str]) -> Iterator[_Configuration]:
    """Carry one operation out, if the register allows it."""
    over = before.over | {one.number}
    if one.does in {"begin-or-see", "end-or-miss"} and _fits(one, before.state, told):
        yield _Configuration(before.state, over, before.known)
    match one.does:
        case "begin" if before.state is None and (one.id == _ANY or one.id not in before.known):
            yield _Configuration((one.id, one.params), over, _and(before.known, one.id))
        case "begin-or-see" if before.state is None and one.id not in told and one.id not in before.known:
            # Found where nobody knew of it, by the very call that had begun it, or by another.
            yield _Configuration((one.id, _ANY), over, _and(before.known, one.id))
        case "end" | "end-or-miss" if before.state is not None:
            yield _Configuration(None, over, before.known)
        case "self-end":
            yield _Configuration(None, over, before.known)
        case _:
            return


def _with_reads(configuration: _Configuration, under_way: dict[int, _Operation], told: set[str]) -> _Configuration:
    """Put in everything under way that changes nothing and fits."""
    fits = {
        number for number, one in under_way.items()
        if one.does in {"see", "miss"} and number not in configuration.over and _fits(one, configuration.state, told)
    }  # fmt: skip
    if not fits:
        return configuration
    return _Configuration(configuration.state, configuration.over | fits, configuration.known)


def _fits(one: _Operation, state: State, told: set[str]) -> bool:
    if one.does in {"miss", "end-or-miss"}:
        return state is None
    if one.does not in {"see", "begin-or-see"} or state is None:
        return False
    name, params = state
    same = one.id in {_ANY, name} or (name == _ANY and one.id not in told)
    return same and (_ANY in {one.params, params} or one.params == params)


def _and(known: frozenset[str], name: str) -> frozenset[str]:
    return known if name == _ANY else known | {name}
