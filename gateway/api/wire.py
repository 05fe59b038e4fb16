"""What travels over HTTP: the JSON bodies, and how a body becomes a value or a list of everything wrong with it."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, NamedTuple, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from gateway.api.field_checks import (
    MAX_PATH,
    MAX_URL,
    check_bucket_dir_path,
    check_duration,
    check_format,
    check_id,
    check_kind,
    check_mode,
    check_participant_format,
    check_template_url,
    check_text,
    check_webhook_url,
)
from gateway.api.room_options import MAX_NAME, MAX_UNKNOWN, RoomConfig, Transcription, mistakes
from gateway.errors import InvalidRequest, MalformedRequest
from gateway.recordings import (
    MODES,
    Answer,
    EndReason,
    Kind,
    Mode,
    Origin,
    Outcome,
    Recording,
    StartParameters,
    Status,
    Target,
)
from gateway.recordings.model import LONGEST_SECONDS, SHORTEST_SECONDS
from gateway.recordings.targets import ID_PATTERN

__all__ = [
    "BODIES",
    "PATH_PARTS",
    "Bodies",
    "EventsTicket",
    "ProblemDocument",
    "RecordingBody",
    "body_of_stop",
    "check_part",
    "max_duration_in",
    "parameters_in",
    "path_parts",
    "read_body",
    "read_fields",
    "read_room",
    "read_target",
    "target_in",
]

_URL_PATTERN: Final = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\u0000-\u0020\u007f/?#\\][^\u0000-\u0020\u007f\\]*$"
_HTTPS_PATTERN: Final = _URL_PATTERN.replace("[Ss]?", "[Ss]")
_PATH_PATTERN: Final = r"^/?[^\u0000-\u001f\u007f/\\]+(?:/[^\u0000-\u001f\u007f/\\]+)*/?$"
"""What holds for every good one, in words that all readers of patterns know. Not all that match are good."""

_T = TypeVar("_T", bound=Struct)

_ID: Final = "1 to 128 characters, no control characters, `/` or `\\`; not `.` or `..`. Passed on byte for byte."
RoomId = Annotated[
    str, Meta(pattern=ID_PATTERN, description=f"VideoSDK's id of the room. {_ID}", examples=["abcd-efgh-ijkl"])
]
ParticipantId = Annotated[
    str, Meta(pattern=ID_PATTERN, description=f"VideoSDK's id of the participant. {_ID}", examples=["participant-1"])
]
FileFormat = Annotated[str, Meta(pattern="^webm$", description="`webm`, which is also the default.")]
ParticipantFormat = Annotated[
    str,
    Meta(
        pattern="^(?:webm|mp4|m3u8)$",
        description="`webm`, which is also the default; `mp4` and `m3u8` where the operator allows them.",
    ),
]
WebhookUrl = Annotated[
    str,
    Meta(
        max_length=MAX_URL,
        pattern=_URL_PATTERN,
        description="Where VideoSDK sends this recording's events. Passed on exactly as sent.",
        examples=["https://app.example.com/hooks/videosdk?key=1"],
    ),
]
BucketDirPath = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_PATH,
        pattern=_PATH_PATTERN,
        description="Folder in your own bucket. Passed on exactly as sent. A slash may begin and end it; no segment is "
        "empty, `.` or `..`.",
        examples=["recordings/2026/lesson 1"],
    ),
]
TemplateUrl = Annotated[
    str,
    Meta(
        max_length=MAX_URL,
        pattern=_HTTPS_PATTERN,
        description="A page of yours that joins the room and is recorded in place of a layout. It falls under the "
        "hosts that you may name in `webhookUrl`. Passed on exactly as sent.",
        examples=["https://app.example.com/recorder?meetingId=abcd-efgh-ijkl"],
    ),
]
MaxDurationSeconds = Annotated[
    int,
    Meta(
        ge=SHORTEST_SECONDS,
        le=LONGEST_SECONDS,
        description="How long it may record, from this request's answer on. The gateway stops it then (`stopsAt`). A "
        "start that joins a recording brings its end forward if need be, and puts it off only where `GET /v1/me` says "
        "`lengthens`.",
        examples=[5400],
    ),
]


PATH_PARTS: Final[dict[str, dict[str, Any]]] = {
    "roomId": {"type": "string", "pattern": ID_PATTERN},
    "participantId": {"type": "string", "pattern": ID_PATTERN},
    "kind": {"$ref": "#/components/schemas/Kind"},
}
"""What the contract says of the ids in a path. No mode has others."""


class StartBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the body of a start holds in every mode; it is not passed on to VideoSDK."""

    max_duration_seconds: MaxDurationSeconds | UnsetType | None = UNSET


class StartTrackRecording(StartBody, frozen=True, kw_only=True, rename="camel"):
    """A track, and how it is to be recorded. VideoSDK's own field names."""

    room_id: RoomId
    participant_id: ParticipantId
    kind: Kind
    file_format: FileFormat | UnsetType | None = UNSET
    webhook_url: WebhookUrl | UnsetType | None = UNSET
    bucket_dir_path: BucketDirPath | UnsetType | None = UNSET


class StopTrackRecording(Struct, frozen=True, kw_only=True, rename="camel"):
    """The track whose recording is to be stopped."""

    room_id: RoomId
    participant_id: ParticipantId
    kind: Kind


class StartParticipantRecording(StartBody, frozen=True, kw_only=True, rename="camel"):
    """A participant, and how it is to be recorded: audio and video in one file. VideoSDK's own field names."""

    room_id: RoomId
    participant_id: ParticipantId
    file_format: ParticipantFormat | UnsetType | None = UNSET
    webhook_url: WebhookUrl | UnsetType | None = UNSET
    bucket_dir_path: BucketDirPath | UnsetType | None = UNSET


class StopParticipantRecording(Struct, frozen=True, kw_only=True, rename="camel"):
    """The participant whose recording is to be stopped. Recordings of its tracks go on."""

    room_id: RoomId
    participant_id: ParticipantId


class StartRoomRecording(StartBody, frozen=True, kw_only=True, rename="camel"):
    """A room, and how it is to be recorded: all participants in one file. VideoSDK's own field names."""

    room_id: RoomId
    webhook_url: WebhookUrl | UnsetType | None = UNSET
    bucket_dir_path: BucketDirPath | UnsetType | None = UNSET
    config: RoomConfig | UnsetType | None = UNSET
    transcription: Transcription | UnsetType | None = UNSET
    template_url: TemplateUrl | UnsetType | None = UNSET


class StopRoomRecording(Struct, frozen=True, kw_only=True, rename="camel"):
    """The room whose recording is to be stopped. Recordings of its participants and their tracks go on."""

    room_id: RoomId


class Bodies(NamedTuple):
    """What a start and a stop of one mode take: a field for each of its ids, and for a start its parameters."""

    start: type[StartBody]
    stop: type[Struct]


BODIES: Final[Mapping[Mode, Bodies]] = {
    Mode.TRACK: Bodies(StartTrackRecording, StopTrackRecording),
    Mode.PARTICIPANT: Bodies(StartParticipantRecording, StopParticipantRecording),
    Mode.ROOM: Bodies(StartRoomRecording, StopRoomRecording),
}
"""The bodies of every mode."""


def max_duration_in(body: Struct) -> int | None:
    """Return for how many seconds the body of a start has its target recorded at most; None where it does not say."""
    return (body.max_duration_seconds or None) if isinstance(body, StartBody) else None


def target_in(mode: Mode, body: Struct) -> Target:
    """Return the target that the body of a start or stop names."""
    return Target(mode, **{ours: getattr(body, ours) for ours in MODES[mode].ids.values()})


def body_of_stop(target: Target) -> Struct:
    """Return the body of the stop of a target."""
    return BODIES[target.mode].stop(**{ours: getattr(target, ours) for ours in MODES[target.mode].ids.values()})


def parameters_in(mode: Mode, body: Struct) -> StartParameters:
    """Return what the body of a start says beside the target."""
    return StartParameters(**{ours: getattr(body, ours) or None for ours in MODES[mode].parameters.values()})


class RecordedFile(Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of a recording: VideoSDK begins a new one whenever the participant unmutes."""

    file_path: str | None
    file_url: Annotated[str, Meta(description="Null while it is made, and where it lies in your own bucket.")] | None
    type: str | None
    size: Annotated[int, Meta(description="Bytes.")] | None


class WebhookDeliveries(Struct, frozen=True, kw_only=True, rename="camel"):
    """How many webhooks VideoSDK sent for a recording, and how many arrived, by its own count."""

    total: int
    succeeded: int


_REQUESTED_BY: Final = (
    "Who started it: a key's name (`lesson-service`), or `participant:`, `moderator:` or `jwt:` and one. In answers "
    "to starts and stops of callers without `recordings:read` it is null, as are VideoSDK's id and deliveries, and "
    "`files` is empty."
)
_OUTCOME: Final = (
    "What this request did. Null where it did nothing: in the answer to a mere read, and to the retry of a start "
    "under its `Idempotency-Key` where a stop has been requested since."
)


class RecordingBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """A recording, as far as the gateway knows, with the ids that its mode has. The contract names it by its mode."""

    id: Annotated[str, Meta(description="The gateway's own id of this recording; null where it knows of none.")] | None
    mode: Annotated[Mode, Meta(description="What VideoSDK records: a track, a participant as a whole, or the room.")]
    room_id: str
    participant_id: str | UnsetType = UNSET
    kind: Kind | UnsetType = UNSET
    file_format: str
    status: Status
    outcome: Annotated[Outcome, Meta(description=_OUTCOME)] | None
    origin: Annotated[Origin, Meta(description="`videosdk` where it was started outside the gateway.")]
    requested_by: Annotated[str, Meta(description=_REQUESTED_BY)] | None
    requested_at: datetime | None
    confirmed_at: Annotated[datetime, Meta(description="When the status was last seen to be true.")] | None
    confirmed_by: (
        Annotated[
            str,
            Meta(
                description="`reply` to a start or stop, or `list`. Webhooks make the gateway look, and prove nothing."
            ),
        ]
        | None
    )
    stops_at: (
        Annotated[datetime, Meta(description="When the gateway stops it, or was to stop it; null is never.")] | None
    )
    ended_at: Annotated[datetime, Meta(description="When the gateway learned that it ended.")] | None
    ended_because: Annotated[EndReason, Meta(description="Why it ended, where that is known.")] | None
    videosdk_recording_id: (
        Annotated[str, Meta(description="VideoSDK's own id of the recording, once its list has shown it.")] | None
    )
    files: list[RecordedFile]
    webhook_deliveries: WebhookDeliveries | None
    coordinated: Annotated[
        bool, Meta(description="False where Redis did not answer and this was done without asking the other replicas.")
    ]

    @classmethod
    def of(cls, recording: Recording, outcome: Outcome | None = None) -> "RecordingBody":
        """Build the body for a recording."""
        deliveries = recording.deliveries
        return cls(
            id=recording.id,
            mode=recording.target.mode,
            room_id=recording.target.room_id,
            participant_id=recording.target.participant_id or UNSET,
            kind=recording.target.kind or UNSET,
            file_format=recording.file_format,
            status=recording.status,
            outcome=outcome,
            origin=recording.origin,
            requested_by=recording.requested_by,
            requested_at=recording.requested_at,
            confirmed_at=recording.confirmed_at,
            confirmed_by=recording.confirmed_by,
            stops_at=recording.stops_at,
            ended_at=recording.ended_at,
            ended_because=recording.ended_because,
            videosdk_recording_id=recording.videosdk_id,
            files=[
                RecordedFile(file_path=file.file_path, file_url=file.file_url, type=file.type, size=file.size)
                for file in recording.files
            ],
            webhook_deliveries=WebhookDeliveries(total=deliveries.total, succeeded=deliveries.succeeded)
            if deliveries
            else None,
            coordinated=recording.coordinated,
        )

    def without_details(self) -> "RecordingBody":
        """Leave out what only callers that may read get: who asked, VideoSDK's id, the files."""
        return replace(self, requested_by=None, videosdk_recording_id=None, files=[], webhook_deliveries=None)

    @classmethod
    def answering(cls, answer: Answer) -> "RecordingBody":
        """Build the body for the answer to a start or stop."""
        return cls.of(answer.recording, answer.outcome)


class EventsTicket(Struct, frozen=True, kw_only=True, rename="camel"):
    """What opens a room's events where no header can be set."""

    ticket: Annotated[str, Meta(description="A secret, good for one request: `GET …/events?ticket=…`.")]
    expires_at: Annotated[datetime, Meta(description="Until when the request must begin.")]


class FieldError(Struct, frozen=True):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemDocument(Struct, frozen=True, kw_only=True, rename="camel"):
    """An error (RFC 9457, `application/problem+json`)."""

    type: Annotated[str, Meta(description="`/problems/<slug>`, stable for ever; the page there says what to do.")]
    title: Annotated[str, Meta(description="The same for every occurrence of the type.")]
    status: int
    detail: Annotated[str, Meta(description="This occurrence.")]
    instance: Annotated[str, Meta(description="The path that was asked for.")]
    request_id: Annotated[str, Meta(description="Names this request in the gateway's log.")]
    errors: (
        Annotated[list[FieldError], Meta(description="`invalid-request`: every field that is wrong.")] | UnsetType
    ) = UNSET
    rule: Annotated[str, Meta(description="`forbidden`: the rule that refused.")] | UnsetType = UNSET
    fields: Annotated[list[str], Meta(description="`parameters-differ`: what differs.")] | UnsetType = UNSET
    bound: (
        Annotated[str, Meta(description="`too-many-waiting`, `too-many-requests`: the bound that refused.")] | UnsetType
    ) = UNSET
    upstream_status: Annotated[int, Meta(description="The status VideoSDK answered with.")] | UnsetType = UNSET
    upstream_message: (
        Annotated[str, Meta(description="`upstream-refused`: what VideoSDK said, bounded and scrubbed.")] | UnsetType
    ) = UNSET


def read_body(body: bytes, model: type[_T]) -> _T:
    """Decode a JSON body.

    Raises:
        MalformedRequest: It is not one JSON object.
        InvalidRequest: Names every field that is missing, unknown or wrong.
    """
    try:
        decoded: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedRequest("The body is not valid JSON.") from None
    if not isinstance(decoded, dict):
        raise MalformedRequest("The body must be one JSON object.")
    return read_fields(cast("dict[str, object]", decoded), model)


def read_fields(given: Mapping[str, object], model: type[_T], within: str = "") -> _T:
    """Read the members of a JSON object.

    Args:
        given: The object.
        model: What it is to become.
        within: What errors name before the field: where in the body the object stands.

    Raises:
        InvalidRequest: Names every field that is missing, unknown or wrong.
    """
    fields = _fields(model)
    unknown = [name for name in given if name not in fields]
    errors = [(name[:MAX_NAME], "is not a field of this request") for name in unknown[:MAX_UNKNOWN]]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if given.get(name) is None and not (field.required and name in given):
            # Absent and null are the same where a field may be absent.
            if field.required:
                errors.append((name, "is missing"))
        elif wrong := _wrong(model, name, given[name]):
            errors += wrong
        else:
            values[field.name] = _READ[name](cast("Any", given[name])) if name in _READ else given[name]
    if errors:
        raise InvalidRequest.of([(within + name, message) for name, message in errors])
    return model(**values)


@cache
def _fields(model: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a body by their names in JSON; msgspec works them out anew each time it is asked."""
    return {field.encode_name: field for field in msgspec.structs.fields(model)}


def _wrong(model: type[Struct], name: str, value: object) -> list[tuple[str, str]]:
    if described := _OBJECTS.get(name):
        return mistakes(name, value, described)
    message = (_CHECKS_OF.get((model, name)) or _CHECKS[name])(value)
    return [] if message is None else [(name, message)]


def check_part(name: str, value: object) -> str | None:
    """Return what is wrong with a field, None where nothing is."""
    return _CHECKS[name](value)


def path_parts(mode: Mode) -> str:
    """Return the part of a route's path that names a target of this mode."""
    return "/".join(f"{{{name}:str}}" for name in MODES[mode].ids)


def read_target(mode: Mode, parts: Mapping[str, Any]) -> Target:
    """Read a target from the parts of a path, by their names.

    Raises:
        InvalidRequest: Names every part that is wrong.
    """
    ids = MODES[mode].ids
    if errors := [(name, message) for name in ids if (message := _CHECKS[name](parts[name]))]:
        raise InvalidRequest.of(errors)
    return msgspec.convert({"mode": mode, **{ours: parts[name] for name, ours in ids.items()}}, Target)


def read_room(room_id: str) -> str:
    """Read a room's id from a path.

    Raises:
        InvalidRequest: It is none.
    """
    if message := check_id(room_id):
        raise InvalidRequest.of([("roomId", message)])
    return room_id


_READ: Final[dict[str, Callable[[Any], object]]] = {"kind": Kind, "maxDurationSeconds": int}
"""What becomes of the fields that are no texts."""
_CHECKS: Final[dict[str, Callable[[object], str | None]]] = {
    "roomId": check_id,
    "participantId": check_id,
    "kind": check_kind,
    "mode": check_mode,
    "fileFormat": check_format,
    "webhookUrl": check_webhook_url,
    "bucketDirPath": check_bucket_dir_path,
    "templateUrl": check_template_url,
    "maxDurationSeconds": check_duration,
    "reason": lambda value: check_text(value, 500),
    "items": lambda value: None if isinstance(value, list) else "must be a list",
    "includeForeign": lambda value: None if isinstance(value, bool) else "must be true or false",
}
_CHECKS_OF: Final[dict[tuple[type[Struct], str], Callable[[object], str | None]]] = {
    (StartParticipantRecording, "fileFormat"): check_participant_format,
}
"""Of fields that are another in one body than in the others."""
_OBJECTS: Final[dict[str, type[Struct]]] = {"config": RoomConfig, "transcription": Transcription}
