"""The order in which files begin."""

import pytest

from tests.order import LONGEST, TESTS


def test_longest_files_are_there() -> None:
    """A file that was renamed is named anew: otherwise it begins late, and the suite takes longer."""
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []


def test_longest_files_of_this_session_begin_first(request: pytest.FixtureRequest) -> None:
    """What this very session runs is in order: the longest files as they are listed, and then all others."""
    order = list(dict.fromkeys(item.path for item in request.session.items))
    first = [TESTS / name for name in LONGEST if TESTS / name in order]
    assert order[: len(first)] == first
