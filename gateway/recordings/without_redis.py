"""What is done while Redis does not answer: once in this process, not once in all of them, and saying so.

A stop is always done: not stopping costs money and privacy, and a stop too many does no harm. A start is done only
where the operator chose so (`GATEWAY_WITHOUT_REDIS=degrade`), and looks at VideoSDK's list first. When Redis is back,
every target touched here is marked as suspect, so that no replica believes a record that knows nothing of it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from gateway.coordinator import Command, Coordinator
from gateway.errors import CoordinationUnavailable, OutcomeUnknown, ParametersDiffer, Refused, UpstreamError
from gateway.recordings.evidence import open_rows
from gateway.recordings.failures import NO_SESSION, list_unavailable, problem_for, stop_refused
from gateway.recordings.model import Answer, Outcome, Problem, Recording, Status
from gateway.recordings.targets import MODES, StartParameters, Target, differing_fields
from gateway.store.clock import clock
from gateway.videosdk.client import VideoSDK

__all__ = ["WithoutRedisMode"]

_REPORT_EVERY_SECONDS = 0.5
_LOOK_AGAIN_SECONDS = 1.0

_log = structlog.get_logger("gateway.recordings")


@dataclass
class _Sent:
    """What was sent last for a target, and what is known of it."""

    command: Command
    fingerprint: str = ""
    """Of a start."""
    answered: bool = False
    ended_at: float = 0.0
    """When (`clock`) its call ended; 0 where nothing was sent that could have an effect."""
    ended_at_ms: int = 0
    """The same by Redis's clock, as far as it is known."""
    unanswered_until: float = 0.0
    """Until when (`clock`) this, or what was sent before, may be carried out although no answer came."""


_NOTHING = _Sent(Command.RECONCILE)


class WithoutRedisMode:
    """Starts and stops without Redis.

    What was sent may take effect, or be missing from VideoSDK's list, until S after its call ended. Until then the list
    alone proves nothing, neither here nor to those who find the record when Redis is back.

    Args:
        coordinator: Learns of it when Redis is back.
        videosdk: The client of VideoSDK.
        report_every: Seconds between two tries to tell Redis.
    """

    def __init__(
        self, coordinator: Coordinator, videosdk: VideoSDK, *, report_every: float = _REPORT_EVERY_SECONDS
    ) -> None:
        self._report_every = report_every
        self._coordinator = coordinator
        self._settle = coordinator.timing.settle
        self._videosdk = videosdk
        self._turns: dict[str, _Turn] = {}
        self._sent: dict[str, _Sent] = {}
        """Of targets of which Redis has to learn."""
        self._task: asyncio.Task[None] | None = None

    async def start(self, key: str, target: Target, parameters: StartParameters, caller: str) -> Answer | Problem:
        """Start a recording unless one runs: one at a time in this process."""
        came = clock()
        async with self._turn(key):
            sent = self._sent.get(key) or _NOTHING
            started = sent.answered and sent.command is Command.START
            differing = differing_fields(sent.fingerprint, parameters.fingerprint) if started else []
            if started and sent.ended_at >= came and not differing:
                return Answer(Outcome.JOINED, self._recording(target, parameters, caller))
            try:
                is_open, lands_for = await self._is_open(target, sent), self._lands_for(sent)
                if differing and (is_open or lands_for):
                    return Problem.of(ParametersDiffer.of(differing))
                unanswered_for = sent.unanswered_until - clock()
                if unanswered_for > 0 and not (is_open and sent.command is Command.START):
                    detail = "What was sent to VideoSDK before was not answered, and may still be carried out."
                    return Problem.of(OutcomeUnknown(detail, retry_after=unanswered_for))
                if is_open or (started and lands_for):
                    return Answer(Outcome.ALREADY_RECORDING, self._recording(target, parameters, None))
                async with self._sending(key, _Sent(Command.START, parameters.fingerprint)):
                    await self._videosdk.start(target, parameters.fields(target.mode))
            except UpstreamError as error:
                return Problem.of(problem_for(error))
            return Answer(Outcome.STARTED, self._recording(target, parameters, caller))

    async def stop(self, key: str, target: Target) -> Answer | Problem:
        """Stop whatever records the target."""
        async with self._turn(key):
            try:
                async with self._sending(key, _Sent(Command.STOP)):
                    await self._videosdk.stop(target)
            except Refused as error:
                return await self._stop_refused(target, self._sent[key], error)
            except UpstreamError as error:
                # No replica can promise to repeat it while Redis is away: the caller has to repeat it.
                return Problem.of(problem_for(error))
            return self._stopped(target, Outcome.STOPPED)

    async def _stop_refused(self, target: Target, sent: _Sent, error: Refused) -> Answer | Problem:
        """Find out whether nothing records, or whether it is only just starting: then the list shows it within S."""
        until = clock() + (0 if error.status in NO_SESSION else self._settle)
        try:
            while not await self._is_open(target, sent):
                if clock() >= until:
                    return self._stopped(target, Outcome.NOT_RECORDING)
                await asyncio.sleep(min(_LOOK_AGAIN_SECONDS, max(until - clock(), 0)))
        except UpstreamError as unseen:
            return Problem.of(list_unavailable(unseen))
        return Problem.of(stop_refused(error))

    async def reconcile(self, key: str) -> None:
        """Tell Redis, before it is asked about the target, that it missed something.

        Raises:
            CoordinationUnavailable: It still does not answer.
        """
        if key in self._sent:
            # Within the turn, so that nothing touches the target between the mark and the forgetting.
            async with self._turn(key):
                if sent := self._sent.get(key):
                    await self._coordinator.records.invalidate(key, may_land=self._lands_for(sent))
                    del self._sent[key]

    async def close(self) -> None:
        """Stop waiting for Redis."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncGenerator[None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    @asynccontextmanager
    async def _sending(self, key: str, sent: _Sent) -> AsyncGenerator[None]:
        """Remember what is sent; of what was surely not carried out, only that Redis may know less than VideoSDK."""
        before = self._sent.get(key) or _NOTHING
        self._sent[key] = sent
        _log.warning("uncoordinated.sent", target=key)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._cast_doubt(), name="mark-suspect")
        try:
            yield
            sent.answered, sent.unanswered_until = True, before.unanswered_until
        except BaseException as error:
            # Also where this task is cancelled: what was sent may be carried out.
            sent.unanswered_until = clock() + self._settle
            if isinstance(error, UpstreamError) and not error.may_have_happened:
                self._sent[key] = before
            raise
        finally:
            sent.ended_at, sent.ended_at_ms = clock(), self._coordinator.now_ms()

    def _lands_for(self, sent: _Sent) -> float:
        """Return for how many seconds more what was sent may take effect, or be missing from the list."""
        return max(sent.ended_at + self._settle - clock(), 0) if sent.ended_at else 0.0

    async def _is_open(self, target: Target, sent: _Sent = _NOTHING) -> bool:
        """Tell whether the list shows the target as recording, and not only because a stop is not in it yet."""
        rows = await self._videosdk.list_rows(MODES[target.mode].path, target.room_id, target.participant_id or None)
        own = [row for row in rows if target.kind in {None, row.kind} and row.mode in {"", target.mode}]
        stopped_at = sent.ended_at_ms if sent.answered and sent.command is Command.STOP else 0
        return bool(open_rows(own, stopped_at, self._coordinator.now_ms(), self._settle))

    def _stopped(self, target: Target, outcome: Outcome) -> Answer:
        return Answer(outcome, self._recording(target, StartParameters(), None, Status.STOPPED))

    def _recording(
        self, target: Target, parameters: StartParameters, caller: str | None, status: Status = Status.RECORDING
    ) -> Recording:
        return Recording(
            id=None,
            target=target,
            file_format=parameters.file_format or MODES[target.mode].file_format,
            status=status,
            requested_by=caller,
            requested_at=None,
            confirmed_at=None,
            confirmed_by=None,
            coordinated=False,
        )

    async def _cast_doubt(self) -> None:
        while self._sent:
            await asyncio.sleep(self._report_every)
            for key in list(self._sent):
                try:
                    await self.reconcile(key)
                except CoordinationUnavailable:
                    break
                except Exception:  # noqa: BLE001 - one target's trouble must not keep the others from being reported
                    _log.exception("uncoordinated.report_failed", target=key)


class _Turn:
    """One target's lock, kept while anyone uses or awaits it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
