"""The routes for several recordings at once: a batch of starts and stops, and the stop of a whole room.

Each item goes the way of a single call (`RequestPipeline`), by itself: it is checked, charged and limited alone, and
one that is wrong harms no other. What is wrong with the batch as a whole is refused as a whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, cast

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.api import batch_texts
from gateway.api.context import RequestContext
from gateway.api.guards import BEARER, GuardedRoutes, asked_seconds
from gateway.api.openapi_texts import problems
from gateway.api.pipeline import CommandRequest, CommandResponse, RequestPipeline
from gateway.api.problems import problem_document, retry_seconds
from gateway.api.response import ReadyResponse
from gateway.api.wire import (
    BODIES,
    ProblemDocument,
    RecordingBody,
    check_part,
    read_fields,
    read_room,
)
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import Scope
from gateway.errors import GatewayError, InvalidRequest, OutcomeUnknown
from gateway.recordings import MODES, Kind, Mode, Target

__all__ = ["ACTIONS", "MAX_BATCH_BYTES", "MAX_ITEMS", "RecordBatch", "StopAllRecordings", "batch_routes"]

MAX_BATCH_BYTES: Final = 256 * 1024
MAX_ITEMS: Final = 100
"""How many starts and stops a batch may stand for."""
ACTIONS: Final[Mapping[str, Scope]] = {"start": Scope.START, "stop": Scope.STOP}
"""What an item may ask for."""

_REFUSALS: Final = (
    "unauthenticated",
    "forbidden",
    "identity-unavailable",
    "headers-too-large",
    "malformed-request",
    "payload-too-large",
    "unsupported-media-type",
    "invalid-request",
    "internal",
)

_Request = Request[Any, Any, Any]


class RecordBatch(Struct, frozen=True, kw_only=True, rename="camel"):
    """Starts and stops that are carried out at the same time."""

    items: list[Any]
    """Each is read by itself (`gateway.api.batch`): one that is wrong harms no other."""


class StopAllRecordings(Struct, frozen=True, kw_only=True, rename="camel"):
    """What of a room is to be stopped."""

    include_foreign: (
        Annotated[bool, Meta(description="Stop also what was started outside the gateway (`origin: videosdk`).")]
        | UnsetType
        | None
    ) = UNSET


class RecordingTarget(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is recorded, with the ids that its mode has."""

    mode: Mode
    room_id: str
    participant_id: str | UnsetType = UNSET
    kind: Kind | UnsetType = UNSET

    @classmethod
    def of(cls, target: Target) -> "RecordingTarget":
        """Build the body for a target."""
        return cls(
            mode=target.mode,
            room_id=target.room_id,
            participant_id=target.participant_id or UNSET,
            kind=target.kind or UNSET,
        )


class CommandResult(Struct, frozen=True, kw_only=True, rename="camel"):
    """What one start or stop was answered: what a single call would have been."""

    status: Annotated[int, Meta(description="The HTTP status of the single call.")]
    target: Annotated[RecordingTarget, Meta(description="What it was about; absent where the item is not valid.")] | (
        UnsetType
    ) = UNSET
    recording: Annotated[RecordingBody, Meta(description="Its body, where the status is 200, 201 or 202.")] | (
        UnsetType
    ) = UNSET
    problem: Annotated[ProblemDocument, Meta(description="Its body, where the status is 400 or above.")] | (
        UnsetType
    ) = UNSET
    retry_after: Annotated[int, Meta(description="Its `Retry-After`: seconds after which a retry makes sense.")] | (
        UnsetType
    ) = UNSET
    location: Annotated[str, Meta(description="Where the state can be read: its `Location` or `Link`.")] | UnsetType = (
        UNSET
    )
    replayed: Annotated[bool, Meta(description="True where this is what an earlier request was answered.")] | (
        UnsetType
    ) = UNSET


class BatchResult(CommandResult, frozen=True, kw_only=True, rename="camel"):
    """What one item was answered, or one kind of an item with `kinds`: what a single call would have been."""

    item: Annotated[int, Meta(description="The item's place in `items`, from 0.")]


class BatchResults(Struct, frozen=True, kw_only=True):
    """A result for each item, in their order; for an item with `kinds` one for each kind, in theirs."""

    results: list[BatchResult]


class RoomStopResults(Struct, frozen=True, kw_only=True, rename="camel"):
    """A result for each recording that was to be stopped, in the order of their targets."""

    results: list[CommandResult]
    complete: Annotated[
        bool,
        Meta(
            description="False where the gateway cannot be sure that this was all, mostly because VideoSDK's list "
            "could not be had. Something else may record there: ask again."
        ),
    ]
    foreign_left: Annotated[
        int, Meta(description="How many recordings go on because they were started outside the gateway.")
    ]


class _ReadItem(Struct, kw_only=True):
    """One start or stop of a batch, or what is wrong with it."""

    item: int
    scope: Scope | None = None
    mode: Mode | None = None
    body: Struct | None = None
    problem: GatewayError | None = None
    content: object = None
    """What was asked, as far as it matters to whether it is asked again: nothing where nothing is done."""

    @property
    def place(self) -> str:
        """How errors name it."""
        return f"items[{self.item}]"

    def command(self, timeout: float) -> CommandRequest | None:
        """Return what is to be carried out, None where it is refused."""
        if self.problem is not None or self.scope is None or self.mode is None or self.body is None:
            return None
        return CommandRequest(scope=self.scope, mode=self.mode, body=self.body, timeout=timeout)


def read_items(items: Sequence[object]) -> list[_ReadItem]:
    """Read the items of a batch, each by itself.

    Raises:
        InvalidRequest: There are none, or they stand for more starts and stops than a batch may.
    """
    if not 0 < len(items) <= MAX_ITEMS:
        raise InvalidRequest.of([("items", f"must have 1 to {MAX_ITEMS} items")])
    read = [one for number, item in enumerate(items) for one in _read_item(number, item)]
    if len(read) > MAX_ITEMS:
        message = f"must stand for at most {MAX_ITEMS} starts and stops; with `kinds` they stand for {len(read)}"
        raise InvalidRequest.of([("items", message)])
    _refuse_contradictions(read)
    return read


def _read_item(number: int, item: object) -> Iterator[_ReadItem]:
    place = f"items[{number}]"
    if not isinstance(item, dict):
        yield _refused(number, None, (place, "must be an object"))
        return
    given = dict(cast("dict[str, object]", item))
    action, mode = given.pop("action", None), given.pop("mode", None)
    wrong = [(f"{place}.{name}", message) for name, message in _wrong_choice(action, mode)]
    scope = ACTIONS.get(action) if isinstance(action, str) else None
    if wrong or scope is None:
        yield _refused(number, scope, *wrong)
        return
    mode = Mode(cast("str", mode))
    has_kinds = "kind" in MODES[mode].ids and given.get("kinds") is not None
    kinds = given.pop("kinds") if has_kinds else None
    if has_kinds and (wrong := _wrong_kinds(place, given, kinds)):
        yield _refused(number, scope, *wrong, mode=mode)
        return
    model = BODIES[mode].start if scope is Scope.START else BODIES[mode].stop
    for body in [{**given, "kind": kind} for kind in cast("list[str]", kinds)] if has_kinds else [given]:
        try:
            read = read_fields(body, model, f"{place}.")
        except InvalidRequest as error:
            yield _ReadItem(item=number, scope=scope, mode=mode, problem=error)
        else:
            yield _ReadItem(item=number, scope=scope, mode=mode, body=read, content=(scope, mode, read))


def _refused(number: int, scope: Scope | None, *errors: tuple[str, str], mode: Mode | None = None) -> _ReadItem:
    return _ReadItem(item=number, scope=scope, mode=mode, problem=InvalidRequest.of(list(errors)))


def _wrong_choice(action: object, mode: object) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with what says how the other members are read."""
    if action is None:
        yield "action", "is missing"
    elif not isinstance(action, str) or action not in ACTIONS:
        yield "action", f"must be one of {', '.join(ACTIONS)}"
    if mode is None:
        yield "mode", "is missing"
    elif wrong := check_part("mode", mode):
        yield "mode", wrong


def _wrong_kinds(place: str, given: Mapping[str, object], kinds: object) -> list[tuple[str, str]]:
    if given.get("kind") is not None:
        return [(f"{place}.kinds", "must not stand beside kind")]
    if not isinstance(kinds, list) or not kinds:
        return [(f"{place}.kinds", "must be a list of kinds")]
    listed = cast("list[object]", kinds)
    wrong = [(f"{place}.kinds", "must name each kind once")] if len(listed) > len(Kind) else []
    for number, kind in enumerate(listed[: len(Kind)]):
        if message := check_part("kind", kind):
            wrong.append((f"{place}.kinds[{number}]", message))
        elif kind in listed[:number]:
            wrong.append((f"{place}.kinds[{number}]", "must name each kind once"))
    return wrong


def _refuse_contradictions(items: Sequence[_ReadItem]) -> None:
    """Refuse starts and stops of one target in one batch: they run at the same time, so what is meant is not said."""
    by_target: dict[Target, dict[Scope, list[_ReadItem]]] = {}
    for one in items:
        if (command := one.command(0)) is not None:
            by_target.setdefault(command.target, {}).setdefault(command.scope, []).append(one)
    for sides in by_target.values():
        if len(sides) < 2:
            continue
        for one in (*sides[Scope.START], *sides[Scope.STOP]):
            start, stop = (
                one if one.scope is scope else sides[scope][0] for scope in (Scope.START, Scope.STOP)
            )  # fmt: skip
            one.problem = InvalidRequest.of(
                [
                    (start.place, f"must not start what {stop.place} stops"),
                    (stop.place, f"must not stop what {start.place} starts"),
                ]
            )


def batch_routes(authenticator: Authenticator, pipeline: RequestPipeline, deadline: float) -> GuardedRoutes:
    """Build the routes.

    Args:
        authenticator: Identifies the caller.
        pipeline: Takes in what is asked.
        deadline: Longest wait of one caller, in seconds.
    """
    return GuardedRoutes("/v1", [_batch(pipeline, deadline), _stop_room(pipeline, deadline)], authenticator)


def _batch(pipeline: RequestPipeline, deadline: float) -> HTTPRouteHandler:
    @post(
        "/recordings/batch",
        operation_id="recordBatch",
        summary="Start and stop several recordings at once",
        description=batch_texts.BATCH,
        tags=["recordings"],
        security=BEARER,
        opt={
            "any_scope": frozenset(ACTIONS.values()),
            "takes": ("IdempotencyKey", "Deadline"),
            "examples": batch_texts.BATCH_EXAMPLES,
        },
        status_code=200,
        request_max_body_size=MAX_BATCH_BYTES,
        responses={200: batch_texts.batch_results(BatchResults), **problems(*_REFUSALS, "idempotency-key-reused")},
    )
    async def record_batch(request: _Request, data: JSONBody[RecordBatch]) -> ReadyResponse:
        timeout = min(asked_seconds(request) or deadline, deadline)
        items = read_items(data.items)
        commands = [one.command(timeout) for one in items]
        responses = iter(await pipeline.batch(request, commands, [one.content for one in items]))
        results = [
            _result(request, next(responses) if one.problem is None else one.problem, one.scope, one.mode, one.item)
            for one in items
        ]
        return _answered(BatchResults(results=cast("list[BatchResult]", results)))

    return record_batch


def _stop_room(pipeline: RequestPipeline, deadline: float) -> HTTPRouteHandler:
    @post(
        "/rooms/{roomId:str}/recordings/stop",
        operation_id="stopAllRecordingsOfRoom",
        summary="Stop the recordings of a room",
        description=batch_texts.STOP_ROOM,
        tags=["recordings"],
        security=BEARER,
        opt={"scope": Scope.STOP, "takes": ("Deadline",), "examples": batch_texts.STOP_ROOM_EXAMPLES},
        status_code=200,
        responses={
            200: batch_texts.room_stop_results(RoomStopResults),
            **problems(*_REFUSALS, "too-many-requests", "coordination-unavailable", "newer-record"),
        },
    )
    async def stop_all_recordings(request: _Request, data: JSONBody[StopAllRecordings]) -> ReadyResponse:
        room = read_room(request.path_params["roomId"])
        timeout = min(asked_seconds(request) or deadline, deadline)
        stopped = await pipeline.stop_room(request, room, timeout, include_foreign=data.include_foreign is True)
        results = [
            _result(request, response, response.command.scope, response.command.mode) for response in stopped.responses
        ]
        return _answered(RoomStopResults(results=results, complete=stopped.complete, foreign_left=stopped.foreign_left))

    return stop_all_recordings


def _result(
    request: _Request,
    response: CommandResponse | GatewayError,
    scope: Scope | None,
    mode: Mode | None,
    item: int | None = None,
) -> CommandResult:
    """Shape one result, and note for log and metrics what it says."""
    context = RequestContext.of(request.scope)
    if isinstance(response, GatewayError):
        status, problem, outcome, members = response.status, response, response.slug, dict[str, Any]()
    else:
        status, problem, outcome = response.status, response.problem, response.outcome
        members: dict[str, Any] = {"target": RecordingTarget.of(response.command.target)}
        if response.recording is not None:
            members["recording"] = response.recording
        if response.has_location or isinstance(problem, OutcomeUnknown):
            members["location"] = context.prefix + response.path
        if response.replayed:
            members["replayed"] = True
    if scope is not None:
        context.commands.append((scope, mode or "", status, outcome))
    if problem is not None:
        # With the members of its type, which the struct of the contract does not have.
        members["problem"] = Raw(problem_document(problem, request.scope["path"], context.request_id, context.prefix))
        if (seconds := retry_seconds(problem)) is not None:
            members["retry_after"] = seconds
    return CommandResult(status=status, **members) if item is None else BatchResult(item=item, status=status, **members)


def _answered(body: Struct) -> ReadyResponse:
    return ReadyResponse(msgspec.json.encode(body), 200, {})
