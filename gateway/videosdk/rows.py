"""What VideoSDK's lists say: rows of recordings, and of sessions, as far as the gateway reads them.

Facts are from docs.videosdk.live and the source of the vendor's Node package `@videosdk.live/server-sdk` 0.1.1.
"""

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

__all__ = ["Deliveries", "ListedFile", "ListedRow", "ListedSession"]


class ListedFile(Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of a recording. Of a track, VideoSDK begins a new one at every unmuting (docs.videosdk.live)."""

    file_path: str | None = None
    file_url: str | None = None
    """None while it is being made, and always where files go to the customer's own bucket."""
    type: str | None = None
    size: int | None = None
    """Bytes."""


class Deliveries(Struct, frozen=True, kw_only=True):
    """How many of a recording's webhooks VideoSDK sent, and how many arrived, by its own count."""

    total: int = msgspec.field(name="totalCount", default=0)
    succeeded: int = msgspec.field(name="successCount", default=0)


class ListedRow(Struct, frozen=True, kw_only=True, rename="camel"):
    """One recording as VideoSDK lists it."""

    id: str = ""
    room_id: str | None = None
    session_id: str | None = None
    participant_id: str | None = None
    kind: Any = None
    mode: Any = ""
    start: str | None = None
    """ISO 8601, by VideoSDK's clock."""
    end: str | None = None
    """None while it records (documented sample)."""
    raw_created_at: msgspec.Raw = msgspec.field(name="createdAt", default=msgspec.Raw(b"null"))
    raw_files: msgspec.Raw = msgspec.field(name="files", default=msgspec.Raw(b"[]"))
    raw_file: msgspec.Raw = msgspec.field(name="file", default=msgspec.Raw(b"null"))
    """Of a room's recording, which has one file (documented): an object in place of the list."""
    raw_webhook: msgspec.Raw = msgspec.field(name="webhook", default=msgspec.Raw(b"null"))

    @property
    def files(self) -> tuple[ListedFile, ...]:
        """Its files; none where they come in an unknown shape, which must not hide the row."""
        one = _lenient(self.raw_file, ListedFile | None)
        return _lenient(self.raw_files, tuple[ListedFile, ...] | None) or (() if one is None else (one,))

    @property
    def deliveries(self) -> Deliveries | None:
        """What VideoSDK counts of its webhooks."""
        return _lenient(self.raw_webhook, Deliveries | None)

    def normal(self) -> "ListedRow":
        """Return it in the form that all rows have here.

        The documented row of a room has neither start nor end: it was made when the recording began, and has a file
        since it ended. The vendor's package types both for it too; where they are there, they count. A mode or kind
        that is no text is one that the gateway does not know, like any other word.
        """
        kind, mode = (word if isinstance(word, str | None) else "?" for word in (self.kind, self.mode))
        start, end = self.start, self.end
        if start is None and (created := _lenient(self.raw_created_at, str | None)):
            made = _lenient(self.raw_file, _MadeFile | None)
            start, end = created, end if made is None else made.created_at or created
        return replace(self, kind=kind, mode=mode or "", start=start, end=end)


class _MadeFile(Struct, rename="camel"):
    created_at: str | None = None


class ListedSession(Struct, frozen=True, kw_only=True, rename="camel"):
    """One live occupancy of a room; a room has one at a time."""

    id: str = ""
    room_id: str | None = None
    start: str | None = None
    end: str | None = None


def _lenient(raw: msgspec.Raw, wanted: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=wanted)
    except msgspec.MsgspecError:
        return None
