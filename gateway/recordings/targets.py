"""What is recorded: its natural key, and what a caller may say about how. Values only; nothing here acts."""

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

__all__ = [
    "ID_CHARACTER",
    "ID_PATTERN",
    "MODES",
    "Kind",
    "Mode",
    "ModeSpec",
    "StartParameters",
    "Target",
    "differing_fields",
    "is_id",
    "target_of",
]

ID_CHARACTER: Final = r"[^\u0000-\u001f\u007f-\u009f\u2028\u2029/\\]"
ID_PATTERN: Final = rf"^{ID_CHARACTER}{{1,128}}$"
"""What ids of rooms and participants look like, in words that all readers of patterns know: what people have
(`user@example.com`, `auth0|5f7c`, `user:42`, `zoë`). None is `.` or `..`, which are no part of a path."""
_ID: Final = re.compile(ID_PATTERN.strip("^$"))
_NO_PARTS: Final = frozenset({".", ".."})


class Kind(StrEnum):
    """Which of a participant's tracks is meant (docs.videosdk.live)."""

    AUDIO = "audio"
    VIDEO = "video"
    SCREEN_AUDIO = "screen_audio"
    SCREEN_VIDEO = "screen_video"


class Mode(StrEnum):
    """What VideoSDK records at a time."""

    TRACK = "track"
    PARTICIPANT = "participant"
    ROOM = "room"


class ModeSpec(Struct, frozen=True, kw_only=True):
    """How VideoSDK addresses recordings of one mode (docs.videosdk.live)."""

    path: str
    """Where its recordings are listed, and below which they are started and stopped."""
    stop: str = "stop"
    """The last part of the path that stops one."""
    events: str
    """What the names of its webhook events begin with."""
    ids: Mapping[str, str]
    """The fields that name a target: VideoSDK's name, and ours."""
    parameters: Mapping[str, str]
    """What a start may say beside them: VideoSDK's name, and ours."""
    file_format: str = "webm"
    """What VideoSDK makes where a start does not say."""


MODES: Final[Mapping[Mode, ModeSpec]] = {
    Mode.TRACK: ModeSpec(
        path="/v2/recordings/participant/track",
        events="participant-track-recording",
        ids={"roomId": "room_id", "participantId": "participant_id", "kind": "kind"},
        parameters={"fileFormat": "file_format", "webhookUrl": "webhook_url", "bucketDirPath": "bucket_dir_path"},
    ),
    Mode.PARTICIPANT: ModeSpec(
        path="/v2/recordings/participant",
        events="participant-recording",
        ids={"roomId": "room_id", "participantId": "participant_id"},
        parameters={"fileFormat": "file_format", "webhookUrl": "webhook_url", "bucketDirPath": "bucket_dir_path"},
    ),
    Mode.ROOM: ModeSpec(
        path="/v2/recordings",
        stop="end",
        events="recording",
        ids={"roomId": "room_id"},
        parameters={
            "webhookUrl": "webhook_url",
            "awsDirPath": "bucket_dir_path",
            "config": "config",
            "transcription": "transcription",
            "templateUrl": "template_url",
        },
        file_format="mp4",
    ),
}
"""Every mode that the gateway records."""


class Target(Struct, frozen=True):
    """The natural key of a recording; what its mode does not have is empty.

    `start_path`, `stop_path` and `ids` are how VideoSDK addresses it.
    """

    mode: Mode
    room_id: str
    participant_id: str = ""
    kind: Kind | None = None

    @classmethod
    def named(cls, mode: Mode, room_id: str, participant_id: str | None, kind: str | None) -> "Target | None":
        """Return what VideoSDK names so in a row or an event; None where no caller could name it."""
        ids = MODES[mode].ids
        participant_id = (participant_id or "") if "participantId" in ids else ""
        kind = kind if "kind" in ids else None
        complete = is_id(room_id) and (is_id(participant_id) or "participantId" not in ids)
        if not complete or ("kind" in ids and kind not in set(Kind)):
            return None
        return cls(mode, room_id, participant_id, Kind(kind) if kind else None)

    @property
    def parts(self) -> tuple[str, str, str]:
        """What its record's key says of it after the room, which also orders targets; `target_of` reads it back."""
        return self.mode, self.participant_id, self.kind or ""

    @property
    def path(self) -> str:
        """Its address below `/v1/recordings`, as it stands in a URL."""
        return "/".join((self.mode, *(quote(part, safe="") for part in self.ids.values())))

    @property
    def ids(self) -> dict[str, str]:
        """Its ids, under VideoSDK's names."""
        return {name: str(getattr(self, ours)) for name, ours in MODES[self.mode].ids.items()}

    @property
    def label(self) -> str:
        """Its kind, and its mode where it has no kind: what traces, logs and cursors say of it."""
        return self.kind or self.mode

    @property
    def start_path(self) -> str:
        """Where VideoSDK starts its recording."""
        return f"{MODES[self.mode].path}/start"

    @property
    def stop_path(self) -> str:
        """Where VideoSDK stops its recording."""
        return f"{MODES[self.mode].path}/{MODES[self.mode].stop}"


class StartParameters(Struct, frozen=True, dict=True):
    """What a caller may say about a recording; None was not said and is not sent."""

    file_format: str | None = None
    webhook_url: str | None = None
    bucket_dir_path: str | None = None
    config: Mapping[str, Any] | None = None
    """How a room's video looks, and what it is made of; VideoSDK's own words, as the caller wrote them."""
    transcription: Mapping[str, Any] | None = None
    """Likewise, whether VideoSDK writes down what is said in a room."""
    template_url: str | None = None
    """The page that a room's recording shows."""

    def fields(self, mode: Mode) -> dict[str, Any]:
        """Return what was said, under VideoSDK's names."""
        said = {name: getattr(self, ours) for name, ours in MODES[mode].parameters.items()}
        return {name: value for name, value in said.items() if value is not None}

    @cached_property
    def fingerprint(self) -> str:
        """What two starts must have in common to join the same operation.

        Hashed field by field, so that a difference can be named without storing its values: a webhook's query may be a
        secret. An absent format is the documented default of the modes that have one.
        """
        values = {
            "fileFormat": self.file_format or "webm",
            "webhookUrl": self.webhook_url,
            "bucketDirPath": self.bucket_dir_path,
        }
        of_rooms = {
            "config": _canonical(self.config),
            "transcription": _canonical(self.transcription),
            "templateUrl": self.template_url,
        }
        values |= {name: value for name, value in of_rooms.items() if value is not None}
        return " ".join(f"{name}={_digest(value)}" for name, value in values.items())


def differing_fields(one: str, other: str) -> list[str]:
    """Name the parameters in which two fingerprints differ; what stands in one of them alone is among them."""
    different = set(one.split()) ^ set(other.split())
    return list(dict.fromkeys(part.partition("=")[0] for part in (*one.split(), *other.split()) if part in different))


def target_of(key: str) -> Target:
    """Return the target of a record, which its key ends with: the room, and then `parts`."""
    room, mode, participant, kind = map(unquote, key.split(":")[-4:])
    return Target(Mode(mode), room, participant, Kind(kind) if kind else None)


def is_id(text: str) -> bool:
    """Tell whether a text can be the id of a room or a participant."""
    return _ID.fullmatch(text) is not None and text not in _NO_PARTS and not _has_half_a_pair(text)


def _has_half_a_pair(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _canonical(value: Mapping[str, Any] | None) -> str | None:
    """Write it down the same in whatever order its members stand: to VideoSDK they mean the same."""
    return None if value is None else msgspec.json.encode(value, order="sorted").decode()


def _digest(value: str | None) -> str:
    return "-" if value is None else hashlib.blake2b(value.encode(), digest_size=9).hexdigest()
