"""The subscriber notices a server that has gone silent."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.notifications import Notifications
from tests import harness
from tests.faults.proxy import Gate

pytestmark = pytest.mark.anyio


class Listening:
    """A subscriber, and how often messages may have been lost so far."""

    def __init__(self, gate: Gate, ping_after: float, reconnect_after: float) -> None:
        self.gate = gate
        self.gaps = 0
        self.connection = Connection(f"redis://127.0.0.1:{gate.port}")
        self.wakeups = Notifications(self.connection, ping_after=ping_after, reconnect_after=reconnect_after)

    def on_gap(self) -> None:
        """Take note of a gap."""
        self.gaps += 1


@asynccontextmanager
async def listening(*, ping_after: float, reconnect_after: float) -> AsyncGenerator[Listening]:
    """Listen to a server behind a gate."""
    with EmbeddedValkey(port=0) as server:
        gate = Gate(server.port)
        await gate.open()
        one = Listening(gate, ping_after, reconnect_after)
        await one.wakeups.start(lambda _: None, one.on_gap)
        try:
            await harness.eventually(lambda: one.wakeups.listening)
            yield one
        finally:
            await one.wakeups.stop()
            await one.connection.aclose()
            await gate.close()


async def test_subscription_that_is_silent_too_long_is_made_anew() -> None:
    """Nothing arrives, not even the answer to a ping: the subscription is given up, and every waiter receives a gap."""
    async with listening(ping_after=0.1, reconnect_after=0.8) as one:
        one.gate.deaf = True
        await harness.eventually(lambda: not one.wakeups.listening)
        one.gate.deaf = False
        await harness.eventually(lambda: one.wakeups.listening)
        assert one.gaps >= 2
