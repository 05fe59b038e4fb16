"""Recordings as callers see them, and what a request is answered. Values only; nothing here acts."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from gateway.errors import PROBLEMS, GatewayError
from gateway.recordings.targets import Target

__all__ = [
    "ENDED",
    "LONGEST_SECONDS",
    "SHORTEST_SECONDS",
    "Answer",
    "Descriptor",
    "EndReason",
    "Origin",
    "Outcome",
    "Problem",
    "RecordedFile",
    "Recording",
    "Status",
    "WebhookDeliveries",
]


SHORTEST_SECONDS: Final = 60
LONGEST_SECONDS: Final = 86_400
"""What a caller or its policy may say of how long a recording lasts at most."""


class Status(StrEnum):
    """Where a recording stands, as far as anybody knows."""

    STARTING = "starting"
    RECORDING = "recording"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    """Refused; nothing runs."""
    UNKNOWN = "unknown"
    """It may run."""


ENDED = frozenset({Status.STOPPED, Status.FAILED})


class Outcome(StrEnum):
    """What a request did."""

    STARTED = "started"
    JOINED = "joined"
    ALREADY_RECORDING = "already_recording"
    STOPPED = "stopped"
    NOT_RECORDING = "not_recording"
    STOP_REQUESTED = "stop_requested"


class EndReason(StrEnum):
    """Why a recording ended, where that is known."""

    STOPPED = "stopped"
    """It was asked for, here."""
    REFUSED = "refused"
    """It never began: VideoSDK refused it."""
    FAILED = "failed"
    """VideoSDK reported a failure."""
    MAX_DURATION = "max_duration"
    """The gateway stopped it by itself, because it had recorded for as long as it may."""
    DURATION_LIMIT = "duration_limit"
    """VideoSDK ended it after the two hours that it lets a recording run."""
    VIDEOSDK = "videosdk"
    """VideoSDK ended it, or another of its clients did, outside the gateway."""
    PARTICIPANT_LEFT = "participant_left"
    SESSION_ENDED = "session_ended"


class Origin(StrEnum):
    """Who began a recording."""

    GATEWAY = "gateway"
    VIDEOSDK = "videosdk"
    """VideoSDK or another of its clients, outside the gateway; its parameters are not known."""


class Descriptor(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the record keeps of a recording besides times: readable by every caller, so nothing secret."""

    requested_by: str | None = None
    file_format: str = ""
    """Empty where the start did not say."""
    origin: Origin = Origin.GATEWAY


class RecordedFile(Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of a recording."""

    file_path: str | None = None
    file_url: str | None = None
    """None while it is being made, and always where files go to the customer's own bucket."""
    type: str | None = None
    size: int | None = None
    """Bytes."""


class WebhookDeliveries(Struct, frozen=True, kw_only=True):
    """How many of a recording's webhooks VideoSDK sent, and how many arrived, by its own count."""

    total: int
    succeeded: int


class Recording(Struct, frozen=True, kw_only=True):
    """One period during which a target is recorded, as far as the gateway knows."""

    id: str | None
    """None where the gateway knows of no recording of this target."""
    target: Target
    file_format: str
    status: Status
    requested_by: str | None
    requested_at: datetime | None
    confirmed_at: datetime | None
    confirmed_by: str | None
    origin: Origin = Origin.GATEWAY
    ended_at: datetime | None = None
    ended_because: EndReason | None = None
    stops_at: datetime | None = None
    """When the gateway stops it by itself; None is never."""
    videosdk_id: str | None = None
    """VideoSDK's own id of the recording, once its list shows it."""
    files: tuple[RecordedFile, ...] = ()
    deliveries: WebhookDeliveries | None = None
    """What VideoSDK counts of the webhooks it sent for it."""
    coordinated: bool = True
    """False where this was done while Redis did not answer: for this process alone."""


class Answer(Struct, frozen=True):
    """What a start or stop is answered."""

    outcome: Outcome | None
    """None where nothing was done: how the target stands."""
    recording: Recording
    was_sent: bool = False
    """VideoSDK was called for it, and not only its list."""


class Problem(Struct, frozen=True, omit_defaults=True):
    """A problem as a value, so that any number of waiters on any replica can get it, each as its own error."""

    slug: str
    detail: str
    retry_after: float | None = None
    extensions: dict[str, Any] = {}

    @classmethod
    def of(cls, error: GatewayError) -> "Problem":
        """Take what an error says."""
        return cls(error.slug, error.detail, error.retry_after, error.extensions)

    def error(self) -> GatewayError:
        """Make an error of one's own."""
        return PROBLEMS[self.slug](self.detail, retry_after=self.retry_after, extensions=self.extensions)
