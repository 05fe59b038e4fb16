"""What the sandbox says of the server that it made."""

import pytest

from gateway.coordinator import Coordinator, Timing
from gateway.sandbox.run import vouch
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection

pytestmark = pytest.mark.anyio


async def test_ready_in_after_vouching_for_a_new_server_is_at_once() -> None:
    """Without that, nobody knows what was before it, and the first start waits for Q."""
    with EmbeddedValkey() as server:
        await vouch(server.url)
        connection = Connection(server.url)
        assert await Coordinator(connection, Timing(), "").records.ready_in() == 0
        await connection.aclose()
