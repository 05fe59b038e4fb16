"""What VideoSDK's answers prove, and what it says in them.

The vendor documents no error bodies, so statuses are read by family and texts are never branched on.
"""

import re
from typing import Final, cast

import httpx
import msgspec

from gateway.errors import CredentialsRefused, Limited, MayHaveHappened, Refused, UpstreamError

__all__ = ["ABOUT_THE_TOKEN", "failure", "is_confirmation", "retry_after", "words"]

_MAX_WORDS: Final = 300
_SECONDS: Final = re.compile(r"[0-9]+", re.ASCII)
_LONGEST_WAIT_SECONDS: Final = 300.0
"""A stop is repeated after so long, and callers are asked to come again, whatever is answered in VideoSDK's place."""
_AMBIGUOUS: Final = frozenset({408})
_OWN_MEDIA_TYPES: Final = frozenset({"", "application/json", "text/plain"})
_SECRETS: Final = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=\?)\S+|[\x00-\x1f\x7f]+")
ABOUT_THE_TOKEN: Final = frozenset({400, 401, 403})
"""What VideoSDK answers to a token that is wrong or expired, and also to requests that it does not like: a 400 with a
participant who has not joined yet, a 403 without a session in the room (the vendor's packages)."""


def is_confirmation(response: httpx.Response) -> bool:
    """Tell whether VideoSDK itself says that it started or stopped a recording.

    It answers 200 with a JSON string, or with plain text or nothing, which the vendor's own client takes too. What lies
    in between (a firewall, a proxy, a sign-in page) answers other statuses, pages, objects and other media types.
    """
    if response.status_code != 200:
        return False
    try:
        return isinstance(msgspec.json.decode(response.content), str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        marked_up = response.content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"{", b"["))
        return media_type in _OWN_MEDIA_TYPES and not marked_up


def failure(response: httpx.Response) -> UpstreamError:
    """Return what an answer proves that is no success."""
    status = response.status_code
    said, after = words(response), retry_after(response)
    if status == 401:
        return CredentialsRefused(said, status=status)
    if status == 429 or (status == 503 and response.headers.get("retry-after")):
        return Limited(said, status=status, retry_after=after)
    if 400 <= status < 500 and status not in _AMBIGUOUS:
        return Refused(said, status=status, retry_after=after)
    return MayHaveHappened(said, status=status)


def retry_after(response: httpx.Response) -> float | None:
    """Return how many seconds VideoSDK asks us to wait, within what is waited for at all."""
    after = response.headers.get("retry-after", "")
    return min(float(after), _LONGEST_WAIT_SECONDS) if _SECONDS.fullmatch(after) else None


def words(response: httpx.Response) -> str:
    """Return what VideoSDK said, whichever shape it chose (the rule of the vendor's own Node package)."""
    text = response.content[:4096].decode("utf-8", "replace")
    try:
        said = cast("object", msgspec.json.decode(response.content))
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = text
    if isinstance(said, dict):
        members = cast("dict[str, object]", said)
        said = next(
            (
                value
                for name in ("message", "error", "msg", "statusMessage")
                if isinstance(value := members.get(name), str) and value
            ),
            "",
        )
    text = said.strip() if isinstance(said, str) else ""
    # A page was made for a browser, and not by VideoSDK.
    return "" if text.startswith("<") else _SECRETS.sub("…", text)[:_MAX_WORDS].strip()
