"""What one VideoSDK account consists of, and how the vendor writes it down.

Shapes and texts are those of docs.videosdk.live; whatever that leaves open comes from `invented`. Nothing here decides
anything: the rules are in `account`.
"""

import secrets
import string
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, cast

import msgspec

from gateway.sandbox import invented

Mode = Literal["track", "participant", "room"]
Reason = Literal["stop", "ended-by-itself", "failed", "left", "session-ended"]
Json = dict[str, Any]

KINDS: Final = frozenset({"audio", "video", "screen_audio", "screen_video"})
"""The four kinds of track (docs.videosdk.live)."""
FILE_FORMATS: Final = frozenset({"webm", "mp4", "m3u8", "mp3"})
"""The documentation names webm alone for tracks; the vendor's Node package types the others too."""


class RefusedError(Exception):
    """The vendor says no."""

    def __init__(self, status_and_text: tuple[int, str], detail: str = "") -> None:
        self.status, text = status_and_text
        self.text = text.format(detail)
        super().__init__(self.text)


class Target(NamedTuple):
    """What a recording records, and how it is addressed: VideoSDK's start returns no id, so a stop names this again."""

    mode: Mode
    room_id: str
    participant_id: str | None = None
    kind: str | None = None


class Family(NamedTuple):
    """The words of one family of recording endpoints (docs.videosdk.live)."""

    events: str
    directory: str
    started: str
    stopped: str
    deleted: str


FAMILIES: Final[dict[Mode, Family]] = {
    "track": Family(
        events="participant-track-recording",
        directory="bucketDirPath",
        started="track recording started successfully.",
        stopped="track recording ended successfully.",
        deleted="Track Recording deleted successfully.",
    ),
    "participant": Family(
        events="participant-recording",
        directory="bucketDirPath",
        started="participant recording started successfully.",
        stopped="participant recording ended successfully.",
        deleted="Participant Recording deleted successfully.",
    ),
    "room": Family(
        events="recording",
        directory="awsDirPath",
        started="Recording started successfully",
        stopped="Recording ended successfully",
        deleted="Room recording deleted successfully",
    ),
}


class Recording(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One period of recording, as the checker of a test run wants it; `describe` gives the vendor's own view.

    `opened` and `closed` are seconds of this machine's monotonic clock, `start` and `end` wall-clock times.
    `started_by` and `stopped_by` are numbers of the calls that did it.
    """

    id: str
    mode: Mode
    room_id: str
    participant_id: str | None
    kind: str | None
    session_id: str
    file_format: str
    webhook_url: str | None
    directory: str | None
    opened: float
    start: datetime
    started_by: int | None = None
    closed: float | None = None
    end: datetime | None = None
    stopped_by: int | None = None
    reason: Reason | None = None
    deleted: bool = False
    stays_open: bool = False
    """Listed as open for ever, although it has ended."""
    deliveries: tuple[tuple[str, bool], ...] = ()

    @property
    def target(self) -> Target:
        """What it records."""
        return Target(self.mode, self.room_id, self.participant_id, self.kind)

    @property
    def file_path(self) -> str:
        """Where its file goes: the documented usual path, behind the caller's prefix if there is one."""
        stamp = int(self.start.timestamp() * 1000)
        if self.mode == "room":
            place, name = self.session_id, f"recording_{self.room_id}_{stamp}"
        else:
            folders = [self.session_id, self.participant_id or "", *([self.kind] if self.kind else [])]
            words = [self.mode, "recording", *folders[1:], str(stamp)]
            place, name = "/".join(folders), "_".join(words)
        root = self.directory.rstrip("/") if self.directory else invented.STORAGE_ROOT
        return f"{root}/{place}/{name}.{self.file_format}"

    @property
    def file_url(self) -> str | None:
        """The file's public address; None when it goes to the customer's own bucket."""
        return None if self.directory else invented.CDN + self.file_path


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook to be sent. `lane` orders it: events of one lane go out one after the other."""

    type: str
    body: bytes
    destinations: tuple[str, ...]
    lane: str
    room_id: str
    participant_id: str | None = None
    kind: str | None = None
    recording_id: str | None = None


class Participant(msgspec.Struct):
    """Someone in a session; without `left` still there."""

    id: str
    name: str
    joined: datetime
    left: datetime | None = None


class Session(msgspec.Struct):
    """One live occupancy of a room."""

    id: str
    room_id: str
    start: datetime
    end: datetime | None = None
    participants: dict[str, Participant] = {}

    @property
    def status(self) -> str:
        """`ongoing` or `ended`."""
        return "ongoing" if self.end is None else "ended"


class Room(msgspec.Struct):
    """A room, with the webhook registered when it was made."""

    id: str
    room_id: str
    created: datetime
    custom_room_id: str | None = None
    endpoint: str | None = None
    events: list[str] = []
    session: Session | None = None


def describe(row: Recording, at: float | None = None, *, bare: bool = False) -> Json:
    """Return a recording as VideoSDK lists it (sample at docs.videosdk.live), optionally as it was at a past instant.

    `at` is a second of the monotonic clock. An open recording has no end and no file yet. `bare` leaves out of a room's
    row what the vendor's Node package types, and the sample does not have.
    """
    closed = row.closed is not None and not row.stays_open and (at is None or row.closed <= at)
    end = row.end if closed else None
    file = _describe_file(row, (end - row.start).total_seconds()) if end else None
    successes = sum(success for _, success in row.deliveries)
    webhook: Json = {
        "totalCount": len(row.deliveries),
        "successCount": successes,
        "data": [{"type": event, "success": success} for event, success in row.deliveries],
    }
    if row.mode == "room":
        return _describe_room_recording(row, end, file, {} if bare else {"webhook": webhook})
    return {
        "sessionId": row.session_id,
        "participantId": row.participant_id,
        "kind": row.kind or "audio_video",
        "fileFormat": row.file_format,
        "start": iso(row.start),
        "end": iso(end) if end else None,
        "mode": row.mode,
        "region": invented.REGION,
        "files": [file] if file else [],
        "roomId": row.room_id,
        "webhook": webhook,
        "id": row.id,
    }


def _describe_room_recording(row: Recording, end: datetime | None, file: Json | None, typed: Json) -> Json:
    """Return the row of a room's recording: it says neither mode nor kind, and has one file, an object."""
    changed, file_id = iso(end or row.start), f"f{row.id[1:]}"
    made = {"userStorage": row.directory is not None, "createdAt": changed, "updatedAt": changed, "id": file_id}
    times = {"start": iso(row.start), "end": iso(end) if end else None} if typed else {}
    return {
        "userId": invented.USER_ID,
        "roomId": row.room_id,
        "sessionId": row.session_id,
        "createdAt": iso(row.start),
        "updatedAt": changed,
        "fileId": file_id if file else None,
        "file": file and {**file, **made},
        **times,
        **typed,
        "id": row.id,
    }


def _describe_file(row: Recording, seconds: float) -> Json:
    width, height = invented.VIDEO_SIZE
    is_video = row.kind not in {"audio", "screen_audio"}
    size = int(seconds * invented.BYTES_PER_SECOND)
    meta: Json = {"format": row.file_format, "duration": round(seconds, 3)}
    if is_video:
        meta = {"resolution": {"width": width, "height": height}, **meta}
    file: Json = {"meta": meta}
    if row.mode == "participant":
        file |= {"_id": f"f{row.id[1:]}", "userId": invented.USER_ID}
    file |= {"filePath": row.file_path, "fileUrl": row.file_url}
    file |= {"type": "video" if is_video else "audio", "size": size}
    if is_video:
        file["ratio"] = {str(height): round(size / max(seconds, 0.001), 2)}
    if row.mode == "participant":
        file["__v"] = 0
    return file


def describe_room(room: Room) -> Json:
    """Return a room as `POST /v2/rooms` answers it."""
    return {
        "roomId": room.room_id,
        "customRoomId": room.custom_room_id,
        "disabled": False,
        "webhook": {"endPoint": room.endpoint, "events": room.events} if room.endpoint else None,
        "createdAt": iso(room.created),
        "updatedAt": iso(room.created),
        "id": room.id,
    }


def describe_session(session: Session) -> Json:
    """Return a session with everyone who ever was in it."""
    return {
        "id": session.id,
        "roomId": session.room_id,
        "start": iso(session.start),
        "end": iso(session.end) if session.end else None,
        "status": session.status,
        "region": invented.REGION,
        "participants": [
            {
                "participantId": participant.id,
                "name": participant.name,
                "timelog": [
                    {"start": iso(participant.joined), "end": iso(participant.left) if participant.left else None}
                ],
            }
            for participant in session.participants.values()
        ],
    }


def page(entries: list[Json], query: Mapping[str, str], most: int = invented.MAX_PER_PAGE) -> Json:
    """Return one page in VideoSDK's list envelope: `page` from 1, `perPage` entries each (20 where absent)."""
    number, size = _count(query, "page", 1), min(_count(query, "perPage", invented.DEFAULT_PER_PAGE), most)
    first = (number - 1) * size
    return {
        "pageInfo": {
            "currentPage": number,
            "perPage": size,
            "lastPage": max(1, -(-len(entries) // size)),
            "total": len(entries),
        },
        "data": entries[first : first + size],
    }


def passes(query: Mapping[str, str], name: str, value: str | None) -> bool:
    """Tell whether a value passes a filter; an absent or empty filter lets everything pass."""
    wanted = query.get(name)
    return not wanted or wanted == value


def target_of(mode: Mode, body: Mapping[str, Any]) -> Target:
    """Read from a request body what is to be recorded.

    Raises:
        RefusedError: A required field is missing, or is none of the documented values.
    """
    room_id = required_text(body, "roomId")
    participant_id = required_text(body, "participantId") if mode != "room" else None
    kind = required_text(body, "kind") if mode == "track" else None
    if kind is not None and kind not in KINDS:
        raise RefusedError(invented.INVALID, "kind")
    return Target(mode, room_id, participant_id, kind)


def required_text(body: Mapping[str, Any], name: str) -> str:
    """Return a text field that must be there and not empty."""
    value = optional_text(body, name)
    if not value:
        raise RefusedError(invented.INVALID, name)
    return value


def optional_text(body: Mapping[str, Any], name: str) -> str | None:
    """Return a text field that may be absent; null is not absent, and the service may refuse it (third-party notes)."""
    if name not in body:
        return None
    value = body[name]
    if not isinstance(value, str):
        raise RefusedError(invented.INVALID, name)
    return value


def registration(webhook: object) -> tuple[str, list[str]]:
    """Read a room's webhook registration: its endpoint, and event names that may hold wildcards."""
    content = cast("Json", webhook) if isinstance(webhook, dict) else {}
    events = content.get("events")
    if not isinstance(events, list) or not all(isinstance(name, str) for name in cast("list[object]", events)):
        raise RefusedError(invented.INVALID, "webhook.events")
    return required_text(content, "endPoint"), cast("list[str]", events)


def new_id() -> str:
    """Return 24 hexadecimal digits, the form of session, recording and file ids."""
    return secrets.token_hex(12)


def new_room_id() -> str:
    """Return a room id of the form abcd-efgh-ijkl."""
    return "-".join("".join(secrets.choice(string.ascii_lowercase) for _ in range(4)) for _ in range(3))


def utc_now() -> datetime:
    """Return the wall-clock time."""
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """Write a time as VideoSDK does: milliseconds, and Z for UTC."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _count(query: Mapping[str, str], name: str, default: int) -> int:
    value = query.get(name, "")
    if not value:
        return default
    if not value.isdecimal() or int(value) < 1:
        raise RefusedError(invented.INVALID, name)
    return int(value)
