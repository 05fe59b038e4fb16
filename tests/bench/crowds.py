"""What many at once cost, and what much that is known costs. `make bench-crowds`.

One client, for what the gateway adds to a call; a storm of equal starts on some processes; a webinar, where everybody's
recording begins in the same moment; and the cost of a start with ever more recordings, in all and in a room.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from msgspec import Struct

from tests.api_client import START
from tests.bench.load import Answered, drive
from tests.bench.measuring import Bench, serve, surroundings_of
from tests.bench.processes import ANY, Cores, Served
from tests.bench.programs import GATEWAY
from tests.bench.scenarios import CONNECTIONS, Asking
from tests.bench.upstream import slow_room

__all__ = ["Sizes", "measure"]

_STORM_MS: Final = 3000
_WEBINAR_MS: Final = 300
_ROUND_SECONDS: Final = 2.5
"""Longer than what a gateway does round by round takes to come again."""
_COUNTED: Final = 640
"""Starts by which a cost is measured."""


class Sizes(Struct, frozen=True, kw_only=True):
    """How much of everything.

    Attributes:
        processes: Gateways of the storm.
        storm: Equal starts.
        webinar: Distinct starts at once.
        concurrency: Calls of the webinar's gateway to the upstream at the same time.
        alone: Requests of the one client.
        records: Recordings that run while a start is measured.
        in_room: The same in one room.
    """

    processes: int = 4
    storm: int = 10_000
    webinar: int = 2000
    concurrency: int = 256
    alone: int = 400
    records: tuple[int, ...] = (10, 1_000, 30_000, 100_000)
    in_room: tuple[int, ...] = (1, 10, 300)


@asynccontextmanager
async def _gateways(
    folder: Path, cores: Cores, count: int = 1, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[tuple[Bench, Asking, list[Served]]]:
    """Run gateways with a Redis and an upstream of their own, warmed up."""
    async with surroundings_of(folder, cores) as (bench, surroundings), AsyncExitStack() as stack:
        served = [serve(GATEWAY, surroundings, folder, cores, settings) for _ in range(count)]
        asking = Asking(surroundings.key, CONNECTIONS)
        for one in served:
            stack.enter_context(one)
        for one in served:
            await one.ready(GATEWAY.ready)
            await _start(one, asking.starts(CONNECTIONS * 10))
        await _quiet(bench)
        yield bench, asking, served


async def _quiet(bench: Bench) -> None:
    """Wait until Redis runs no scripts: after it has begun, a gateway writes once more what it has just written."""
    before, now = -1, 0
    while before != now:
        await asyncio.sleep(_ROUND_SECONDS)
        before, (now, _) = now, bench.scripts()


async def _start(served: Served, requests: Sequence[bytes], connections: int = CONNECTIONS) -> Answered:
    """Send starts of what does not record."""
    return await drive(served.port, [requests[one::connections] for one in range(connections)], frozenset({201}))


async def _cost(served: Served, requests: Sequence[bytes]) -> float:
    """Return the microseconds of CPU that one of these starts costs the gateway."""
    before = served.cpu_seconds
    await _start(served, requests)
    return (served.cpu_seconds - before) / len(requests) * 1e6


def _percentile(waits: Sequence[float], share: float) -> float:
    return sorted(waits)[int((len(waits) - 1) * share)] * 1000


async def _alone(folder: Path, cores: Cores, sizes: Sizes) -> list[str]:
    async with _gateways(folder, cores) as (bench, asking, (gateway,)):
        path = "/v2/recordings/participant/track/start"
        direct = await drive(bench.upstream_port, [_at(path, asking.starts(sizes.alone))], frozenset({200}))
        through = await drive(gateway.port, [asking.starts(sizes.alone)], frozenset({201}))
        added = [_percentile(through.waits, share) - _percentile(direct.waits, share) for share in (0.5, 0.99)]
    return [f"one client: a start takes {added[0]:.2f} ms more than a direct call (p50), {added[1]:.2f} ms (p99)"]


def _at(path: str, requests: Sequence[bytes]) -> list[bytes]:
    """Send what was made for the gateway's start elsewhere."""
    return [request.replace(START.encode(), path.encode(), 1) for request in requests]


async def _storm(folder: Path, sizes: Sizes) -> list[str]:
    # One caller may wait for one target in a twentieth of the places.
    settings = {"GATEWAY_MOST_WAITING": str(max(20 * sizes.storm // sizes.processes, 1000))}
    async with _gateways(folder, ANY, sizes.processes, settings) as (bench, asking, gateways):
        body = {"roomId": slow_room("storm", _STORM_MS), "participantId": "p", "kind": "video"}
        request, each = asking.post(START, body), sizes.storm // sizes.processes
        (calls, _), (scripts, _) = await bench.upstream_calls(), bench.scripts()
        answered = await asyncio.gather(
            *(drive(gateway.port, [[request]] * each, frozenset({200, 201})) for gateway in gateways)
        )
        (calls_after, upstream_answered_at), (scripts_after, _) = await bench.upstream_calls(), bench.scripts()
        last = max(one.ended_at for one in answered) - upstream_answered_at
        resident = max(gateway.resident_mib for gateway in gateways)
    scripts_each = (scripts_after - scripts) / sizes.processes
    return [
        f"storm of {each * sizes.processes} equal starts on {sizes.processes} processes: {resident:.0f} MiB",
        f"  {calls_after - calls} upstream call(s), last answer {last:.2f} s after the upstream's",
        f"  {scripts_each:.0f} scripts a process in {_STORM_MS / 1000:.0f} s",
    ]


async def _webinar(folder: Path, sizes: Sizes) -> list[str]:
    settings = {"GATEWAY_UPSTREAM_CONCURRENCY": str(sizes.concurrency)}
    async with _gateways(folder, ANY, settings=settings) as (_, asking, (gateway,)):
        room = slow_room("webinar", _WEBINAR_MS)
        tracks = [{"roomId": room, "participantId": f"p{one}", "kind": "video"} for one in range(sizes.webinar)]
        requests = [[asking.post(START, track)] for track in tracks]
        elapsed = (await drive(gateway.port, requests, frozenset({201}))).elapsed
        resident = gateway.resident_mib
    bound = sizes.webinar / sizes.concurrency * _WEBINAR_MS / 1000
    return [
        f"webinar of {sizes.webinar} starts at once, {sizes.concurrency} upstream calls at a time: {resident:.0f} MiB",
        f"  {elapsed:.2f} s, {elapsed / bound:.2f} x the {bound:.2f} s that the calls alone take",
    ]


async def _curves(folder: Path, cores: Cores, sizes: Sizes) -> list[str]:
    lines: list[str] = []
    async with _gateways(folder, cores) as (_, asking, (gateway,)):
        known = 0
        for wanted in sizes.records:
            for room in range(known // 10, wanted // 10, 100):
                tracks = [
                    {"roomId": f"many-{room + one // 10}", "participantId": f"p{one % 10}", "kind": "video"}
                    for one in range(min(wanted - room * 10, 1000))
                ]
                await _start(gateway, [asking.post(START, track) for track in tracks])
            known = wanted
            cost = await _cost(gateway, _rooms(asking, f"among-{wanted}", 10))
            lines.append(f"a start beside {wanted} recordings: {cost:.0f} us, {gateway.resident_mib:.0f} MiB")
        for wanted in sizes.in_room:
            cost = await _cost(gateway, _rooms(asking, f"full-{wanted}", wanted))
            lines.append(f"a start in a room of {wanted}: {cost:.0f} us")
    return lines


def _rooms(asking: Asking, name: str, each: int) -> list[bytes]:
    """Make starts in rooms of so many."""
    tracks = [
        {"roomId": f"{name}-{number // each}", "participantId": f"p{number % each}", "kind": "video"}
        for number in range(_COUNTED)
    ]
    return [asking.post(START, track) for track in tracks]


async def _start_up(folder: Path, cores: Cores) -> list[str]:
    async with surroundings_of(folder, cores) as (_, surroundings):
        began = time.perf_counter()
        with serve(GATEWAY, surroundings, folder, cores) as gateway:
            await gateway.ready(GATEWAY.ready)
            return [f"start-up: {time.perf_counter() - began:.2f} s, {gateway.resident_mib:.0f} MiB"]


async def measure(folder: Path, sizes: Sizes, cores: Cores) -> list[str]:
    """Measure all of it; return a line for each figure."""
    return [
        *await _start_up(folder, cores),
        *await _alone(folder, cores, sizes),
        *await _storm(folder, sizes),
        *await _webinar(folder, sizes),
        *await _curves(folder, cores, sizes),
    ]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.crowds", description=__doc__)
    for name, size in msgspec.structs.asdict(Sizes()).items():
        nargs = "+" if isinstance(size, tuple) else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size, nargs=nargs)
    sizes = msgspec.convert(vars(parser.parse_args()), Sizes)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with (
        tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        for line in runner.run(measure(Path(folder), sizes, Cores.of_this_machine())):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
