"""Finds the record of a target, and reads the recording that it describes."""

import base64
import hashlib
from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.coordinator import Coordinator, Record
from gateway.recordings.evidence import Evidence, milliseconds
from gateway.recordings.model import ENDED, Descriptor, EndReason, Origin, Recording, Status
from gateway.recordings.targets import MODES, Target

__all__ = ["decode_descriptor", "key_of", "recording_id", "recording_of"]

_REASONS: Final = frozenset(EndReason)
_LIMIT_SECONDS: Final = 7200.0
_LIMIT_TOLERANCE_SECONDS: Final = 10.0


def key_of(coordinator: Coordinator, target: Target) -> str:
    """Return the key of a target's record; `target_of` reads it back."""
    return coordinator.key(target.room_id, *target.parts)


def recording_of(key: str, target: Target, record: Record) -> Recording:
    """Return the recording that a record tells of."""
    status = Status(record.state) if record.state else Status.UNKNOWN
    descriptor = decode_descriptor(record.recording) or Descriptor()
    evidence = Evidence.decode(record.evidence, record.generation)
    ended = status in ENDED
    return Recording(
        id=recording_id(key, record.generation) if record.generation not in {"", "0"} else None,
        target=target,
        file_format=descriptor.file_format or MODES[target.mode].file_format,
        origin=descriptor.origin,
        status=status,
        requested_by=descriptor.requested_by,
        requested_at=_moment(record.started_at) if descriptor.origin is Origin.GATEWAY else None,
        confirmed_at=_moment(record.confirmed),
        confirmed_by=record.confirmed_by or None if record.confirmed else None,
        ended_at=_moment(record.ended_at) if ended and record.ended_at >= record.started_at else None,
        ended_because=_because(record, evidence) if ended else None,
        stops_at=_moment(record.stops_at),
        videosdk_id=(evidence.videosdk_id or None) if evidence else None,
        files=evidence.files if evidence else (),
        deliveries=evidence.deliveries if evidence else None,
    )


def _because(record: Record, evidence: Evidence | None) -> EndReason | None:
    if record.because in _REASONS:
        return EndReason(record.because)
    if record.state != Status.STOPPED or not (record.because or (evidence is not None and evidence.ended)):
        return None
    # A webhook or the list tells that it ended, and no stop was asked for here.
    ran = (milliseconds(evidence.end) - milliseconds(evidence.start)) / 1000 if evidence and evidence.end else 0.0
    return EndReason.DURATION_LIMIT if abs(ran - _LIMIT_SECONDS) < _LIMIT_TOLERANCE_SECONDS else EndReason.VIDEOSDK


def decode_descriptor(text: str) -> Descriptor | None:
    """Read a descriptor, None where there is none."""
    return msgspec.json.decode(text, type=Descriptor) if text else None


def recording_id(key: str, generation: str) -> str:
    """Return the id of the recording that this operation began: the same wherever and whenever it is asked for.

    VideoSDK's start answers no id, so the gateway's own is made of what every replica knows.
    """
    digest = hashlib.blake2b(f"{key}\n{generation}".encode(), digest_size=15).digest()
    return f"rec_{base64.b32encode(digest).decode().lower()}"


def _moment(ms: int) -> datetime | None:
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None
