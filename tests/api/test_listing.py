"""Pages of a room's list, of recordings made here: none is listed twice and none is left out."""

import pytest

from gateway.api.pagination import RecordingsQuery
from gateway.recordings import ENDED, Kind, Mode, Recording, Status, Target


def recording(participant: str, kind: Kind, status: Status = Status.RECORDING) -> Recording:
    """Return a recording of this track."""
    return Recording(
        id="rec_x",
        target=Target(Mode.TRACK, "room", participant, kind),
        file_format="webm",
        status=status,
        requested_by=None,
        requested_at=None,
        confirmed_at=None,
        confirmed_by=None,
    )


ROOM = [recording(participant, kind) for participant in ("bo", "ada", "ada-2") for kind in Kind]


@pytest.mark.parametrize("limit", range(1, len(ROOM) + 1))
def test_list_by_pages_returns_each_kind_of_each_participant_once(limit: int) -> None:
    """A page may end between two tracks of one participant: the cursor names the kind too."""
    listed: list[object] = []
    query = [("roomId", "room"), ("limit", str(limit))]
    cursor: str | None = None
    for _ in ROOM:
        page = RecordingsQuery.read([*query, *([("cursor", cursor)] if cursor else [])]).page(ROOM)
        assert len(page.recordings) <= limit
        listed += [(one.participant_id, one.kind) for one in page.recordings]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert listed == sorted((one.target.participant_id, one.target.kind) for one in ROOM)


@pytest.mark.parametrize("limit", range(1, 8))
def test_list_by_pages_returns_what_runs_first(limit: int) -> None:
    """Whatever runs or may run stands before what has ended, and each is listed once."""
    room = [recording(f"p{number}", Kind.VIDEO, status) for number, status in enumerate(reversed(Status))]
    listed: list[tuple[Status, object]] = []
    cursor: str | None = None
    while cursor is not None or not listed:
        query = [("roomId", "room"), ("limit", str(limit)), *([("cursor", cursor)] if cursor else [])]
        page = RecordingsQuery.read(query).page(room)
        listed += [(one.status, one.participant_id) for one in page.recordings]
        cursor = page.next_cursor
    ended = [status in ENDED for status, _ in listed]
    assert ended == [False] * 4 + [True] * 2
    assert listed == sorted(listed, key=lambda one: (one[0] in ENDED, one[1]))
    assert len(set(listed)) == len(room)
