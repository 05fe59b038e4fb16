"""Every command on every kind of record, and every end of what it leads: what the scripts write, as text.

`transitions.txt` holds what they are to write. After a change of the protocol write it anew and read the difference:

    make transitions
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import redis

from gateway.sandbox.valkey import EmbeddedValkey
from tests.coordinator import test_decisions, written
from tests.coordinator.track import EMPTY, GRACE, LEASE, Reply, Track

FILE: Final = Path(__file__).parent / "transitions.txt"
BEGINS: Final[dict[str, Callable[[Track], None]]] = {row[0].__name__: row[0] for row in test_decisions.TABLE}
NUMBERS: Final = ("op", "done", "generation", "started_op", "stop_requested_at", "timed_stop")
LEFT_OUT: Final = {"v", "result", "before"}
"""What says nothing here, and what `release` shows by putting it back."""
FORGOTTEN: Final = ("ended", "recording", "unknown")
"""Kinds of records that are lost: one for each action."""
Act = Callable[[Track, Reply], Reply | None]
Snapshot = dict[str, str]


def finish(state: str, **more: Any) -> Act:
    """Return an end: what became of the operation is written."""
    return lambda track, lead: track.finish(lead, state, **more)


def after(*acts: Act) -> Act:
    """Return several acts as one, a moment apart; the last one's reply counts."""

    def act(track: Track, lead: Reply) -> Reply | None:
        reply = None
        for one in acts:
            reply = one(track, lead)
            track.wait(3)
        return reply

    return act


def doubt(track: Track, lead: Reply) -> Reply:
    """Hear of its end."""
    return track.invalidate("ended")


def another_stop(track: Track, lead: Reply) -> Reply:
    """Have another caller ask for a stop."""
    return track.claim("stop")


def lapse(track: Track, lead: Reply) -> None:
    """Let the lease lapse, and another find out."""
    track.wait(LEASE)
    track.claim("reconcile")


def forget(track: Track, lead: Reply) -> None:
    """Have the server lose the record, and be believed again."""
    track.lose()
    track.claim("reconcile")
    track.wait(GRACE)


def promote(track: Track, lead: Reply) -> Reply:
    """Turn the probe into a start."""
    return track.promote_to_start(lead)


def renew(track: Track, lead: Reply) -> Reply:
    """Keep the claim."""
    return track.renew(lead)


def release(track: Track, lead: Reply) -> Reply:
    """Give the target back."""
    return track.release(lead)


RECORDS: Final = finish(
    "recording", confirmed_by="list", evidence='{"id":1}', seen_ago=2, due_in=60_000, upstream="list 200"
)
STARTED: Final = finish("recording", due_in=60_000)
UNKNOWN: Final = finish("unknown", confirmed_by="", due_in=1000)
FAILED: Final = finish("failed", confirmed_by="list", answered=True, because="refused")
STOPPED: Final = finish("stopped", answered=True, because="stopped", due_in=2000)
STOPPING: Final = finish("stopping", confirmed_by="", due_in=1000)
REFUSED: Final = finish("recording", confirmed_by="list", answered=True)
OVER: Final = finish("stopped", confirmed_by="list", settled=True)
LATE: Final = {"late": True, "start_may_land_ms": 400, "stop_may_land_ms": 500}

ENDS: Final[dict[str, dict[str, Act]]] = {
    "start": {
        "started": STARTED,
        "found": RECORDS,
        "unknown": UNKNOWN,
        "unknown, answered": finish("unknown", confirmed_by="", answered=True, due_in=1000),
        "failed": FAILED,
        "release": release,
        "doubted, started": after(doubt, STARTED),
        "stop, started": after(another_stop, STARTED),
        "stop, failed": after(another_stop, FAILED),
        "stop, release": after(another_stop, release),
        "lapsed, started": after(lapse, STARTED),
        "forgotten, renew": after(forget, renew),
        "forgotten, started": after(forget, STARTED),
        "forgotten, unknown": after(forget, UNKNOWN),
        "forgotten, rewritten": after(forget, finish("recording", stop_wanted=True, **LATE)),
    },
    "stop": {
        "stopped": STOPPED,
        "stopping": STOPPING,
        "stopping, answered": finish("stopping", confirmed_by="", answered=True, due_in=1000),
        "refused": REFUSED,
        "over": OVER,
        "release": release,
        "doubted, stopped": after(doubt, STOPPED),
        "stop, refused": after(another_stop, REFUSED),
        "lapsed, stopped": after(lapse, STOPPED),
        "forgotten, renew": after(forget, renew),
        "forgotten, stopped": after(forget, STOPPED),
        "forgotten, stopping": after(forget, STOPPING),
        "forgotten, rewritten": after(forget, finish("stopped", **LATE)),
    },
    "probe": {
        "found": RECORDS,
        "over": OVER,
        "unknown": UNKNOWN,
        "release": release,
        "promote": promote,
        "promote, started": after(promote, STARTED),
        "promote, release": after(promote, release),
        "stop, over": after(another_stop, OVER),
        "forgotten, renew": after(forget, renew),
        "forgotten, found": after(forget, RECORDS),
    },
}
"""By what is led."""

OTHERS: Final[dict[str, Callable[[Track], Reply | None]]] = {
    "invalidate": lambda track: track.invalidate(),
    "webhook": lambda track: track.invalidate("participant_left"),
    "confirm": lambda track: track.confirm(track.record.get("state", ""), evidence='{"id":2}', due_in=30_000),
    "postpone": lambda track: track.confirm(track.record.get("state", ""), agrees=False, due_in=5000),
}
"""What needs no claim."""


class Difference:
    """What the scripts write from now on."""

    def __init__(self, track: Track) -> None:
        self._track = track
        self._before = track.record or EMPTY
        self._due = track.due and track.due + track.ms
        self._end = track.end and track.end + track.ms
        self._events = self._count()

    def _count(self) -> int:
        return int(self._track.redis.xlen(self._track.keys[4]))  # pyright: ignore[reportArgumentType]

    def text(self, reply: Reply | None) -> str:
        """Return what was answered and what has changed; moments in ms from now, numbers by their order."""
        track, record = self._track, self._track.record
        numbers = sorted({int(one.get(name) or 0) for one in (self._before, record) for name in NUMBERS} - {0})
        reply = reply or {}
        said = [str(reply.get("how") or "")]
        names = sorted((record.keys() | self._before.keys()) - LEFT_OUT)
        changed = [name for name in names if record.get(name) != self._before.get(name)]
        said += [f"{name}={self._value(name, record.get(name, ''), numbers)}" for name in changed]
        due = track.due and track.due + track.ms
        if due != self._due:
            said.append(f"due={'' if track.due is None else f'{track.due:+}'}")
        end = track.end and track.end + track.ms
        if end != self._end:
            said.append(f"end={'' if track.end is None else f'{track.end:+}'}")
        said += [f"{name}={reply[name]}" for name in ("start_may_land_ms", "stop_may_land_ms") if reply.get(name)]
        if reply.get("stop"):
            said.append("STOP")
        events = self._count() - self._events
        return " ".join(filter(None, (*said, f"events={events}" if events > 0 else "")))

    def _value(self, name: str, value: str, numbers: list[int]) -> str:
        if name in NUMBERS:
            return f"#{numbers.index(int(value)) + 1}" if int(value or 0) else "0"
        if name in {"holder", "finished_by"}:
            return value and "someone"
        return re.sub(r"\d{13}", lambda moment: f"{int(moment[0]) - self._track.ms:+}", value)


def lines(track: Callable[[], Track], name: str) -> Iterator[str]:
    """Yield what is written to one kind of record."""

    def begun() -> Track:
        one = track()
        BEGINS[name](one)
        one.wait(7)
        return one

    shown: set[str] = set()
    for command in ("start", "stop", "reconcile"):
        one = begun()
        difference = Difference(one)
        lead = one.claim(command)
        decision = f"{command}: {lead['verdict']} {lead['action']}".strip()
        yield f"{decision} | {difference.text(lead)}".strip(" |")
        # How an operation ends does not depend on the command that led it, nor on a record that is lost.
        ends = {} if lead["verdict"] != "lead" or lead["action"] in shown else ENDS[lead["action"]]
        shown.add(lead["action"])
        for ending, act in ends.items():
            if ending.startswith("forgotten") and name not in FORGOTTEN:
                continue
            one = begun()
            lead = one.claim(command)
            one.wait(11)
            difference = Difference(one)
            yield f"{decision}, {ending} | {difference.text(act(one, lead))}".strip(" |")
    for other, do in OTHERS.items():
        one = begun()
        difference = Difference(one)
        yield f"{other} | {difference.text(do(one))}".strip(" |")


def main() -> None:
    """Write the file."""
    with EmbeddedValkey() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        written.write(FILE, {name: list(lines(lambda: Track(client), name)) for name in BEGINS})


if __name__ == "__main__":
    main()
