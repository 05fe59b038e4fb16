"""Recordings that may last only so long, on tracks of their own beside the crowd's: do they end in time?

The API's least duration is a minute, longer than a row lasts. So a start asks for that, and the moment is then set in
the record. Where Redis forgets, that would be forgotten too, and not as what a gateway wrote: those rows have none.
"""

import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from tests.faults.clients import Caller, Place, Track
from tests.faults.history import End, History, Trouble, UpstreamCall

__all__ = ["BOUND", "late", "set_ends", "summary"]

BOUND: Final = 5.0
"""Seconds after its end within which the first stop of a recording is sent."""
_EARLY: Final = 0.25


async def _set_end(redis: "Redis", track: Track, seconds: float) -> End | None:
    """Have what a target's record tells of end in so many seconds; None where it tells of nothing that runs."""
    kind = track.kind if track.mode == "track" else ""
    match = f"rec:*:{track.room}:{track.mode}:{track.participant}:{kind}"
    keys = [key async for key in redis.scan_iter(match=match, count=1_000)]
    if not keys:
        return None
    record = str(keys[0])
    moved: Any = await redis.eval(  # pyright: ignore[reportGeneralTypeIssues]
        """
        local state, holder = unpack(redis.call('HMGET', KEYS[1], 'state', 'holder'))
        if state ~= 'recording' or holder then return 0 end
        local t = redis.call('TIME')
        local at = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[1])
        redis.call('HSET', KEYS[1], 'stops_at', at)
        redis.call('ZADD', KEYS[2], at, KEYS[1])
        return 1
        """,
        2,
        record,
        f"{':'.join(record.split(':')[:3])}:ends",
        str(round(seconds * 1000)),
    )
    return End(track=track.name, at=time.monotonic() + seconds) if moved else None


async def set_ends(
    caller: Caller,
    redis: "Redis",
    place: Callable[[], Awaitable[Place]],
    tracks: Sequence[Track],
    seconds: float,
    seed: int,
) -> list[End]:
    """Start recordings, and have them end at moments spread over so many seconds.

    Args:
        caller: Who starts them; no rule judges its calls.
        redis: Where their records lie.
        place: Chooses a gateway.
        tracks: What to record.
        seconds: From now on.
        seed: Chooses the moments.
    """
    moments, begun, ends = random.Random(seed), time.monotonic(), list[End]()
    for track in tracks:
        call = await caller.call(await place(), "start", track, max_duration=60)
        left = begun + moments.uniform(0.2, 1.0) * seconds - time.monotonic()
        end = await _set_end(redis, track, max(left, 0.0)) if call.ok else None
        ends += [end] if end is not None else []
    return ends


class Overrun(NamedTuple):
    """How late the first stop of a recording reached VideoSDK, in seconds after its end.

    Attributes:
        track: Whose recording.
        seconds: How late it was.
        away: For how long Redis or VideoSDK was away.
        stalled: For how long the machine kept processes from their work.
    """

    track: str
    seconds: float
    away: float
    stalled: float


def overruns(history: History) -> list[Overrun]:
    """Return what became of each recording that has to end."""
    return [
        Overrun(
            end.track,
            _first_stop(history.upstream, end) - end.at,
            _lasted(history.troubles, end, "redis", "upstream"),
            _lasted(history.troubles, end, "stall"),
        )
        for end in history.ends
    ]


def late(history: History) -> list[str]:
    """Say which recordings did not end in time, where a replica lived that could reach Redis and VideoSDK."""
    found = [
        one for one in overruns(history) if one.seconds < -_EARLY or one.seconds > max(one.away, one.stalled) + BOUND
    ]
    return [
        f"{one.track} was stopped {abs(one.seconds):.1f} s {'after' if one.seconds > 0 else 'before'} its end"
        for one in found
    ]


def summary(histories: Sequence[History]) -> str:
    """Say how late recordings were stopped that had to end."""
    every = [one for history in histories for one in overruns(history)]
    free = [one.seconds for one in every if not one.away]
    return (
        f"{len(every)} recordings had to end; VideoSDK got the stop {max(free, default=0.0):.1f} s later at most, "
        f"but for {len(every) - len(free)} at whose end Redis or VideoSDK was away"
    )


def _first_stop(calls: Sequence[UpstreamCall], end: End) -> float:
    stops = (call.received for call in calls if call.endpoint == "stop" and call.track == end.track)
    return min(stops, default=math.inf)


def _lasted(troubles: Sequence[Trouble], end: End, *kinds: str) -> float:
    """Return how many seconds after an end trouble of some kinds lasted, with what came within the bound after it."""
    until = end.at
    for trouble in sorted(troubles, key=lambda one: one.begun):
        if trouble.what in kinds and trouble.begun <= until + BOUND:
            until = max(until, trouble.ended)
    return until - end.at
