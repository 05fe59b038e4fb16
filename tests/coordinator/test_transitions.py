"""What the scripts write, on each kind of record: as `transitions.txt` has it, line by line."""

import pytest
import redis

from gateway.sandbox.valkey import EmbeddedValkey
from tests.coordinator.track import Track
from tests.coordinator.transitions import BEGINS, lines, written


@pytest.mark.parametrize("record", BEGINS)
def test_commands_and_ends_on_a_record_write_what_is_written_down(server: EmbeddedValkey, record: str) -> None:
    """Every command, every end of what it leads, and what needs no claim."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert list(lines(lambda: Track(client), record)) == written()[record]


def test_transitions_are_written_down_for_every_kind_of_record() -> None:
    """No block of the file is of a record that there is not."""
    assert written().keys() == BEGINS.keys()
