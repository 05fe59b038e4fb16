"""Turns any number of commands on a target into one operation (request coalescing).

Callers of one process that want the same form a *caller group*, which asks Redis once for all of them. While one such
claim is under way, a caller that arrives goes into the next group: no answer is older than its question. A group then
leads the operation, or waits for its leader, in this process or another.

An operation belongs to no caller. It runs in a task of its own, to its end, also when every caller hangs up.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

import msgspec
import structlog

from gateway.coordinator import UNBOUNDED, Claim, Command, Coordinator, Lease, MaxDuration, Record, Verdict
from gateway.errors import (
    CoordinationUnavailable,
    DeadlineExceeded,
    GatewayError,
    InternalError,
    ParametersDiffer,
)
from gateway.observability import metrics
from gateway.recordings.caller_group import CallerGroup, give_up, what_goes_on
from gateway.recordings.decoding import key_of, recording_of
from gateway.recordings.leader import Leader
from gateway.recordings.model import ENDED, Answer, Outcome, Problem, Status
from gateway.recordings.operation import Operation, Result
from gateway.recordings.reconciler import Reconciler
from gateway.recordings.targets import StartParameters, Target, differing_fields
from gateway.recordings.without_redis import WithoutRedisMode
from gateway.store.clock import clock
from gateway.store.notifications import Notifications, OperationFinished
from gateway.store.places import Places

__all__ = ["Coalescer"]

_POLL_SECONDS = 1.0
_POLL_UNSUBSCRIBED_SECONDS = 0.25
_MAX_RESULTS = 1_000
_TARGETS_SHARE = 10
"""One target's callers get a tenth of the places."""
_CROWD = 100
_CROWD_SECONDS = 0.2
_FULL = "Too many callers wait for this gateway at the moment."


_log = structlog.get_logger("gateway.recordings")


_WaitKey = tuple[str, str, Command, str, str, MaxDuration]


def _wait_key(group: CallerGroup, claim: Claim) -> _WaitKey:
    """Return what groups that may wait as one have in common. Under another number one may get another answer."""
    return (group.key, claim.record.operation, group.command, group.fingerprint, group.number, group.max_duration)


class Coalescer:
    """Submits commands, once for all callers of this process that want the same.

    Args:
        coordinator: Where replicas agree.
        leader: Carries out operations.
        notifications: Say which operations other replicas have finished.
        without_redis: Stops, and perhaps starts, while Redis does not answer.
        reconciler: Carries out a stop that was requested during an operation.
        degrade: Whether to start without Redis rather than refuse.
        max_waiting: Callers that may wait for a start at the same time, and as many for a stop.
        max_results: Results of a moment ago that are kept.
        max_waiting_per_target: Those of a start of one target; a tenth of them unless given.
        crowd: Callers waiting for starts of one target, from which on those who come later claim less often.
        crowd_seconds: How long these gather, unless the operation finishes before or a stop comes.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        leader: Leader,
        notifications: Notifications,
        without_redis: WithoutRedisMode,
        reconciler: Reconciler,
        *,
        degrade: bool,
        max_waiting: int,
        max_results: int = _MAX_RESULTS,
        max_waiting_per_target: int = 0,
        crowd: int = _CROWD,
        crowd_seconds: float = _CROWD_SECONDS,
    ) -> None:
        self._coordinator = coordinator
        self._leader = leader
        self._notifications = notifications
        self._without_redis = without_redis
        self._reconciler = reconciler
        self._degrade = degrade
        self._max_results = max_results
        self._crowd, self._crowd_seconds = crowd, crowd_seconds
        self._max_per_target = max_waiting_per_target or max(1, max_waiting // _TARGETS_SHARE)
        self._starts = Places("waiting", max_waiting, _FULL)
        self._starts_per_target: dict[str, Places] = {}
        # Of their own, and one for each caller that has none: whatever others do, a recording can be ended.
        self._stops = Places("stops-waiting", max_waiting, _FULL, first_always=True)
        self._arriving: dict[str, dict[tuple[Command, str, int | None, MaxDuration], CallerGroup]] = {}
        self._submitting: dict[str, int] = {}
        """How many groups Redis has not answered yet, of targets of which groups have arrived."""
        self._crowds: dict[str, asyncio.TimerHandle] = {}
        """Ends the gathering of starts for a target where a crowd waits already: their claims would say the same."""
        self._waiting: dict[_WaitKey, CallerGroup] = {}
        self._finished_signals: dict[tuple[str, str], asyncio.Future[Result | None]] = {}
        self._recent_results: OrderedDict[tuple[str, str], tuple[float, Result]] = OrderedDict()
        """Results of a moment ago: one may overtake the claim's answer that says what to wait for. Only of operations
        that are finished: one that was released goes on under its number."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to listen to other replicas."""
        await self._notifications.start(self._on_finished, self._on_gap)

    async def close(self, grace: float) -> None:
        """Let operations come to their end, for at most `grace` seconds; other replicas reconcile what is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._notifications.stop()

    # --- waiters -------------------------------------------------------------------------------------------------

    async def submit(
        self,
        target: Target,
        command: Command,
        parameters: StartParameters | None,
        name: str,
        timeout: float,
        arrived_at: float | None,
        asked_at: int | None = None,
        account: str = "",
        max_duration: MaxDuration = UNBOUNDED,
    ) -> Answer:
        """Have a command carried out, or join those who already asked for it.

        Args:
            target: What to start or stop.
            command: Start or stop.
            parameters: Of a start.
            name: The caller's.
            timeout: Seconds that this caller waits; the operation does not depend on it.
            arrived_at: When (`clock`) the caller came; None is now.
            asked_at: The number (see `claim.lua`) under which this was asked first, if it was asked before now.
            account: Whose places the wait takes.
            max_duration: For how long a start may record.

        Raises:
            GatewayError: What the caller is answered instead.
        """
        key = key_of(self._coordinator, target)
        self._take_place(key, target, command, account)
        loop = asyncio.get_running_loop()
        caller: asyncio.Future[Answer | Problem | None] = loop.create_future()
        group = self._join_group(
            key,
            target,
            command,
            parameters,
            name,
            clock() if arrived_at is None else arrived_at,
            asked_at,
            max_duration,
        )
        group.waiters.append(caller)
        group.deadline = max(group.deadline, clock() + timeout)
        timer = loop.call_later(timeout, give_up, caller)
        try:
            with metrics.WaitingCaller():
                answer = await caller
            if answer is None:
                return self._deadline(group)
            group.resolved.link(caller)
        finally:
            timer.cancel()
            caller.cancel()
            self._leave_place(key, target, command, account)
        if isinstance(answer, Problem):
            raise answer.error()
        return answer

    def _take_place(self, key: str, target: Target, command: Command, account: str) -> None:
        if command is not Command.START:
            self._stops.take(caller=account)
            return
        of_target = self._starts_per_target.get(key) or Places("waiting-for-target", self._max_per_target, _FULL)
        of_target.take(caller=account)
        try:
            self._starts.take(room=target.room_id, caller=account)
        except GatewayError:
            of_target.leave(caller=account)
            raise
        self._starts_per_target[key] = of_target

    def _leave_place(self, key: str, target: Target, command: Command, account: str) -> None:
        if command is not Command.START:
            self._stops.leave(caller=account)
            return
        self._starts.leave(room=target.room_id, caller=account)
        of_target = self._starts_per_target[key]
        of_target.leave(caller=account)
        if not of_target.taken:
            del self._starts_per_target[key]

    def _deadline(self, group: CallerGroup) -> Answer:
        group = group.resolved
        if group.stop_recorded and group.claim is not None:
            recording = recording_of(group.key, group.target, group.claim.record)
            return Answer(Outcome.STOP_REQUESTED, msgspec.structs.replace(recording, status=Status.STOPPING))
        raise DeadlineExceeded(what_goes_on(None if group.claiming else group.claim), retry_after=1)

    def _join_group(
        self,
        key: str,
        target: Target,
        command: Command,
        parameters: StartParameters | None,
        caller: str,
        arrived_at: float,
        asked_at: int | None,
        max_duration: MaxDuration,
    ) -> CallerGroup:
        arriving = self._arriving.setdefault(key, {})
        fingerprint = parameters.fingerprint if parameters else ""
        group = arriving.get((command, fingerprint, asked_at, max_duration))
        if group is not None and group.arrived_at is not None:
            group.arrived_at = min(group.arrived_at, arrived_at)
        if group is None:
            group = CallerGroup(key, target, command, parameters, caller, arrived_at, asked_at, max_duration)
            arriving[command, fingerprint, asked_at, max_duration] = group
        if key not in self._submitting:
            self._submitting[key] = 0
            # What else has arrived by then goes with it.
            asyncio.get_running_loop().call_soon(self._submit_groups, key)
        elif command is not Command.START:
            self._end_gathering(key)
        return group

    def _submit_groups(self, key: str) -> None:
        """Let the groups that arrived claim together; groups that arrive meanwhile claim after them."""
        groups = self._arriving.pop(key, {})
        if not groups:
            del self._submitting[key]
            return
        self._submitting[key] = len(groups)
        for group in groups.values():
            self._spawn(self._run_group(group), f"group-{group.command}", group.context)

    def _submitted(self, group: CallerGroup) -> None:
        if group.submitted:
            return
        group.submitted = True
        self._submitting[group.key] -= 1
        if self._submitting[group.key]:
            return
        if self._is_crowded(group):
            loop = asyncio.get_running_loop()
            self._crowds[group.key] = loop.call_later(self._crowd_seconds, self._end_gathering, group.key)
        else:
            self._submit_groups(group.key)

    def _is_crowded(self, group: CallerGroup) -> bool:
        """Tell whether claims of starts would now but say once more that an operation is in flight."""
        in_flight = group.claim is not None and group.claim.verdict in {Verdict.LEAD, Verdict.WAIT}
        of_target = self._starts_per_target.get(group.key)
        if not in_flight or of_target is None or of_target.taken < self._crowd:
            return False
        return all(arriving.command is Command.START for arriving in self._arriving.get(group.key, {}).values())

    def _end_gathering(self, key: str) -> None:
        """Submit what has gathered behind a crowd: for long enough, until the operation finished, or until a stop."""
        gathering = self._crowds.pop(key, None)
        if gathering is not None:
            gathering.cancel()
            self._submit_groups(key)

    # --- groups --------------------------------------------------------------------------------------------------

    async def _claim(self, group: CallerGroup, seen: str = "") -> tuple[Claim, Lease | None]:
        await self._without_redis.reconcile(group.key)
        group.claiming = True
        claim, lease = await self._coordinator.claim(
            group.key,
            group.command,
            fingerprint=group.fingerprint,
            recording=group.descriptor,
            seen=seen,
            asked_at=group.asked_at,
            max_duration=group.max_duration,
            since=group.arrived_at,
        )
        group.claim, group.claiming, group.arrived_at = claim, False, None
        if group.command is Command.STOP:
            group.stop_recorded = group.stop_recorded or claim.action != "grace"
            if claim.action != "grace":
                group.asked_at = claim.asked_at
        return claim, lease

    async def _run_group(self, group: CallerGroup) -> None:
        """Bring a group to its answer, and make sure that there is one."""
        try:
            await self._claim_until_answered(group)
        except CoordinationUnavailable as error:
            self._submitted(group)
            answer = await self._answer_without_redis(group, error)
            if isinstance(answer, Answer) and answer.outcome in {Outcome.STARTED, Outcome.STOPPED}:
                group.answer_leading(answer, Outcome.JOINED)
            else:
                group.answer(answer)
        except GatewayError as error:
            group.answer(Problem.of(error))
        except Exception:  # noqa: BLE001 - callers must not wait for an answer that never comes
            _log.exception("party.failed", target=group.key)
            group.answer(Problem.of(InternalError("The gateway failed to answer this request.")))
        finally:
            self._submitted(group)

    async def _claim_until_answered(self, group: CallerGroup) -> None:
        seen = ""
        while True:
            asked_at = clock()
            claim, lease = await self._claim(group, seen)
            self._submitted(group)
            seen = ""
            if lease is not None:
                operation = Operation(
                    group.key, group.target, group.command, claim, lease,
                    parameters=group.parameters, descriptor=group.descriptor, max_duration=group.max_duration,
                    deadline=lambda: group.deadline,
                )  # fmt: skip
                if self._answer_from_result(group, await self._lead(operation), leading=True):
                    return
            elif claim.verdict is Verdict.WAIT:
                if self._merge(group, claim):
                    return
                result = await self._wait(group, claim, asked_at)
                group.waited_for_another = group.waited_for_another or claim.action != "grace"
                if result is not None and self._answer_from_result(group, result):
                    return
                seen = claim.record.operation if result is None and claim.action != "grace" else ""
            elif claim.verdict is not Verdict.DONE:
                group.answer(self._answer_from_record(group, claim))
                return
            elif claim.result and self._answer_from_result(group, Result.decode(claim.result)):
                return
            if group.abandoned:
                return

    async def _answer_without_redis(self, group: CallerGroup, error: CoordinationUnavailable) -> Answer | Problem:
        if group.parameters is None and not group.number:
            return await self._without_redis.stop(group.key, group.target)
        if group.parameters is not None and self._degrade:
            return await self._without_redis.start(group.key, group.target, group.parameters, group.caller)
        return Problem.of(error)

    def _merge(self, group: CallerGroup, claim: Claim) -> bool:
        """Go over to a group that already waits for the same: one poll then serves both."""
        waiting = self._waiting.get(_wait_key(group, claim))
        if waiting is not None:
            waiting.waiters += group.waiters
            waiting.stop_recorded = waiting.stop_recorded or group.stop_recorded
            waiting.deadline = max(waiting.deadline, group.deadline)
            group.merged_into = waiting
        return waiting is not None

    async def _wait(self, group: CallerGroup, claim: Claim, asked_at: float) -> Result | None:
        """Wait until the operation finishes, or until it is time to look: None."""
        place = _wait_key(group, claim)
        heard_at, heard = self._recent_results.get(place[:2], (0.0, None))
        if heard is not None and heard_at >= asked_at and claim.action != "grace":
            return heard
        finished_signal = self._finished_signals.get(place[:2])
        if finished_signal is None or finished_signal.done():
            finished_signal = self._finished_signals[place[:2]] = asyncio.get_running_loop().create_future()
        every = _POLL_SECONDS if self._notifications.listening else _POLL_UNSUBSCRIBED_SECONDS
        poll = every * random.uniform(0.8, 1.2)  # noqa: S311
        lapse = claim.lease_left / 1000 + random.uniform(0.01, 0.06)  # noqa: S311
        self._waiting[place] = group
        try:
            async with asyncio.timeout(min(poll, lapse)):
                return await asyncio.shield(finished_signal)
        except TimeoutError:
            return None
        finally:
            del self._waiting[place]
            if not any(key[:2] == place[:2] for key in self._waiting):
                self._finished_signals.pop(place[:2], None)

    async def _lead(self, operation: Operation) -> Result:
        result = await self._leader.lead(operation)
        self._wake_waiters(operation.key, operation.lease.operation, result)
        if operation.stop_pending:
            self._spawn(self._reconciler.reconcile_quietly(operation.key), "stop-pending")
        return result

    def _wake_waiters(self, key: str, operation: str, result: Result | None) -> None:
        self._end_gathering(key)
        if result is not None and result.state:
            self._recent_results[key, operation] = (clock(), result)
            if len(self._recent_results) > self._max_results:
                del self._recent_results[next(iter(self._recent_results))]
        finished_signal = self._finished_signals.get((key, operation))
        if finished_signal is not None and not finished_signal.done():
            finished_signal.set_result(result)

    # --- wake-ups -----------------------------------------------------------------------------------------------------

    def _on_finished(self, finished_signal: OperationFinished) -> None:
        result = Result.decode(finished_signal.payload) if finished_signal.payload else None
        self._wake_waiters(finished_signal.key, finished_signal.operation, result)

    def _on_gap(self) -> None:
        # Messages may have been lost: let every waiter look for itself. And so may writes, where the server
        # that we listen to now is another one than before.
        self._coordinator.rewrite_recent()
        for finished_signal in self._finished_signals.values():
            if not finished_signal.done():
                finished_signal.set_result(None)

    # --- answers -------------------------------------------------------------------------------------------------

    def _answer_from_result(self, group: CallerGroup, result: Result, *, leading: bool = False) -> bool:
        """Answer the group if the result is about its command; otherwise it has to claim again."""
        group.trace, group.is_leader = result.trace, leading
        if result.problem is not None:
            # Only waiters that asked for the very same share a refusal.
            if not leading and (result.command is not group.command or result.fingerprint != group.fingerprint):
                return False
            group.answer(result.problem)
            return True
        if result.record is None:
            return False
        if group.command is Command.START:
            outcome = result.outcome or Outcome.ALREADY_RECORDING
            differs = result.record.fingerprint not in {"", group.fingerprint}
            its_own = leading and outcome is Outcome.STARTED
            if result.state != Status.RECORDING or differs or (not its_own and self._moves_end(group, result.record)):
                return False
            others = Outcome.JOINED if outcome is Outcome.STARTED else Outcome.ALREADY_RECORDING
        else:
            if result.command is not Command.STOP or result.state not in {Status.STOPPED, Status.STOPPING}:
                return False
            outcome = result.outcome or Outcome.STOPPED
            others = Outcome.JOINED if outcome is Outcome.STOPPED else outcome
        recording = recording_of(group.key, group.target, result.record)
        if leading:
            group.answer_leading(Answer(outcome, recording, was_sent=True), others)
        else:
            group.answer(Answer(others, recording, was_sent=True))
        return True

    def _moves_end(self, group: CallerGroup, record: Record) -> bool:
        return group.moves_end(record, self._coordinator.now_ms(), self._coordinator.timing.longest)

    def _answer_from_record(self, group: CallerGroup, claim: Claim) -> Answer | Problem:
        """Answer from the record, without an operation."""
        if claim.verdict is Verdict.CONFLICT:
            fields = differing_fields(claim.record.fingerprint, group.fingerprint)
            return Problem.of(ParametersDiffer.of(fields))
        recording = recording_of(group.key, group.target, claim.record)
        match claim.verdict:
            case Verdict.RUNNING:
                return Answer(Outcome.ALREADY_RECORDING, recording)
            case Verdict.GONE if group.command is Command.START:
                return Answer(None, recording)
            case Verdict.GONE:
                # What it was about is over; the record tells of a later recording.
                return Answer(Outcome.JOINED, recording_of(group.key, group.target, Record(state=Status.STOPPED)))
            case _:
                # The leader of the operation that this stop waited for stopped it.
                ours = group.waited_for_another and recording.status is Status.STOPPED
                if recording.status not in ENDED:
                    recording = msgspec.structs.replace(recording, status=Status.STOPPED)
                return Answer(Outcome.JOINED if ours else Outcome.NOT_RECORDING, recording)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, context: Context | None = None) -> None:
        # A strong reference: asyncio itself keeps only a weak one.
        task = asyncio.create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
