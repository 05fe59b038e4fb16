"""What serving costs: CPU time of the gateway per request, by server, on the paths that are taken most.

CPU time and not time, and ratios within one run and not figures: then another machine, or a busy one, says the same.
The servers take turns, so that whatever changes during the run changes for all of them.
"""

import asyncio
import ctypes
import itertools
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
from msgspec import Struct

from gateway.sandbox.ports import free_port
from tests import harness

__all__ = ["PATHS", "SHIPPED", "Cost", "Server", "compare", "table"]

PATHS: Final = ("livez", "repeated start", "new start")
_CONNECTIONS: Final = 16


class Server(Struct, frozen=True):
    """A way to serve the gateway: a name, and a command that takes host and port from the environment or its end."""

    name: str
    command: tuple[str, ...]
    port_option: str | None = None


SHIPPED: Final = Server("uvicorn, h11 (shipped)", (sys.executable, "-m", "gateway", "serve"))


class Cost(Struct, frozen=True):
    """What a request cost.

    Attributes:
        server: By name.
        path: One of `PATHS`.
        microseconds: CPU time of the gateway's processes per request; the median of all rounds.
    """

    server: str
    path: str
    microseconds: float


class _Requests:
    """Requests of one kind."""

    def __init__(self, path: str, key: str) -> None:
        self._path, self._key = path, key
        self._room = f"bench-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count()

    def next(self) -> bytes:
        """Return the next: the same again, or one for a track that was never recorded."""
        if self._path == "livez":
            return b"GET /livez HTTP/1.1\r\nhost: gateway\r\n\r\n"
        participant = f"p{next(self._numbers)}" if self._path == "new start" else "p"
        body = json.dumps({"roomId": self._room, "participantId": participant, "kind": "video"}).encode()
        head = (
            "POST /v1/recordings/track/start HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _Running:
    """A served gateway."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    def seconds(self) -> float:
        """Return the CPU time it has taken so far, with all its processes."""
        return sum(_cpu_seconds(pid) for pid in _family(self.process.pid))


async def _measure(
    servers: Sequence[Server], settings: Mapping[str, str], key: str, *, rounds: int, requests: int
) -> list[Cost]:
    """Have every server answer so many requests of each kind, round by round.

    Args:
        servers: To compare; the first is what the others are compared with.
        settings: Of the gateway.
        key: Of a caller.
        rounds: How often each gets its turn.
        requests: Of one turn.
    """
    taken: dict[tuple[str, str], list[float]] = {}
    async with AsyncExitStack() as stack:
        running = {server: await stack.enter_async_context(_serve(server, settings)) for server in servers}
        asked = {path: _Requests(path, key) for path in PATHS}
        for gateway in running.values():
            for made in asked.values():
                await _send(gateway.port, made, _CONNECTIONS * 4)
        for _ in range(rounds):
            for path, made in asked.items():
                for server, gateway in running.items():
                    before = gateway.seconds()
                    await _send(gateway.port, made, requests)
                    cost = (gateway.seconds() - before) / requests * 1e6
                    taken.setdefault((server.name, path), []).append(cost)
    return [Cost(server, path, statistics.median(costs)) for (server, path), costs in taken.items()]


def table(costs: Sequence[Cost]) -> str:
    """Return the costs for people, each with its ratio to the first server's."""
    lines = [f"{'path':<16} {'server':<28} {'CPU per request':>16} {'ratio':>7}"]
    for path in PATHS:
        of_path = [cost for cost in costs if cost.path == path]
        first = of_path[0].microseconds
        lines += [
            f"{path:<16} {cost.server:<28} {cost.microseconds:>13.0f} us {cost.microseconds / first:>7.2f}"
            for cost in of_path
        ]
    return "\n".join(lines)


async def _send(port: int, made: _Requests, count: int) -> None:
    """Send so many requests, over some connections that are kept."""

    async def connection(times: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(times):
            writer.write(made.next())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith(("http/1.1 200", "http/1.1 201")), head
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        writer.close()
        await writer.wait_closed()

    each, more = divmod(count, _CONNECTIONS)
    await asyncio.gather(*(connection(each + (number < more)) for number in range(_CONNECTIONS)))


@asynccontextmanager
async def _serve(server: Server, settings: Mapping[str, str]) -> AsyncGenerator[_Running]:
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    last = () if server.port_option is None else (server.port_option, str(port))
    process = await asyncio.create_subprocess_exec(
        *server.command,
        *last,
        env={**kept, **settings, "GATEWAY_PORT": str(port), "GATEWAY_LOG_LEVEL": "warning"},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with harness.client(f"http://127.0.0.1:{port}") as client:

            async def serves() -> bool:
                assert process.returncode is None, f"{server.name} has ended"
                try:
                    return (await client.get("/readyz")).is_success
                except httpx.TransportError:
                    return False

            await harness.until(serves, bool)
        yield _Running(process, port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _family(pid: int) -> list[int]:
    children = [
        int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()
    ]
    return [pid, *(descendant for child in children for descendant in _family(child))]


def _cpu_seconds(pid: int) -> float:
    """Read the process's CPU clock: in nanoseconds, where `/proc` counts ticks of 10 ms, in which many requests fit."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


async def compare(servers: Sequence[Server], folder: Path, *, rounds: int, requests: int) -> list[Cost]:
    """Measure with a Valkey and a simulated VideoSDK of its own."""
    demo = harness.Demo(folder)
    with harness.AgedValkey() as valkey:
        async with harness.simulator() as simulator:
            # Believed for long: a repeated start is then one script and no call.
            more = {
                "GATEWAY_TRUST_SECONDS": "3600",
                "GATEWAY_CALLER_STARTS_PER_MINUTE": "0",
                "GATEWAY_VERIFY_ABSENT": "never",
            }
            settings = harness.environment(valkey.url, simulator.url, demo.file, **more)
            return await _measure(servers, settings, demo.key, rounds=rounds, requests=requests)
