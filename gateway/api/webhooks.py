"""VideoSDK's webhooks: whose they are, what they say, and an answer before anything is done about it.

There is no caller here and no key: the signature over the very bytes is all that counts, so it is checked before a
byte is understood, and the content type makes no difference. Without something that can be one, no byte is read. An
event that is genuine is answered at once; what it says is handled in the background (`WebhookQueue`), and to its end
when the process stops.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import Request, post
from litestar.exceptions import HTTPException, InternalServerException
from litestar.handlers import HTTPRouteHandler
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE
from msgspec import Struct

from gateway.api import openapi_texts
from gateway.api.context import RequestContext
from gateway.api.openapi_texts import problems
from gateway.errors import (
    IdentityUnavailable,
    MalformedRequest,
    PayloadTooLarge,
    TooManyWaiting,
    Unauthenticated,
)
from gateway.recordings import MODES, EventType, RecordedFile, WebhookEvent, WebhookQueue
from gateway.recordings.targets import is_id
from gateway.videosdk.signatures import SIGNATURE_HEADER, Signatures, SignatureVerdict
from gateway.videosdk.webhook_keys import REFETCH_SECONDS

__all__ = ["EVENTS", "MAX_WEBHOOK_BYTES", "WEBHOOK_PATH", "WebhookReceiver", "webhook_route"]

WEBHOOK_PATH: Final = "/v1/webhooks/videosdk"
MAX_WEBHOOK_BYTES: Final = 256 * 1024
"""Bytes. The end of a recording names every file of it: a participant who unmutes all day makes many."""

_HAPPENINGS = (EventType.STARTING, EventType.STARTED, EventType.STOPPING, EventType.STOPPED, EventType.FAILED)
EVENTS: Final[dict[str, EventType | None]] = {
    **{f"{spec.events}-{happened}": happened for spec in MODES.values() for happened in _HAPPENINGS},
    "participant-left": EventType.LEFT,
    "session-ended": EventType.ENDED,
    "participant-joined": None,
    "session-started": None,
}
"""Every event that VideoSDK documents, and what it says of targets."""
_MODE_OF: Final = {f"{spec.events}-{happened}": mode for mode, spec in MODES.items() for happened in _HAPPENINGS}
_OTHER: Final = "other"
_POSTPONED: Final = "postponed"

_NOT_SIGNED: Final = "VideoSDK did not sign this body."
_LONGEST_SHOWN: Final = 64

_log = structlog.get_logger("gateway.webhooks")


class _Data(Struct, rename="camel"):
    meeting_id: str
    """What the REST API calls roomId."""
    participant_id: str | None = None
    kind: str | None = None
    file_details: Any = None
    file_path: Any = None
    file_url: Any = None
    """Of a room's recording, which has one file: it stands here, and not in a list."""

    @property
    def files(self) -> tuple[RecordedFile, ...]:
        """The files that it names; none where they come in an unknown shape, which must not hide the event."""
        one = [{"filePath": self.file_path, "fileUrl": self.file_url}] if self.file_path else []
        try:
            return tuple(msgspec.convert(self.file_details or one, list[RecordedFile]))
        except msgspec.ValidationError:
            return ()


class WebhookReceiver:
    """Takes in VideoSDK's events.

    Args:
        signatures: What tells them from forgeries.
        queue: Who has them acted on.
        count: Called for every event: its type, or `other`, and `accepted`, `repeated` for one that an equal one which
            waits stands for, `unsigned`, `forged`, `malformed`, `too_large`, or `postponed` for those that VideoSDK is
            asked to send again.
    """

    def __init__(
        self,
        signatures: Signatures,
        queue: WebhookQueue,
        count: Callable[[str, str], None] = lambda _type, _verdict: None,
    ) -> None:
        self._signatures = signatures
        self._queue = queue
        self.count = count

    def check(self, signatures: Sequence[bytes]) -> None:
        """Let a request pass whose body may be VideoSDK's, before the body is read.

        Raises:
            Unauthenticated: Whatever the body is, these signatures do not fit.
        """
        refused = self._signatures.refused(signatures)
        if refused is not None:
            self.count(_OTHER, refused)
            raise Unauthenticated(_NOT_SIGNED)

    async def take(self, body: bytes, signatures: Sequence[bytes], sender: str = "") -> str:
        """Take in one event and return its type, `other` where VideoSDK does not document it.

        Args:
            body: The bytes as they came.
            signatures: The value of every signature header there was.
            sender: The address that it came from.

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
            raise Unauthenticated(_NOT_SIGNED)
        try:
            event = _read(body)
        except MalformedRequest:
            self.count(_OTHER, "malformed")
            raise
        name = event.get("webhookType")
        known = name if isinstance(name, str) and name in EVENTS else _OTHER
        verdict = "accepted"
        if known == _OTHER:
            _log.info("webhook.unknown", type=str(name)[:_LONGEST_SHOWN])
        elif (hint := _webhook_event(known, event.get("data"))) is not None:
            verdict = self._put(known, hint, sender)
        elif EVENTS[known] is not None:
            _log.warning("webhook.not_understood", type=known)
        self.count(known, verdict)
        return known

    def _put(self, name: str, hint: WebhookEvent, sender: str) -> str:
        try:
            return "accepted" if self._queue.put(name, hint, sender) else "repeated"
        except TooManyWaiting:
            self.count(name, _POSTPONED)
            raise

    async def close(self, grace: float) -> None:
        """Let what was accepted be heard to its end, for at most `grace` seconds."""
        await self._queue.close(grace)


def webhook_route(webhook_receiver: WebhookReceiver) -> HTTPRouteHandler:
    """Build the route.

    Args:
        webhook_receiver: Checks the events, and passes them on.
    """

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
    async def receive_videosdk_webhook(request: Request[Any, Any, Any]) -> None:
        """Answer quickly: VideoSDK does not say how long it waits."""
        context = RequestContext.of(request.scope)
        context.challenge = "VideoSDK-Signature"
        signatures = [value for name, value in request.scope["headers"] if name == SIGNATURE_HEADER.encode()]
        webhook_receiver.check(signatures)
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
        # Behind an ingress its address, and so one sender for all: which then has half of the places.
        client = request.scope["client"]
        context.webhook = await webhook_receiver.take(body, signatures, client[0] if client else "")

    return receive_videosdk_webhook


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
