"""What the scripts write, and what comes out of it for callers: as it is written down, line by line."""

import pytest
import redis

from gateway.sandbox.valkey import EmbeddedValkey
from tests.coordinator import outcomes, transitions, written
from tests.coordinator.track import Track
from tests.model.world import World


@pytest.mark.parametrize("record", transitions.BEGINS)
def test_commands_and_ends_on_a_record_write_what_is_written_down(server: EmbeddedValkey, record: str) -> None:
    """Every command, every end of what it leads, and what needs no claim."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert list(transitions.lines(lambda: Track(client), record)) == written.read(transitions.FILE)[record]


@pytest.mark.parametrize("name", outcomes.pairs())
def test_command_whatever_videosdk_does_comes_out_as_written_down(world_valkey: EmbeddedValkey, name: str) -> None:
    """What callers are answered and when, what is sent, and what the record says as time goes by."""
    with redis.Redis.from_url(world_valkey.url, decode_responses=True) as client:
        told = outcomes.lines(lambda: World(client, timing=outcomes.TIMING), *outcomes.pairs()[name])
        assert list(told) == written.read(outcomes.FILE)[name]


def test_files_hold_every_kind_of_record_and_no_other() -> None:
    """No block is of what is not looked at."""
    assert written.read(transitions.FILE).keys() == transitions.BEGINS.keys()
    assert written.read(outcomes.FILE).keys() == outcomes.pairs().keys()
