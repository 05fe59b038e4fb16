"""What lies between a route and the domain: what the caller may ask for, how often, and whether it was answered before.

The order matters. Nothing of a request that is not valid or not allowed reaches Redis; a replay is counted like any
other request; and what is kept or charged is what really came of it.
"""

from asyncio import Semaphore, Task, TaskGroup
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Final

import msgspec
from litestar import Request
from msgspec import Struct, field, structs

from gateway.api.context import RequestContext
from gateway.api.idempotency import Idempotency, IdempotentRequest, RequestKey, StoredResponse, read_key
from gateway.api.pagination import RecordingsPage, RecordingsQuery
from gateway.api.problems import problem_of
from gateway.api.rate_limits import Admission, Question, RateLimiter
from gateway.api.response import ReadyResponse
from gateway.api.wire import RecordingBody, body_of_stop, max_duration_in, parameters_in, target_in
from gateway.auth.api_keys import Caller
from gateway.auth.policy import Policy, Scope, check, check_room, covers, covers_sort, max_duration_of, refuse
from gateway.errors import GatewayError, IdempotencyKeyReused, InvalidRequest, TooManyRequests
from gateway.recordings import MODES, Answer, Kind, Mode, Outcome, Recordings, RunningRecordings, Target
from gateway.store.clock import clock

__all__ = ["Order", "Reply", "RequestPipeline", "RoomStop"]

_STATUS = {Outcome.STARTED: 201, Outcome.STOP_REQUESTED: 202}
_MAX_STOPPING: Final = 100
"""How many recordings of a room are stopped at the same time for one caller."""

_Request = Request[Any, Any, Any]
_Work = Callable[[int | None], Awaitable[Answer]]
"""Does it; takes when it was first asked (ms by Redis's clock), where it was asked before and no answer was kept."""


class Order(Struct, frozen=True, kw_only=True, dict=True):
    """One start or stop, as a caller asks for it: by itself, in a batch, or with all of a room."""

    scope: Scope
    """Start or stop."""
    mode: Mode
    body: Struct
    timeout: float
    """Seconds that the caller waits, counted from its arrival."""
    arrived_at: float = field(default_factory=clock)
    """When (`clock`) the caller came."""

    @cached_property
    def target(self) -> Target:
        """What is to be started or stopped."""
        return target_in(self.mode, self.body)


class Reply(Struct, kw_only=True):
    """What an order is answered: a recording or a problem."""

    order: Order
    status: int = 500
    recording: RecordingBody | None = None
    """As far as the caller may see it."""
    problem: GatewayError | None = None
    replayed: bool = False
    """It is what an earlier request was answered."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """How the caller's limits stand."""

    @property
    def outcome(self) -> str:
        """What it did, in a word: for metrics and logs."""
        if self.problem is not None:
            return self.problem.slug
        return (self.recording and self.recording.outcome) or ""

    @property
    def path(self) -> str:
        """Where the state of its target can be read."""
        return f"/v1/recordings/{self.order.target.path}"

    @property
    def has_location(self) -> bool:
        """Whether there is more to be learnt there later, or something new."""
        return self.status in {201, 202}


class RoomStop(Struct, frozen=True):
    """What became of a room's recordings that were to be stopped."""

    replies: list[Reply]
    """To each stop, in the order of their targets."""
    complete: bool
    """Whether it is sure that nothing else recorded."""
    foreign_left: int
    """How many recordings were left alone because they were begun beside the gateway."""


class RequestPipeline:
    """Takes in starts and stops, and questions.

    Args:
        recordings: Starts and stops, shows and lists.
        running: Finds what records in a room.
        rate_limiter: How often callers may ask.
        idempotency_service: Keeps answers for retries.
        file_formats: What a start of a participant may name.
    """

    def __init__(
        self,
        recordings: Recordings,
        running: RunningRecordings,
        rate_limiter: RateLimiter,
        idempotency_service: Idempotency,
        *,
        file_formats: Collection[str] = ("webm",),
    ) -> None:
        self._file_formats = file_formats
        self._recordings = recordings
        self._running = running
        self._rate_limiter = rate_limiter
        self._idempotency = idempotency_service

    async def start(self, request: _Request, mode: Mode, body: Struct, timeout: float) -> ReadyResponse:
        """Have a target recorded, for at most `timeout` seconds of waiting."""
        return await self._alone(request, Order(scope=Scope.START, mode=mode, body=body, timeout=timeout))

    async def stop(self, request: _Request, mode: Mode, body: Struct, timeout: float) -> ReadyResponse:
        """Have a target not recorded, for at most `timeout` seconds of waiting."""
        return await self._alone(request, Order(scope=Scope.STOP, mode=mode, body=body, timeout=timeout))

    async def _alone(self, request: _Request, order: Order) -> ReadyResponse:
        context, name = RequestContext.of(request.scope), read_key(request)
        key = self._idempotency.key(context.sender, order.scope, name, order.mode, order.body) if name else None
        reply = Reply(order=order)
        try:
            await self._answer(context.sender, reply, key)
        finally:
            context.headers |= reply.headers
            if reply.replayed:
                context.replayed, context.headers["idempotency-replayed"] = True, "true"
        if reply.problem is not None:
            context.status_path = f"{context.prefix}{reply.path}"
            raise reply.problem
        body = reply.recording
        assert body is not None  # noqa: S101 - it is the one or the other
        context.outcome, context.recording = body.outcome, body.id
        headers = {"location": f"{context.prefix}{reply.path}"} if reply.has_location else {}
        return ReadyResponse(msgspec.json.encode(body), reply.status, headers)

    async def batch(self, request: _Request, orders: Sequence[Order | None], content: Sequence[object]) -> list[Reply]:
        """Carry out orders at the same time, each as if it had been sent by itself.

        Args:
            request: The caller's, perhaps with an idempotency key.
            orders: What is asked, by its number in the batch; None stands for an item that is answered already.
            content: All that was asked: what makes it the same request again.

        Returns:
            The reply to each order.

        Raises:
            IdempotencyKeyReused: The caller has sent another batch under this key. Nothing was done.
        """
        caller, name = RequestContext.of(request.scope).sender, read_key(request)
        key = self._idempotency.batch_key(caller, name, content) if name else None
        async with TaskGroup() as group:
            tasks = [
                group.create_task(self._one_of(caller, order, key and key.item(order.scope, number)))
                for number, order in enumerate(orders)
                if order is not None
            ]
        replies = [task.result() for task in tasks]
        for reply in replies:
            # Where an item alone differs, its batch was forgotten before it, and the others are carried out.
            if key and key.differs and isinstance(reply.problem, IdempotencyKeyReused):
                raise reply.problem
        return replies

    async def stop_room(self, request: _Request, room: str, timeout: float, *, include_foreign: bool) -> "RoomStop":
        """Stop what records in a room, as far as the caller may see it.

        Args:
            request: The caller's.
            room: Its id.
            timeout: Seconds that the caller waits.
            include_foreign: Stop also what was begun beside the gateway.

        Raises:
            Forbidden: The caller may not stop, or not in this room.
            TooManyRequests: It has sent too much.
            CoordinationUnavailable: Redis does not answer, and would have to say what is foreign; or VideoSDK does not
                either.
        """
        arrived_at, context = clock(), RequestContext.of(request.scope)
        caller = context.sender
        check_room(caller.policy, Scope.STOP, room)
        with _asking(context, self._rate_limiter.stop_of_room(caller)) as question:
            await question.admit()
        tasks: dict[tuple[str, ...], Task[Reply]] = {}
        turns, search = Semaphore(_MAX_STOPPING), self._running.search(room)

        async def stop(target: Target) -> Reply:
            async with turns:
                order = Order(
                    scope=Scope.STOP,
                    mode=target.mode,
                    body=body_of_stop(target),
                    timeout=max(timeout - (clock() - arrived_at), 0),
                )
                return await self._one_of(caller, order)

        left = 0
        try:
            async with TaskGroup() as group:
                # What Redis knows does not wait for VideoSDK's list.
                async for found in search.found(timeout, certain=not include_foreign):
                    if not covers(caller.policy, found.target):
                        continue
                    if found.is_foreign and not include_foreign:
                        left += 1
                    else:
                        tasks[found.target.parts] = group.create_task(stop(found.target))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return RoomStop([tasks[place].result() for place in sorted(tasks)], search.complete, left)

    async def _one_of(self, caller: Caller, order: Order, key: RequestKey | None = None) -> Reply:
        reply = Reply(order=order)
        try:
            await self._answer(caller, reply, key)
        except Exception as error:  # noqa: BLE001 - one order's trouble must not end the others
            reply.problem = problem_of(error)
            reply.status = reply.problem.status
        return reply

    async def show(self, request: _Request, target: Target) -> RecordingBody:
        """Show what is known of a target."""
        context = RequestContext.of(request.scope)
        check(context.sender.policy, Scope.READ, target)
        with _asking(context, self._rate_limiter.question(context.sender)) as question:
            return RecordingBody.of(await self._recordings.get(target, asker=question))

    async def list(self, request: _Request) -> RecordingsPage:
        """Show what is known of a room's targets, as far as the caller may see them."""
        context = RequestContext.of(request.scope)
        listing, policy = RecordingsQuery.read(request.query_params.multi_items()), context.sender.policy
        check_room(policy, Scope.READ, listing.room_id)
        if _sees_none(policy, listing):
            return listing.page(())
        with _asking(context, self._rate_limiter.question(context.sender)) as question:
            recordings = await self._recordings.list(listing.room_id, asker=question)
        return listing.page(recording for recording in recordings if covers(policy, recording.target))

    async def _answer(self, caller: Caller, reply: Reply, key: RequestKey | None) -> None:
        """Carry out an order, and fill in what it is answered."""
        order = reply.order
        try:
            work = self._work(caller, order)
            body, reply.status = await self._take_in(caller, reply, key, work)
        except GatewayError as error:
            reply.problem, reply.status = error, error.status
        else:
            reply.recording = body if Scope.READ in caller.policy.scopes else body.without_details()

    def _work(self, caller: Caller, order: Order) -> _Work:
        """Return what carries an order out, if the caller's policy lets it pass."""
        target = order.target
        if order.scope is Scope.STOP:
            check(caller.policy, Scope.STOP, target)
            return lambda _: self._stop(caller, order, target)
        parameters = parameters_in(order.mode, order.body)
        if order.mode is Mode.PARTICIPANT and parameters.file_format not in {None, *self._file_formats}:
            raise InvalidRequest.of([("fileFormat", f"must be one of {', '.join(self._file_formats)}")])
        check(
            caller.policy,
            Scope.START,
            target,
            parameters.webhook_url,
            parameters.bucket_dir_path,
            parameters.template_url,
        )
        max_duration = max_duration_of(caller.policy, caller.name, max_duration_in(order.body))
        return lambda asked_at: self._recordings.start(
            target,
            parameters,
            caller=caller.name,
            timeout=order.timeout,
            arrived_at=order.arrived_at,
            asked_at=asked_at,
            account=caller.account,
            max_duration=max_duration,
        )

    async def _stop(self, caller: Caller, order: Order, target: Target) -> Answer:
        number, looked_at = None, order.arrived_at
        if not caller.policy.stop_others:
            may_stop = partial(caller.may_stop, target)
            number = await self._recordings.stoppable(target, may_stop, timeout=order.timeout)
            looked_at = clock()
            if number is None:
                refuse("starter")
        # A second stop does no harm.
        return await self._recordings.stop(
            target,
            caller=caller.name,
            timeout=max(order.timeout - (looked_at - order.arrived_at), 0),
            arrived_at=looked_at,
            number=number,
            account=caller.account,
        )

    async def _take_in(
        self, caller: Caller, reply: Reply, key: RequestKey | None, work: _Work
    ) -> tuple[RecordingBody, int]:
        starts = reply.order.scope is Scope.START
        admission = await self._rate_limiter.admit(caller, reply.order.target, starts=starts)
        try:
            admission.check()
            replay = await self._idempotency.begin(key) if key else None
            if replay is not None and replay.kept is not None:
                reply.replayed = True
                return await self._replay(reply.order.target, replay.kept), replay.kept.status
            if replay is not None and replay.is_new:
                admission.charge_key()
            begun = replay.begun if replay is not None else None
            return await self._carry_out(admission, replay, lambda: work(begun))
        finally:
            admission.leave()
            reply.headers |= admission.headers

    async def _carry_out(
        self, admission: Admission, replay: IdempotentRequest | None, work: Callable[[], Awaitable[Answer]]
    ) -> tuple[RecordingBody, int]:
        try:
            answer = await work()
        except GatewayError as error:
            admission.charge(error)
            await self._idempotency.keep(replay, error.status, error)
            raise
        admission.charge(answer.outcome, was_sent=answer.was_sent)
        status = _STATUS.get(answer.outcome, 200) if answer.outcome else 200
        body = RecordingBody.answering(answer)
        await self._idempotency.keep(replay, status, body)
        return body, status

    async def _replay(self, target: Target, kept: StoredResponse) -> RecordingBody:
        if kept.problem is not None:
            raise kept.problem.error()
        body = kept.recording
        assert body is not None  # noqa: S101 - it is the one or the other
        if kept.has_files and (known := await self._recordings.known(target)) is not None and known.id == body.id:
            body = structs.replace(body, files=RecordingBody.of(known).files)
        return body


@contextmanager
def _asking(context: RequestContext, question: Question) -> Generator[Question]:
    """Tell a caller whose questions are refused how its limit stands."""
    try:
        yield question
    except TooManyRequests:
        context.headers |= question.headers
        raise


def _sees_none(policy: Policy, listing: RecordingsQuery) -> bool:
    """Tell whether a caller may read nothing of what it asks for, whatever there is: then VideoSDK is not asked."""
    labels = [
        (mode, kind)
        for mode, spec in MODES.items()
        for kind in (Kind if "kind" in spec.ids else [None])
        if listing.mode in {None, mode}
        and listing.kind in {None, kind}
        and (listing.participant_id is None or "participantId" in spec.ids)
    ]
    if listing.participant_id is None:
        return not any(covers_sort(policy, mode, kind) for mode, kind in labels)
    participant = listing.participant_id
    return not any(covers(policy, Target(mode, listing.room_id, participant, kind)) for mode, kind in labels)
