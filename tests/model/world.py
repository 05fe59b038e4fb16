"""A world in which the gateway's own code runs on a clock that only this file moves.

Coordinator, leader and recordings are the real ones, and so are the scripts and the server they run on. What is
imagined is time (`clockwork`), the way to Redis (`replica`), and VideoSDK (`upstream`). Everything that happens is
written down, and the promises are checked as it happens.
"""

import asyncio
import contextvars
import json
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Final, Self, cast

import redis
import structlog

from gateway.coordinator import Timing
from gateway.errors import GatewayError, UpstreamError
from gateway.store import clock
from gateway.store.notifications import OperationFinished
from tests.coordinator.track import whole
from tests.model.clockwork import OWNER, VirtualLoop
from tests.model.replica import Call, Process
from tests.model.upstream import EPOCH, TRACK, Fate, Upstream

__all__ = ["Call", "Fate", "Process", "Violation", "World"]

_TOLD_LINES: Final = 150
_UNSETTLED: Final = frozenset({"starting", "stopping", "unknown"})
_AT_REST: Final = frozenset({"", "recording", "stopped", "failed"})
_SNAPSHOTS: Final = 12
_REMEMBERED_SECONDS: Final = 8.0
"""For how long a process can tell again what it wrote, less what it may take to notice that it must."""
_LATE_SECONDS: Final = 5.0
"""How long after its time a recording may be left alone."""
_SELDOM_MS: Final = 32_000
"""How long an unsettled track may be left alone at most."""


class Violation(AssertionError):
    """A promise was broken."""


class World:
    """One track, some replicas, one Redis, one VideoSDK.

    Args:
        client: A server that is this world's alone; emptied.
        timing: The protocol's times.
        settling: Whether replicas settle in the background.
        landing: Seconds after its sending at which a POST may take effect at the latest; D + S unless given.
        code: Replacements of the code under test: scripts by their names, and `Leader`.
        degrade: Whether replicas start without Redis rather than refuse.
        retry_refused: For how many seconds replicas send a refused start again.
    """

    def __init__(
        self,
        client: "redis.Redis",
        *,
        timing: Timing | None = None,
        settling: bool = True,
        landing: float | None = None,
        code: Mapping[str, Any] | None = None,
        degrade: bool = False,
        retry_refused: float = 0.0,
    ) -> None:
        self.redis = client
        self.timing = timing or Timing()
        self.settling = settling
        self.landing = landing or self.timing.upstream_timeout + self.timing.settle
        self.code = code or {}
        self.degrade = degrade
        self.retry_refused = retry_refused
        self.skew = 0.0
        """Seconds by which Redis's clock is ahead."""
        self.stepped = False
        self.story: list[str] = []
        self.violations: list[Violation] = []
        self.calls: list[Call] = []
        self.script_calls = 0
        self.arguments: dict[str, set[str]] = {}
        """Names of what each script was given."""
        self.snapshots: deque[dict[str, Any]] = deque(maxlen=_SNAPSHOTS)
        """What lay in Redis after each of the last scripts."""
        self.score: float | None = None
        """When the track is due, as it lies in Redis."""
        self.end_score: float | None = None
        """When it has to end, in the same way."""
        self._late_since: float | None = None
        self.forgot_at = 0.0
        """When Redis lost something last."""
        self.irretrievable = False
        """Redis lost what nobody alive could tell it again."""
        self._written_at = 0.0
        self.processes: list[Process] = []
        self.key = ""
        self._results: dict[str, str] = {}
        self._latest_ms = 0
        client.flushall()
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe("rec:wake", "fence")
        self.loop = VirtualLoop()
        self.loop.set_task_factory(self._task)
        self.upstream = Upstream(self)
        self._real_time = clock.time
        shim = types.SimpleNamespace(
            clock_gettime=self._clock_gettime, CLOCK_BOOTTIME=0,
            monotonic=lambda: self.now, time=lambda: EPOCH + self.now,
        )  # fmt: skip
        cast("Any", clock).time = shim
        self._logs = structlog.testing.capture_logs()
        self._logs.__enter__()

    def _clock_gettime(self, _: int) -> float:
        return self.now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        for process in self.processes:
            process.end()
        self.loop.run_until_complete(asyncio.sleep(1))
        self.loop.close()
        cast("Any", clock).time = self._real_time
        self._logs.__exit__(None, None, None)
        self._pubsub.close()

    def process(self) -> Process:
        """Start a replica."""
        process = Process(self, f"p{len(self.processes) + 1}")
        self.processes.append(process)
        self.key = process.coordinator.key(TRACK.room_id, *TRACK.parts)
        return process

    def _task(
        self, loop: asyncio.AbstractEventLoop, work: Generator[Any, None, Any] | Coroutine[Any, Any, Any], **more: Any
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(cast("Coroutine[Any, Any, Any]", work), loop=loop, **more)
        if isinstance(process := OWNER.get(), Process):
            process.tasks[task] = None
            task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        for process in self.processes:
            process.tasks.pop(task, None)
        # Told here, not when the task is collected: that moment differs from run to run.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GatewayError | UpstreamError):
            self.violate(f"a task failed: {error!r}")

    # --- time ----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The true time in seconds."""
        return self.loop.moment

    @property
    def redis_us(self) -> int:
        """What Redis's clock shows."""
        return int((EPOCH + self.now + self.skew) * 1_000_000)

    @property
    def redis_ms(self) -> int:
        """What Redis's clock shows."""
        return self.redis_us // 1000

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.check()

    def until(self, condition: Callable[[], Any], timeout: float = 60.0, what: str = "") -> None:
        """Let time pass until something is so."""
        end = self.now + timeout
        while not condition():
            if self.now >= end:
                raise AssertionError(f"waited in vain {what}\n{self.told()}")
            self.advance(0.01)

    def later(self, delay: float, what: Callable[..., object], *arguments: Any) -> None:
        """Let something happen that belongs to no process."""
        self.loop.call_later(delay, what, *arguments, context=contextvars.Context())

    # --- the story -----------------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """Write down what happened, for whoever reads of a failure."""
        self.story.append(f"{self.now:10.3f}  {what}")

    def told(self) -> str:
        """Return what happened of late."""
        return "\n".join(self.story[-_TOLD_LINES:])

    def violate(self, what: str) -> None:
        """Write down that a promise was broken."""
        self.note(f"VIOLATION {what}")
        self.violations.append(Violation(what))

    def check(self) -> None:
        """Fail where a promise was broken."""
        self._check_end()
        if self.violations:
            raise Violation(f"{self.violations[0]}\n{self.told()}")

    # --- Redis ---------------------------------------------------------------------------------------------------

    def keys(self) -> tuple[str, str, str, str]:
        """Return the record's key and those of its bucket."""
        slot = self.key[: self.key.index("}") + 1]
        project = f"{slot}:{self.key.split(':')[2]}"
        return self.key, f"{project}:due", f"{slot}:epoch", f"{project}:ends"

    def record(self) -> dict[str, str]:
        """Return the track's record."""
        return whole(cast("dict[str, str]", self.redis.hgetall(self.key)))

    def run(self, name: str, text: str, keys: Sequence[str], arguments: dict[str, Any]) -> bytes:
        """Run a script at this moment, check what it did, and hand out what it published."""
        self.script_calls += 1
        self.arguments.setdefault(name, set()).update(arguments)
        argument = json.dumps({**arguments, "now": self.redis_us})
        reply = cast("str", self.redis.eval(text, len(keys), *keys, argument))
        self._check_reply(name, arguments, json.loads(reply))
        if keys[0] == self.key:
            self._check_keys(name)
        if name in {"finish", "release"}:
            self._publish()
        return reply.encode()

    def _check_reply(self, name: str, a: dict[str, Any], said: dict[str, Any]) -> None:
        what = said.get("verdict") or said.get("how")
        if what not in {"busy", "noop"} and not (name == "renew" and what == "ok" and not a["promote_to_start"]):
            details = [
                a.get("attempt"),
                a.get("command"),
                said.get("action"),
                a.get("op") or (said.get("record") or {}).get("op"),
                json.loads(a["result"])["record"]["state"] if name == "finish" else None,
            ]
            promoting = "/promote_to_start" if a.get("promote_to_start") else ""
            self.note(f"    {name}{promoting} {' '.join(filter(None, details))}: {what}")
        if name == "finish" and what in {"ok", "restored", "late"}:
            # Where no other process waits, none can ask.
            self._results[a["op"]] = "" if a.get("late") or not self.record()["result"] else a["result"]
            self._written_at = self.now
        if name != "claim":
            return
        if what == "done" and self._results.get(a["seen"]) != said["result"]:
            self.violate(f"a joiner of {a['seen']} is handed another result")
        record: dict[str, str] = said["record"] or {}
        believed = what in {"running", "idle"} or (what == "conflict" and record["state"] != "starting")
        young = int(record.get("confirmed", 0)) >= self.redis_ms - self.timing.trust * 1000
        if believed and not (young and self._written_at > self.forgot_at):
            self.violate(f"{what} is answered from what is not to be believed: {said}")
        if what == "conflict" and record["fingerprint"] in {"", a["fingerprint"]}:
            self.violate("a conflict with the very same parameters")

    def _check_keys(self, name: str) -> None:
        record, due, epoch, ends = self.keys()
        pipeline: Any = self.redis.pipeline(transaction=False)
        pipeline.hgetall(record).zscore(due, record).zscore(ends, record).get(epoch)
        pipeline.pttl(record).pttl(due).pttl(epoch).pttl(ends)
        fields, self.score, self.end_score, mark, *ttls = pipeline.execute()
        fields = whole(fields)
        self.snapshots.append(
            {"record": fields, "score": self.score, "end": self.end_score, "mark": mark, "at": self.now}
        )
        if -1 in ttls:
            self.violate(f"after {name} a key has no TTL: {ttls}")
        # The highest that the clock ever showed: it may have stepped back since.
        ms = self._latest_ms = max(self._latest_ms, self.redis_ms)
        quiet = self.timing.quiet * 1000
        most = {"lease": self.timing.lease * 1000, "start_may_land_until": quiet, "stop_may_land_until": quiet}
        times = (
            "lease",
            "start_may_land_until",
            "stop_may_land_until",
            "confirmed",
            "written",
            "ended_at",
            "started_at",
            "suspect_since",
        )
        ahead = {field: int(fields.get(field) or 0) - ms - most.get(field, 0) for field in times}
        if far := {field: value for field, value in ahead.items() if value > 1}:
            self.violate(f"after {name} too far ahead: {far}")
        unsettled = fields.get("state") in _UNSETTLED or fields.get("start_may_land_until", "0") != "0"
        # What may still land can be settled only once it has: at most Q from now.
        latest = ms + max(_SELDOM_MS, quiet + 1)
        if (unsettled or int(fields.get("lease") or 0) > ms) and (self.score or 0) > latest:
            self.violate(f"after {name} an unsettled track is due too late")
        if unsettled and self.score is None:
            self.violate(f"after {name} nobody will look at an unsettled track: {fields}")

    def check_window(self, kind: str, attempt: str) -> None:
        """Check that what is sent now was granted a moment ago, as Redis sees it, and not under an older clock."""
        record = self.record()
        if record.get("holder") == attempt and record.get("action") == kind and not self.stepped:
            granted = int(record["started_at" if kind == "start" else "granted"])
            if self.redis_ms - granted > self.timing.send_window * 1000 + 1:
                self.violate(f"a {kind} is sent after its window: {self.redis_ms - granted} ms")

    def excuse(self) -> None:
        """Take note that replicas may be late with what has to end."""
        self._late_since = None

    def _check_end(self) -> None:
        """Check that what has to end is being stopped, wherever a replica lives that can reach Redis."""
        live = any(one.alive and not one.stalled and not one.wire.faults for one in self.processes)
        over_by = 0.0 if self.end_score is None else self.redis_ms - self.end_score
        fields = self.record() if self.settling and live and over_by > 0 else {}
        # What is being sent is waited for: it may take longer than it may last.
        being_sent = fields.get("action") == "start" and int(fields["lease"]) > self.redis_ms
        self._late_since = (self._late_since or self.now) if fields and not being_sent else None
        if self._late_since is not None and self.now - self._late_since > _LATE_SECONDS:
            self.violate(f"it has to end since {over_by:.0f} ms, and no replica stops it")

    def missed(self) -> None:
        """Take note that a process may not tell Redis what it has just forgotten."""
        self.excuse()
        self.irretrievable = self.irretrievable or self.now - self.forgot_at < _REMEMBERED_SECONDS

    def step_clock(self, skew: float) -> None:
        """Set Redis's clock ahead or back."""
        self.excuse()
        self.note(f"Redis's clock is off by {skew}")
        self.skew, self.stepped = skew, True

    def _publish(self) -> None:
        # What was published before the fence has arrived when the fence has.
        self.redis.publish("fence", "")
        while True:
            message = cast("dict[str, Any] | None", self._pubsub.get_message(timeout=30))
            if message and message["channel"] == "fence":
                return
            if message:
                key, operation, payload = message["data"].split("\n", 2)
                for process in self.processes:
                    self.later(0.002, self._handle, process, OperationFinished(key, operation, payload.encode()))

    def _handle(self, process: Process, finished_signal: OperationFinished) -> None:
        if process.alive and not process.stalled and not process.deaf:
            process.ears.handle(finished_signal)

    def _reconnect(self, process: Process) -> None:
        if process.alive and not process.stalled and not process.deaf:
            process.ears.reconnect()

    def lose(self, back: int | None = None) -> None:
        """Lose data: everything, or what the last `back` scripts wrote, as a failover to a replica does."""
        self.note("Redis is empty" if back is None else f"Redis is as it was {back} scripts ago")
        self.forgot_at = self.now
        for process in self.processes:
            self.later(0.1, self._reconnect, process)
        chosen = self.snapshots[-1 - back] if back is not None and back < len(self.snapshots) else None
        first_lost = self.now if back == 0 else self.snapshots[-back]["at"] if chosen and back else 0.0
        deaths = not all(process.alive for process in self.processes)
        kept = any(one.stalled or one.wire.faults or one.coordinator._retries.pending for one in self.processes)
        self.irretrievable = self.irretrievable or deaths or kept or self.now - first_lost > _REMEMBERED_SECONDS
        record, due, epoch, ends = self.keys()
        self.redis.delete(record, due, epoch, ends)
        self.score, self.end_score = (chosen["score"], chosen["end"]) if chosen else (None, None)
        self._late_since = None
        self.snapshots.clear()
        if chosen is None:
            return
        self.snapshots.append(chosen)
        ttl = int(self.timing.memory * 1000)
        if chosen["record"]:
            self.redis.hset(record, mapping=chosen["record"])
            self.redis.pexpire(record, ttl)
        if self.score is not None:
            self.redis.zadd(due, {record: self.score})
            self.redis.pexpire(due, ttl)
        if self.end_score is not None:
            self.redis.zadd(ends, {record: self.end_score})
            self.redis.pexpire(ends, ttl)
        if chosen["mark"]:
            # To the scripts the server that they run on is another than the one that wrote the mark.
            self.redis.set(epoch, f"{'0' * 40}:{chosen['mark'].rpartition(':')[2]}", px=ttl * 2)

    # --- promises ------------------------------------------------------------------------------------------------

    def recorded(self, since: float, until: float) -> bool:
        """Tell whether something recorded at some moment."""
        return any(row.start <= until and (row.end is None or row.end >= since) for row in self.upstream.rows)

    def rested(self, since: float, until: float) -> bool:
        """Tell whether nothing recorded at some moment."""
        ends = [row.end for row in self.upstream.rows if row.end is not None and since <= row.end <= until]
        return any(
            all(row.start > moment or (row.end is not None and row.end <= moment) for row in self.upstream.rows)
            for moment in (since, until, *ends)
        )

    def judge(self, call: Call) -> None:
        """Check an answer against what was so while the caller waited."""
        if not call.success or call.returned is None:
            return
        if call.command == "stop":
            if not self.rested(call.invoked, call.returned):
                self.violate(f"a stop is told {call.outcome} although something recorded all the time")
            return
        # What was confirmed a moment ago is believed for a while, and the list may lag.
        believed = 0.0 if call.outcome == "started" else self.timing.trust + self.timing.settle
        if not self.recorded(call.invoked - believed, call.returned):
            self.violate(f"a start is told {call.outcome} although nothing recorded")

    @property
    def certain(self) -> bool:
        """Whether the record leaves nothing open."""
        fields = self.record()
        if (
            fields.get("holder")
            or int(fields.get("stop_requested_at") or 0) > int(fields.get("started_op") or 0)
            or int(fields.get("suspect_since") or 0)
        ):
            return False
        if fields.get("state") == "recording":
            return int(fields.get("confirmed") or 0) > 0
        return fields.get("state") in {"stopped", "failed"} and not int(fields.get("start_may_land_until") or 0)

    def come_to_rest(self) -> None:
        """Let everything come to rest without further faults, and see whether record and VideoSDK agree."""
        self.note("--- faults end")
        self.upstream.list_failures = 0
        for fates in self.upstream.fates.values():
            fates.clear()
        for process in self.processes:
            process.wire.faults.clear()
            if process.stalled:
                process.resume()
        reconciler_loop = self.process()
        self.advance(2 * self.timing.quiet)
        for look in range(20):
            # What runs is looked at for ever, and what was stopped for a while, for its files.
            if self.score is None or (look > 2 and self.certain):
                break
            next_look = min(self.score, self.end_score or self.score)
            self.advance(max(next_look / 1000 - EPOCH - self.now - self.skew, 0.0) + 0.2)
            reconciler_loop.do(reconciler_loop.settle())
            self.advance(1.0)
        else:
            self.violate("it never comes to rest")
        self._check_rest(reconciler_loop)
        self.check()

    def _check_rest(self, reconciler_loop: Process) -> None:
        state = self.record().get("state", "")
        running = bool(self.upstream.open)
        if state not in _AT_REST:
            self.violate(f"at rest the state is {state}")
        if len(self.upstream.open) > 1:
            self.violate("several record at the end")
        if self.end_score is not None and self.end_score < self.redis_ms - 1000:
            self.violate("at rest it records for longer than it may")
        if state == "recording" and not running:
            # Nobody asked since it ended: whoever asks now must learn it.
            self.look(reconciler_loop)
            if self.record().get("state") == "recording":
                self.violate("a look does not show that it ended")
        if self.irretrievable:
            # Nobody can be held to it.
            return
        if running and state != "recording":
            self.violate(f"an orphan: it records, and the record says {state!r}")
        last = self._last_word()
        if last and running is not (last == "start"):
            self.violate(f"the last word was {last}, and {'it records' if running else 'nothing records'}")

    def look(self, process: Process) -> None:
        """Have a process look at the track, due or not; again, since the server may just have come up."""
        for _ in range(2):
            process.do(process.reconciler.reconcile(self.key))
            self.advance(5.0)

    def _last_word(self) -> str:
        """Tell what was wanted last, where that is beyond doubt."""
        if not self.calls or any(call.returned is None and call.process.alive for call in self.calls):
            return ""
        *others, last = self.calls
        for call in others:
            before = call.returned is not None and call.over and call.returned + 3.0 < last.invoked
            if call.command != last.command and not before:
                return ""
        if last.command == "stop":
            return "stop" if last.success or last.outcome == "stop_requested" else ""
        # It may have recorded for as long as it may since.
        timed = int(self.record().get("timed_stop") or 0) > 0
        stops_are_over = all(call.success for call in others if call.command == "stop")
        ended = any(row.ended_by == "itself" and (row.end or 0) > last.invoked - 20 for row in self.upstream.rows)
        return "start" if last.success and stops_are_over and not ended and not timed else ""
