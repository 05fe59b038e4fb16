"""Pages of a room's list, of recordings made here: none is listed twice and none is left out."""

import pytest

from gateway.api.pagination import RecordingsQuery
from gateway.recordings import Kind, Mode, Recording, Status, Target


def recording(participant: str, kind: Kind) -> Recording:
    """Return a recording of this track."""
    return Recording(
        id="rec_x",
        target=Target(Mode.TRACK, "room", participant, kind),
        file_format="webm",
        status=Status.RECORDING,
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
