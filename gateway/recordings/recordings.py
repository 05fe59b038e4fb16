"""Turns any number of wishes for a track into one operation: the service that the API calls.

Callers of one process who want the same of a track form a *party*, and a party asks Redis once for all of them. While
one such question is under way, whoever arrives goes into the next party: nobody is given an answer that was read
before they came. A party then leads the operation, or waits for whoever does, on this replica or another.

An operation belongs to no caller. It runs in a task of its own, to its end, whoever hangs up meanwhile.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

import msgspec
import structlog

from gateway.coordinator import Claim, Command, Coordinator, Lease, Verdict
from gateway.errors import (
    CoordinationUnavailable,
    DeadlineExceeded,
    GatewayError,
    InternalError,
    NewerRecord,
    ParametersDiffer,
    TooManyWaiting,
)
from gateway.observability import metrics, tracing
from gateway.recordings.batches import Batch
from gateway.recordings.leader import Leader
from gateway.recordings.model import (
    Answer,
    Outcome,
    Problem,
    Result,
    StartParameters,
    Status,
    Track,
    differing_fields,
    recording_of,
    track_of,
)
from gateway.recordings.operation import Operation
from gateway.recordings.without_redis import WithoutRedisMode
from gateway.store.clock import clock
from gateway.store.notifications import Notifications, OperationFinished

__all__ = ["Recordings"]

_POLL_SECONDS = 1.0
_POLL_UNSUBSCRIBED_SECONDS = 0.25
_MAX_RESULTS = 1_000
_MAX_WAITING = 20_000
_MAX_WAITING_PER_TRACK = 1_000


_log = structlog.get_logger("gateway.recordings")


_WaitKey = tuple[str, str, Command, str, str]


def _wait_key(batch: Batch, claim: Claim) -> _WaitKey:
    """Return what parties that may wait as one have in common. A retry may be told what others are not."""
    retry = batch.target if batch.command is Command.START else ""
    return (batch.key, claim.operation, batch.command, batch.fingerprint, retry)


class Recordings:
    """Starts, stops and tells of recordings, once for everybody who asks.

    Args:
        coordinator: Where replicas agree.
        leader: Who carries out an operation.
        subscription: How replicas tell each other that one is finished.
        without_redis: Who stops, and perhaps starts, while Redis does not answer.
        degrade: Whether a start is done without Redis rather than refused.
        max_results: Results of a moment ago that are kept.
        max_waiting: Callers that may wait at the same time.
        max_waiting_per_track: The same for one track.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        leader: Leader,
        subscription: Notifications,
        without_redis: WithoutRedisMode,
        *,
        degrade: bool = False,
        max_results: int = _MAX_RESULTS,
        max_waiting: int = _MAX_WAITING,
        max_waiting_per_track: int = _MAX_WAITING_PER_TRACK,
    ) -> None:
        self._coordinator = coordinator
        self._leader = leader
        self._subscription = subscription
        self._without_redis = without_redis
        self._degrade = degrade
        self._max_results = max_results
        self._max_waiting = max_waiting
        self._max_waiting_per_track = max_waiting_per_track
        self._arriving: dict[str, dict[tuple[Command, str, int | None], Batch]] = {}
        self._submitting: set[str] = set()
        self._waiting: dict[_WaitKey, Batch] = {}
        self._finished_signals: dict[tuple[str, str], asyncio.Future[Result | None]] = {}
        self._recent_results: OrderedDict[tuple[str, str], tuple[float, Result]] = OrderedDict()
        """Results of a moment ago: one may overtake the claim's answer that says what to wait for. Only of operations
        that are finished: one that was released goes on under its number."""
        self._waiters_per_track: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters = 0

    async def open(self) -> None:
        """Begin to listen to other replicas, and to renew what this one holds."""
        await self._coordinator.start()
        await self._subscription.start(self._on_finished, self._on_gap)

    async def close(self, grace: float) -> None:
        """Let what runs come to its end, for at most `grace` seconds; what is left is for other replicas to settle."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._subscription.stop()
        await self._without_redis.close()
        await self._coordinator.stop()

    async def start(
        self,
        track: Track,
        parameters: StartParameters,
        *,
        caller: str,
        timeout: float,
        arrived_at: float | None = None,
        asked_at: int | None = None,
    ) -> Answer:
        """Have the track recorded.

        Args:
            track: What to record.
            parameters: Passed on as they are; part of what makes two starts the same.
            caller: Name of who asks.
            timeout: Seconds this caller is willing to wait. The operation does not depend on it.
            arrived_at: When (`clock`) the caller came, if that was not now: how long Redis is waited for counts from then.
            asked_at: When this was first asked (ms by Redis's clock), if it is a retry. Where somebody has asked for a
                stop since, nothing is done, and the answer tells without an outcome how the track stands.

        Raises:
            GatewayError: `ParametersDiffer`, `OutcomeUnknown`, `DeadlineExceeded`, `CoordinationUnavailable` or what
                VideoSDK's refusal means.
        """
        return await self._submit(track, Command.START, parameters, caller, timeout, arrived_at, asked_at)

    async def stop(self, track: Track, *, caller: str, timeout: float, arrived_at: float | None = None) -> Answer:
        """Have the track not recorded.

        Args:
            track: What to stop.
            caller: Name of who asks.
            timeout: Seconds this caller is willing to wait; then the stop goes on and the outcome is `stop_requested`.
            arrived_at: As for `start`.

        Raises:
            GatewayError: As for `start`, but never `ParametersDiffer`.
        """
        return await self._submit(track, Command.STOP, None, caller, timeout, arrived_at)

    async def ready(self) -> bool:
        """Return whether exactly one start can be promised now."""
        return await self._coordinator.answers()

    async def reconcile(self, key: str) -> None:
        """Look after a track that nobody asks for: carry out what is left to do, find out what is not known."""
        track = track_of(key)
        with tracing.span("reconcile", root=True, kind=track.kind):
            claim, lease = await self._coordinator.claim(key, Command.RECONCILE)
            if lease is not None:
                await self._lead(Operation(key, track, Command.RECONCILE, None, claim, lease, lambda: 0.0))

    # --- callers -------------------------------------------------------------------------------------------------

    async def _submit(
        self,
        track: Track,
        command: Command,
        parameters: StartParameters | None,
        name: str,
        timeout: float,
        arrived_at: float | None,
        asked_at: int | None = None,
    ) -> Answer:
        key = self._key(track)
        full = self._waiters_per_track.get(key, 0) >= self._max_waiting_per_track
        if full or self._waiters >= self._max_waiting:
            raise TooManyWaiting("Too many callers wait for this gateway at the moment.", retry_after=1)
        caller: asyncio.Future[Answer | Problem] = asyncio.get_running_loop().create_future()
        batch = self._join_batch(
            key, track, command, parameters, name, clock() if arrived_at is None else arrived_at, asked_at
        )
        batch.waiters.append(caller)
        batch.deadline = max(batch.deadline, clock() + timeout)
        self._waiters_per_track[key] = self._waiters_per_track.get(key, 0) + 1
        self._waiters += 1
        try:
            with metrics.waiting():
                async with asyncio.timeout(timeout):
                    answer = await asyncio.shield(caller)
            batch.resolved.link(caller)
        except TimeoutError:
            return self._deadline(batch)
        finally:
            caller.cancel()
            self._waiters -= 1
            self._waiters_per_track[key] -= 1
            if not self._waiters_per_track[key]:
                del self._waiters_per_track[key]
        if isinstance(answer, Problem):
            raise answer.error()
        return answer

    def _deadline(self, batch: Batch) -> Answer:
        batch = batch.resolved
        if batch.stop_recorded and batch.claim is not None:
            recording = recording_of(batch.key, batch.track, batch.claim)
            return Answer(Outcome.STOP_REQUESTED, msgspec.structs.replace(recording, status=Status.STOPPING))
        raise DeadlineExceeded("The operation goes on; ask again to learn its result.", retry_after=1)

    def _join_batch(
        self,
        key: str,
        track: Track,
        command: Command,
        parameters: StartParameters | None,
        caller: str,
        arrived_at: float,
        asked_at: int | None,
    ) -> Batch:
        arriving = self._arriving.setdefault(key, {})
        fingerprint = parameters.fingerprint if parameters else ""
        batch = arriving.get((command, fingerprint, asked_at))
        if batch is not None and batch.arrived_at is not None:
            batch.arrived_at = min(batch.arrived_at, arrived_at)
        if batch is None:
            batch = Batch(key, track, command, parameters, caller, arrived_at, asked_at)
            arriving[command, fingerprint, asked_at] = batch
        if key not in self._submitting:
            self._submitting.add(key)
            self._spawn(self._submit_batches(key), "door")
        return batch

    async def _submit_batches(self, key: str) -> None:
        """Let arrived parties ask Redis, one lot at a time: who arrives meanwhile waits for the next lot."""
        while batches := self._arriving.pop(key, None):
            for batch in batches.values():
                self._spawn(self._run_batch(batch), f"pursue-{batch.command}", batch.context)
            await asyncio.gather(*(batch.submitted.wait() for batch in batches.values()))
        self._submitting.discard(key)

    # --- parties -------------------------------------------------------------------------------------------------

    async def _claim(self, batch: Batch, seen: str = "") -> tuple[Claim, Lease | None]:
        await self._without_redis.reconcile(batch.key)
        claim, lease = await self._coordinator.claim(
            batch.key,
            batch.command,
            fingerprint=batch.fingerprint,
            recording=batch.descriptor,
            seen=seen,
            target=batch.target,
            since=batch.arrived_at,
        )
        batch.claim, batch.arrived_at = claim, None
        if batch.command is Command.STOP:
            batch.stop_recorded = batch.stop_recorded or claim.action != "grace"
            if not batch.target and claim.action != "grace":
                # An operation in flight may give what it finds its own number: then the stop is about that one too.
                inflight = int(claim.operation) if claim.verdict is Verdict.WAIT else 0
                batch.target = str(max(int(claim.generation), inflight) or "")
        return claim, lease

    async def _run_batch(self, batch: Batch) -> None:
        """Bring a party to its answer, and see to it that there is one."""
        try:
            await self._claim_until_answered(batch)
        except CoordinationUnavailable as error:
            batch.submitted.set()
            answer = await self._answer_without_redis(batch, error)
            if isinstance(answer, Answer) and answer.outcome in {Outcome.STARTED, Outcome.STOPPED}:
                batch.answer_leading(answer, Outcome.JOINED)
            else:
                batch.answer(answer)
        except GatewayError as error:
            batch.answer(Problem.of(error))
        except Exception:  # noqa: BLE001 - callers must not wait for an answer that never comes
            _log.exception("party.failed", track=batch.key)
            batch.answer(Problem.of(InternalError("The gateway made a mistake.")))
        finally:
            batch.submitted.set()

    async def _claim_until_answered(self, batch: Batch) -> None:
        seen = ""
        while True:
            asked_at = clock()
            claim, lease = await self._claim(batch, seen)
            batch.submitted.set()
            seen = ""
            if lease is not None:
                operation = Operation(
                    batch.key, batch.track, batch.command, batch.parameters, claim, lease, lambda: batch.deadline
                )
                if self._answer_from_result(batch, await self._lead(operation), leading=True):
                    return
            elif claim.verdict is Verdict.WAIT:
                if self._merge(batch, claim):
                    return
                result = await self._wait(batch, claim, asked_at)
                batch.waited_for_another = batch.waited_for_another or claim.action != "grace"
                if result is not None and self._answer_from_result(batch, result):
                    return
                seen = claim.operation if result is None and claim.action != "grace" else ""
            elif claim.verdict is not Verdict.DONE:
                batch.answer(self._answer_from_record(batch, claim))
                return
            elif claim.result and self._answer_from_result(batch, Result.decode(claim.result)):
                return
            if batch.abandoned:
                return

    async def _answer_without_redis(self, batch: Batch, error: CoordinationUnavailable) -> Answer | Problem:
        if batch.parameters is None:
            return await self._without_redis.stop(batch.key, batch.track)
        if self._degrade:
            return await self._without_redis.start(batch.key, batch.track, batch.parameters, batch.caller)
        return Problem.of(error)

    def _merge(self, batch: Batch, claim: Claim) -> bool:
        """Go over to a party that already waits for the same: one poll then serves both."""
        waiting = self._waiting.get(_wait_key(batch, claim))
        if waiting is None:
            return False
        waiting.waiters += batch.waiters
        waiting.stop_recorded = waiting.stop_recorded or batch.stop_recorded
        waiting.deadline = max(waiting.deadline, batch.deadline)
        batch.merged_into = waiting
        return True

    async def _wait(self, batch: Batch, claim: Claim, asked_at: float) -> Result | None:
        """Wait until the operation finishes, or until it is time to look: None."""
        place = _wait_key(batch, claim)
        heard_at, heard = self._recent_results.get(place[:2], (0.0, None))
        if heard is not None and heard_at >= asked_at and claim.action != "grace":
            return heard
        finished_signal = self._finished_signals.get(place[:2])
        if finished_signal is None or finished_signal.done():
            finished_signal = self._finished_signals[place[:2]] = asyncio.get_running_loop().create_future()
        poll = (_POLL_SECONDS if self._subscription.listening else _POLL_UNSUBSCRIBED_SECONDS) * random.uniform(
            0.8, 1.2
        )  # noqa: S311
        lapse = claim.lease_left / 1000 + random.uniform(0.01, 0.06)  # noqa: S311
        self._waiting[place] = batch
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
        try:
            result, stop = await self._leader.lead(operation)
        except BaseException:
            # Renewed for ever it would keep everybody out; lapsed, whoever comes finds out what became of it.
            self._coordinator.let_lapse(operation.lease)
            raise
        self._wake_waiters(operation.key, operation.lease.operation, result)
        if stop:
            self._spawn(self._reconcile_quietly(operation.key), "stop-intent")
        return result

    async def _reconcile_quietly(self, key: str) -> None:
        try:
            await self.reconcile(key)
        except (CoordinationUnavailable, NewerRecord):
            _log.warning("settle.postponed", track=key)
        except Exception:  # noqa: BLE001 - the reconciliation of what is due takes it up again
            _log.exception("settle.failed", track=key)

    def _wake_waiters(self, key: str, operation: str, result: Result | None) -> None:
        if result is not None and result.state is not None:
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
        # Messages may have been lost: let everybody who waits look for themselves. And so may writes, where the server
        # that we listen to now is another one than before.
        self._coordinator.rewrite_recent()
        for finished_signal in self._finished_signals.values():
            if not finished_signal.done():
                finished_signal.set_result(None)

    # --- answers -------------------------------------------------------------------------------------------------

    def _answer_from_result(self, batch: Batch, result: Result, *, leading: bool = False) -> bool:
        """Answer the party if the result is about what it wants; otherwise it has to ask again."""
        recording = result.recording(batch.key, batch.track)
        batch.trace, batch.is_leader = result.trace, leading
        if result.problem is not None:
            # A refusal is shared by those who asked for the very same, and by nobody else.
            if not leading and (result.command is not batch.command or result.fingerprint != batch.fingerprint):
                return False
            batch.answer(result.problem)
            return True
        if batch.command is Command.START:
            if result.state is not Status.RECORDING or result.fingerprint not in {"", batch.fingerprint}:
                return False
            outcome = result.outcome or Outcome.ALREADY_RECORDING
            others = Outcome.JOINED if outcome is Outcome.STARTED else Outcome.ALREADY_RECORDING
        else:
            if result.command is not Command.STOP or result.state not in {Status.STOPPED, Status.STOPPING}:
                return False
            outcome = result.outcome or Outcome.STOPPED
            others = Outcome.JOINED if outcome is Outcome.STOPPED else outcome
        if leading:
            batch.answer_leading(Answer(outcome, recording), others)
        else:
            batch.answer(Answer(others, recording))
        return True

    def _answer_from_record(self, batch: Batch, claim: Claim) -> Answer | Problem:
        """Answer from the record, without an operation."""
        if claim.verdict is Verdict.CONFLICT:
            fields = differing_fields(claim.fingerprint, batch.fingerprint)
            return Problem.of(ParametersDiffer.of(fields))
        recording = recording_of(batch.key, batch.track, claim)
        match claim.verdict:
            case Verdict.RUNNING:
                return Answer(Outcome.ALREADY_RECORDING, recording)
            case Verdict.GONE if batch.command is Command.START:
                return Answer(None, recording)
            case _:
                # Somebody else stopped it for us: whoever finished the operation that this stop waited for.
                ours = claim.verdict is Verdict.GONE or (batch.waited_for_another and claim.state == Status.STOPPED)
                outcome = Outcome.JOINED if ours else Outcome.NOT_RECORDING
                return Answer(outcome, msgspec.structs.replace(recording, status=Status.STOPPED))

    def _key(self, track: Track) -> str:
        return self._coordinator.key(track.room_id, track.participant_id, track.kind)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, context: Context | None = None) -> None:
        # A strong reference: asyncio itself keeps only a weak one.
        task = asyncio.create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
