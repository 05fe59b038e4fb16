"""Tracks, parameters, recordings, and what becomes of an operation on them. Values only; nothing here acts."""

import base64
import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from gateway.coordinator import Claim, Command, Record
from gateway.errors import PROBLEMS, GatewayError
from gateway.recordings.evidence import Evidence
from gateway.videosdk.client import Deliveries, TrackFile

__all__ = [
    "ENDED",
    "Answer",
    "Descriptor",
    "EndReason",
    "Kind",
    "Origin",
    "Outcome",
    "Problem",
    "Recording",
    "Result",
    "StartParameters",
    "Status",
    "Track",
    "decode_descriptor",
    "differing_fields",
    "recording_of",
    "track_of",
]


class Kind(StrEnum):
    """Which of a participant's tracks is meant (docs.videosdk.live)."""

    AUDIO = "audio"
    VIDEO = "video"
    SCREEN_AUDIO = "screen_audio"
    SCREEN_VIDEO = "screen_video"


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
    PARTICIPANT_LEFT = "participant_left"
    SESSION_ENDED = "session_ended"


class Origin(StrEnum):
    """Who began a recording."""

    GATEWAY = "gateway"
    VIDEOSDK = "videosdk"
    """Somebody beside the gateway; its parameters are not known."""


class Track(Struct, frozen=True):
    """The natural key of a recording. Each part is safe in a key and in a path (`[A-Za-z0-9_-]`)."""

    room_id: str
    participant_id: str
    kind: Kind


class StartParameters(Struct, frozen=True):
    """What a caller may say about a recording; None was not said and is not sent."""

    file_format: str | None = None
    webhook_url: str | None = None
    bucket_dir_path: str | None = None

    @property
    def fingerprint(self) -> str:
        """What two starts must have in common to be the same wish.

        Hashed field by field, so that a difference can be named without its values being stored: a webhook's query may
        be a secret. An absent format is the documented default.
        """
        values = {
            "fileFormat": self.file_format or "webm",
            "webhookUrl": self.webhook_url,
            "bucketDirPath": self.bucket_dir_path,
        }
        return " ".join(f"{name}={_digest(value)}" for name, value in values.items())


def _digest(value: str | None) -> str:
    return "-" if value is None else hashlib.blake2b(value.encode(), digest_size=9).hexdigest()


def differing_fields(one: str, other: str) -> list[str]:
    """Name the parameters in which two fingerprints differ."""
    return [part.partition("=")[0] for part in one.split() if part not in other.split()]


class Descriptor(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the record keeps of a recording besides times: readable by every caller, so nothing secret."""

    requested_by: str | None = None
    file_format: str = "webm"
    origin: Origin = Origin.GATEWAY


class Recording(Struct, frozen=True, kw_only=True):
    """One period during which a track is recorded, as far as the gateway knows."""

    id: str | None
    """None where the gateway knows of no recording of this track."""
    track: Track
    file_format: str
    status: Status
    requested_by: str | None
    requested_at: datetime | None
    confirmed_at: datetime | None
    confirmed_by: str | None
    origin: Origin = Origin.GATEWAY
    ended_at: datetime | None = None
    ended_because: EndReason | None = None
    videosdk_id: str | None = None
    """VideoSDK's own id of the recording, once its list told it."""
    files: tuple[TrackFile, ...] = ()
    deliveries: Deliveries | None = None
    """What VideoSDK counts of the webhooks it sent for it."""
    coordinated: bool = True
    """False where this was done while Redis did not answer: for this process alone."""


class Answer(Struct, frozen=True):
    """What a start or stop is answered."""

    outcome: Outcome | None
    """None where nothing was done: how the track stands."""
    recording: Recording


class Problem(Struct, frozen=True, omit_defaults=True):
    """A problem as a value, so that any number of callers on any replica can be told of it, each by its own error."""

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


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an operation; the payload that travels to every joiner.

    Without a `state` nothing was decided and everybody contends again.
    """

    command: Command
    state: Status | None = None
    outcome: Outcome | None = None
    """What the leader's own caller is told."""
    problem: Problem | None = None
    fingerprint: str = ""
    generation: str = ""
    descriptor: Descriptor | None = None
    started_at: int = 0
    confirmed_at: int = 0
    confirmed_by: str = ""
    ended_at: int = 0
    because: str = ""
    trace: str = ""
    """Where the operation's trace is (`traceparent`), for those who join it; empty where none is made."""

    def encode(self) -> str:
        """Return the payload."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def decode(payload: bytes | str) -> "Result":
        """Read a payload."""
        return msgspec.json.decode(payload, type=Result)

    def recording(self, key: str, track: Track) -> Recording:
        """Return the recording it tells of."""
        recording = _recording(
            key, track, self.generation, self.state or Status.UNKNOWN, self.descriptor, self.started_at,
            self.confirmed_at, self.confirmed_by,
        )  # fmt: skip
        return _ended(recording, self.ended_at, self.because)


def track_of(key: str) -> Track:
    """Return the track of a record, which its key ends with."""
    room, participant, kind = key.split(":")[-3:]
    return Track(room, participant, Kind(kind))


def recording_of(key: str, track: Track, known: Record | Claim) -> Recording:
    """Return the recording that a record tells of."""
    status = Status(known.state) if known.state else Status.UNKNOWN
    recording = _recording(
        key, track, known.generation, status, decode_descriptor(known.recording), known.started_at, known.confirmed,
        known.confirmed_by,
    )  # fmt: skip
    evidence = Evidence.decode(known.evidence, known.generation)
    return msgspec.structs.replace(
        _ended(recording, known.ended_at if known.ended_at >= known.started_at else 0, known.because),
        videosdk_id=evidence.videosdk_id if evidence else None,
        files=evidence.files if evidence else (),
        deliveries=evidence.deliveries if evidence else None,
    )


def _ended(recording: Recording, at: int, because: str) -> Recording:
    """Return the recording with when and why it ended, if it did and that is known."""
    if recording.status not in ENDED:
        return recording
    reason = EndReason(because) if because in set(EndReason) else None
    return msgspec.structs.replace(recording, ended_at=_moment(at), ended_because=reason)


def decode_descriptor(text: str) -> Descriptor | None:
    """Read a descriptor, None where there is none."""
    return msgspec.json.decode(text, type=Descriptor) if text else None


def _recording(
    key: str,
    track: Track,
    generation: str,
    status: Status,
    descriptor: Descriptor | None,
    started_at: int,
    confirmed_at: int,
    confirmed_by: str,
) -> Recording:
    known = descriptor or Descriptor()
    return Recording(
        id=recording_id(key, generation) if generation not in {"", "0"} else None,
        track=track,
        file_format=known.file_format,
        origin=known.origin,
        status=status,
        requested_by=known.requested_by,
        requested_at=_moment(started_at) if known.origin is Origin.GATEWAY else None,
        confirmed_at=_moment(confirmed_at),
        confirmed_by=confirmed_by or None if confirmed_at else None,
    )


def recording_id(key: str, generation: str) -> str:
    """Return the id of the recording that this operation began: the same wherever and whenever it is asked for.

    VideoSDK's start answers no id, so the gateway's own is made of what every replica knows.
    """
    digest = hashlib.blake2b(f"{key}\n{generation}".encode(), digest_size=15).digest()
    return f"rec_{base64.b32encode(digest).decode().lower()}"


def _moment(ms: int) -> datetime | None:
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None
