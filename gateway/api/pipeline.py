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
from gateway.api.rate_limits import Admission, CallBudget, RateLimiter
from gateway.api.response import ReadyResponse
from gateway.api.wire import RecordingBody, body_of_stop, max_duration_in, parameters_in, target_in
from gateway.auth.api_keys import Caller
from gateway.auth.policy import Policy, Scope, check, check_room, covers, covers_sort, max_duration_of, refuse
from gateway.errors import GatewayError, IdempotencyKeyReused, InvalidRequest, TooManyRequests
from gateway.recordings import MODES, Answer, Kind, Mode, Outcome, Recordings, RoomSearch, Target
from gateway.store.clock import clock

__all__ = ["CommandRequest", "CommandResponse", "RequestPipeline", "RoomStop"]

_STATUS = {Outcome.STARTED: 201, Outcome.STOP_REQUESTED: 202}
_MAX_STOPPING: Final = 100
"""How many recordings of a room are stopped at the same time for one caller."""

_Request = Request[Any, Any, Any]
_Work = Callable[[int | None], Awaitable[Answer]]
"""Does it; takes when it was first asked (ms by Redis's clock), where it was asked before and no answer was kept."""


class CommandRequest(Struct, frozen=True, kw_only=True, dict=True):
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


class CommandResponse(Struct, kw_only=True):
    """What a command is answered: a recording or a problem."""

    command: CommandRequest
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
        return f"/v1/recordings/{self.command.target.path}"

    @property
    def has_location(self) -> bool:
        """Whether there is more to be learnt there later, or something new."""
        return self.status in {201, 202}


class RoomStop(Struct, frozen=True):
    """What became of a room's recordings that were to be stopped."""

    responses: list[CommandResponse]
    """To each stop, in the order of their targets."""
    complete: bool
    """Whether it is sure that nothing else recorded."""
    foreign_left: int
    """How many recordings were left alone because they were started outside the gateway."""


class RequestPipeline:
    """Takes in starts, stops and reads.

    Args:
        recordings: Starts and stops, shows and lists.
        search_room: Begins to look for all that records in a room.
        rate_limiter: How often callers may ask.
        idempotency_service: Keeps answers for retries.
        file_formats: What a start of a participant may name.
    """

    def __init__(
        self,
        recordings: Recordings,
        search_room: Callable[[str], RoomSearch],
        rate_limiter: RateLimiter,
        idempotency_service: Idempotency,
        *,
        file_formats: Collection[str] = ("webm",),
    ) -> None:
        self._file_formats = file_formats
        self._recordings = recordings
        self._search_room = search_room
        self._rate_limiter = rate_limiter
        self._idempotency = idempotency_service

    async def start(self, request: _Request, mode: Mode, body: Struct, timeout: float) -> ReadyResponse:
        """Have a target recorded, for at most `timeout` seconds of waiting."""
        return await self._alone(request, CommandRequest(scope=Scope.START, mode=mode, body=body, timeout=timeout))

    async def stop(self, request: _Request, mode: Mode, body: Struct, timeout: float) -> ReadyResponse:
        """Have a target not recorded, for at most `timeout` seconds of waiting."""
        return await self._alone(request, CommandRequest(scope=Scope.STOP, mode=mode, body=body, timeout=timeout))

    async def _alone(self, request: _Request, command: CommandRequest) -> ReadyResponse:
        context, name = RequestContext.of(request.scope), read_key(request)
        key = self._idempotency.key(context.sender, command.scope, name, command.mode, command.body) if name else None
        response = CommandResponse(command=command)
        try:
            await self._answer(context.sender, response, key)
        finally:
            context.headers |= response.headers
            if response.replayed:
                context.replayed, context.headers["idempotency-replayed"] = True, "true"
        if response.problem is not None:
            context.status_path = f"{context.prefix}{response.path}"
            raise response.problem
        body = response.recording
        assert body is not None  # noqa: S101 - it is the one or the other
        context.outcome, context.recording = body.outcome, body.id
        headers = {"location": f"{context.prefix}{response.path}"} if response.has_location else {}
        return ReadyResponse(msgspec.json.encode(body), response.status, headers)

    async def batch(
        self, request: _Request, commands: Sequence[CommandRequest | None], content: Sequence[object]
    ) -> list[CommandResponse]:
        """Carry out commands at the same time, each as if it had been sent by itself.

        Args:
            request: The caller's, perhaps with an idempotency key.
            commands: What is asked, by its number in the batch; None stands for an item that is answered already.
            content: All that was asked: what makes it the same request again.

        Returns:
            The response to each.

        Raises:
            IdempotencyKeyReused: The caller has sent another batch under this key. Nothing was done.
        """
        caller, name = RequestContext.of(request.scope).sender, read_key(request)
        key = self._idempotency.batch_key(caller, name, content) if name else None
        async with TaskGroup() as group:
            tasks = [
                group.create_task(self._one_of(caller, command, key and key.item(command.scope, number)))
                for number, command in enumerate(commands)
                if command is not None
            ]
        responses = [task.result() for task in tasks]
        for response in responses:
            # Where an item alone differs, its batch was forgotten before it, and the others are carried out.
            if key and key.differs and isinstance(response.problem, IdempotencyKeyReused):
                raise response.problem
        return responses

    async def stop_room(self, request: _Request, room: str, timeout: float, *, include_foreign: bool) -> "RoomStop":
        """Stop what records in a room, as far as the caller may see it.

        Args:
            request: The caller's.
            room: Its id.
            timeout: Seconds that the caller waits.
            include_foreign: Stop also what was started outside the gateway.

        Raises:
            Forbidden: The caller may not stop, or not in this room.
            TooManyRequests: It has sent too much.
            CoordinationUnavailable: Redis does not answer, and would have to say what is foreign; or VideoSDK does not
                either.
        """
        arrived_at, context = clock(), RequestContext.of(request.scope)
        caller = context.sender
        check_room(caller.policy, Scope.STOP, room)
        with _paying(context, self._rate_limiter.stop_of_room(caller)) as budget:
            await budget.admit()
        tasks: dict[tuple[str, ...], Task[CommandResponse]] = {}
        turns, search = Semaphore(_MAX_STOPPING), self._search_room(room)

        async def stop(target: Target) -> CommandResponse:
            async with turns:
                command = CommandRequest(
                    scope=Scope.STOP,
                    mode=target.mode,
                    body=body_of_stop(target),
                    timeout=max(timeout - (clock() - arrived_at), 0),
                )
                return await self._one_of(caller, command)

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

    async def _one_of(self, caller: Caller, command: CommandRequest, key: RequestKey | None = None) -> CommandResponse:
        response = CommandResponse(command=command)
        try:
            await self._answer(caller, response, key)
        except Exception as error:  # noqa: BLE001 - one command's trouble must not end the others
            response.problem = problem_of(error)
            response.status = response.problem.status
        return response

    async def show(self, request: _Request, target: Target) -> RecordingBody:
        """Show what is known of a target."""
        context = RequestContext.of(request.scope)
        check(context.sender.policy, Scope.READ, target)
        with _paying(context, self._rate_limiter.read(context.sender)) as budget:
            return RecordingBody.of(await self._recordings.get(target, budget=budget))

    async def list(self, request: _Request) -> RecordingsPage:
        """Show what is known of a room's targets, as far as the caller may see them."""
        context = RequestContext.of(request.scope)
        listing, policy = RecordingsQuery.read(request.query_params.multi_items()), context.sender.policy
        check_room(policy, Scope.READ, listing.room_id)
        if _sees_none(policy, listing):
            return listing.page(())
        with _paying(context, self._rate_limiter.read(context.sender)) as budget:
            recordings = await self._recordings.list(listing.room_id, budget=budget)
        return listing.page(recording for recording in recordings if covers(policy, recording.target))

    async def _answer(self, caller: Caller, response: CommandResponse, key: RequestKey | None) -> None:
        """Carry out a command, and fill in what it is answered."""
        command = response.command
        try:
            work = self._work(caller, command)
            body, response.status = await self._take_in(caller, response, key, work)
        except GatewayError as error:
            response.problem, response.status = error, error.status
        else:
            response.recording = body if Scope.READ in caller.policy.scopes else body.without_details()

    def _work(self, caller: Caller, command: CommandRequest) -> _Work:
        """Return what carries a command out, if the caller's policy lets it pass."""
        target = command.target
        if command.scope is Scope.STOP:
            check(caller.policy, Scope.STOP, target)
            return lambda _: self._stop(caller, command, target)
        parameters = parameters_in(command.mode, command.body)
        if command.mode is Mode.PARTICIPANT and parameters.file_format not in {None, *self._file_formats}:
            raise InvalidRequest.of([("fileFormat", f"must be one of {', '.join(self._file_formats)}")])
        check(
            caller.policy,
            Scope.START,
            target,
            parameters.webhook_url,
            parameters.bucket_dir_path,
            parameters.template_url,
        )
        max_duration = max_duration_of(caller.policy, caller.name, max_duration_in(command.body))
        return lambda asked_at: self._recordings.start(
            target,
            parameters,
            caller=caller.name,
            timeout=command.timeout,
            arrived_at=command.arrived_at,
            asked_at=asked_at,
            account=caller.account,
            max_duration=max_duration,
        )

    async def _stop(self, caller: Caller, command: CommandRequest, target: Target) -> Answer:
        number, looked_at = None, command.arrived_at
        if not caller.policy.stop_others:
            may_stop = partial(caller.may_stop, target)
            number = await self._recordings.stoppable(target, may_stop, timeout=command.timeout)
            looked_at = clock()
            if number is None:
                refuse("starter")
        # A second stop does no harm.
        return await self._recordings.stop(
            target,
            caller=caller.name,
            timeout=max(command.timeout - (looked_at - command.arrived_at), 0),
            arrived_at=looked_at,
            number=number,
            account=caller.account,
        )

    async def _take_in(
        self, caller: Caller, response: CommandResponse, key: RequestKey | None, work: _Work
    ) -> tuple[RecordingBody, int]:
        starts = response.command.scope is Scope.START
        admission = await self._rate_limiter.admit(caller, response.command.target, starts=starts)
        try:
            admission.check()
            replay = await self._idempotency.begin(key) if key else None
            if replay is not None and replay.kept is not None:
                response.replayed = True
                return await self._replay(response.command.target, replay.kept), replay.kept.status
            if replay is not None and replay.is_new:
                admission.charge_key()
            begun = replay.begun if replay is not None else None
            return await self._carry_out(admission, replay, lambda: work(begun))
        finally:
            admission.leave()
            response.headers |= admission.headers

    async def _carry_out(
        self, admission: Admission, replay: IdempotentRequest | None, work: Callable[[], Awaitable[Answer]]
    ) -> tuple[RecordingBody, int]:
        try:
            answer = await work()
        except GatewayError as error:
            admission.charge(error)
            await self._idempotency.keep(replay, error.status, error)
            raise
        admission.charge(answer)
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
def _paying(context: RequestContext, budget: CallBudget) -> Generator[CallBudget]:
    """Tell a caller that cannot pay how its limit stands."""
    try:
        yield budget
    except TooManyRequests:
        context.headers |= budget.headers
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
