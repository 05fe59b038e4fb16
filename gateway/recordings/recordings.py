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

from gateway import telemetry, tracing
from gateway.coordinator import Claim, Coordinator, Lease, Verdict, Wakeup, Wakeups, Wish, clock
from gateway.errors import (
    CoordinationUnavailable,
    DeadlineExceeded,
    GatewayError,
    InternalError,
    NewerRecord,
    ParametersDiffer,
    TooManyWaiting,
)
from gateway.recordings.job import Job
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
from gateway.recordings.party import Party
from gateway.recordings.uncoordinated import Uncoordinated

__all__ = ["Recordings"]

_POLL_SECONDS = 1.0
_POLL_WHILE_DEAF_SECONDS = 0.25
_MAX_RESULTS = 1_000
_MAX_WAITING = 20_000
_MAX_WAITING_PER_TRACK = 1_000


_log = structlog.get_logger("gateway.recordings")


_Place = tuple[str, str, Wish, str, str]


def _place(party: Party, claim: Claim) -> _Place:
    """Return what parties that may wait as one have in common. A retry may be told what others are not."""
    retry = party.target if party.wish is Wish.START else ""
    return (party.key, claim.operation, party.wish, party.fingerprint, retry)


class Recordings:
    """Starts, stops and tells of recordings, once for everybody who asks.

    Args:
        coordinator: Where replicas agree.
        leader: Who carries out an operation.
        subscription: How replicas tell each other that one is finished.
        uncoordinated: Who stops, and perhaps starts, while Redis does not answer.
        degrade: Whether a start is done without Redis rather than refused.
        max_results: Results of a moment ago that are kept.
        max_waiting: Callers that may wait at the same time.
        max_waiting_per_track: The same for one track.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        leader: Leader,
        subscription: Wakeups,
        uncoordinated: Uncoordinated,
        *,
        degrade: bool = False,
        max_results: int = _MAX_RESULTS,
        max_waiting: int = _MAX_WAITING,
        max_waiting_per_track: int = _MAX_WAITING_PER_TRACK,
    ) -> None:
        self._coordinator = coordinator
        self._leader = leader
        self._subscription = subscription
        self._uncoordinated = uncoordinated
        self._degrade = degrade
        self._max_results = max_results
        self._max_waiting = max_waiting
        self._max_waiting_per_track = max_waiting_per_track
        self._arriving: dict[str, dict[tuple[Wish, str, int | None], Party]] = {}
        self._doors: set[str] = set()
        self._waiting: dict[_Place, Party] = {}
        self._wakeups: dict[tuple[str, str], asyncio.Future[Result | None]] = {}
        self._heard: OrderedDict[tuple[str, str], tuple[float, Result]] = OrderedDict()
        """Results of a moment ago: one may overtake the claim's answer that says what to wait for. Only of operations
        that are finished: one that was released goes on under its number."""
        self._callers: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting_callers = 0

    async def open(self) -> None:
        """Begin to listen to other replicas, and to renew what this one holds."""
        await self._coordinator.start()
        await self._subscription.start(self._on_wakeup, self._on_gap)

    async def close(self, grace: float) -> None:
        """Let what runs come to its end, for at most `grace` seconds; what is left is for other replicas to settle."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._subscription.stop()
        await self._uncoordinated.close()
        await self._coordinator.stop()

    async def start(
        self,
        track: Track,
        parameters: StartParameters,
        *,
        caller: str,
        within: float,
        came_at: float | None = None,
        asked_at: int | None = None,
    ) -> Answer:
        """Have the track recorded.

        Args:
            track: What to record.
            parameters: Passed on as they are; part of what makes two starts the same.
            caller: Name of who asks.
            within: Seconds this caller is willing to wait. The operation does not depend on it.
            came_at: When (`clock`) the caller came, if that was not now: how long Redis is waited for counts from then.
            asked_at: When this was first asked (ms by Redis's clock), if it is a retry. Where somebody has asked for a
                stop since, nothing is done, and the answer tells without an outcome how the track stands.

        Raises:
            GatewayError: `ParametersDiffer`, `OutcomeUnknown`, `DeadlineExceeded`, `CoordinationUnavailable` or what
                VideoSDK's refusal means.
        """
        return await self._ask(track, Wish.START, parameters, caller, within, came_at, asked_at)

    async def stop(self, track: Track, *, caller: str, within: float, came_at: float | None = None) -> Answer:
        """Have the track not recorded.

        Args:
            track: What to stop.
            caller: Name of who asks.
            within: Seconds this caller is willing to wait; then the stop goes on and the outcome is `stop_requested`.
            came_at: As for `start`.

        Raises:
            GatewayError: As for `start`, but never `ParametersDiffer`.
        """
        return await self._ask(track, Wish.STOP, None, caller, within, came_at)

    async def ready(self) -> bool:
        """Return whether exactly one start can be promised now."""
        return await self._coordinator.answers()

    async def settle(self, key: str) -> None:
        """Look after a track that nobody asks for: carry out what is left to do, find out what is not known."""
        track = track_of(key)
        with tracing.span("settle", root=True, kind=track.kind):
            claim, lease = await self._coordinator.claim(key, Wish.CHECK)
            if lease is not None:
                await self._lead(Job(key, track, Wish.CHECK, None, claim, lease, lambda: 0.0))

    # --- callers -------------------------------------------------------------------------------------------------

    async def _ask(
        self,
        track: Track,
        wish: Wish,
        parameters: StartParameters | None,
        name: str,
        within: float,
        came_at: float | None,
        asked_at: int | None = None,
    ) -> Answer:
        key = self._key(track)
        full = self._callers.get(key, 0) >= self._max_waiting_per_track
        if full or self._waiting_callers >= self._max_waiting:
            raise TooManyWaiting("Too many callers wait for this gateway at the moment.", retry_after=1)
        caller: asyncio.Future[Answer | Problem] = asyncio.get_running_loop().create_future()
        party = self._join_party(key, track, wish, parameters, name, clock() if came_at is None else came_at, asked_at)
        party.callers.append(caller)
        party.patience = max(party.patience, clock() + within)
        self._callers[key] = self._callers.get(key, 0) + 1
        self._waiting_callers += 1
        try:
            with telemetry.waiting():
                async with asyncio.timeout(within):
                    answer = await asyncio.shield(caller)
            party.final.link(caller)
        except TimeoutError:
            return self._deadline(party)
        finally:
            caller.cancel()
            self._waiting_callers -= 1
            self._callers[key] -= 1
            if not self._callers[key]:
                del self._callers[key]
        if isinstance(answer, Problem):
            raise answer.error()
        return answer

    def _deadline(self, party: Party) -> Answer:
        party = party.final
        if party.committed and party.claim is not None:
            recording = recording_of(party.key, party.track, party.claim)
            return Answer(Outcome.STOP_REQUESTED, msgspec.structs.replace(recording, status=Status.STOPPING))
        raise DeadlineExceeded("The operation goes on; ask again to learn its result.", retry_after=1)

    def _join_party(
        self,
        key: str,
        track: Track,
        wish: Wish,
        parameters: StartParameters | None,
        caller: str,
        came_at: float,
        asked_at: int | None,
    ) -> Party:
        arriving = self._arriving.setdefault(key, {})
        fingerprint = parameters.fingerprint if parameters else ""
        party = arriving.get((wish, fingerprint, asked_at))
        if party is not None and party.came_at is not None:
            party.came_at = min(party.came_at, came_at)
        if party is None:
            party = Party(key, track, wish, parameters, caller, came_at, asked_at)
            arriving[wish, fingerprint, asked_at] = party
        if key not in self._doors:
            self._doors.add(key)
            self._spawn(self._admit(key), "door")
        return party

    async def _admit(self, key: str) -> None:
        """Let arrived parties ask Redis, one lot at a time: who arrives meanwhile waits for the next lot."""
        while parties := self._arriving.pop(key, None):
            for party in parties.values():
                self._spawn(self._pursue(party), f"pursue-{party.wish}", party.context)
            await asyncio.gather(*(party.admitted.wait() for party in parties.values()))
        self._doors.discard(key)

    # --- parties -------------------------------------------------------------------------------------------------

    async def _claim(self, party: Party, seen: str = "") -> tuple[Claim, Lease | None]:
        await self._uncoordinated.reconcile(party.key)
        claim, lease = await self._coordinator.claim(
            party.key,
            party.wish,
            fingerprint=party.fingerprint,
            recording=party.descriptor,
            seen=seen,
            target=party.target,
            since=party.came_at,
        )
        party.claim, party.came_at = claim, None
        if party.wish is Wish.STOP:
            party.committed = party.committed or claim.doing != "grace"
            if not party.target and claim.doing != "grace":
                # An operation in flight may give what it finds its own number: then the stop is about that one too.
                inflight = int(claim.operation) if claim.verdict is Verdict.WAIT else 0
                party.target = str(max(int(claim.generation), inflight) or "")
        return claim, lease

    async def _pursue(self, party: Party) -> None:
        """Bring a party to its answer, and see to it that there is one."""
        try:
            await self._ask_until_answered(party)
        except CoordinationUnavailable as error:
            party.admitted.set()
            answer = await self._without_redis(party, error)
            if isinstance(answer, Answer) and answer.outcome in {Outcome.STARTED, Outcome.STOPPED}:
                party.answer_leading(answer, Outcome.JOINED)
            else:
                party.answer(answer)
        except GatewayError as error:
            party.answer(Problem.of(error))
        except Exception:  # noqa: BLE001 - callers must not wait for an answer that never comes
            _log.exception("party.failed", track=party.key)
            party.answer(Problem.of(InternalError("The gateway made a mistake.")))
        finally:
            party.admitted.set()

    async def _ask_until_answered(self, party: Party) -> None:
        seen = ""
        while True:
            asked_at = clock()
            claim, lease = await self._claim(party, seen)
            party.admitted.set()
            seen = ""
            if lease is not None:
                job = Job(party.key, party.track, party.wish, party.parameters, claim, lease, lambda: party.patience)
                if self._answer(party, await self._lead(job), leading=True):
                    return
            elif claim.verdict is Verdict.WAIT:
                if self._merge(party, claim):
                    return
                result = await self._wait(party, claim, asked_at)
                party.waited = party.waited or claim.doing != "grace"
                if result is not None and self._answer(party, result):
                    return
                seen = claim.operation if result is None and claim.doing != "grace" else ""
            elif claim.verdict is not Verdict.DONE:
                party.answer(self._believed(party, claim))
                return
            elif claim.result and self._answer(party, Result.decode(claim.result)):
                return
            if party.deserted:
                return

    async def _without_redis(self, party: Party, error: CoordinationUnavailable) -> Answer | Problem:
        if party.parameters is None:
            return await self._uncoordinated.stop(party.key, party.track)
        if self._degrade:
            return await self._uncoordinated.start(party.key, party.track, party.parameters, party.caller)
        return Problem.of(error)

    def _merge(self, party: Party, claim: Claim) -> bool:
        """Go over to a party that already waits for the same: one poll then serves both."""
        waiting = self._waiting.get(_place(party, claim))
        if waiting is None:
            return False
        waiting.callers += party.callers
        waiting.committed = waiting.committed or party.committed
        waiting.patience = max(waiting.patience, party.patience)
        party.into = waiting
        return True

    async def _wait(self, party: Party, claim: Claim, asked_at: float) -> Result | None:
        """Wait until the operation finishes, or until it is time to look: None."""
        place = _place(party, claim)
        heard_at, heard = self._heard.get(place[:2], (0.0, None))
        if heard is not None and heard_at >= asked_at and claim.doing != "grace":
            return heard
        wakeup = self._wakeups.get(place[:2])
        if wakeup is None or wakeup.done():
            wakeup = self._wakeups[place[:2]] = asyncio.get_running_loop().create_future()
        poll = (_POLL_SECONDS if self._subscription.listening else _POLL_WHILE_DEAF_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311
        lapse = claim.lease_left / 1000 + random.uniform(0.01, 0.06)  # noqa: S311
        self._waiting[place] = party
        try:
            async with asyncio.timeout(min(poll, lapse)):
                return await asyncio.shield(wakeup)
        except TimeoutError:
            return None
        finally:
            del self._waiting[place]
            if not any(key[:2] == place[:2] for key in self._waiting):
                self._wakeups.pop(place[:2], None)

    async def _lead(self, job: Job) -> Result:
        try:
            result, stop = await self._leader.lead(job)
        except BaseException:
            # Renewed for ever it would keep everybody out; lapsed, whoever comes finds out what became of it.
            self._coordinator.let_lapse(job.lease)
            raise
        self._wake(job.key, job.lease.operation, result)
        if stop:
            self._spawn(self._settle_quietly(job.key), "stop-intent")
        return result

    async def _settle_quietly(self, key: str) -> None:
        try:
            await self.settle(key)
        except (CoordinationUnavailable, NewerRecord):
            _log.warning("settle.postponed", track=key)
        except Exception:  # noqa: BLE001 - the reconciliation of what is due takes it up again
            _log.exception("settle.failed", track=key)

    def _wake(self, key: str, operation: str, result: Result | None) -> None:
        if result is not None and result.state is not None:
            self._heard[key, operation] = (clock(), result)
            if len(self._heard) > self._max_results:
                del self._heard[next(iter(self._heard))]
        wakeup = self._wakeups.get((key, operation))
        if wakeup is not None and not wakeup.done():
            wakeup.set_result(result)

    # --- wake-ups -----------------------------------------------------------------------------------------------------

    def _on_wakeup(self, wakeup: Wakeup) -> None:
        result = Result.decode(wakeup.payload) if wakeup.payload else None
        self._wake(wakeup.key, wakeup.operation, result)

    def _on_gap(self) -> None:
        # Messages may have been lost: let everybody who waits look for themselves. And so may writes, where the server
        # that we listen to now is another one than before.
        self._coordinator.tell_again()
        for wakeup in self._wakeups.values():
            if not wakeup.done():
                wakeup.set_result(None)

    # --- answers -------------------------------------------------------------------------------------------------

    def _answer(self, party: Party, result: Result, *, leading: bool = False) -> bool:
        """Answer the party if the result is about what it wants; otherwise it has to ask again."""
        recording = result.recording(party.key, party.track)
        party.trace, party.led = result.trace, leading
        if result.problem is not None:
            # A refusal is shared by those who asked for the very same, and by nobody else.
            if not leading and (result.wish is not party.wish or result.fingerprint != party.fingerprint):
                return False
            party.answer(result.problem)
            return True
        if party.wish is Wish.START:
            if result.state is not Status.RECORDING or result.fingerprint not in {"", party.fingerprint}:
                return False
            outcome = result.outcome or Outcome.ALREADY_RECORDING
            others = Outcome.JOINED if outcome is Outcome.STARTED else Outcome.ALREADY_RECORDING
        else:
            if result.wish is not Wish.STOP or result.state not in {Status.STOPPED, Status.STOPPING}:
                return False
            outcome = result.outcome or Outcome.STOPPED
            others = Outcome.JOINED if outcome is Outcome.STOPPED else outcome
        if leading:
            party.answer_leading(Answer(outcome, recording), others)
        else:
            party.answer(Answer(others, recording))
        return True

    def _believed(self, party: Party, claim: Claim) -> Answer | Problem:
        """Answer from the record, without an operation."""
        if claim.verdict is Verdict.CONFLICT:
            fields = differing_fields(claim.fingerprint, party.fingerprint)
            return Problem.of(ParametersDiffer.of(fields))
        recording = recording_of(party.key, party.track, claim)
        match claim.verdict:
            case Verdict.RUNNING:
                return Answer(Outcome.ALREADY_RECORDING, recording)
            case Verdict.GONE if party.wish is Wish.START:
                return Answer(None, recording)
            case _:
                # Somebody else stopped it for us: whoever finished the operation that this stop waited for.
                ours = claim.verdict is Verdict.GONE or (party.waited and claim.state == Status.STOPPED)
                outcome = Outcome.JOINED if ours else Outcome.NOT_RECORDING
                return Answer(outcome, msgspec.structs.replace(recording, status=Status.STOPPED))

    def _key(self, track: Track) -> str:
        return self._coordinator.key(track.room_id, track.participant_id, track.kind)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, context: Context | None = None) -> None:
        # A strong reference: asyncio itself keeps only a weak one.
        task = asyncio.create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
