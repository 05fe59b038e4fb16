"""What is recorded: its natural key, and what a caller may say about how. Values only; nothing here acts."""

import hashlib
import re
from enum import StrEnum
from typing import Final

from msgspec import Struct

__all__ = ["ID_PATTERN", "Kind", "StartParameters", "Track", "differing_fields", "is_id", "track_of"]

ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,128}$"
"""What ids of rooms and participants look like; every such id is safe in a Redis key and in a path."""
_ID: Final = re.compile(ID_PATTERN.strip("^$"))


class Kind(StrEnum):
    """Which of a participant's tracks is meant (docs.videosdk.live)."""

    AUDIO = "audio"
    VIDEO = "video"
    SCREEN_AUDIO = "screen_audio"
    SCREEN_VIDEO = "screen_video"


class Track(Struct, frozen=True):
    """The natural key of a recording. Each part is safe in a key and in a path."""

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
        """What two starts must have in common to join the same operation.

        Hashed field by field, so that a difference can be named without storing its values: a webhook's query may be a
        secret. An absent format is the documented default.
        """
        values = {
            "fileFormat": self.file_format or "webm",
            "webhookUrl": self.webhook_url,
            "bucketDirPath": self.bucket_dir_path,
        }
        return " ".join(f"{name}={_digest(value)}" for name, value in values.items())


def differing_fields(one: str, other: str) -> list[str]:
    """Name the parameters in which two fingerprints differ."""
    return [part.partition("=")[0] for part in one.split() if part not in other.split()]


def track_of(key: str) -> Track:
    """Return the track of a record, which its key ends with."""
    room, participant, kind = key.split(":")[-3:]
    return Track(room, participant, Kind(kind))


def is_id(text: str) -> bool:
    """Tell whether a text can be the id of a room or a participant."""
    return _ID.fullmatch(text) is not None


def _digest(value: str | None) -> str:
    return "-" if value is None else hashlib.blake2b(value.encode(), digest_size=9).hexdigest()
