"""Fixtures every test may use: a real Valkey, a simulated VideoSDK on a socket, a gateway against both."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import cast

import pytest
import redis

from gateway.observability import logs
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness, leaks
from tests.api_client import ApiClient, NewTrack
from tests.endings import pytest_pyfunc_call, pytest_runtest_teardown
from tests.leaks import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown
from tests.order import pytest_collection_finish, pytest_collection_modifyitems

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_pyfunc_call",
    "pytest_runtest_teardown",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every async test on asyncio, in one loop for the session."""
    return "asyncio"


@pytest.fixture(autouse=True)
def kept_logs() -> None:
    """Send what gateways in this process log to where it is searched for secrets."""
    # Before every test anew: some tests configure logging themselves.
    logs.configure("debug", "json", leaks.EVIDENCE.log)


@pytest.fixture(autouse=True)
def no_process_left() -> Generator[None]:
    """Leave no gateway behind, whatever becomes of the test."""
    with harness.no_process_left():
        yield


@pytest.fixture(scope="session")
def shared_servers() -> list[EmbeddedValkey]:
    """What files share: the server of `valkey`, once it was asked for."""
    return []


@pytest.fixture(scope="session")
def valkey(shared_servers: list[EmbeddedValkey]) -> Generator[EmbeddedValkey]:
    """A real server for tests that do not harm it."""
    with harness.PatientValkey() as server:
        shared_servers.append(server)
        yield server


@pytest.fixture(scope="module", autouse=True)
def nothing_left_to_do(shared_servers: list[EmbeddedValkey]) -> None:
    """Take away what earlier files left to be looked at: this one's gateways would do it."""
    for server in shared_servers:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            harness.unschedule(client, "due")


@pytest.fixture(autouse=True)
def keys_that_go(request: pytest.FixtureRequest) -> Generator[None]:
    """Fail a test after which a key without a TTL lies on its server; no recording ends there any more."""
    if "valkey" not in request.fixturenames:
        yield
        return
    # Asked for here, so that this looks while the server still runs, and after the test's gateways have ended.
    server = cast("EmbeddedValkey", request.getfixturevalue("valkey"))
    yield
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        # A recording that has to end in a minute would be stopped by the gateway of a later test, at its own VideoSDK.
        harness.unschedule(client, "ends")
        counts = cast("dict[str, dict[str, int]]", client.info("keyspace")).get("db0", {})
        if counts.get("keys", 0) != counts.get("expires", 0):
            lasting = [key for key in cast("list[str]", client.keys("*")) if client.pttl(key) == -1]
            # Each is reported once: the tests after this one are not to blame.
            for key in lasting:
                client.expire(key, 60)
            assert not lasting, f"without a TTL: {lasting}"


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
async def gateway(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo) -> AsyncGenerator[ApiClient]:
    """A gateway on a socket, and a client that speaks to it as the demo caller."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        yield client


@pytest.fixture
async def hasty(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo) -> AsyncGenerator[ApiClient]:
    """The same, with times that run out soon: for tests that wait for that."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        yield client


@pytest.fixture
def new_track() -> NewTrack:
    """Make bodies for tracks that no other test uses."""
    return NewTrack()
