"""What is wrong with one value that a caller sent: an id, an address, a folder, a duration. None where nothing is."""

import re
import unicodedata
from typing import Final, cast
from urllib.parse import urlsplit

from gateway.recordings import Kind, Mode
from gateway.recordings.model import LONGEST_SECONDS, SHORTEST_SECONDS
from gateway.recordings.targets import is_id

__all__ = [
    "MAX_PATH",
    "MAX_URL",
    "check_bucket_dir_path",
    "check_duration",
    "check_format",
    "check_id",
    "check_kind",
    "check_mode",
    "check_participant_format",
    "check_template_url",
    "check_text",
    "check_webhook_url",
    "is_whole",
]

MAX_URL: Final = 2048
MAX_PATH: Final = 512
_KINDS: Final = tuple(Kind)
_MODES: Final = tuple(Mode)
_NO_HOST: Final = re.compile(r"[\s\\\"<>^`{|}]")
_CONTROL: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control characters, halves of a pair, and the separators that end a line."""


def check_text(value: object, most: int) -> str | None:
    """Check a text of at most so many characters."""
    if value is None:
        return "must be a string, not null"
    if not isinstance(value, str):
        return "must be a string"
    if not value:
        return "must not be empty"
    if len(value) > most:
        return f"must not be longer than {most} characters"
    # What Python can print whole holds none.
    if not value.isprintable() and any(unicodedata.category(character) in _CONTROL for character in value):
        return "must not contain control characters"
    return None


def is_whole(value: object) -> bool:
    """Tell whether a number is whole: to JSON's parsers 4.0 is as whole as 4."""
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


def check_id(value: object) -> str | None:
    """Check the id of a room or a participant."""
    if wrong := check_text(value, 128):
        return wrong
    return None if is_id(cast("str", value)) else "must not contain `/` or `\\`, and not be `.` or `..`"


def check_kind(value: object) -> str | None:
    """Check the kind of a track."""
    return None if value in _KINDS else f"must be one of {', '.join(Kind)}"


def check_mode(value: object) -> str | None:
    """Check the mode of a recording."""
    return None if value in _MODES else f"must be one of {', '.join(Mode)}"


def check_format(value: object) -> str | None:
    """Check the file format of a track."""
    return None if value == "webm" else "must be webm"


def check_participant_format(value: object) -> str | None:
    """Check the file format of a participant as a whole; which of these it may be is a setting."""
    return None if value in ("webm", "mp4", "m3u8") else "must be one of webm, mp4, m3u8"


def check_duration(value: object) -> str | None:
    """Check for how many seconds a recording may last at most."""
    if not is_whole(value):
        return "must be a whole number"
    in_bounds = SHORTEST_SECONDS <= cast("int", value) <= LONGEST_SECONDS
    return None if in_bounds else f"must be from {SHORTEST_SECONDS} to {LONGEST_SECONDS}"


def check_webhook_url(value: object) -> str | None:
    """Check an address that VideoSDK sends webhooks to."""
    if wrong := check_text(value, MAX_URL):
        return wrong
    url = cast("str", value)
    if any(character.isspace() for character in url):
        return "must not contain blanks"
    if "\\" in url:
        # Some parsers take it for a slash, others do not: the host would be a matter of opinion.
        return "must not contain a backslash"
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return "must be a valid URL"
    if parts.scheme.lower() not in {"http", "https"} or not host or _NO_HOST.search(parts.netloc):
        return "must be an absolute http or https URL"
    return None


def check_template_url(value: object) -> str | None:
    """Check the address of a page that VideoSDK records."""
    wrong = check_webhook_url(value)
    if wrong is None and cast("str", value)[:8].lower() != "https://":
        return "must be an absolute https URL"
    return wrong


def check_bucket_dir_path(value: object) -> str | None:
    """Check a folder in the project's own bucket."""
    if wrong := check_text(value, MAX_PATH):
        return wrong
    path = cast("str", value)
    if "\\" in path:
        return "must not contain a backslash"
    segments = path.removeprefix("/").removesuffix("/").split("/")
    if "" in segments:
        return "must not contain an empty segment"
    if "." in segments or ".." in segments:
        return "must not contain a `.` or `..` segment"
    return None
