"""VideoSDK's webhooks: whose they are, what they say, and an answer before anything is done about it.

There is no caller here and no key: the signature over the very bytes is all that counts, so it is checked before a
byte is understood, and neither the sender's address nor the content type makes a difference. An event that is genuine
is answered at once; what it says is handled in the background, and to its end when the process stops.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException, InternalServerException
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE
from msgspec import Struct

from gateway.api import openapi_texts
from gateway.api.context import RequestContext
from gateway.api.openapi_texts import problems
from gateway.errors import (
    CoordinationUnavailable,
    IdentityUnavailable,
    MalformedRequest,
    NewerRecord,
    PayloadTooLarge,
    TooManyWaiting,
    Unauthenticated,
)
from gateway.recordings import MODES, EventType, RecordedFile, WebhookEvent
from gateway.recordings.targets import is_id
from gateway.videosdk.signatures import SIGNATURE_HEADER, Signatures, SignatureVerdict
from gateway.videosdk.webhook_keys import REFETCH_SECONDS

__all__ = ["EVENTS", "MAX_WEBHOOK_BYTES", "WEBHOOK_PATH", "WebhookReceiver", "receive_videosdk_webhook"]

WEBHOOK_PATH: Final = "/v1/webhooks/videosdk"
MAX_WEBHOOK_BYTES: Final = 256 * 1024
"""Bytes. The end of a recording names every file of it: a participant who unmutes all day makes many."""

_HAPPENINGS = (EventType.STARTING, EventType.STARTED, EventType.STOPPING, EventType.STOPPED, EventType.FAILED)
_OTHER_MODES: Final = {"participant-recording", "recording"} - {spec.events for spec in MODES.values()}
EVENTS: Final[dict[str, EventType | None]] = {
    **{f"{spec.events}-{happened}": happened for spec in MODES.values() for happened in _HAPPENINGS},
    "participant-left": EventType.LEFT,
    "session-ended": EventType.ENDED,
    # Of modes that the gateway does not record: accepted, and that is all.
    **{f"{events}-{happened}": None for events in _OTHER_MODES for happened in _HAPPENINGS},
    "participant-joined": None,
    "session-started": None,
}
"""Every event that VideoSDK documents, and what it says of targets."""
_MODE_OF: Final = {f"{spec.events}-{happened}": mode for mode, spec in MODES.items() for happened in _HAPPENINGS}
_OTHER: Final = "other"
_POSTPONED: Final = "postponed"

_MAX_CONCURRENT: Final = 16
_MAX_UNHEARD: Final = 10_000
"""A session of a thousand participants that ends tells of each of their recordings."""
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between tries while Redis does not answer. Who asks VideoSDK by itself finds out what is given up here."""
_LONGEST_SHOWN: Final = 64

_log = structlog.get_logger("gateway.webhooks")


class _Data(Struct, rename="camel"):
    meeting_id: str
    """What the REST API calls roomId."""
    participant_id: str | None = None
    kind: str | None = None
    file_details: Any = None

    @property
    def files(self) -> tuple[RecordedFile, ...]:
        """The files that it names; none where they come in an unknown shape, which must not hide the event."""
        try:
            return tuple(msgspec.convert(self.file_details or [], list[RecordedFile]))
        except msgspec.ValidationError:
            return ()


class WebhookReceiver:
    """Takes in VideoSDK's events.

    Args:
        signatures: What tells them from forgeries.
        handle: Who acts on them.
        count: Called for every event: its type, or `other`, and `accepted`, `unsigned`, `forged`, `malformed`,
            `too_large`, or `postponed` for those that VideoSDK is asked to send again.
        max_concurrent: Events that are acted on at the same time; more wait.
        max_unheard: Events that wait; more are refused, and VideoSDK may send them again.
        pauses: Seconds between tries while Redis does not answer; after the last the event is given up.
    """

    def __init__(
        self,
        signatures: Signatures,
        handle: Callable[[WebhookEvent], Awaitable[None]],
        count: Callable[[str, str], None] = lambda _type, _verdict: None,
        *,
        max_concurrent: int = _MAX_CONCURRENT,
        max_unheard: int = _MAX_UNHEARD,
        pauses: Sequence[float] = _PAUSES,
    ) -> None:
        self._signatures = signatures
        self._handle = handle
        self.count = count
        self._places = asyncio.Semaphore(max_concurrent)
        self._max_unheard = max_unheard
        self._pauses = pauses
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, body: bytes, signatures: Sequence[bytes]) -> str:
        """Take in one event and return its type, `other` where VideoSDK does not document it.

        Raises:
            GatewayError: `Unauthenticated`, the same whatever is wrong with the signature; `MalformedRequest`; or
                `IdentityUnavailable` and `TooManyWaiting`, after which VideoSDK may try again.
        """
        verdict = await self._signatures.judge(body, signatures)
        if verdict is SignatureVerdict.UNDECIDED:
            self.count(_OTHER, _POSTPONED)
            raise IdentityUnavailable("VideoSDK's public key cannot be had.", retry_after=REFETCH_SECONDS)
        if verdict is not SignatureVerdict.GENUINE:
            self.count(_OTHER, verdict)
            raise Unauthenticated("VideoSDK did not sign this body.")
        try:
            event = _read(body)
        except MalformedRequest:
            self.count(_OTHER, "malformed")
            raise
        name = event.get("webhookType")
        known = name if isinstance(name, str) and name in EVENTS else _OTHER
        if known == _OTHER:
            _log.info("webhook.unknown", type=str(name)[:_LONGEST_SHOWN])
        elif (hint := _webhook_event(known, event.get("data"))) is not None:
            self._take_up(known, hint)
        elif EVENTS[known] is not None:
            _log.warning("webhook.not_understood", type=known)
        self.count(known, "accepted")
        return known

    async def close(self, grace: float) -> None:
        """Let what was accepted be heard to its end, for at most `grace` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        if left := list(self._tasks):
            _log.warning("webhook.given_up", events=len(left))
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _take_up(self, name: str, hint: WebhookEvent) -> None:
        if len(self._tasks) >= self._max_unheard:
            self.count(name, _POSTPONED)
            raise TooManyWaiting("More events wait than are kept.", retry_after=1)
        # A strong reference: asyncio itself keeps only a weak one.
        task = asyncio.create_task(self._handle_all(name, hint), name="webhook")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle_all(self, name: str, hint: WebhookEvent) -> None:
        for pause in (0.0, *self._pauses):
            await asyncio.sleep(pause)
            try:
                async with self._places:
                    await self._handle(hint)
            except (CoordinationUnavailable, NewerRecord):
                continue
            except Exception:  # noqa: BLE001 - one event's trouble must not end the process's hearing
                _log.exception("webhook.failed", type=name)
                return
            else:
                return
        _log.warning("webhook.given_up", type=name, events=1)


@post(
    WEBHOOK_PATH,
    operation_id="receiveVideosdkWebhook",
    summary="Take in an event of VideoSDK",
    description=openapi_texts.WEBHOOK,
    response_description="Accepted. What it says is acted on after this answer.",
    tags=["webhooks"],
    security=[{"videosdkSignature": []}],
    status_code=204,
    responses=problems(
        "malformed-request",
        "unauthenticated",
        "payload-too-large",
        "identity-unavailable",
        "too-many-waiting",
        "internal",
    ),
    request_max_body_size=MAX_WEBHOOK_BYTES,
)
async def receive_videosdk_webhook(
    request: Request[Any, Any, Any], webhook_receiver: NamedDependency[WebhookReceiver]
) -> None:
    """Answer quickly: VideoSDK does not say how long it waits."""
    context = RequestContext.of(request.scope)
    context.challenge = "VideoSDK-Signature"
    try:
        body = await request.body()
    except InternalServerException:
        # What Litestar makes of a sender that hangs up within the body: not a mistake of the gateway.
        webhook_receiver.count(_OTHER, "malformed")
        raise MalformedRequest("The body ended early.") from None
    except HTTPException as error:
        if error.status_code != HTTP_413_REQUEST_ENTITY_TOO_LARGE:
            raise
        webhook_receiver.count(_OTHER, "too_large")
        raise PayloadTooLarge(f"The body may have at most {MAX_WEBHOOK_BYTES} bytes.") from None
    signatures = [value for name, value in request.scope["headers"] if name == SIGNATURE_HEADER.encode()]
    context.webhook = await webhook_receiver.take(body, signatures)


def _read(body: bytes) -> dict[str, object]:
    try:
        event: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedRequest("The body is not valid JSON.") from None
    if not isinstance(event, dict):
        raise MalformedRequest("The body must be one JSON object.")
    return cast("dict[str, object]", event)


def _webhook_event(name: str, data: object) -> WebhookEvent | None:
    """Return what an event says of targets: None where it says nothing, or nothing that can be understood."""
    happened = EVENTS[name]
    if happened is None:
        return None
    try:
        event = msgspec.convert(data, _Data)
    except msgspec.ValidationError:
        return None
    room, participant, kind = event.meeting_id, event.participant_id, event.kind
    if happened is EventType.ENDED:
        return WebhookEvent(room, None, None, happened) if is_id(room) else None
    if happened is EventType.LEFT:
        named = participant is not None and is_id(room) and is_id(participant)
        return WebhookEvent(room, participant, None, happened) if named else None
    files = event.files if happened is EventType.STOPPED else ()
    event = WebhookEvent(room, participant, kind, happened, _MODE_OF[name], files)
    return event if event.target is not None else None
