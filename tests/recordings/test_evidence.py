"""Which of VideoSDK's rows tells of which recording: concluded from times alone, until an id is known."""

import msgspec
import pytest

from gateway.coordinator import Record
from gateway.observability import metrics
from gateway.recordings import Mode, Target, recording_of
from gateway.recordings.evidence import (
    Evidence,
    milliseconds,
    open_rows,
    own_row,
    report_deliveries,
    report_duplicates,
)
from gateway.recordings.model import RecordedFile
from gateway.videosdk.rows import ListedRow
from tests.observability.numbers import Numbers

SECOND = 1000
BEGIN = 1_800_000_000_000


def row(name: str, start: float, end: float | None = None) -> ListedRow:
    """Return a row that began and ended so many seconds after the beginning."""
    return ListedRow(id=name, start=moment(start), end=None if end is None else moment(end))


def test_recording_of_which_only_a_webhook_told_has_no_id_of_videosdks() -> None:
    """Its files are known before its row is: the id is then not known, and not empty."""
    target = Target(Mode.ROOM, "room")
    evidence = Evidence(generation="7", ended=True, files=(RecordedFile(file_path="a.mp4"),))
    record = Record(state="stopped", generation="7", evidence=evidence.encode())
    recording = recording_of("key", target, record)
    assert (recording.videosdk_id, len(recording.files)) == (None, 1)


def moment(seconds: float) -> str:
    """Return it as VideoSDK tells it."""
    ms = BEGIN % 60_000 + round(seconds * 1000)
    assert 0 <= ms < 60_000
    return f"2027-01-15T08:00:{ms // 1000:02d}.{ms % 1000:03d}Z"


@pytest.mark.parametrize(
    ("rows", "started", "ended", "found"),
    [
        ([row("own", 10.1, 12)], 10, 12, "own"),
        ([row("earlier", 9, 9.5), row("own", 10.1, 12)], 10, 12, "own"),
        ([row("own", 10.1, 12), row("later", 15, 16)], 10, 12, "own"),
        ([row("earlier", 9, 9.5)], 10, 9.6, None),
        ([row("earlier", 9, 9.5), row("own", 10.1)], 10, 9.6, "own"),
        ([row("own", 8.5, 12)], 10, 12, "own"),
        ([row("own", 8.5)], 10, 0, "own"),
        ([row("behind by ten", 0.1, 2)], 10, 12, None),
        ([row("ahead by ten", 20.1, 22)], 10, 12, None),
        ([row("own", 10.1, 12)], 0, 12, None),
    ],
    ids=[
        "alone", "after one that was short", "before one of somebody else", "not listed yet", "while it records",
        "a clock that is a little behind", "the same, while it records", "a clock that is far behind",
        "a clock that is far ahead", "not started here",
    ],
)  # fmt: skip
def test_evidence_chooses_a_row_by_its_times(
    rows: list[ListedRow], started: float, ended: float, found: str | None
) -> None:
    """Rather none than that of another recording."""
    at = [BEGIN + round(seconds * SECOND) if seconds else 0 for seconds in (started, ended)]
    own = own_row(rows, None, *at)
    assert (own.id if own else None) == found


def test_evidence_with_a_known_id_ignores_times() -> None:
    """Whatever the times say; and an id that is none decides nothing."""
    rows = [row("earlier", 1, 2), row("own", 10, 12)]
    known = Evidence(generation="7", videosdk_id="earlier")
    assert own_row(rows, known, BEGIN + 10_000, BEGIN + 12_000) is rows[0]
    gone = Evidence(generation="7", videosdk_id="deleted")
    assert own_row(rows, gone, BEGIN + 10_000, BEGIN + 12_000) is None
    without = Evidence(generation="7", videosdk_id="")
    rows = [row("", 1, 2), row("", 10, 12)]
    assert own_row(rows, without, BEGIN + 10_000, BEGIN + 12_000) is rows[1]


def test_evidence_keeps_no_more_files_than_its_bound() -> None:
    """Of 150 files the record keeps the first 100: it is read at every claim."""
    files = msgspec.Raw(msgspec.json.encode([{"filePath": f"{number}"} for number in range(150)]))
    kept = Evidence.of("1", ListedRow(id="own", raw_files=files)).files
    assert [file.file_path for file in kept] == [f"{number}" for number in range(100)]


@pytest.mark.parametrize("text", ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00", "2027-01-15T09:00:00+01:00"])
def test_evidence_time_without_a_zone_is_utc(text: str) -> None:
    """Wherever this machine stands."""
    assert milliseconds(text) == BEGIN


@pytest.mark.parametrize("text", [None, "", "yesterday", "0001-01-01", "1800000000000"])
def test_evidence_with_an_unreadable_time_sorts_first(text: str | None) -> None:
    """It hides no row."""
    assert milliseconds(text) <= 0


@pytest.mark.parametrize(
    ("now", "found"),
    [(14, ["after"]), (16, ["after", "stopped", "before"])],
    ids=["while the list may be behind", "afterwards"],
)
def test_evidence_open_rows_are_the_newest_first_and_none_just_stopped(now: float, found: list[str]) -> None:
    """Until the list has settled, what began before the stop may be shown as open and is not; what ended never is."""
    rows = [row("before", 1), row("after", 11), row("ended", 12, 13), row("stopped", 9)]
    recording = open_rows(rows, BEGIN + 10 * SECOND, BEGIN + round(now * SECOND), 5.5)
    assert [one.id for one in recording] == found


@pytest.mark.parametrize(("rows", "counted"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_evidence_of_two_open_rows_counts_a_suspected_duplicate(rows: int, counted: int) -> None:
    """One alarm for a look, however many rows it finds."""
    before = numbers().total("duplicates_suspected_total")
    report_duplicates("rec:track:r:a:video", [row(str(number), number) for number in range(rows)])
    assert numbers().total("duplicates_suspected_total") - before == counted


LOST = msgspec.Raw(b'{"totalCount":2,"successCount":1}')
ARRIVED = msgspec.Raw(b'{"totalCount":2,"successCount":2}')


@pytest.mark.parametrize(
    ("known", "now", "counted"),
    [(None, LOST, 1), (ARRIVED, LOST, 1), (LOST, LOST, 0), (None, ARRIVED, 0), (LOST, ARRIVED, 0)],
    ids=["new", "since the last look", "known", "none lost", "sent again"],
)
def test_evidence_of_a_lost_delivery_is_counted_once(known: msgspec.Raw | None, now: msgspec.Raw, counted: int) -> None:
    """What was known of the recording is counted no second time."""
    before = numbers().total("webhook_deliveries_failed_total")
    earlier = None if known is None else Evidence.of("1", ListedRow(id="own", raw_webhook=known))
    report_deliveries(earlier, Evidence.of("1", ListedRow(id="own", raw_webhook=now)), "video")
    assert numbers().total("webhook_deliveries_failed_total") - before == counted


def test_evidence_of_another_generation_is_none() -> None:
    """Nothing that was known of one recording is believed of another, unless it is moved there."""
    text = Evidence.of("1", row("own", 10)).encode()
    assert Evidence.decode("", "1") is None
    assert Evidence.decode(text, "2") is None
    kept = Evidence.decode(text, "1")
    assert kept is not None
    assert (kept.videosdk_id, kept.generation) == ("own", "1")
    assert Evidence.moved(text, "2", "3") == ""
    moved = Evidence.decode(Evidence.moved(text, "1", "3"), "3")
    assert moved is not None
    assert (moved.videosdk_id, moved.generation) == ("own", "3")


def numbers() -> Numbers:
    """Return what this process has counted."""
    return Numbers(metrics.render(metrics.GaugeValues(redis_up=True), "", "")[0].decode())
