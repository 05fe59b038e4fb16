"""Carries out one operation while its claim is held. Only this module and `without_redis.py` start or stop at VideoSDK.

Every path ends in one write to the record at most, and which one depends on what is *proven*, not on what is likely:

    nothing was sent            release: the record is as it was, and waiters claim again or learn why
    answered                    finish with the truth
    refused                     this call did nothing; the list says what is true
    may have happened           a short look; if that finds nothing, finish as unknown and keep the quiet time
"""

import asyncio

import structlog

from gateway.coordinator import Command, Coordinator, Lease, Record
from gateway.errors import (
    CoordinationUnavailable,
    CredentialsRefused,
    GatewayError,
    Limited,
    NeverSent,
    OutcomeUnknown,
    Refused,
    SendWindowClosed,
    StillStopping,
    UpstreamError,
)
from gateway.observability import metrics, tracing
from gateway.recordings.evidence import only_dead
from gateway.recordings.failures import MAY_PASS, NO_SESSION, list_unavailable, problem_for, stop_refused
from gateway.recordings.listings import ListingCache
from gateway.recordings.model import ENDED, EndReason, Outcome, Problem, Status
from gateway.recordings.operation import Operation, Result
from gateway.recordings.probe import LOOK_PAUSES, MISSES_APART_SECONDS, NONE_RUNS, Probe, noted
from gateway.store.clock import clock
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.rows import ListedRow

__all__ = ["Leader"]

_LOOK_SECONDS = 3.0
"""How long a start without an answer looks for itself in the list before it is called unknown."""
_CERTAIN_SECONDS = 10.0
"""For how long after a list would be believed a probe goes on asking for one."""
_UNKNOWN_DUE_SECONDS = 1.0
_UNSEEN_DUE_SECONDS = 5.0
"""How soon what was doubted is looked at again after the list could not be had."""
_STOP_AGAIN_SECONDS = 1.0
_STOP_SELDOM_SECONDS = 30.0
_START_AGAIN_SECONDS = 1.0
_AT_ONCE_SECONDS = 0.001
_PROCESSING_SECONDS = 20.0
"""For how long after a stop a refused start is blamed on it."""
_WRITING_SECONDS = 2.0
"""How long a result may take to be written: a caller that waits no longer may have been promised the stop by then."""
_FILES_DUE_SECONDS = 2.0
"""How soon after a stop its files are looked for."""

_log = structlog.get_logger("gateway.recordings")


class Leader:
    """Carries out operations for one process.

    Args:
        coordinator: Where results are written.
        videosdk: The client of VideoSDK.
        listings: VideoSDK's lists of what records.
        retry_refused: For how many seconds a start that VideoSDK refuses is tried again where that may pass; 0 is not.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        videosdk: VideoSDK,
        listings: ListingCache,
        *,
        retry_refused: float,
    ) -> None:
        self._retry_refused = retry_refused
        self._coordinator = coordinator
        self._videosdk = videosdk
        self._leases = coordinator.leases
        self._listings = listings
        self._probe = Probe(coordinator, listings)
        self._timing = coordinator.timing

    async def lead(self, operation: Operation) -> Result:
        """Carry out the operation that the claim was granted for, to its end, also when no caller waits any more.

        Returns:
            What became of it, already written to the record.
        """
        try:
            return await self._lead(operation)
        except BaseException:
            # Stop renewing: the lease expires and the next caller finds out what became of it.
            self._leases.drop(operation.lease)
            raise

    async def _lead(self, operation: Operation) -> Result:
        with metrics.LedOperation(
            kind=operation.target.label, action=operation.lease.action, attempt=operation.lease.attempt
        ):
            match operation.lease.action:
                case "start":
                    return await self._start(operation)
                case "stop":
                    return await self._stop(operation)
                case _:
                    return await self._find_out(operation)

    # --- start ---------------------------------------------------------------------------------------------------

    async def _start(self, operation: Operation) -> Result:
        operation.forget_recording()
        self._listings.forget_unknown(operation.target.room_id)
        try:
            with noted(operation, "start"):
                await self._videosdk.start(
                    operation.target,
                    operation.parameters.fields(operation.target.mode),
                    may_send=self._gate(operation.lease),
                    attempt=operation.lease.attempt,
                )
        except UpstreamError as error:
            return await self._start_failed(operation, error)
        return await self._finish(operation, Status.RECORDING, Outcome.STARTED, confirmed_by="reply")

    async def _start_failed(self, operation: Operation, error: UpstreamError) -> Result:
        _log.warning(
            "upstream.start_failed", error=type(error).__name__, status=error.status, attempt=operation.lease.attempt
        )
        if isinstance(error, Refused):
            return await self._start_refused(operation, error)
        if not error.may_have_happened:  # rule: release-what-was-not-sent
            return await self._release(operation, error)
        row = await self._probe.look_for(operation, min(_LOOK_SECONDS, self._timing.settle))
        if row:
            return await self._finish(operation, Status.RECORDING, Outcome.ALREADY_RECORDING, confirmed_by="list")
        return await self._finish(
            operation, Status.UNKNOWN, None, problem=Problem.of(problem_for(error)), due_in=_UNKNOWN_DUE_SECONDS
        )

    async def _start_refused(self, operation: Operation, error: Refused) -> Result:
        try:
            row = await self._probe.open_row(operation)
        except UpstreamError as unseen:
            # Our start did nothing, but what made VideoSDK refuse it may well be a recording that runs.
            unknown = OutcomeUnknown(
                "VideoSDK refused the start, and could not be asked whether something records.",
                retry_after=problem_for(unseen).retry_after or _UNKNOWN_DUE_SECONDS,
                extensions={"upstreamStatus": error.status},
            )
            return await self._finish(
                operation, Status.UNKNOWN, None, problem=Problem.of(unknown), answered=True, due_in=_UNKNOWN_DUE_SECONDS
            )
        if row:
            operation.adopt(operation.record.generation)
            return await self._finish(operation, Status.RECORDING, Outcome.ALREADY_RECORDING, confirmed_by="list")
        if error.status not in MAY_PASS:
            return await self._start_failed_for_good(operation, problem_for(error))
        return await self._start_again(operation, error)

    async def _start_failed_for_good(self, operation: Operation, problem: GatewayError) -> Result:
        return await self._finish(
            operation, Status.FAILED, None, problem=Problem.of(problem), confirmed_by="list", answered=True
        )

    def _just_stopped(self, operation: Operation) -> bool:
        return self._coordinator.now_ms() - operation.claim.record.ended_at < _PROCESSING_SECONDS * 1000

    async def _start_again(self, operation: Operation, error: Refused) -> Result:
        """Start once more where the refusal may pass, if a caller waits that long.

        A participant who has only just joined cannot be recorded for a second or two (the vendor's packages), and its
        signalling layer knows "previous recording still being processed, retry in seconds" (4018).
        """
        now, pause = clock(), error.retry_after or _START_AGAIN_SECONDS
        operation.refused_at = operation.refused_at or now
        just_stopped = self._just_stopped(operation)
        if not just_stopped and now + pause > operation.refused_at + self._retry_refused:
            return await self._start_failed_for_good(operation, problem_for(error))
        if now + pause + _START_AGAIN_SECONDS > operation.deadline():
            problem = problem_for(error) if not just_stopped else StillStopping(
                "VideoSDK still works on the recording that was stopped just now.",
                retry_after=pause,
                extensions={"upstreamStatus": error.status},
            )  # fmt: skip
            return await self._start_failed_for_good(operation, problem)
        await asyncio.sleep(pause)
        if self._leases.stop_wanted(operation.lease):
            return await self._start_failed_for_good(operation, problem_for(error))
        return await self._absent(operation)

    # --- stop ----------------------------------------------------------------------------------------------------

    async def _stop(self, operation: Operation) -> Result:
        if operation.record.is_timed and operation.claim.before != Status.STOPPING:
            _log.info("recording.time_over", target=operation.key, attempt=operation.lease.attempt)
        try:
            with noted(operation, "stop"):
                await self._videosdk.stop(
                    operation.target, may_send=self._gate(operation.lease), attempt=operation.lease.attempt
                )
        except Refused as error:
            return await self._stop_refused(operation, error)
        except UpstreamError as error:
            return await self._stop_unconfirmed(operation, error)
        known = operation.evidence
        if known is not None and known.rivals and (await self._left_to_stop(operation))[0] is not None:
            # One of two recordings may have gone on: `stopped` has to be true of both.
            return await self._finish(
                operation, Status.STOPPING, Outcome.STOP_REQUESTED, answered=True, due_in=_STOP_AGAIN_SECONDS
            )
        return await self._finish(operation, Status.STOPPED, Outcome.STOPPED, confirmed_by="reply", answered=True)

    async def _stop_unconfirmed(self, operation: Operation, error: UpstreamError) -> Result:
        no_caller_waits = clock() >= operation.deadline() and not isinstance(error, SendWindowClosed)
        if not error.may_have_happened and not no_caller_waits:
            return await self._release(operation, error)
        if error.may_have_happened and no_caller_waits:
            # A repeat. Where every answer gets lost on its way, the list alone tells that nothing is left to stop.
            row, unseen = await self._left_to_stop(operation)
            if row is None and not unseen:
                return await self._finish(operation, Status.STOPPED, Outcome.STOPPED, confirmed_by="list")
        # A stop may be repeated: nothing newer can start while it is not known to be over. And it is repeated where
        # no caller waits to learn that it failed: a caller that left was promised that it will happen.
        return await self._finish(
            operation,
            Status.STOPPING,
            Outcome.STOP_REQUESTED,
            answered=not error.may_have_happened,
            due_in=error.retry_after or self._until_repeat(self._probe.stop_age(operation)),
        )

    def _until_repeat(self, age: float) -> float:
        """Return after how many seconds a stop is repeated: each time about half as long as all the times before."""
        return min(max(age / 2, _STOP_AGAIN_SECONDS), _STOP_SELDOM_SECONDS)

    async def _left_to_stop(self, operation: Operation) -> tuple[ListedRow | None, bool]:
        """Return what the list shows open after a stop, and whether the list could not be had.

        That nothing runs is believed only by its word, and not while it may be behind a start.
        """
        try:
            row = await self._probe.open_row(operation)
            while (
                row is None
                and not self._leases.is_lost(operation.lease)
                and not self._probe.seen_to_end(operation)
                and self._probe.is_behind(operation)
            ):
                await asyncio.sleep(LOOK_PAUSES[1])
                row = await self._probe.open_row(operation)
        except UpstreamError:
            return None, True
        return row, False

    async def _stop_refused(self, operation: Operation, error: Refused) -> Result:
        row, unseen = await self._left_to_stop(operation)
        if row is not None and self._probe.is_unstoppable(operation, row, error):
            self._probe.bury(operation, row, "stop_refused")
            row, unseen = await self._left_to_stop(operation)
        no_caller_waits = clock() + _WRITING_SECONDS >= operation.deadline()
        if unseen or (row is not None and (no_caller_waits or self._probe.age(operation) < _PROCESSING_SECONDS)):
            # It may be refused because the recording is only just starting (the signalling layer's 4012): again later,
            # and ever more seldom.
            age = self._probe.stop_age(operation) if unseen else self._probe.refusals_age(operation)
            pause = self._until_repeat(age)
            return await self._finish(operation, Status.STOPPING, Outcome.STOP_REQUESTED, answered=True, due_in=pause)
        if row is None:
            # Where nothing is known of the target, the list is asked again only if something may just be beginning.
            may_begin = operation.record.generation != "0" or error.status not in NO_SESSION
            return await self._finish(
                operation,
                Status.STOPPED,
                Outcome.NOT_RECORDING,
                confirmed_by="list",
                answered=True,
                looks_again=may_begin,
            )
        return await self._finish(
            operation,
            Status.RECORDING,
            None,
            problem=Problem.of(stop_refused(error)),
            confirmed_by="list",
            answered=True,
        )

    # --- probe ---------------------------------------------------------------------------------------------------

    async def _find_out(self, operation: Operation) -> Result:
        """Find out what records, and what became of an unfinished operation, before anything else may be sent."""
        lease, recorded = operation.lease, operation.claim.before == Status.RECORDING
        certain_from = self._probe.certain_from(operation)
        give_up_at = certain_from + self._timing.settle + _CERTAIN_SECONDS
        last: UpstreamError | None = None
        missed_at: float | None = None
        tries = 0
        while not self._leases.is_lost(lease) and clock() < give_up_at:
            asked = clock()
            try:
                row = await self._probe.open_row(operation)
            except UpstreamError as error:
                if result := await self._unseen(operation, error, tries):
                    return result
                last = error
            else:
                if row is not None and (operation.stop_missed or asked >= self._probe.stops_land_until(operation)):
                    return await self._found(operation)
                missed_at = (missed_at or asked) if row is None and asked >= certain_from else None
                if missed_at is not None and self._probe.is_missed(operation, missed_at, asked):
                    return await self._absent(operation)
            if self._leases.stop_wanted(lease):
                # A stop was requested: it need not wait until the outcome is known.
                await self._coordinator.release(lease, self._again(operation))
                return self._again(operation)
            pause = LOOK_PAUSES[min(tries, len(LOOK_PAUSES) - 1)]
            if recorded and asked >= certain_from:
                pause = MISSES_APART_SECONDS
            # A look that was asked for a moment too early is repeated at once, however long its answer took.
            await asyncio.sleep(min(pause, max(certain_from - clock(), 0)) if asked < certain_from else pause)
            tries += 1
        if self._leases.is_lost(lease):
            return self._again(operation)
        return await self._finish(
            operation, Status.UNKNOWN, None, problem=Problem.of(list_unavailable(last)), due_in=_UNKNOWN_DUE_SECONDS
        )

    async def _found(self, operation: Operation) -> Result:
        if operation.stop_missed:
            # The stop is due again, and led like any other.
            return await self._finish(operation, Status.STOPPING, None, answered=True, due_in=_AT_ONCE_SECONDS)
        return await self._finish(operation, Status.RECORDING, Outcome.ALREADY_RECORDING, confirmed_by="list")

    async def _unseen(self, operation: Operation, error: UpstreamError, tries: int) -> Result | None:
        """End a probe that cannot see the list, where what is known stays true all the same; None where it goes on."""
        before = operation.claim.before
        if not self._probe.nothing_lands(operation):
            return None
        if before == Status.RECORDING:
            problem = Problem.of(list_unavailable(error))
            return await self._finish(operation, Status.RECORDING, None, problem=problem, due_in=_UNSEEN_DUE_SECONDS)
        if before in NONE_RUNS and tries > 0 and isinstance(error, CredentialsRefused | Limited | NeverSent):
            return await self._release(operation, error)
        return None

    async def _absent(self, operation: Operation) -> Result:
        """Nothing records and nothing can land any more: start if that is the command, else write it down."""
        if operation.command is not Command.START:
            if self._probe.end_of(operation) is Status.FAILED:
                await self._probe.read_reports(operation)
            return await self._finish(operation, self._probe.end_of(operation), None, confirmed_by="list", settled=True)
        try:
            promoted = await self._coordinator.promote_to_start(
                operation.lease,
                fingerprint=operation.fingerprint,
                recording=operation.descriptor,
                max_duration=operation.max_duration,
            )
        except CoordinationUnavailable as error:
            await self._coordinator.release(operation.lease, self._again(operation))
            return Result(command=operation.command, problem=Problem.of(error))
        if promoted is None:
            return self._again(operation)
        operation.promoted(promoted)
        return await self._start(operation)

    # --- the one write -------------------------------------------------------------------------------------------

    def _gate(self, lease: Lease):  # noqa: ANN202 - a bound closure, said by `may_send`
        def may_send() -> bool:
            # From before the grant was asked for; renewals lengthen the lease, never the window, because Redis counts
            # the quiet time from the grant.
            in_time = clock() - lease.granted_at < self._timing.send_window  # rule: send-gate
            return in_time and not self._leases.is_lost(lease)

        return may_send

    async def _finish(
        self,
        operation: Operation,
        state: Status,
        outcome: Outcome | None,
        *,
        problem: Problem | None = None,
        confirmed_by: str = "",
        settled: bool = False,
        answered: bool = False,
        due_in: float = 0,
        looks_again: bool = True,
    ) -> Result:
        lease, claim = operation.lease, operation.claim
        if state is Status.RECORDING and lease.action == "probe" and claim.before in NONE_RUNS:
            # Found in the list, and no known operation began it: this operation's number becomes its identity.
            operation.adopt(lease.operation)
        because = operation.because(state, outcome, problem)
        ended_at = self._coordinator.now_ms() if state is Status.STOPPED else 0
        if outcome is Outcome.NOT_RECORDING and claim.before in ENDED:
            # It had ended before this stop, and for another reason.
            because = claim.record.because
            ended_at = claim.record.ended_at if claim.before == Status.STOPPED else ended_at
        known = operation.record
        record = Record(
            state=state,
            generation=known.generation,
            fingerprint=known.fingerprint,
            recording=known.recording,
            # What VideoSDK refused to begin has no row: one that the list shows is another's, of a moment ago.
            evidence=only_dead(known.evidence) if because is EndReason.REFUSED else known.evidence,
            because=because,
            confirmed=self._coordinator.now_ms() if confirmed_by else 0,
            confirmed_by=confirmed_by,
            started_at=known.started_at,
            ended_at=ended_at,
            stops_at=known.stops_at,
        )
        result = Result(
            command=operation.serves,
            record=record,
            outcome=outcome,
            problem=problem,
            fingerprint=operation.fingerprint,
            trace=tracing.here(),
        )
        finished = await self._coordinator.finish(
            lease,
            result,
            seen_at=operation.looked_at if confirmed_by == "list" else None,
            settled=settled,
            answered=answered,
            due_in=due_in or (self._look_again(operation, state, outcome) if looks_again else 0),
            upstream=operation.upstream,
        )
        if finished.how == "stale" and not (lease.action == "stop" and state is Status.STOPPED):
            # The target has moved on without us. A stop that VideoSDK confirmed is true all the same.
            if outcome is Outcome.STARTED:
                metrics.DUPLICATES_SUSPECTED.inc()
                _log.error("duplicate.suspected", target=operation.key, attempt=lease.attempt)
            return self._again(operation)
        operation.stop_pending = finished.stop
        if because is EndReason.MAX_DURATION:
            metrics.TIMED_STOPS.inc()
        return result

    def _look_again(self, operation: Operation, state: Status, outcome: Outcome | None) -> float:
        """Return after how many seconds a target with nothing uncertain is compared with the list; 0 is never."""
        if not self._timing.check:
            return 0
        if state is Status.RECORDING:
            # The first time as soon as the list must show it.
            return (
                min(self._timing.settle + 1, self._timing.check) if outcome is Outcome.STARTED else self._timing.check
            )
        files_to_come = state is Status.STOPPED and (operation.lease.action == "stop" or operation.record.evidence)
        return _FILES_DUE_SECONDS if files_to_come else 0

    async def _release(self, operation: Operation, error: UpstreamError) -> Result:
        late = isinstance(error, SendWindowClosed)
        result = Result(
            command=operation.serves,
            problem=Problem.of(problem_for(error)),
            fingerprint=operation.fingerprint,
            trace=tracing.here(),
        )
        if late:
            result = self._again(operation)
        await self._coordinator.release(operation.lease, result)
        return result

    def _again(self, operation: Operation) -> Result:
        return Result(command=operation.command)
