"""Keys are rotated by replacing a file, while worker processes are under load."""

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from gateway.auth.api_keys import new_key
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

PATH = "/v1/recordings/track/nowhere/nobody/video"
KNOWN, UNKNOWN = 404, 401
"""The answer to a caller who asks for a track that was never recorded."""


def replace(file: Path, *entries: str) -> None:
    """Replace the callers file in one step: one caller with the keys of all these entries."""
    new = file.with_suffix(".new")
    new.write_text(
        f'[callers.app]\n{harness.keys_in(*entries)}scopes = ["recordings:read"]\n' if entries else "[callers."
    )
    new.rename(file)


async def answers(url: str, key: str, times: int = 12) -> set[int]:
    """Ask on a connection of its own each time, so that every worker is asked sooner or later."""
    seen: set[int] = set()
    for _ in range(times):
        async with harness.client(url, key) as client:
            seen.add((await client.get(PATH)).status_code)
    return seen


async def test_key_rotation_under_load_refuses_no_valid_key(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path
) -> None:
    """Old, both, a broken file, new: who changes keys in between is never refused, and the old one is at the end."""
    (old, first), (new, second) = new_key("app"), new_key("app")
    file = tmp_path / "callers.toml"
    replace(file, first)
    settings = harness.environment(valkey.url, simulator.url, file, GATEWAY_WORKERS="2")
    process = harness.GatewayProcess(settings, tmp_path / "gateway.log")
    try:
        await process.ready()
        held, statuses, running = old, Counter[int](), True
        shown: dict[int, str] = {}

        async def load(number: int) -> None:
            async with harness.client(process.url) as client:
                while running:
                    shown[number] = held
                    answer = await client.get(PATH, headers={"authorization": f"Bearer {held}"})
                    statuses[answer.status_code] += 1

        async def become(key: str, wanted: int) -> None:
            await harness.until(lambda: answers(process.url, key), lambda seen: seen == {wanted})

        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(load(number))
            assert await answers(process.url, new) == {UNKNOWN}
            replace(file, first, second)
            await become(new, KNOWN)
            replace(file)
            await harness.until(lambda: ready(process.url), lambda seen: seen == ["callers-file-broken"])
            assert await answers(process.url, old) == await answers(process.url, new) == {KNOWN}
            held = new
            # A request that shows the old key may still be under way: a caller that shows the new one has its answer.
            await harness.eventually(lambda: set(shown.values()) == {new})
            replace(file, second)
            await become(old, UNKNOWN)
            running = False
        assert set(statuses) == {KNOWN}, statuses
        assert statuses[KNOWN] > 100
    finally:
        await asyncio.to_thread(process.stop)


async def ready(url: str) -> list[str]:
    """Return what readiness warns of."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        return (await client.get("/readyz")).json().get("warnings", [])
