"""What each command needs of an answer: less than the contract, so that a later gateway's answers are understood too.

Anything else may answer at an address: an object that lacks this is not a gateway's, and says nothing of a recording.
"""

from typing import Any

import msgspec
from msgspec import Struct

__all__ = ["ProblemAnswer", "RecordingAnswer", "RecordingsAnswer", "SnapshotAnswer", "StopsAnswer", "misfit"]


class RecordingAnswer(Struct, rename="camel"):
    """To a start or stop, and of each recording that is listed or followed."""

    room_id: str
    status: str
    files: list[dict[str, Any]] | None = None


class RecordingsAnswer(Struct, rename="camel"):
    """One page of a room's recordings."""

    recordings: list[RecordingAnswer]
    next_cursor: str | None


class SnapshotAnswer(Struct):
    """What a stream of events begins with."""

    recordings: list[RecordingAnswer]


class _StopAnswer(Struct, rename="camel"):
    target: dict[str, Any]
    status: int
    recording: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None
    retry_after: int | None = None


class StopsAnswer(Struct, rename="camel"):
    """To the stop of a whole room."""

    results: list[_StopAnswer]
    complete: bool
    foreign_left: int


class ProblemAnswer(Struct):
    """A refusal."""

    title: str
    errors: list[dict[str, Any]] | None = None
    fields: list[str] | None = None


def misfit(answer: object, shape: type[Struct]) -> str:
    """Say what an answer lacks of what is needed, without its values; nothing where it has all."""
    try:
        msgspec.convert(answer, shape)
    except msgspec.ValidationError as error:
        return str(error)
    return ""
