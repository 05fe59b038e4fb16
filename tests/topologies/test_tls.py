"""TLS to Redis with an authority of one's own: one server, Sentinels and a Cluster, commands and subscriptions."""

import asyncio
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
import redis

from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness, servers
from tests.api_client import NewTrack
from tests.papers import Papers, make_papers

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """An unknown authority, and a certificate of its making for 127.0.0.1."""
    return make_papers(tmp_path_factory.mktemp("papers"))


def _server(papers: Papers, *more: str) -> tuple[EmbeddedValkey, int]:
    """Return a server, not started, and its port for TLS; the other port is for the test itself.

    It is the distribution's: the server of the package knows no TLS.
    """
    port, binary = harness.node_port() or free_port(), servers.binary("redis")
    return EmbeddedValkey(port=0, binary=binary, extra=["--tls-port", str(port), *papers.arguments, *more]), port


@pytest.fixture(params=["one server", "sentinel", "cluster"])
def address(request: pytest.FixtureRequest, papers: Papers, tmp_path: Path) -> Generator[str]:
    """Where the gateway finds Redis: each time nothing but TLS is offered to it."""
    with ExitStack() as stack:
        if request.param == "one server":
            server, port = _server(papers)
            harness.age(stack.enter_context(server))
            yield f"rediss://127.0.0.1:{port}"
        elif request.param == "cluster":
            server, port = _server(papers, "--cluster-enabled", "yes", "--tls-cluster", "yes")
            stack.enter_context(server)
            client = stack.enter_context(redis.Redis(port=server.port))
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            harness.wait_until(lambda: b"cluster_state:ok" in cast("bytes", client.execute_command("CLUSTER", "INFO")))
            harness.age(server)
            yield f"rediss+cluster://127.0.0.1:{port}"
        else:
            server, port = _server(papers)
            harness.age(stack.enter_context(server))
            sentinel, own = free_port(), tmp_path / "sentinel.conf"
            names = [words.removeprefix("--") for words in papers.arguments]
            lines = [f"{name} {value}" for name, value in zip(names[::2], names[1::2], strict=True)]
            own.write_text(
                f"port 0\ntls-port {sentinel}\nbind 127.0.0.1\ndir {tmp_path}\ntls-replication yes\n"
                + "\n".join(lines)
                + f"\nsentinel monitor tracks 127.0.0.1 {port} 1\n"
            )
            stack.enter_context(harness.sentinel(own, servers.binary("redis")))
            trust = str(papers.authority)
            reconciler = redis.Redis("127.0.0.1", sentinel, ssl=True, ssl_ca_certs=trust, decode_responses=True)
            stack.enter_context(reconciler)

            def watched() -> bool:
                try:
                    return cast("dict[str, str]", reconciler.sentinel_master("tracks"))["flags"] == "master"
                except redis.RedisError:
                    return False

            harness.wait_until(watched)
            yield f"rediss+sentinel://127.0.0.1:{sentinel}/tracks"


# A handshake that takes too long is given up, and redis-py's client of a Cluster leaves its socket to Python.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_redis_tls_with_a_named_authority_is_trusted(
    address: str, papers: Papers, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Start on one replica, joined on another while it is in flight: commands and wake-ups both come through."""
    settings = harness.environment(
        address, simulator.url, demo.file, **harness.CALM, GATEWAY_REDIS_CA_FILE=str(papers.authority)
    )
    async with (
        harness.serve(settings) as one,
        harness.serve(settings) as other,
        harness.client(one, demo.key) as first,
        harness.client(other, demo.key) as second,
    ):
        await harness.until_ready(first, second)
        track = new_track()
        simulator.inject(harness.delay("start", 2))
        answers = await asyncio.gather(*(replica.start(track) for replica in (first, second)))
        assert sorted(answer.json().get("outcome", answer.text) for answer in answers) == ["joined", "started"]
        assert [call.endpoint for call in simulator.calls if call.method == "POST"] == ["start"]


async def test_redis_tls_with_an_unknown_authority_is_refused(
    address: str, simulator: Simulator, demo: harness.Demo
) -> None:
    """Without the authority's name no command reaches Redis, and the gateway says that it is not ready."""
    settings = harness.environment(address, simulator.url, demo.file, **harness.CALM)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        assert (await client.get("/readyz")).status_code == 503
