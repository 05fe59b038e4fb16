"""What lies between a route and the domain: what the caller may ask for, how often, and whether it was answered before.

The order matters. Nothing of a request that is not valid or not allowed reaches Redis; a replay is counted like any
other request; and what is kept or charged is what really came of it.
"""

from collections.abc import Awaitable, Callable, Collection, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
from litestar import Request
from litestar.response.base import ASGIResponse
from msgspec import Struct, structs

from gateway.api.context import RequestContext
from gateway.api.idempotency import Idempotency, IdempotentRequest, StoredResponse, read_key
from gateway.api.pagination import RecordingsPage, RecordingsQuery
from gateway.api.rate_limits import Admission, Question, RateLimiter
from gateway.api.wire import RecordingBody, max_duration_in, parameters_in, target_in
from gateway.auth.api_keys import Caller
from gateway.auth.policy import Policy, Scope, bound, check, check_room, covers, covers_sort, refuse
from gateway.errors import GatewayError, InvalidRequest, TooManyRequests
from gateway.recordings import MODES, Answer, Kind, Mode, Outcome, Recordings, Target
from gateway.store.clock import clock

__all__ = ["RequestPipeline"]

_STATUS = {Outcome.STARTED: 201, Outcome.STOP_REQUESTED: 202}

_Request = Request[Any, Any, Any]
_Work = Callable[[int | None], Awaitable[Answer]]
"""Does it; takes when it was first asked (ms by Redis's clock), where it was asked before and no answer was kept."""


class RequestPipeline:
    """Takes in starts and stops, and questions.

    Args:
        recordings: Who starts and stops.
        rate_limiter: How often callers may ask.
        idempotency_service: What they were answered.
        file_formats: What a start of a participant may name.
    """

    def __init__(
        self,
        recordings: Recordings,
        rate_limiter: RateLimiter,
        idempotency_service: Idempotency,
        *,
        file_formats: Collection[str] = ("webm",),
    ) -> None:
        self._file_formats = file_formats
        self._recordings = recordings
        self._rate_limiter = rate_limiter
        self._idempotency = idempotency_service

    async def start(self, request: _Request, mode: Mode, body: Struct, timeout: float) -> ASGIResponse:
        """Have a target recorded, for at most `timeout` seconds of waiting."""
        arrived_at, caller = clock(), _caller(request)
        target, parameters = target_in(mode, body), parameters_in(mode, body)
        if mode is Mode.PARTICIPANT and parameters.file_format not in {None, *self._file_formats}:
            raise InvalidRequest.of([("fileFormat", f"must be one of {', '.join(self._file_formats)}")])
        check(
            caller.policy,
            Scope.START,
            target,
            parameters.webhook_url,
            parameters.bucket_dir_path,
            parameters.template_url,
        )
        lasts = bound(caller.policy, caller.name, max_duration_in(body))
        return await self._take_in(
            request,
            Scope.START,
            target,
            body,
            lambda asked_at: self._recordings.start(
                target,
                parameters,
                caller=caller.name,
                timeout=timeout,
                arrived_at=arrived_at,
                asked_at=asked_at,
                account=caller.account,
                bound=lasts,
            ),
        )

    async def stop(self, request: _Request, mode: Mode, body: Struct, timeout: float) -> ASGIResponse:
        """Have a target not recorded, for at most `timeout` seconds of waiting."""
        arrived_at, caller, target = clock(), _caller(request), target_in(mode, body)
        check(caller.policy, Scope.STOP, target)

        async def work(_: int | None) -> Answer:
            number, looked_at = None, arrived_at
            if not caller.policy.stop_others:
                number = await self._recordings.stoppable(target, partial(caller.may_stop, target), timeout=timeout)
                looked_at = clock()
                if number is None:
                    refuse("starter")
            # A second stop does no harm.
            return await self._recordings.stop(
                target,
                caller=caller.name,
                timeout=max(timeout - (looked_at - arrived_at), 0),
                arrived_at=looked_at,
                number=number,
                account=caller.account,
            )

        return await self._take_in(request, Scope.STOP, target, body, work)

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

    async def _take_in(
        self, request: _Request, scope: Scope, target: Target, body: Struct, work: _Work
    ) -> ASGIResponse:
        context = RequestContext.of(request.scope)
        context.status_path = f"{context.prefix}/v1/recordings/{target.path}"
        key = read_key(request)
        admission = await self._rate_limiter.admit(context.sender, target, starts=scope is Scope.START)
        try:
            context.headers |= admission.headers
            admission.check()
            replay = await self._idempotency.begin(context.sender, scope, key, target.mode, body) if key else None
            if replay is not None and replay.kept is not None:
                return await self._replay(context, target, replay.kept)
            if replay is not None and replay.is_new:
                admission.charge_key()
            begun = replay.begun if replay is not None else None
            return await self._carry_out(context, admission, replay, lambda: work(begun))
        finally:
            admission.leave()

    async def _carry_out(
        self,
        context: RequestContext,
        admission: Admission,
        replay: IdempotentRequest | None,
        work: Callable[[], Awaitable[Answer]],
    ) -> ASGIResponse:
        try:
            answer = await work()
        except GatewayError as error:
            admission.charge(error)
            context.headers |= admission.headers
            await self._idempotency.keep(replay, error.status, error)
            raise
        admission.charge(answer.outcome, was_sent=answer.was_sent)
        context.headers |= admission.headers
        status = _STATUS.get(answer.outcome, 200) if answer.outcome else 200
        body = RecordingBody.answering(answer)
        await self._idempotency.keep(replay, status, body)
        return _answered(context, body, status)

    async def _replay(self, context: RequestContext, target: Target, kept: StoredResponse) -> ASGIResponse:
        context.headers["idempotency-replayed"] = "true"
        context.replayed = True
        if kept.problem is not None:
            raise kept.problem.error()
        body = kept.recording
        assert body is not None  # noqa: S101 - it is the one or the other
        if kept.has_files and (known := await self._recordings.known(target)) is not None and known.id == body.id:
            body = structs.replace(body, files=RecordingBody.of(known).files)
        return _answered(context, body, kept.status)


def _caller(request: _Request) -> Caller:
    return RequestContext.of(request.scope).sender


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


def _answered(context: RequestContext, body: RecordingBody, status: int) -> ASGIResponse:
    context.outcome, context.recording = body.outcome, body.id
    if Scope.READ not in context.sender.policy.scopes:
        body = body.without_details()
    # Ready to be sent: Litestar would make the same of a `Response`, and takes longer for it.
    headers = {"location": context.status_path} if status in {201, 202} else {}
    return ASGIResponse(body=msgspec.json.encode(body), status_code=status, headers=headers)
