"""Idempotency keys: the same request again, under the same key, gets the answer it got.

The natural key of a recording already makes one start of many. What it cannot know is that a start which arrives after
another caller's stop is a late retry and not a new command: that is what a caller's own key says
(draft-ietf-httpapi-idempotency-key-header).

Where an answer was kept, a retry gets it. Where none was (the first request is still under way, its process is gone,
or it ended in something that may pass), a retry is carried out as if asked when it was first asked: `claim.lua`
decides, in one step with the claim, whether a stop has been asked for since. On a Cluster the two moments may be of
two servers' clocks. A stop's retry stops again: that does no harm, and one that is not carried out does.

What is kept takes room in Redis, so it is no more than a retry needs. Of a stop nothing but its final answer, since a
repeat before that does no harm. Of a start the moment, and its answer where a repeat would not find out the same: what
differed in another's parameters still differs, or a stop has been asked for since, which the moment tells. Of no
recording the files, of which there may be any number: a replay reads them anew. And a new key costs a whole token.

The key of a batch is remembered once for the whole, with the moment, and once for each item whose answer is kept: so a
retry repeats what is not known and nothing else, and an item is never carried out as of another moment than its batch.
Every one of these counts as a key of the caller's.
"""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from litestar import Request
from msgspec import Struct, structs

from gateway.api.wire import RecordingBody
from gateway.auth.api_keys import Caller
from gateway.auth.policy import Scope
from gateway.errors import (
    CoordinationUnavailable,
    GatewayError,
    IdempotencyKeyReused,
    InvalidRequest,
    UpstreamRefused,
)
from gateway.recordings import Mode, Status
from gateway.recordings.model import Problem
from gateway.store.idempotency_records import IdempotencyKey, IdempotencyRecord, IdempotencyRecords

__all__ = ["KEY_HEADER", "BatchKey", "Idempotency", "IdempotentRequest", "RequestKey", "StoredResponse", "read_key"]

KEY_HEADER: Final = "idempotency-key"
_QUOTED: Final = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])*)"')
_BARE: Final = re.compile(r"""[^\s"\\,;]+""")
_KEY: Final = re.compile(r"[!-~]{1,255}")
_BATCH: Final = "batch"


class StoredResponse(Struct, frozen=True, omit_defaults=True):
    """An answer that is kept: a recording, or a problem."""

    status: int
    recording: RecordingBody | None = None
    """Without its files."""
    problem: Problem | None = None
    has_files: bool = False
    """The answer showed files: a replay shows them as they are then."""


class RequestKey(Struct, frozen=True):
    """A caller's key of one start or stop, and what it was sent with."""

    stored: IdempotencyKey
    route: Scope
    batch: "BatchKey | None" = None
    """Of which this is one item."""


class BatchKey:
    """A caller's key of a batch, and what it was sent with.

    Args:
        answers: Where answers are kept.
        stored: The key of the whole.
    """

    def __init__(self, answers: IdempotencyRecords, stored: IdempotencyKey) -> None:
        self._answers = answers
        self._stored = stored
        self._known: asyncio.Task[IdempotencyRecord] | None = None
        self.differs = False
        """Whether another batch was sent under this key before, as far as was asked."""

    def item(self, route: Scope, number: int) -> RequestKey:
        """Return the key of an item. The whole body goes with it: another batch is another request in every item."""
        name = (*self._stored.name, str(number))
        return RequestKey(structs.replace(self._stored, name=name), route, self)

    async def begin(self) -> IdempotencyRecord:
        """Say that the batch is being asked: once for all items, when the first of them is let in.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        if self._known is None:
            self._known = asyncio.create_task(self._answers.begin(self._stored, remember=True), name="batch-key")
        whole = await asyncio.shield(self._known)
        self.differs = whole.verdict == "differs"
        return whole


class IdempotentRequest(Struct, frozen=True):
    """What is known of a request under its key, and where its answer will be kept."""

    key: RequestKey
    is_new: bool = False
    """Nothing is known of it."""
    begun: int | None = None
    """When it was first asked (ms by Redis's clock), if it was asked before and no answer was kept."""
    kept: StoredResponse | None = None
    """What it was answered."""


class Idempotency:
    """Keeps answers for retries.

    Args:
        answers: Where they are kept.
        project: Separates the projects that share a Redis.
    """

    def __init__(self, answers: IdempotencyRecords, project: str) -> None:
        self._answers = answers
        self._project = project

    def key(self, caller: Caller, route: Scope, key: str, mode: Mode, body: Struct) -> RequestKey:
        """Return the key of a start or stop that is sent by itself."""
        return RequestKey(self._stored(caller, (route, key), (mode, body)), route)

    def batch_key(self, caller: Caller, key: str, items: Sequence[object]) -> BatchKey:
        """Return the key of a batch."""
        return BatchKey(self._answers, self._stored(caller, (_BATCH, key), items))

    def _stored(self, caller: Caller, name: tuple[str, ...], content: object) -> IdempotencyKey:
        encoded = msgspec.json.encode(content, order="sorted")
        fingerprint = hashlib.blake2b(encoded, digest_size=20).hexdigest()
        return IdempotencyKey((self._project, caller.account), name, fingerprint)

    async def begin(self, key: RequestKey) -> IdempotentRequest | None:
        """Say that this is being asked; None where it cannot be remembered and need not be.

        Raises:
            IdempotencyKeyReused: The caller has asked for something else under this key.
            CoordinationUnavailable: Redis does not answer, and this is a start.
        """
        try:
            whole = None if key.batch is None else await key.batch.begin()
            # The moment matters to starts alone, and a batch has one for all.
            known = await self._answers.begin(key.stored, remember=whole is None and key.route is Scope.START)
        except CoordinationUnavailable:
            if key.route is Scope.STOP:
                # A second stop does no harm, and one that is not carried out does.
                return None
            raise
        if "differs" in {known.verdict, whole and whole.verdict}:
            raise IdempotencyKeyReused("This key was sent with another body before.")
        if known.verdict == "replay":
            return IdempotentRequest(key, kept=msgspec.json.decode(known.answer, type=StoredResponse))
        earlier = known if whole is None else whole
        if earlier.verdict == "new":
            return IdempotentRequest(key, is_new=True)
        return IdempotentRequest(key, begun=earlier.begun)

    async def keep(self, replay: IdempotentRequest | None, status: int, answer: RecordingBody | GatewayError) -> None:
        """Keep an answer if it is final; where Redis does not answer, a retry is carried out like any request."""
        if replay is None:
            return
        if isinstance(answer, RecordingBody):
            # Neither what is still to come, nor how a target that moves stood at the moment.
            if status == 202 or (answer.outcome is None and answer.status is not Status.STOPPED):
                return
            kept = StoredResponse(status, recording=structs.replace(answer, files=[]), has_files=bool(answer.files))
        elif _is_final(replay.key.route, answer):
            kept = StoredResponse(status, problem=Problem.of(answer))
        else:
            return
        with suppress(CoordinationUnavailable):
            await self._answers.keep(replay.key.stored, msgspec.json.encode(kept).decode())


def _is_final(route: Scope, problem: GatewayError) -> bool:
    """Tell whether a retry would be answered the same: a start was refused, and that does not pass by itself."""
    return route is Scope.START and isinstance(problem, UpstreamRefused) and problem.retry_after is None


def read_key(request: Request[Any, Any, Any]) -> str | None:
    """Return the request's idempotency key: a quoted string as the draft has it, or the bare key many clients send.

    Raises:
        InvalidRequest: There is more than one, or it cannot be read.
    """
    given = request.headers.getall(KEY_HEADER, [])
    if not given:
        return None
    text = given[0].strip()
    if quoted := _QUOTED.fullmatch(text):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        key = text if _BARE.fullmatch(text) else ""
    if len(given) > 1 or not _KEY.fullmatch(key):
        raise InvalidRequest.of([(KEY_HEADER, "must be one string of 1 to 255 visible ASCII characters")])
    return key
