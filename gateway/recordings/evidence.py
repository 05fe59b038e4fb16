"""What VideoSDK's list proves of a target, and what of it the record keeps.

VideoSDK's start answers no id, so which row is which recording has to be concluded: once a row was seen open while the
gateway knew that it records, its id is known; before that, a row counts as ours if it began no earlier than our start.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from gateway.observability import metrics
from gateway.recordings.model import RecordedFile, WebhookDeliveries
from gateway.videosdk.client import ListedRow

__all__ = ["Evidence", "milliseconds", "open_rows", "own_row", "report_deliveries", "report_duplicates"]

_SKEW_MS: Final = 2_000
"""How far VideoSDK's clock may be off Redis's."""
_MAX_FILES: Final = 100

_log = structlog.get_logger("gateway.recordings")


class Evidence(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the list said last of one recording. Belongs to a generation: that of another tells nothing."""

    generation: str
    videosdk_id: str
    ended: bool = False
    files: tuple[RecordedFile, ...] = ()
    deliveries: WebhookDeliveries | None = None

    @classmethod
    def of(cls, generation: str, row: ListedRow) -> "Evidence":
        """Take what matters of a row."""
        counted = row.deliveries
        return cls(
            generation=generation,
            videosdk_id=row.id,
            ended=row.end is not None,
            files=tuple(
                RecordedFile(file_path=file.file_path, file_url=file.file_url, type=file.type, size=file.size)
                for file in row.files[:_MAX_FILES]
            ),
            deliveries=WebhookDeliveries(total=counted.total, succeeded=counted.succeeded) if counted else None,
        )

    @property
    def undelivered(self) -> bool:
        """Whether webhooks of the recording did not arrive."""
        return self.deliveries is not None and self.deliveries.succeeded < self.deliveries.total

    def encode(self) -> str:
        """Return it as the record keeps it."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def decode(text: str, generation: str) -> "Evidence | None":
        """Read what the record keeps of this generation."""
        evidence = msgspec.json.decode(text, type=Evidence) if text else None
        return evidence if evidence is not None and evidence.generation == generation else None

    @staticmethod
    def moved(text: str, generation: str, to: str) -> str:
        """Return what is kept of one generation as that of another; nothing where it is not of that one."""
        evidence = Evidence.decode(text, generation)
        return msgspec.structs.replace(evidence, generation=to).encode() if evidence is not None else ""


def open_rows(rows: list[ListedRow], ended_at: int, now: int, settle: float) -> list[ListedRow]:
    """Return the rows of a target that record now, newest first.

    Args:
        rows: The target's.
        ended_at: When (ms) the target was last stopped.
        now: Redis's clock in ms.
        settle: For how many seconds after that the list may still show as open what was just stopped.
    """
    rows = [row for row in rows if row.end is None]
    if now - ended_at < settle * 1000:
        rows = [row for row in rows if milliseconds(row.start) > ended_at]
    return sorted(rows, key=lambda row: milliseconds(row.start), reverse=True)


def own_row(rows: Sequence[ListedRow], known: Evidence | None, started_at: int, ended_at: int) -> ListedRow | None:
    """Return the row of a recording, None where the list does not show it.

    Where the clocks differ by more than is allowed for, none is found: better no files than those of another.

    Args:
        rows: The target's.
        known: What was known of the recording.
        started_at: When (ms) its start was sent; 0 where it was not ours, and only its id can tell.
        ended_at: When (ms) it ended; or, where it has not, the one before it.
    """
    if known is not None and known.videosdk_id:
        return next((row for row in rows if row.id == known.videosdk_id), None)
    if not started_at:
        return None
    if ended_at < started_at:
        first, last = max(started_at - _SKEW_MS, ended_at), float("inf")
    else:
        first, last = started_at - _SKEW_MS, ended_at + _SKEW_MS
    ours = [row for row in rows if first <= milliseconds(row.start) <= last]
    return max(ours, key=lambda row: milliseconds(row.start), default=None)


def report_duplicates(key: str, records: Sequence[ListedRow]) -> None:
    """Count and log that several recordings of one target are open, as long as every look finds them so."""
    if len(records) > 1:
        metrics.DUPLICATES_SUSPECTED.inc()
        _log.error("duplicate.suspected", key=key, rows=len(records))


def report_deliveries(known: Evidence | None, now: Evidence, kind: str) -> None:
    """Count and log that webhooks of a recording do not arrive, once: what was known of it already is not news."""
    if now.undelivered and not (known is not None and known.undelivered):
        metrics.WEBHOOK_DELIVERIES_FAILED.inc()
        _log.warning("webhook.deliveries_failed", kind=kind)


def milliseconds(moment: str | None) -> float:
    """Return a moment in ms since the epoch, in UTC where it does not say otherwise; 0 where it cannot be read."""
    try:
        read = datetime.fromisoformat(moment or "")
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000
    except ValueError:
        return 0.0
