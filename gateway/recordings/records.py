"""Reads the recording that a record, a claim or a result describes."""

import base64
import hashlib
from datetime import UTC, datetime

import msgspec

from gateway.coordinator import Claim, Record
from gateway.recordings.evidence import Evidence
from gateway.recordings.model import ENDED, Descriptor, EndReason, Origin, Recording, Status
from gateway.recordings.operation import Result
from gateway.recordings.targets import Target

__all__ = ["decode_descriptor", "recording_id", "recording_of", "recording_of_result"]


def recording_of(key: str, target: Target, known: Record | Claim) -> Recording:
    """Return the recording that a record tells of."""
    status = Status(known.state) if known.state else Status.UNKNOWN
    recording = _recording(
        key, target, known.generation, status, decode_descriptor(known.recording), known.started_at, known.confirmed,
        known.confirmed_by,
    )  # fmt: skip
    evidence = Evidence.decode(known.evidence, known.generation)
    return msgspec.structs.replace(
        _ended(recording, known.ended_at if known.ended_at >= known.started_at else 0, known.because),
        videosdk_id=evidence.videosdk_id if evidence else None,
        files=evidence.files if evidence else (),
        deliveries=evidence.deliveries if evidence else None,
    )


def recording_of_result(key: str, target: Target, result: Result) -> Recording:
    """Return the recording that the result of an operation tells of."""
    recording = _recording(
        key, target, result.generation, result.state or Status.UNKNOWN, result.descriptor, result.started_at,
        result.confirmed_at, result.confirmed_by,
    )  # fmt: skip
    return _ended(recording, result.ended_at, result.because)


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
    target: Target,
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
        target=target,
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
