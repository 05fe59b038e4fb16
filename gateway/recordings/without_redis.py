"""What is done while Redis does not answer: once in this process, not once in all of them, and saying so.

A stop is always done: not stopping costs money and privacy, and a stop too many does no harm. A start is done only
where the operator chose so (`GATEWAY_WITHOUT_REDIS=degrade`), and looks at VideoSDK's list first. When Redis is back,
every target touched here is marked as suspect, so that no replica believes a record that knows nothing of it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from gateway.coordinator import Coordinator
from gateway.errors import CoordinationUnavailable, ParametersDiffer, Refused, UpstreamError
from gateway.recordings.failures import problem_for, stop_refused
from gateway.recordings.model import Answer, Outcome, Problem, Recording, Status
from gateway.recordings.targets import MODES, StartParameters, Target, differing_fields
from gateway.store.clock import clock
from gateway.videosdk.client import VideoSDK

__all__ = ["WithoutRedisMode"]

_REPORT_EVERY_SECONDS = 0.5

_log = structlog.get_logger("gateway.recordings")


class WithoutRedisMode:
    """Starts and stops without Redis.

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
        self._videosdk = videosdk
        self._turns: dict[str, _Turn] = {}
        self._running: dict[str, tuple[str, float]] = {}
        self._touched: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self, key: str, target: Target, parameters: StartParameters, caller: str) -> Answer | Problem:
        """Start a recording unless one runs: one at a time in this process."""
        came = clock()
        async with self._turn(key):
            fingerprint, begun = self._running.get(key, ("", 0.0))
            if begun and fingerprint != parameters.fingerprint:
                fields = differing_fields(fingerprint, parameters.fingerprint)
                return Problem.of(ParametersDiffer.of(fields))
            if begun >= came:
                return Answer(Outcome.JOINED, self._recording(target, parameters, caller))
            try:
                if await self._is_open(target):
                    return Answer(Outcome.ALREADY_RECORDING, self._recording(target, parameters, None))
                self._remember(key)
                await self._videosdk.start(target, parameters.fields(target.mode))
            except UpstreamError as error:
                return Problem.of(problem_for(error))
            self._running[key] = (parameters.fingerprint, clock())
            return Answer(Outcome.STARTED, self._recording(target, parameters, caller))

    async def stop(self, key: str, target: Target) -> Answer | Problem:
        """Stop whatever records the target."""
        async with self._turn(key):
            self._remember(key)
            self._running.pop(key, None)
            outcome = Outcome.STOPPED
            try:
                await self._videosdk.stop(target)
            except Refused as error:
                try:
                    if await self._is_open(target):
                        return Problem.of(stop_refused(error))
                except UpstreamError as unseen:
                    return Problem.of(problem_for(unseen))
                outcome = Outcome.NOT_RECORDING
            except UpstreamError as error:
                # No replica can promise to repeat it while Redis is away: the caller has to repeat it.
                return Problem.of(problem_for(error))
            return Answer(outcome, self._recording(target, StartParameters(), None, Status.STOPPED))

    async def reconcile(self, key: str) -> None:
        """Tell Redis, before it is asked about the target, that it missed something.

        Raises:
            CoordinationUnavailable: It still does not answer.
        """
        if key in self._touched:
            # Within the turn, so that nothing touches the target between the mark and the forgetting.
            async with self._turn(key):
                await self._coordinator.records.invalidate(key)
                self._touched.discard(key)
                self._running.pop(key, None)

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

    async def _is_open(self, target: Target) -> bool:
        rows = await self._videosdk.list_rows(MODES[target.mode].path, target.room_id, target.participant_id or None)
        return any(
            target.kind in {None, row.kind} and row.mode in {"", target.mode} and row.end is None for row in rows
        )

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

    def _remember(self, key: str) -> None:
        self._touched.add(key)
        _log.warning("uncoordinated.sent", target=key)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._cast_doubt(), name="mark-suspect")

    async def _cast_doubt(self) -> None:
        while self._touched:
            await asyncio.sleep(self._report_every)
            for key in list(self._touched):
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
