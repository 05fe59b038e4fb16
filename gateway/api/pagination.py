"""A room's recordings, a page at a time: what may be asked for, and how a page follows another."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from gateway.api.wire import PATH_PARTS, RecordingBody, check_part
from gateway.errors import InvalidRequest
from gateway.recordings import ENDED, MODES, Kind, Mode, Recording, Status, Target
from gateway.recordings.targets import ID_CHARACTER

__all__ = ["QUERY", "Parameter", "RecordingsPage", "RecordingsQuery", "read_query"]

_MAX_LIMIT: Final = 200
_DEFAULT_LIMIT: Final = 50
_MODE_OF: Final = {
    str(label): mode for mode, spec in MODES.items() for label in (Kind if "kind" in spec.ids else [mode])
}
"""The mode of a target by its label."""
_PLACES: Final = "|".join(
    rf"{ID_CHARACTER}{{1,128}}\.{label}" if "participantId" in MODES[mode].ids else rf"\.{label}"
    for label, mode in _MODE_OF.items()
)
_RUNNING, _ENDED = "running", "ended"
_CURSOR: Final = re.compile(rf"^(?:{_RUNNING}|{_ENDED})\.(?:{_PLACES})$")
"""How the target stood that a page ended with, its participant and its label. In plain words, so that the contract can
tell a cursor from what is none."""

_Place = tuple[bool, tuple[str, ...]]
"""Where a recording stands in a list: whether it has ended, and its target."""

Parameter = tuple[bool, str, dict[str, Any]]
"""Of a query: whether it must be there, what it means, and its form."""

QUERY: Final[dict[str, Parameter]] = {
    "roomId": (True, "The room.", PATH_PARTS["roomId"]),
    "participantId": (False, "Only this participant's.", PATH_PARTS["participantId"]),
    "mode": (False, "Only recordings of this mode.", {"$ref": "#/components/schemas/Mode"}),
    "kind": (False, "Only tracks of this kind.", PATH_PARTS["kind"]),
    "status": (False, "Only those that stand so.", {"$ref": "#/components/schemas/Status"}),
    "limit": (
        False,
        "Most of them.",
        {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT, "default": _DEFAULT_LIMIT},
    ),
    "cursor": (False, "`nextCursor` of the page before.", {"type": "string", "pattern": _CURSOR.pattern}),
}


class RecordingsPage(Struct, frozen=True, kw_only=True, rename="camel"):
    """Recordings of a room, the latest of each target: what runs or may run, then what has ended, by their targets."""

    recordings: list[RecordingBody]
    next_cursor: str | None
    """Null on the last page."""


class RecordingsQuery(Struct, frozen=True, kw_only=True):
    """What is asked for."""

    room_id: str
    participant_id: str | None
    mode: Mode | None
    kind: Kind | None
    status: Status | None
    limit: int
    after: _Place | None
    """Where the page before ended."""

    @classmethod
    def read(cls, query: Iterable[tuple[str, str]]) -> "RecordingsQuery":
        """Read a query.

        Raises:
            InvalidRequest: Names everything that is wrong with it.
        """
        given = read_query(query, QUERY)
        return cls(
            room_id=given["roomId"],
            participant_id=given.get("participantId"),
            mode=Mode(given["mode"]) if "mode" in given else None,
            kind=Kind(given["kind"]) if "kind" in given else None,
            status=Status(given["status"]) if "status" in given else None,
            limit=int(given.get("limit", _DEFAULT_LIMIT)),
            after=_parse_cursor(given["roomId"], given["cursor"]) if "cursor" in given else None,
        )

    def page(self, recordings: Iterable[Recording]) -> RecordingsPage:
        """Return the page of those recordings that are asked for."""
        chosen = sorted((recording for recording in recordings if self._asks_for(recording)), key=_place)
        page = chosen[: self.limit]
        return RecordingsPage(
            recordings=[RecordingBody.of(recording) for recording in page],
            next_cursor=_cursor(page[-1]) if len(chosen) > len(page) else None,
        )

    def _asks_for(self, recording: Recording) -> bool:
        target = recording.target
        return (
            self.participant_id in {None, target.participant_id}
            and self.mode in {None, target.mode}
            and self.kind in {None, target.kind}
            and self.status in {None, recording.status}
            and (self.after is None or _place(recording) > self.after)
        )


def _place(recording: Recording) -> _Place:
    return recording.status in ENDED, recording.target.parts


def read_query(query: Iterable[tuple[str, str]], known: Mapping[str, Parameter]) -> dict[str, str]:
    """Read a query whose parameters are known by name.

    Raises:
        InvalidRequest: Names everything that is wrong with it.
    """
    given: dict[str, str] = {}
    errors: list[tuple[str, str]] = []
    for name, value in query:
        if name not in known:
            errors.append((name[:64], "is not a parameter of this request"))
        elif name in given:
            errors.append((name, "must be given once"))
        elif wrong := _wrong(name, value, known[name][2]):
            errors.append((name, wrong))
        given.setdefault(name, value)
    errors += [(name, "is missing") for name, (required, _, _) in known.items() if required and name not in given]
    if errors:
        raise InvalidRequest.of(errors)
    return given


def _wrong(name: str, value: str, schema: Mapping[str, Any]) -> str | None:
    match name:
        case "status":
            return None if value in set(Status) else f"must be one of {', '.join(Status)}"
        case "limit":
            most = schema["maximum"]
            fits = value.isascii() and value.isdecimal() and len(value) < 5 and 0 < int(value) <= most
            return None if fits else f"must be a whole number from 1 to {most}"
        case "cursor":
            return None if _CURSOR.fullmatch(value) else "must be the nextCursor of a page"
        case _:
            return check_part(name, value)


def _cursor(recording: Recording) -> str:
    target = recording.target
    return f"{_ENDED if recording.status in ENDED else _RUNNING}.{target.participant_id}.{target.label}"


def _parse_cursor(room: str, cursor: str) -> _Place | None:
    stood, _, named = cursor.partition(".")
    participant, _, label = named.rpartition(".")
    target = Target.named(_MODE_OF[label], room, participant, label)
    return None if target is None else (stood == _ENDED, target.parts)
