"""A server of the model's own: walks begin by emptying it."""

from collections.abc import Generator

import pytest
import redis

from gateway.sandbox.valkey import EmbeddedValkey


@pytest.fixture(scope="session")
def own_valkey() -> Generator[EmbeddedValkey]:
    """A server that nobody else uses."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def client(own_valkey: EmbeddedValkey) -> Generator["redis.Redis"]:
    """A client of it."""
    with redis.Redis.from_url(own_valkey.url, decode_responses=True) as connection:
        yield connection
