"""A gateway process that one caller attacks within its rights, while Redis and VideoSDK are looked at."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.auth.api_keys import new_key
from tests import harness
from tests.api_client import ApiClient


@asynccontextmanager
async def attacked(
    redis_url: str,
    videosdk_url: str,
    folder: Path,
    settings: Mapping[str, str],
    callers: tuple[str, ...] = ("attacker",),
) -> AsyncGenerator[list[ApiClient]]:
    """Run a gateway process; yields a client for each caller, none of which has a limit of its own."""
    keys = {name: new_key(f"{name}-{folder.name}"[:64].strip("-")) for name in callers}
    file = folder / "callers.toml"
    # As the command writes it: nothing is said of limits.
    file.write_text("".join(entry for _, entry in keys.values()))
    environ = harness.environment(redis_url, videosdk_url, file, **harness.CALM) | dict(settings)
    process = harness.GatewayProcess(environ, folder / "gateway.log")
    clients = [harness.client(process.url, key) for key, _ in keys.values()]
    try:
        await process.ready()
        await harness.until_ready(*clients)
        yield clients
    finally:
        for client in clients:
            await client.aclose()
        process.stop()


async def refused(client: ApiClient, bound: str) -> float:
    """Return how often a bound refused something, by the gateway's own metric."""
    text = (await client.get("/metrics")).text
    found = re.search(rf'^gateway_refused_total{{bound="{bound}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def keys_forgotten(client: ApiClient) -> float:
    """Return how many idempotency keys went before their time."""
    text = (await client.get("/metrics")).text
    found = re.search(r"^gateway_idempotency_keys_forgotten_total (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
