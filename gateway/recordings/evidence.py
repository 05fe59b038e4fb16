"""What VideoSDK's list proves of a target, and what of it the record keeps.

VideoSDK's start answers no id, so which row is which recording has to be concluded: once a row was seen open while the
gateway knew that it records, its id is known; before that, a row counts as ours if it began no earlier than our start.

A row that is open for ever, although its session is over or VideoSDK refuses to stop it, is *dead*: the record
remembers it, and it counts as nothing.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from gateway.observability import metrics
from gateway.recordings.model import RecordedFile, WebhookDeliveries
from gateway.videosdk.rows import ListedRow

__all__ = [
    "SKEW_MS",
    "Evidence",
    "began_with",
    "dead_rows",
    "milliseconds",
    "only_dead",
    "open_rows",
    "own_row",
    "proof_of_end",
    "report_dead",
    "report_deliveries",
    "report_duplicates",
    "row_name",
    "with_dead",
]

SKEW_MS: Final = 2_000
"""How far VideoSDK's clock may be off Redis's."""
_MAX_FILES: Final = 100
_MAX_DEAD: Final = 20
_REFUSALS: Final = 3
_FILE_BEGAN: Final = re.compile(r"(?<!\d)(\d{13})(?=\.\w+$)")
"""In the name of a file: `track_recording_{participantId}_{kind}_{epochMs}.webm`."""

_log = structlog.get_logger("gateway.recordings")


class Evidence(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the list said last of one recording. Belongs to a generation: that of another tells nothing.

    Only `dead` belongs to the target: rows that VideoSDK lists as open although nothing records under them.
    """

    generation: str = ""
    videosdk_id: str = ""
    session_id: str = ""
    start: str = ""
    """When it began and ended, by VideoSDK's clock and in its words."""
    end: str = ""
    ended: bool = False
    files: tuple[RecordedFile, ...] = ()
    deliveries: WebhookDeliveries | None = None
    rivals: bool = False
    """Other rows of the target were open beside it."""
    stops_refused: int = 0
    """How often VideoSDK has refused to stop it while it was listed as open, and since when (ms)."""
    refused_since: int = 0
    dead: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, generation: str, row: ListedRow, known: "Evidence | None" = None, *, rivals: bool = False
    ) -> "Evidence":
        """Take what matters of a row, and of what was known of the same row."""
        counted = row.deliveries
        same = known if known is not None and known.videosdk_id == row.id else None
        return cls(
            generation=generation,
            videosdk_id=row.id,
            session_id=row.session_id or "",
            start=row.start or "",
            end=row.end or "",
            rivals=rivals,
            stops_refused=same.stops_refused if same else 0,
            refused_since=same.refused_since if same else 0,
            ended=row.end is not None,
            files=tuple(
                RecordedFile(file_path=file.file_path, file_url=file.file_url, type=file.type, size=file.size)
                for file in row.files[:_MAX_FILES]
            ),
            deliveries=WebhookDeliveries(total=counted.total, succeeded=counted.succeeded) if counted else None,
        )

    def refused(self, now: int) -> "Evidence":
        """Count one more stop that VideoSDK refused."""
        return msgspec.structs.replace(
            self, stops_refused=self.stops_refused + 1, refused_since=self.refused_since or now
        )

    def cannot_be_stopped(self, now: int, seconds: float) -> bool:
        """Tell whether stops were refused again and again, for longer than a recording takes to begin."""
        return self.stops_refused >= _REFUSALS and now - self.refused_since >= seconds * 1000

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
        evidence = _decode(text)
        return evidence if evidence is not None and evidence.generation == generation else None

    @staticmethod
    def moved(text: str, generation: str, to: str) -> str:
        """Return what is kept of one generation as that of another; of the target alone where it is not of that one."""
        evidence = Evidence.decode(text, generation)
        return msgspec.structs.replace(evidence, generation=to).encode() if evidence is not None else only_dead(text)


def _decode(text: str) -> Evidence | None:
    return msgspec.json.decode(text, type=Evidence) if text else None


def dead_rows(text: str) -> tuple[str, ...]:
    """Return the names of the rows that a record remembers as dead."""
    evidence = _decode(text)
    return evidence.dead if evidence is not None else ()


def with_dead(text: str, *names: str) -> str:
    """Return what a record keeps, with these rows as dead ones beside those it knows."""
    evidence = _decode(text) or Evidence()
    dead = tuple(dict.fromkeys((*evidence.dead, *names)))[-_MAX_DEAD:]
    return msgspec.structs.replace(evidence, dead=dead).encode() if dead else text


def only_dead(text: str) -> str:
    """Return of what a record keeps only what is about the target, and not about one recording of it."""
    return with_dead("", *dead_rows(text))


def row_name(row: ListedRow) -> str:
    """Return what tells a row from the others of its target."""
    return row.id or row.start or ""


def began_with(row: ListedRow, started_at: int) -> bool:
    """Tell whether a row began no earlier than a start of ours, and so may be what that started."""
    return bool(started_at) and milliseconds(row.start) >= started_at - SKEW_MS


def open_rows(
    rows: list[ListedRow], ended_at: int, now: int, settle: float, dead: Sequence[str] = ()
) -> list[ListedRow]:
    """Return the rows of a target that record now, newest first.

    Args:
        rows: The target's.
        ended_at: When (ms) the target was last stopped.
        now: Redis's clock in ms.
        settle: For how many seconds after that the list may still show as open what was just stopped.
        dead: Names of rows that are open for ever.
    """
    rows = [row for row in rows if row.end is None and row_name(row) not in dead]
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
    first, last = _window(started_at, ended_at)
    ours = [row for row in rows if first <= milliseconds(row.start) <= last]
    return max(ours, key=lambda row: milliseconds(row.start), default=None)


def proof_of_end(
    text: str, generation: str, files: Sequence[RecordedFile], started_at: int, ended_at: int
) -> Evidence | None:
    """Return what a signed report of finished files proves of a recording that no list has shown; None where nothing.

    A report names no recording, and may be a replay. So only files count that this recording can have made: VideoSDK
    puts the moment at which each began into its name, and none of them is known of an earlier recording.

    Args:
        text: What the record keeps.
        generation: Of the recording.
        files: What is reported.
        started_at: When (ms) its start was sent; 0 where it was not ours.
        ended_at: When (ms) it ended; or, where it has not, the one before it.
    """
    kept = _decode(text)
    known = kept if kept is not None and kept.generation == generation else None
    if not started_at or not files or (known is not None and (known.videosdk_id or known.ended)):
        return None
    earlier = {file.file_path for file in kept.files} if kept is not None else set[str | None]()
    first, last = _window(started_at, ended_at)
    for file in files:
        began = _FILE_BEGAN.search(file.file_path or "")
        if began is None or not first <= int(began[1]) <= last or file.file_path in earlier:
            return None
    return Evidence(generation=generation, ended=True, files=tuple(files[:_MAX_FILES]), dead=dead_rows(text))


def _window(started_at: int, ended_at: int) -> tuple[float, float]:
    """Return between which moments (ms) by VideoSDK's clock a recording of ours can have begun, and its files."""
    if ended_at < started_at:
        return max(started_at - SKEW_MS, ended_at), float("inf")
    return started_at - SKEW_MS, ended_at + SKEW_MS


def report_duplicates(key: str, open_now: Sequence[ListedRow]) -> None:
    """Count and log that several recordings of one target are open, as long as every look finds them so."""
    if len(open_now) > 1:
        metrics.DUPLICATES_SUSPECTED.inc()
        _log.error("duplicate.suspected", target=key, rows=len(open_now))


def report_dead(key: str, row: ListedRow, reason: str) -> None:
    """Count and log that a row is dead, once: from then on the record remembers it."""
    metrics.DEAD_ROWS.labels(reason).inc()
    _log.warning("row.dead", target=key, row=row.id, session=row.session_id, began=row.start, reason=reason)


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
