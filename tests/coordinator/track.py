"""The protocol's scripts as they are called, with a clock that the test moves: one track on a real server."""

import itertools
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

import msgspec
import redis

from gateway.coordinator import Record, Timing
from gateway.coordinator.scripts import SCRIPTS, load_script

TIMING: Final = Timing()
LEASE: Final = int(TIMING.lease * 1000)
QUIET: Final = int(TIMING.quiet * 1000)
SETTLE: Final = int(TIMING.settle * 1000)
TRUST: Final = int(TIMING.trust * 1000)
GRACE: Final = int(TIMING.grace * 1000)
MEMORY: Final = int(TIMING.memory * 1000)
BEGIN: Final = 1_800_000_000_000
LASTING: Final = {
    "channel": "rec:wake", "ttl": MEMORY, "memory": MEMORY, "keep": MEMORY // 2, "replay": 600_000, "most_events": 1000,
    "lease": LEASE, "trust": TRUST, "quiet": QUIET, "settle": SETTLE, "grace": GRACE,
    "longest": 0,
}  # fmt: skip

_TEXTS: Final = (
    "state", "holder", "action", "before", "hint", "result", "fingerprint", "recording", "because", "upstream",
)  # fmt: skip
_NUMBERS: Final = (
    "lease", "waiting", "generation", "confirmed", "suspect_since", "uncertain_since", "start_may_land_until",
    "stop_may_land_until", "stop_requested_at", "started_op", "stops_at", "timed_stop",
)  # fmt: skip
EMPTY: Final[dict[str, str]] = {**dict.fromkeys(_TEXTS, ""), **dict.fromkeys(_NUMBERS, "0")}
"""What scripts take fields for that are not there."""

Reply = dict[str, Any]


def whole(fields: dict[str, str]) -> dict[str, str]:
    """Return a record with the fields that it leaves out; nothing where there is none."""
    return EMPTY | fields if fields else {}


_numbers = itertools.count()


class Track:
    """One track: its scripts, its keys and the time.

    Args:
        client: The server.
        marked: Whether the server has been up for so long that nobody waits for its memory any more.
        code: Texts that replace scripts.
    """

    def __init__(self, client: "redis.Redis", *, marked: bool = True, code: Mapping[str, str] | None = None) -> None:
        self.redis = client
        self.ms = BEGIN
        slot = f"rec:{{{next(_numbers)}}}"
        room = f"{slot}:t:room"
        self.keys = (
            f"{room}:someone:video", f"{slot}:t:due", f"{slot}:epoch", f"{room}:targets", f"{room}:events",
            f"{slot}:t:ends",
        )  # fmt: skip
        self._texts = {name: load_script(name).text for name in SCRIPTS} | dict(code or {})
        self._attempts = itertools.count(1)
        self.arguments: dict[str, set[str]] = {}
        """Names of what each script was given."""
        if marked:
            self.claim("reconcile")
            self.wait(QUIET + GRACE)

    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.ms += ms

    def run(self, name: str, /, **arguments: Any) -> Reply:
        """Run a script now."""
        arguments = LASTING | arguments
        self.arguments.setdefault(name, set()).update(arguments)
        argument = json.dumps({"now": self.ms * 1000, **arguments})
        reply = json.loads(cast("str", self.redis.eval(self._texts[name], len(self.keys), *self.keys, argument)))
        self.check_ttls()
        return reply

    def check_ttls(self) -> None:
        """Fail where a key would stay for ever."""
        lasting = [key for key in self.keys if self.redis.pttl(key) == -1]
        assert not lasting, f"without a TTL: {lasting}"

    def claim(self, command: str, attempt: str | None = None, **more: Any) -> Reply:
        """Ask for the track; the reply also tells by which attempt, and has the record's fields beside its own."""
        attempt = attempt or f"attempt-{next(self._attempts)}"
        arguments = {
            "command": command, "attempt": attempt, "fingerprint": "A" if command == "start" else "",
            "recording": '{"requestedBy":"a"}' if command == "start" else "", "seen": "", "asked_at": "",
            "asked_ago": 0, "not_after": 0, "verify_absent": "auto", "max_duration": 0, "lengthens": False,
            "only_of": "",
        }  # fmt: skip
        reply = self.run("claim", **arguments | more)
        record = msgspec.structs.asdict(msgspec.convert(reply["record"] or {}, Record, strict=False))
        return record | {"op": record["operation"]} | reply | {"attempt": attempt}

    def finish(self, lead: Reply, state: str, **more: Any) -> Reply:
        """Write what became of what `lead` was granted for."""
        record = {
            "state": state, "generation": lead["generation"], "fingerprint": lead["fingerprint"],
            "recording": lead["recording"], "confirmed_by": "reply", "started_at": lead["started_at"],
            "ended_at": self.ms, "stops_at": lead["stops_at"],
        }  # fmt: skip
        record = {name: more.pop(name, record.get(name)) for name in (*record, "evidence", "because")}
        # As msgspec writes it: what is empty is left out.
        result = {"record": {name: value for name, value in record.items() if value}}
        result["answer"] = more.pop("result", f"{lead['action']} {state}")
        arguments = {
            "attempt": lead["attempt"], "op": lead["op"], "action": lead["action"], "epoch": lead["epoch"],
            "asked_at": lead["asked_at"], "result": json.dumps(result), "seen_ago": 0, "settled": False,
            "answered": False, "due_in": 0, "upstream": "",
        }  # fmt: skip
        return self.run("finish", **arguments | more)

    def renew(self, lead: Reply, *, restore: bool = True, **more: Any) -> Reply:
        """Keep the claim, as every process does once a second."""
        arguments = {
            "attempt": lead["attempt"], "op": lead["op"], "action": lead["action"], "epoch": lead["epoch"],
            "generation": lead["generation"], "fingerprint": lead["fingerprint"], "recording": lead["recording"],
            "stops_at": lead["stops_at"], "promote_to_start": False, "restore": restore, "max_duration": 0,
        }  # fmt: skip
        return self.run("renew", **arguments | more)

    def promote_to_start(self, lead: Reply, **more: Any) -> Reply:
        """Turn gathering evidence into starting."""
        reply = self.renew(lead, restore=False, promote_to_start=True, **{"fingerprint": "A", "recording": "{}"} | more)
        if reply["how"] == "ok":
            lead.update(action="start", generation=reply["generation"], fingerprint="A", stops_at=reply["stops_at"])
        return reply

    def release(self, lead: Reply) -> Reply:
        """Give the track back: nothing was sent."""
        return self.run("release", attempt=lead["attempt"], result="released", asked_at=lead["asked_at"])

    def invalidate(self, hint: str = "", may_land: int = 0) -> Reply:
        """Say that what is known may not be so, because of what was heard perhaps."""
        return self.run("invalidate", hint=hint, evidence="", attempt="", may_land=may_land)

    def confirm(self, state: str, **more: Any) -> Reply:
        """Say that the list, asked just now, agrees with a record of this state."""
        arguments = {
            "state": state, "generation": self.record.get("generation", "0"), "agrees": True, "seen_ago": 0,
            "evidence": "", "due_in": 0,
        }  # fmt: skip
        return self.run("confirm", **arguments | more)

    def move_end(self, claim: Reply) -> Reply:
        """Write again that a claim moved the end."""
        moved = {name: claim[name] for name in ("moved_from", "stops_at", "generation")}
        return self.run("move_end", **moved)

    def revoke(self, attempt: str) -> Reply:
        """Take the claim of an attempt away."""
        return self.run("invalidate", hint="", evidence="", attempt=attempt, may_land=0)

    def mark(self, age: int = 0) -> Reply:
        """Mark the epoch, and learn it."""
        return self.run("mark", age=age)

    def room(self, *, most: int = 1000, watch: bool = False) -> Reply:
        """Read the track's room."""
        return self.run("room", most=most, watch=watch)

    # --- what lies there -----------------------------------------------------------------------------------------

    @property
    def record(self) -> dict[str, str]:
        """The record."""
        return whole(cast("dict[str, str]", self.redis.hgetall(self.keys[0])))

    @property
    def due(self) -> int | None:
        """In how many ms somebody has to look."""
        score = self.redis.zscore(self.keys[1], self.keys[0])
        return None if score is None else int(score) - self.ms

    @property
    def end(self) -> int | None:
        """In how many ms the reconciler has to stop it."""
        score = self.redis.zscore(self.keys[5], self.keys[0])
        return None if score is None else int(score) - self.ms

    @property
    def stop_due(self) -> bool:
        """Whether a stop is left to carry out."""
        record = self.record
        return int(record.get("stop_requested_at", 0)) > int(record.get("started_op", 0))

    def left(self, field: str) -> int:
        """How far ahead of now a time in the record is, 0 where it is not set."""
        value = int(self.record.get(field) or 0)
        return value - self.ms if value else 0

    @contextmanager
    def listening(self) -> Generator[Callable[[], list[str]]]:
        """Listen to what is published; what it gives returns what was heard since."""
        fence = f"fence-{self.keys[0]}"
        with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("rec:wake", fence)

            def heard() -> list[str]:
                # What was published before the fence has arrived when the fence has.
                self.redis.publish(fence, "")
                messages: list[str] = []
                while True:
                    message = cast("dict[str, Any] | None", pubsub.get_message(timeout=30))
                    if message and message["channel"] == fence:
                        return messages
                    if message and message["data"].startswith(self.keys[0]):
                        messages.append(message["data"])

            yield heard

    # --- ways to get there ---------------------------------------------------------------------------------------

    def started(self, parameters: str = "A", max_duration: int = 0) -> Reply:
        """Bring the track to a recording that was confirmed just now."""
        lead = self.claim("start", fingerprint=parameters, max_duration=max_duration)
        assert lead["verdict"] == "lead", lead
        if lead["action"] == "probe":
            self.promote_to_start(lead, fingerprint=parameters, max_duration=max_duration)
            lead["fingerprint"] = parameters
        assert self.finish(lead, "recording")["how"] == "ok"
        return lead

    def stopped(self) -> Reply:
        """Bring the track to where nothing records, which was confirmed just now."""
        lead = self.claim("stop")
        assert (lead["verdict"], lead["action"]) == ("lead", "stop"), lead
        assert self.finish(lead, "stopped", answered=True)["how"] == "ok"
        return lead

    def snapshot(self) -> dict[str, Any]:
        """Remember what lies there."""
        due, end = (self.redis.zscore(key, self.keys[0]) for key in (self.keys[1], self.keys[5]))
        return {"record": self.record, "due": due, "end": end}

    def lose(self, snapshot: dict[str, Any] | None = None) -> None:
        """Lose everything, or what came after a snapshot, as a failover to a replica that lags does."""
        mark = cast("str | None", self.redis.get(self.keys[2]))
        self.redis.delete(*self.keys)
        if snapshot is None:
            return
        if snapshot["record"]:
            kept = {name: value for name, value in snapshot["record"].items() if value != EMPTY.get(name)}
            self.redis.hset(self.keys[0], mapping=kept)
            self.redis.pexpire(self.keys[0], MEMORY)
        if snapshot["due"] is not None:
            self.redis.zadd(self.keys[1], {self.keys[0]: snapshot["due"]})
            self.redis.pexpire(self.keys[1], MEMORY)
        if snapshot.get("end") is not None:
            self.redis.zadd(self.keys[5], {self.keys[0]: snapshot["end"]})
            self.redis.pexpire(self.keys[5], MEMORY)
        # The replica's run id is another than the one in the mark.
        self.redis.set(self.keys[2], f"{'0' * 40}:{(mark or ':0').rpartition(':')[2]}", px=MEMORY)
