"""Fixtures every test may use: a real Valkey, a simulated VideoSDK on a socket, a gateway against both."""

import itertools
import uuid
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

import httpx
import pytest

from gateway.observability import logs
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness, leaks
from tests.leaks import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary", "pytest_testnodedown"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every async test on asyncio, in one loop for the session."""
    return "asyncio"


@pytest.fixture(autouse=True)
def kept_logs() -> None:
    """Send what gateways in this process log to where it is searched for secrets."""
    # Before every test anew: some tests configure logging themselves.
    logs.configure("debug", "json", leaks.EVIDENCE.log)


@pytest.fixture(scope="session")
def valkey() -> Generator[EmbeddedValkey]:
    """A real server for tests that do not harm it."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="session")
def signer() -> Signer:
    """One RSA key for all simulators: making one takes a while."""
    return Signer()


@pytest.fixture
async def simulator(signer: Signer) -> AsyncGenerator[Simulator]:
    """A simulated VideoSDK of this test's own."""
    async with harness.simulator(signer=signer) as videosdk:
        yield videosdk


@pytest.fixture
def demo(tmp_path: Path) -> harness.Demo:
    """A caller with a key."""
    return harness.Demo(tmp_path)


@pytest.fixture
async def gateway(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> AsyncGenerator[httpx.AsyncClient]:
    """A gateway on a socket, and a client that speaks to it as the demo caller."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        yield client


@pytest.fixture
def new_track() -> Callable[..., dict[str, str]]:
    """Make bodies for tracks that no other test uses."""
    room = f"room-{uuid.uuid4().hex[:12]}"
    numbers = itertools.count(1)

    def make(kind: str = "video", **more: str) -> dict[str, str]:
        return {"roomId": room, "participantId": f"p{next(numbers)}", "kind": kind, **more}

    return make
