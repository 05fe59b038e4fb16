"""The service that the API calls: starts, stops, gets and lists recordings, once for all callers of all replicas."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from gateway.coordinator import UNBOUNDED, Command, Coordinator, MaxDuration, Record
from gateway.errors import CoordinationUnavailable, DeadlineExceeded, GatewayError, NewerRecord, NotFound
from gateway.recordings.coalescer import Coalescer
from gateway.recordings.decoding import decode_descriptor, key_of, recording_of
from gateway.recordings.listings import ReadBudget
from gateway.recordings.model import ENDED, Answer, Recording, Status
from gateway.recordings.reconciler import Reconciler
from gateway.recordings.running import may_look_again
from gateway.recordings.targets import StartParameters, Target, target_of
from gateway.recordings.without_redis import WithoutRedisMode
from gateway.store.clock import clock

__all__ = ["Recordings"]

_ANSWER_SECONDS: Final = 1.5
"""How long a read waits for VideoSDK's answer before it is answered from the record."""

_log = structlog.get_logger("gateway.recordings")


class Recordings:
    """Starts, stops, gets and lists recordings.

    Args:
        coordinator: Where replicas agree.
        coalescer: Turns commands into operations.
        reconciler: Compares records with VideoSDK's list.
        without_redis: Works while Redis does not answer.
        answer_within: Seconds after which a read is answered with what is known.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        coalescer: Coalescer,
        reconciler: Reconciler,
        without_redis: WithoutRedisMode,
        *,
        answer_within: float = _ANSWER_SECONDS,
    ) -> None:
        self._coordinator = coordinator
        self._timing = coordinator.timing
        self._coalescer = coalescer
        self._reconciler = reconciler
        self._without_redis = without_redis
        self._answer_within = answer_within
        self._reads: set[asyncio.Future[object]] = set()

    async def open(self) -> None:
        """Begin to listen to other replicas, to renew what this one holds, and to reconcile what is due."""
        await self._coordinator.start()
        await self._coalescer.open()
        with suppress(CoordinationUnavailable):
            await self._coordinator.records.mark()
        await self._reconciler.start()

    async def close(self, grace: float) -> None:
        """Let operations come to their end, for at most `grace` seconds; other replicas reconcile what is left."""
        for read in self._reads:
            read.cancel()
        await asyncio.gather(*self._reads, return_exceptions=True)
        await self._reconciler.close()
        await self._coalescer.close(grace)
        await self._without_redis.close()
        await self._coordinator.stop()

    async def start(
        self,
        target: Target,
        parameters: StartParameters,
        *,
        caller: str,
        timeout: float,
        arrived_at: float | None = None,
        asked_at: int | None = None,
        account: str = "",
        max_duration: MaxDuration = UNBOUNDED,
    ) -> Answer:
        """Have the target recorded.

        Args:
            target: What to record.
            parameters: Passed on as they are; part of what makes two starts the same.
            caller: The caller's name.
            timeout: Seconds this caller is willing to wait. The operation does not depend on it.
            arrived_at: When (`clock`) the caller came, if not now: how long to wait for Redis counts from then.
            asked_at: When this was first asked (ms by Redis's clock), if it is a retry. Where a caller has asked for a
                stop since, nothing is done, and the answer tells without an outcome how the target stands.
            account: Whose places the wait takes.
            max_duration: For how long it may record.

        Raises:
            GatewayError: `ParametersDiffer`, `OutcomeUnknown`, `DeadlineExceeded`, `CoordinationUnavailable` or what
                VideoSDK's refusal means.
        """
        number = None if asked_at is None else asked_at * 1000 + 999
        return await self._coalescer.submit(
            target, Command.START, parameters, caller, timeout, arrived_at, number, account, max_duration
        )

    async def stop(
        self,
        target: Target,
        *,
        caller: str,
        timeout: float,
        arrived_at: float | None = None,
        number: int | None = None,
        account: str = "",
    ) -> Answer:
        """Have the target not recorded.

        Args:
            target: What to stop.
            caller: The caller's name.
            timeout: Seconds this caller is willing to wait; then the stop goes on and the outcome is `stop_requested`.
            arrived_at: As for `start`.
            number: Of `stoppable`, where the stop is about the recording that was looked at and no later one.
            account: As for `start`.

        Raises:
            GatewayError: As for `start`, but never `ParametersDiffer`.
        """
        return await self._coalescer.submit(target, Command.STOP, None, caller, timeout, arrived_at, number, account)

    async def stoppable(self, target: Target, may_stop: Callable[[str | None], bool], *, timeout: float) -> int | None:
        """Return the number of a stop (see `claim.lua`) of what a caller may stop; None where it may not.

        What VideoSDK began, or what nothing is known of, was started by none that is known. A stop under this number
        stops nothing that is started after this look.

        Args:
            target: What the caller wants to stop.
            may_stop: Whether it may, by the name of the caller who started it.
            timeout: Seconds to wait where a start may be about to begin.

        Raises:
            CoordinationUnavailable: Redis does not answer, so it is not known who started it.
            DeadlineExceeded: It could not be seen in time.
        """
        key, give_up_at = key_of(self._coordinator, target), clock() + timeout
        while True:
            record = await self._coordinator.records.look(key)
            if record is not None and record.state in ENDED and self._is_stale(record):
                # Another may have been started outside the gateway.
                await self.briefly(
                    self._reconciler.refresh(target.room_id, {key: record}, target, max_age=self._timing.trust)
                )
                record = await self._coordinator.records.look(key)
            descriptor = decode_descriptor(record.recording) if record is not None else None
            if record is not None and descriptor is not None and may_stop(descriptor.requested_by):
                return record.started_op + 1
            if record is None or not record.is_probed:
                return None
            if not await may_look_again(give_up_at):
                raise DeadlineExceeded("The gateway still finds out what records; nothing was stopped.", retry_after=1)

    async def ready_in(self) -> float:
        """Return in how many seconds exactly one start can be promised without waiting for what came before.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        return await self._coordinator.records.ready_in()

    async def get(self, target: Target, *, budget: ReadBudget | None = None) -> Recording:
        """Return what is known of the target, compared with VideoSDK's list where that was long ago.

        Args:
            target: Of which.
            budget: Pays for what is asked of VideoSDK for this read.

        Raises:
            NotFound: Nothing is known to have recorded it, or that is long ago.
            TooManyRequests: The read cannot pay.
            CoordinationUnavailable: Redis does not answer.
        """
        key = key_of(self._coordinator, target)
        record = await self._coordinator.records.read(key)
        if self._is_stale(record):
            records = {} if record is None else {key: record}
            # Without a record the whole room is listed: one list then answers for its other targets too.
            whole = record is None
            await self.briefly(
                self._reconciler.refresh(
                    target.room_id, records, target, whole=whole, max_age=self._timing.trust, budget=budget
                )
            )
            record = await self._coordinator.records.read(key)
        if record is None or record.generation == "0":
            raise NotFound(f"The gateway knows of no recording of this {target.mode}.")
        return recording_of(key, target, record)

    async def known(self, target: Target) -> Recording | None:
        """Return what the record says of the target; VideoSDK is not asked.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        key = key_of(self._coordinator, target)
        record = await self._coordinator.records.read(key)
        return None if record is None else recording_of(key, target, record)

    async def list(self, room: str, *, budget: ReadBudget | None = None) -> list[Recording]:
        """Return what is known of the room's targets, in the order of their keys, compared with the list like `get`.

        Args:
            room: Its id.
            budget: As for `get`.

        Raises:
            TooManyRequests: The read cannot pay.
            CoordinationUnavailable: Redis does not answer.
        """
        records = (await self._coordinator.records.room(room)).records
        if not records or any(self._is_stale(record) for record in records.values()):
            await self.briefly(self._reconciler.refresh(room, records, max_age=self._timing.trust, budget=budget))
            records = (await self._coordinator.records.room(room)).records
        known = {key: record for key, record in records.items() if record.generation != "0"}
        return [recording_of(key, target_of(key), known[key]) for key in sorted(known)]

    def _is_stale(self, record: Record | None) -> bool:
        if record is None:
            return True
        if record.holder:
            return False  # its leader finds out
        if record.state != Status.RECORDING and record.state not in ENDED:
            return True
        return self._coordinator.now_ms() - record.confirmed > self._timing.trust * 1000

    async def briefly(self, work: Awaitable[object]) -> None:
        """Wait a moment for work that goes on by itself."""
        task = asyncio.ensure_future(work)
        self._reads.add(task)
        task.add_done_callback(self._answered)
        with suppress(TimeoutError, CoordinationUnavailable, NewerRecord):
            async with asyncio.timeout(self._answer_within):
                await asyncio.shield(task)

    def _answered(self, task: asyncio.Future[object]) -> None:
        self._reads.discard(task)
        # Who asked may have its answer already, and hears nothing of this.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GatewayError):
            _log.error("question.failed", exc_info=error)
