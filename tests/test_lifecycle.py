"""The time between SIGTERM and the end, in a process that has the signal's handler for itself."""

import os
import signal
from collections.abc import Generator

import pytest

from gateway.lifecycle import Drain
from tests import harness

pytestmark = pytest.mark.anyio


class Server:
    """What a server's own handler does, noted."""

    def __init__(self) -> None:
        self.ends: list[int] = []

    def end(self, number: int, _: object) -> None:
        """Note that it was asked to end."""
        self.ends.append(number)


@pytest.fixture
def server() -> Generator[Server]:
    """A server whose handler stands first."""
    server, before = Server(), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, server.end)
    yield server
    signal.signal(signal.SIGTERM, before)


async def test_sigterm_with_a_drain_reaches_the_server_after_it(server: Server) -> None:
    """The process says at once that it is to end, and the server hears of it a while later."""
    drain = Drain(0.2)
    drain.watch()
    assert not drain.begun

    os.kill(os.getpid(), signal.SIGTERM)

    assert (drain.begun, server.ends) == (True, [])
    await harness.eventually(lambda: server.ends)
    assert server.ends == [signal.SIGTERM]


async def test_sigterm_twice_reaches_the_server_at_once(server: Server) -> None:
    """A second signal does not wait."""
    drain = Drain(3600)
    drain.watch()
    os.kill(os.getpid(), signal.SIGTERM)
    await harness.turns(5)
    assert server.ends == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert server.ends == [signal.SIGTERM]


async def test_sigterm_without_a_drain_reaches_the_server_at_once(server: Server) -> None:
    """Unless a time is given nothing stands before the server's handler."""
    drain = Drain()
    drain.watch()
    os.kill(os.getpid(), signal.SIGTERM)
    await harness.turns()
    assert (drain.begun, server.ends) == (False, [signal.SIGTERM])


async def test_drain_before_a_server_that_ignores_the_signal_changes_nothing() -> None:
    """Where there is no handler to call later the signal stays as it is."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        drain = Drain(3600)
        drain.watch()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
