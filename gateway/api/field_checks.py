"""What is wrong with a value that a caller sent: an address, a page, a folder. None where it can be passed on."""

import re
import unicodedata
from typing import Final, cast
from urllib.parse import urlsplit

__all__ = [
    "MAX_PATH",
    "MAX_URL",
    "check_bucket_dir_path",
    "check_template_url",
    "check_text",
    "check_webhook_url",
    "is_whole",
]

MAX_URL: Final = 2048
MAX_PATH: Final = 512
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
    """Tell whether a number is whole: to JSON's readers 4.0 is as whole as 4."""
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


def check_webhook_url(value: object) -> str | None:
    """Check an address that VideoSDK sends webhooks to."""
    if wrong := check_text(value, MAX_URL):
        return wrong
    url = cast("str", value)
    if any(character.isspace() for character in url):
        return "must not contain blanks"
    if "\\" in url:
        # Some readers take it for a slash, others do not: the host would be a matter of opinion.
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
