"""How the recording of a room looks, and what else is made of it: VideoSDK's own objects, checked member by member.

What is documented is let through, exactly as it was sent, and every other member is refused by its name. Facts are
from docs.videosdk.live; where its pages differ (`gridSize` is at most 4 on one and 25 on another, `quality` has `ultra`
in the vendor's Node package alone), the wider one counts, and VideoSDK refuses what it does not like.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Final, Literal, cast

from msgspec import UNSET, Meta, Struct, UnsetType, inspect

from gateway.api.field_checks import is_whole

__all__ = ["MAX_NAME", "MAX_UNKNOWN", "RoomConfig", "RoomLayout", "Summary", "Transcription", "mistakes"]

MAX_NAME: Final = 64
MAX_UNKNOWN: Final = 100
"""How many unknown fields are named: a body of nothing else would be answered with ten times its size."""
_MAX_PROMPT: Final = 4096
_PROMPT: Final = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f]+$"
"""In words that all readers of patterns know: line breaks and tabs belong to a text of several sentences."""


class RoomLayout(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How participants are arranged."""

    type: Literal["GRID", "SPOTLIGHT", "SIDEBAR"]
    priority: Annotated[
        Literal["SPEAKER", "PIN"], Meta(description="Whom the layout shows first.")
    ] | UnsetType = UNSET  # fmt: skip
    grid_size: Annotated[int, Meta(ge=1, le=25, description="Tiles of a grid.")] | UnsetType = UNSET


class RoomConfig(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How the recording looks, in VideoSDK's own words. Passed on exactly as sent."""

    layout: RoomLayout
    theme: Literal["DARK", "LIGHT", "DEFAULT"] | UnsetType = UNSET
    mode: Annotated[
        Literal["video-and-audio", "audio"], Meta(description="What is recorded.")
    ] | UnsetType = UNSET  # fmt: skip
    quality: Literal["low", "med", "high", "ultra"] | UnsetType = UNSET
    orientation: Literal["portrait", "landscape"] | UnsetType = UNSET


class Summary(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Whether VideoSDK sums up what was said."""

    enabled: bool
    prompt: Annotated[
        str,
        Meta(min_length=1, max_length=_MAX_PROMPT, pattern=_PROMPT, description="What to write."),
    ] | UnsetType = UNSET  # fmt: skip


class Transcription(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Whether VideoSDK writes down what was said, in its own words. Passed on exactly as sent."""

    enabled: bool
    summary: Summary | UnsetType = UNSET


def mistakes(path: str, value: object, model: type[Struct]) -> list[tuple[str, str]]:
    """Name everything that is wrong with an object, by the paths of its members; nothing where it can be passed on."""
    if not isinstance(value, dict):
        return [(path, "must be an object")]
    given, members = cast("dict[str, object]", value), _members(model)
    unknown = [name for name in given if name not in members]
    found = [(f"{path}.{name[:MAX_NAME]}", "is not a member of it") for name in unknown[:MAX_UNKNOWN]]
    for name, (required, kind) in members.items():
        if name in given:
            found += _wrong(f"{path}.{name}", given[name], kind)
        elif required:
            found.append((f"{path}.{name}", "is missing"))
    return found


def _wrong(path: str, value: object, kind: inspect.Type) -> list[tuple[str, str]]:
    match kind:
        case inspect.StructType(cls=model):
            return mistakes(path, value, model)
        case inspect.LiteralType(values=words):
            wrong = None if value in words else f"must be one of {', '.join(map(str, words))}"
        case inspect.BoolType():
            wrong = None if isinstance(value, bool) else "must be true or false"
        case inspect.IntType(ge=least, le=most):
            fits = is_whole(value) and (least or 0) <= cast("int", value) <= (most or 0)
            wrong = None if fits else f"must be a whole number from {least} to {most}"
        case _:
            wrong = _wrong_text(value, _MAX_PROMPT)
    return [] if wrong is None else [(path, wrong)]


def _wrong_text(value: object, most: int) -> str | None:
    if not isinstance(value, str):
        return "must be a string"
    if not 0 < len(value) <= most:
        return f"must be 1 to {most} characters long"
    return None if re.search(_PROMPT, value) else "must not contain control characters"


@cache
def _members(model: type[Struct]) -> Mapping[str, tuple[bool, inspect.Type]]:
    """Return the members of an object: whether each must be there, and what it is."""
    described = cast("inspect.StructType", inspect.type_info(model))
    return {field.encode_name: (field.required, _plain(field.type)) for field in described.fields}


def _plain(kind: inspect.Type) -> inspect.Type:
    """Return what a member is where it is there."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return _plain(kind.types[0]) if isinstance(kind, inspect.UnionType) else kind
