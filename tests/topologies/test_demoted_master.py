"""A managed pair behind one address: the master is demoted, and open connections stay with it."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import redis

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.notifications import CHANNEL
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.faults.proxy import Gate
from tests.observability.numbers import scrape

pytestmark = pytest.mark.anyio


AT_ONCE = ["--repl-diskless-sync-delay", "0"]
Q = {"GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "2", "GATEWAY_SEND_WINDOW_SECONDS": "1", "GATEWAY_SETTLE_SECONDS": "0.3"}
"""After a failover nothing is started before what was sent earlier has landed."""


@pytest.fixture
def pair() -> Generator[tuple[EmbeddedValkey, EmbeddedValkey]]:
    """A master, and its replica that has all it has."""
    with harness.AgedValkey(port=0, extra=AT_ONCE) as master, EmbeddedValkey(port=0, extra=AT_ONCE) as replica:
        _replicate(replica, master)
        yield master, replica


def _replicate(replica: EmbeddedValkey, master: EmbeddedValkey) -> None:
    with redis.Redis(port=replica.port) as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", master.port)
        harness.wait_until(lambda: admin.info("replication")["master_link_status"] == "up")  # pyright: ignore


@asynccontextmanager
async def behind(address: Gate, simulator: Simulator, demo: harness.Demo) -> AsyncGenerator[ApiClient]:
    """Serve a gateway that knows one address."""
    url = f"redis://127.0.0.1:{address.port}"
    settings = harness.environment(url, simulator.url, demo.file, **{**harness.CALM, **Q})
    async with harness.serve(settings) as served, harness.client(served, demo.key) as client:
        await harness.until_ready(client)
        yield client


async def test_start_after_the_master_was_demoted_behind_one_address_works_again(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Refused while the address leads to a replica: Redis counts as down. Then started, without a restart."""
    master, replica = pair
    address = Gate(master.port)
    await address.open()
    async with behind(address, simulator, demo) as gateway:
        assert (await gateway.start(new_track())).json()["outcome"] == "started"
        with redis.Redis(port=replica.port) as admin:
            admin.execute_command("REPLICAOF", "NO", "ONE")
        _replicate(master, replica)

        refused = await gateway.start(new_track())
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/coordination-unavailable")
        assert (await gateway.get("/readyz")).status_code == 503
        seen = await harness.until(lambda: scrape(gateway), lambda seen: seen.get("redis_up") == 0)
        assert seen.total("redis_errors_total", kind="readonly") > 0

        address.target = replica.port
        answer = await harness.until(lambda: gateway.start(new_track()), lambda answer: answer.is_success)
        assert answer.json()["outcome"] == "started"
        await harness.until(lambda: scrape(gateway), lambda seen: seen.get("redis_up") == 1)
        with redis.Redis(port=replica.port) as admin:
            # Subscriptions move too: the old one would hear nothing where its server has another master, or none.
            await harness.eventually(lambda: cast("Any", admin.pubsub_numsub(CHANNEL)) == [(CHANNEL.encode(), 1)])
    await address.close()
