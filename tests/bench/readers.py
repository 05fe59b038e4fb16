"""Many readers of one room on one process: what each costs, and how soon it receives a change. `make bench-readers`.

The readers are plain sockets in this process, the gateway is a process of its own, beside a Valkey and a simulated
VideoSDK. Prints one JSON object.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from tests import harness
from tests.listener import parse

__all__ = ["main"]

ROOM = "bench-room"
TRACKS = 10
CHANGES = 4
"""Of each track: starting, recording, stopping, stopped."""


class Reader:
    """One socket, and when each change arrived on it."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.ids: list[str] = []
        self.started_op = asyncio.Event()
        self.done = asyncio.Event()

    async def read(self, port: int, key: str) -> None:
        """Read until every change was update."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET /v1/rooms/{ROOM}/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\r\n"
        writer.write(head.encode())
        try:
            while len(self.ids) < TRACKS * CHANGES:
                block = (await reader.readuntil(b"\n\n")).decode()
                # Chunks of the transfer encoding begin where events do.
                update = parse(block[block.find("id: ") :])
                if update is None:
                    continue
                if update.event == "snapshot":
                    self.started_op.set()
                else:
                    self.delays.append(time.time() * 1000 - int(update.id.partition("-")[0]))
                    self.ids.append(update.id)
            self.done.set()
            await asyncio.Event().wait()
        finally:
            writer.close()


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def _subscriptions(url: str) -> int:
    async with Redis.from_url(url) as redis:
        names = await redis.pubsub_channels("rec:*:events")
        return sum(count for _, count in await redis.pubsub_numsub(*names)) if names else 0


async def measure(count: int, folder: Path) -> dict[str, Any]:
    """Have so many read while recordings start and stop."""
    demo = harness.Demo(folder)
    with harness.AgedValkey() as valkey:
        async with harness.simulator() as videosdk:
            more = {"GATEWAY_MOST_EVENT_READERS": str(4 * count), "GATEWAY_LOG_LEVEL": "warning"}
            settings = harness.environment(valkey.url, videosdk.url, demo.file, **harness.FAST, **more)
            gateway = await harness.GatewayProcess(settings, folder / "gateway.log").ready()
            try:
                return await _measure(count, gateway, demo.key, valkey.url)
            finally:
                await asyncio.to_thread(gateway.stop)


async def _measure(count: int, gateway: harness.GatewayProcess, key: str, redis_url: str) -> dict[str, Any]:
    async with harness.client(gateway.url, key) as client:
        body = {"roomId": "warm-up", "participantId": "p", "kind": "video"}
        assert (await client.start(body)).is_success
        empty = _resident_kib(gateway.pid)
        readers = [Reader() for _ in range(count)]
        tasks: list[asyncio.Task[None]] = []
        opening = time.monotonic()
        for start in range(0, count, 100):
            lot = readers[start : start + 100]
            tasks += [asyncio.create_task(reader.read(gateway.port, key)) for reader in lot]
            await asyncio.gather(*(reader.started_op.wait() for reader in lot))
        opened = time.monotonic() - opening
        idle = _resident_kib(gateway.pid)
        subscribed = await _subscriptions(redis_url)
        for number in range(TRACKS):
            track = {"roomId": ROOM, "participantId": f"p{number}", "kind": "video"}
            for action in ("start", "stop"):
                assert (await client.post(f"/v1/recordings/track/{action}", json=track)).is_success
        async with asyncio.timeout(120):
            await asyncio.gather(*(reader.done.wait() for reader in readers))
        busy = _resident_kib(gateway.pid)
        subscribed = max(subscribed, await _subscriptions(redis_url))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left = await harness.until(lambda: _subscriptions(redis_url), lambda number: number == 0)
    delays = sorted(delay for reader in readers for delay in reader.delays)
    return {
        "readers": count,
        "subscriptions": subscribed,
        "subscriptions afterwards": left,
        "same events in the same order": len({tuple(reader.ids) for reader in readers}) == 1,
        "events each": len(readers[0].ids),
        "opened per second": round(count / opened),
        "KiB per idle reader": round((idle - empty) / count, 1),
        "KiB per reader after the events": round((busy - empty) / count, 1),
        "delay in ms": {
            "median": round(statistics.median(delays)),
            "p99": round(delays[int(len(delays) * 0.99)]),
            "most": round(delays[-1]),
        },
    }


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.readers", description=__doc__)
    parser.add_argument("--readers", type=int, default=2000)
    count = parser.parse_args().readers
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, count * 2 + 1000), most))
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        print(json.dumps(asyncio.run(measure(count, Path(name))), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
