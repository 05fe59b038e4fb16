"""Servers that the scripts run on."""

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from gateway.sandbox.valkey import EmbeddedValkey
from tests.coordinator.track import Track
from tests.model.world import World

REDIS_SERVER = "redis-server"


@pytest.fixture(scope="session", params=["valkey", REDIS_SERVER])
def server(request: pytest.FixtureRequest) -> Generator[EmbeddedValkey]:
    """Each kind of server there is: the embedded one always, the distribution's where it is installed."""
    if request.param == "valkey":
        with EmbeddedValkey() as valkey:
            yield valkey
        return
    binary = shutil.which(REDIS_SERVER)
    if binary is None:
        absent = f"{REDIS_SERVER} is not installed"
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    with EmbeddedValkey(binary=binary) as debian:
        yield debian


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
