"""Gateways are replaced one by one while callers keep calling, and no caller notices."""

import asyncio
import random
import signal
import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.blackbox.balancer import Balancer, balancer
from tests.blackbox.versions import other_version

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

START, STOP = "/v1/recordings/track/start", "/v1/recordings/track/stop"
REPLICAS = 3
CALLERS = 4
DRAIN = "1"
"""Seconds: longer than the load balancer takes to notice, here a tenth of one."""


class Load:
    """Callers who start tracks, two at a time, start them again, look at them and stop them, without end.

    Attributes:
        failures: What no caller should have seen.
        outcomes: What they were told.
    """

    def __init__(self, url: str, key: str) -> None:
        self.failures: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self._url, self._key = url, key
        self._over = False

    @property
    def rounds(self) -> int:
        """How many tracks were recorded to the end."""
        return self.outcomes["stopped"]

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Call until the block ends, and let every round come to its end."""
        callers = [asyncio.create_task(self._call()) for _ in range(CALLERS)]
        try:
            yield
        finally:
            self._over = True
            await asyncio.gather(*callers)

    async def _call(self) -> None:
        async with harness.client(self._url, self._key) as client:
            while not self._over:
                track = {"roomId": f"rolling-{uuid.uuid4().hex[:12]}", "participantId": "p", "kind": "video"}
                path = f"/v1/recordings/track/{track['roomId']}/p/video"
                await asyncio.gather(*(self._count(client.post(START, json=track)) for _ in range(2)))
                await self._count(client.get(path))
                await self._count(client.post(START, json=track))
                await self._count(client.post(STOP, json=track))
                # A pace and not a wait for anything: replacing takes the same time on a fast and on a slow machine.
                await asyncio.sleep(random.uniform(0.1, 0.3))

    async def _count(self, call: "asyncio.Future[httpx.Response] | object") -> None:
        try:
            answer = await call  # pyright: ignore[reportGeneralTypeIssues]
        except httpx.TransportError as error:
            self.failures.append(repr(error))
            return
        if not answer.is_success:
            self.failures.append(f"{answer.status_code} {answer.text}")
            return
        self.outcomes[answer.json().get("outcome") or "seen"] += 1


class Fleet:
    """The replicas, and how they are replaced."""

    def __init__(self, settings: dict[str, str], folder: Path) -> None:
        self.ports = [free_port() for _ in range(REPLICAS)]
        self._settings = {**settings, "GATEWAY_DRAIN_SECONDS": DRAIN}
        self._folder = folder
        self._processes: dict[int, harness.GatewayProcess] = {}
        self._made = 0

    async def begin(self, port: int, version: Path | None = None) -> None:
        """Start a replica: today's, or the one that lies there."""
        self._made += 1
        log = self._folder / f"gateway-{self._made}.log"
        self._processes[port] = harness.GatewayProcess(self._settings, log, harness.Variant(folder=version), port=port)
        await self._processes[port].ready()

    async def end(self, port: int) -> None:
        """Send SIGTERM to a replica and wait until it has ended well."""
        process = self._processes.pop(port)
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0

    async def replace_all(self, proxy: Balancer) -> None:
        """Replace one after the other by today's version."""
        for port in self.ports:
            await self.end(port)
            await self.begin(port)
            await proxy.wait_for(REPLICAS)

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self._processes.values():
            process.stop()


def check(load: Load, simulator: Simulator) -> None:
    """Nobody saw a failure, and every track was started once and stopped once."""
    assert load.failures == []
    assert load.rounds > CALLERS * REPLICAS
    assert load.outcomes["started"] == load.outcomes["joined"] + load.outcomes["already_recording"] - load.rounds
    starts = Counter(call.room_id for call in simulator.calls if call.endpoint == "start")
    assert len(starts) == load.rounds
    assert set(starts.values()) == {1}
    assert all(row.end is not None for row in simulator.rows)


@pytest.mark.parametrize("other", [False, True], ids=["same version", "from another version"])
async def test_replaced_one_by_one_under_load_nobody_notices(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path, other: bool
) -> None:
    """Three replicas behind HAProxy, which repeats nothing: no failed request, and one start at VideoSDK per track."""
    fleet = Fleet(harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM), tmp_path)
    async with AsyncExitStack() as stack:
        stack.callback(fleet.close)
        proxy = await stack.enter_async_context(balancer(fleet.ports, tmp_path))
        before = other_version(tmp_path) if other else None
        await asyncio.gather(*(fleet.begin(port, before) for port in fleet.ports))
        await proxy.wait_for(REPLICAS)
        load = Load(proxy.url, demo.key)
        async with load.running():
            await harness.eventually(lambda: load.rounds > CALLERS)
            await fleet.replace_all(proxy)
            so_far = load.rounds
            await harness.eventually(lambda: load.rounds > so_far + CALLERS)
    check(load, simulator)
