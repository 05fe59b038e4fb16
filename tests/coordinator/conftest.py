"""Servers that the scripts run on."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from gateway.sandbox.valkey import EmbeddedValkey
from tests import servers
from tests.coordinator.track import Track
from tests.model.world import World


@pytest.fixture(scope="session", params=servers.KINDS)
def server(request: pytest.FixtureRequest) -> Generator[EmbeddedValkey]:
    """Each kind of server there is."""
    with EmbeddedValkey(binary=servers.binary(request.param)) as server:
        yield server


@pytest.fixture
def track(server: EmbeddedValkey) -> Generator[Track]:
    """A track nobody has asked for, on each kind of server."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield Track(client)


@pytest.fixture(scope="session")
def world_valkey() -> Generator[EmbeddedValkey]:
    """A server that worlds may empty."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def new_world(world_valkey: EmbeddedValkey) -> Generator[Callable[..., World]]:
    """Make worlds, one at a time: the server is emptied for each."""
    client: Any = redis.Redis.from_url(world_valkey.url, decode_responses=True)
    with client, ExitStack() as stack:

        def new(**options: Any) -> World:
            return stack.enter_context(World(client, **options))

        yield new


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """A world of this test's own."""
    return new_world()
