"""A service beside a participant, a reader and a sender of replayed webhooks who do their worst. `make neighbours`.

One gateway process, a Redis and a simulated VideoSDK. The service starts and stops one recording
after the other, first alone and then beside the others; what is compared are its waits of one run.
"""

import argparse
import asyncio
import itertools
import json
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import httpx
import redis
from msgspec import Struct

from gateway.auth.api_keys import new_key
from tests import harness
from tests.api_client import Track
from tests.harm.identities import Headers, Stage, bearer, stage

__all__ = ["Figures", "measure"]

_WEBHOOKS: Final = "/v1/webhooks/videosdk"
_READERS: Final = 8
_PARTICIPANTS: Final = 8
"""Requests of each attacker at the same time."""
_START: Final = "/v1/recordings/track/start"
_STOP: Final = "/v1/recordings/track/stop"


class Figures(Struct, frozen=True, kw_only=True):
    """What the service had to bear.

    Attributes:
        statuses: How often its requests were answered how, while it was attacked.
        attacks: The same of all attackers.
        quiet_ms: The p99 of its waits while it was alone.
        attacked_ms: The same while it was attacked.
        redis_mib: What Redis took more at the end.
        resident_mib: What the gateway took more.
    """

    statuses: Counter[int]
    attacks: Counter[int]
    quiet_ms: float
    attacked_ms: float
    redis_mib: float
    resident_mib: float


class _Service:
    """Starts and stops one track after the other."""

    def __init__(self, scene: Stage) -> None:
        self._scene = scene
        self._numbers = itertools.count()
        self.statuses: Counter[int] = Counter()
        self.waits: list[float] = []

    async def work(self, seconds: float) -> None:
        """Work for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            number = next(self._numbers)
            track = {"roomId": f"lesson-{number % 50}", "participantId": f"p{number}", "kind": "video"}
            for path in (_START, _STOP):
                begun = time.perf_counter()
                answer = await self._scene.client.post(path, json=track, headers=self._scene.service)
                self.waits.append(time.perf_counter() - begun)
                self.statuses[answer.status_code] += 1

    def p99(self) -> float:
        """Return the p99 of the waits since the last call, in ms."""
        waits, self.waits = sorted(self.waits), []
        return waits[int((len(waits) - 1) * 0.99)] * 1000


async def _for_ever(attack: Callable[[], Awaitable[httpx.Response]], statuses: Counter[int]) -> None:
    """Attack as fast as answers come."""
    while True:
        with suppress(httpx.HTTPError):
            statuses[(await attack()).status_code] += 1
        # In this process the attackers would keep the service's own client from being served.
        await asyncio.sleep(0.01)


def _participant(scene: Stage, client: httpx.AsyncClient) -> Callable[[], Awaitable[httpx.Response]]:
    """Start, stop and read one's own track under ever new idempotency keys, and make tickets without end."""
    track: Track = {"roomId": "attacked", "participantId": "mallory", "kind": "video"}
    own: Headers = scene.joins(track)
    turns = itertools.cycle((_START, _STOP, "ticket"))

    async def attack() -> httpx.Response:
        path = next(turns)
        if path == "ticket":
            return await client.post("/v1/rooms/attacked/events/tickets", headers=own)
        return await client.post(path, json=track, headers={**own, "idempotency-key": secrets.token_hex(100)})

    return attack


def _reader(client: httpx.AsyncClient, key: str) -> Callable[[], Awaitable[httpx.Response]]:
    """Ask for rooms that never were."""

    async def attack() -> httpx.Response:
        room = secrets.token_hex(6)
        return await client.get("/v1/recordings", params={"roomId": room}, headers=bearer(key))

    return attack


def _replayer(scene: Stage, client: httpx.AsyncClient) -> Callable[[], Awaitable[httpx.Response]]:
    """Send signed webhooks again that one has read."""
    bodies: list[bytes] = []
    for number in range(20):
        data = {"meetingId": "attacked", "sessionId": "s", "participantId": f"p{number}", "kind": "video"}
        bodies.append(json.dumps({"webhookType": "participant-track-recording-stopped", "data": data}).encode())
    signed = itertools.cycle([(body, scene.simulator.sign(body)) for body in bodies])

    async def attack() -> httpx.Response:
        body, signature = next(signed)
        return await client.post(_WEBHOOKS, content=body, headers={"videosdk-signature": signature})

    return attack


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def _used_mib(url: str) -> float:
    with redis.Redis.from_url(url) as admin:
        return cast("dict[str, int]", admin.info("memory"))["used_memory"] / 2**20


async def measure(folder: Path, seconds: float, settings: Mapping[str, str] | None = None) -> Figures:
    """Let a service work alone for so many seconds, and then as many beside the attackers."""
    key, entry = new_key("reader")
    with harness.AgedValkey() as server:
        async with stage(server.url, folder, **(settings or {})) as scene:
            await scene.write(f"{harness.scoped(entry, 'recordings:read')}")
            service, attacks = _Service(scene), Counter[int]()
            await service.work(seconds / 4)
            service.p99()
            await service.work(seconds)
            quiet_ms = service.p99()
            service.statuses.clear()
            redis_mib, resident_mib = _used_mib(server.url), _resident_mib(scene.process.pid)
            async with harness.client(scene.process.url) as other:
                made = [
                    *(_participant(scene, other) for _ in range(_PARTICIPANTS)),
                    *(_reader(other, key) for _ in range(_READERS)),
                    *(_replayer(scene, other) for _ in range(2)),
                ]
                tasks = [asyncio.create_task(_for_ever(attack, attacks)) for attack in made]
                await service.work(seconds)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            return Figures(
                statuses=service.statuses,
                attacks=attacks,
                quiet_ms=quiet_ms,
                attacked_ms=service.p99(),
                redis_mib=_used_mib(server.url) - redis_mib,
                resident_mib=_resident_mib(scene.process.pid) - resident_mib,
            )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.harm.neighbours", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="gateway-neighbours-") as folder:
        figures = asyncio.run(measure(Path(folder), seconds))
    print(f"attackers were answered {dict(figures.attacks)} in {seconds:.0f} s")
    print(f"the service was answered {dict(figures.statuses)}")
    times = figures.attacked_ms / figures.quiet_ms
    print(f"its p99: {figures.quiet_ms:.1f} ms alone, {figures.attacked_ms:.1f} ms beside them, {times:.1f} x")
    print(f"more memory: Redis {figures.redis_mib:.1f} MiB, the gateway {figures.resident_mib:.1f} MiB")
    return 0 if figures.statuses.keys() <= {200, 201} else 1


if __name__ == "__main__":
    sys.exit(main())
