"""Recordings that may last only so long, on tracks of their own beside the crowd's: do they end in time?

The API's least duration is a minute, longer than a row lasts. So a start asks for that, and the moment is then set in
the record. Where Redis forgets, that would be forgotten too, and not as what a gateway wrote: those rows have none.
"""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from tests.faults.clients import Caller, Place, Track
from tests.faults.history import End, History, Trouble, UpstreamCall

__all__ = ["BOUND", "late", "overruns", "set_ends"]

BOUND: Final = 5.0
"""Seconds after its end within which the first stop of a recording is sent."""
_EARLY: Final = 0.25
_EXCUSES: Final = frozenset({"redis", "upstream", "stall"})
"""Troubles in which no replica can send a stop, or the machine is to blame."""


async def _set_end(redis: "Redis", track: str, seconds: float) -> End | None:
    """Have what a track's record tells of end in so many seconds; None where it tells of nothing that runs."""
    room, participant, kind = track.split("/")
    keys = [key async for key in redis.scan_iter(match=f"rec:*:{room}:*:{participant}:{kind}", count=1_000)]
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
    return End(track=track, at=time.monotonic() + seconds) if moved else None


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
        end = await _set_end(redis, track.name, max(left, 0.0)) if call.ok else None
        ends += [end] if end is not None else []
    return ends


def overruns(history: History) -> list[tuple[End, float]]:
    """Return for each recording that has to end how many seconds after that its first stop reached VideoSDK."""
    return [(end, _first_stop(history.upstream, end) - end.at) for end in history.ends]


def _first_stop(calls: Sequence[UpstreamCall], end: End) -> float:
    return min((call.received for call in calls if call.endpoint == "stop" and call.track == end.track), default=_NEVER)


_NEVER: Final = float("inf")


def late(history: History) -> list[str]:
    """Say which recordings did not end in time, where a replica lived that could reach Redis and VideoSDK."""
    found: list[str] = []
    for end, overrun in overruns(history):
        allowed = max([end.at, *(trouble.ended for trouble in history.troubles if _excuses(trouble, end))]) - end.at
        if overrun < -_EARLY:
            found.append(f"{end.track} was stopped {-overrun:.1f} s before its end")
        elif overrun > allowed + BOUND:
            found.append(f"{end.track} was stopped {overrun:.1f} s after its end")
    return found


def _excuses(trouble: Trouble, end: End) -> bool:
    return trouble.what in _EXCUSES and trouble.begun <= end.at + BOUND and trouble.ended >= end.at
