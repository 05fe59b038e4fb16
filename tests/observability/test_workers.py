"""Several workers in one container: their numbers add up, however often one of them dies."""

import asyncio
import os
import signal
import stat
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, ApiClient
from tests.observability.numbers import Numbers, scrape

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

T = TypeVar("T")


def children(pid: int) -> set[int]:
    """Return the workers of a gateway: those of its children that serve."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()}


@asynccontextmanager
async def gateway_process(
    settings: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[harness.GatewayProcess]:
    """Run a gateway with a folder of its own for temporary files."""
    monkeypatch.setenv("TMPDIR", str(folder))
    process = await harness.GatewayProcess(settings, folder.parent / "gateway.log").ready()
    try:
        yield process
    finally:
        assert process.stop() == 0, process.log.read_text()


def folders(place: Path, named: str = "gateway-metrics-*") -> list[Path]:
    """Return what lies there."""
    return list(place.glob(named))


def counters(folder: Path) -> int:
    """Count the workers that have a file for their counters."""
    return len(list(folder.glob("counter_*.db")))


@pytest.fixture
def valkey() -> Generator[EmbeddedValkey]:
    """A server of the test's own: what another left there would be looked after here, and counted."""
    with harness.PatientValkey() as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The only folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


async def ask(url: str, key: str, times: int, work: Callable[[ApiClient], Awaitable[T]]) -> list[T]:
    """Ask several times, each on a connection of its own, so that any worker may answer."""
    answers: list[T] = []
    for _ in range(times):
        async with harness.client(url, key) as gateway:
            answers.append(await work(gateway))
    return answers


async def test_metrics_of_two_workers_add_up_over_200_starts(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_track: Any,
) -> None:
    """200 equal starts: one upstream, 200 answers counted; every worker tells the same; nothing is left behind."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_WORKERS="2")
    simulator.inject(harness.delay("start", 4))
    async with gateway_process(settings, place, monkeypatch) as process:
        await harness.eventually(lambda: len(children(process.pid)) == 2)
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as storm:
            headers = {"authorization": f"Bearer {demo.key}"}
            track = new_track()
            answers = await asyncio.gather(
                *(storm.post(process.url + START, json=track, headers=headers) for _ in range(200))
            )
        told = Counter(answer.json()["outcome"] for answer in answers)
        assert told == {"started": 1, "joined": 199}
        assert sum(call.endpoint == "start" for call in simulator.calls) == 1
        for seen in await ask(process.url, demo.key, 6, scrape):
            assert seen.get("starts_total", outcome="started", mode="track") == 1
            assert seen.get("starts_total", outcome="joined", mode="track") == 199
            assert seen.total("http_requests_total", route="startTrackRecording") == 200
            assert seen.total("phase_duration_seconds_count", phase="wait") == 200
            assert seen.get("upstream_requests_total", operation="start", status="2xx") == 1
            assert (seen.get("waiting_callers"), seen.get("operations_in_flight")) == (0, 0)
            assert len([family for family in seen.families if family.name == "gateway_build_info"]) == 1
        (numbers,) = folders(place)
        assert stat.S_IMODE(numbers.stat().st_mode) == 0o700
        # Both have served: otherwise nothing was added up.
        assert counters(numbers) == 2
    assert folders(place) == []


async def test_metrics_of_a_dead_worker_keep_counters_and_drop_gauges(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_track: Any,
) -> None:
    """Both are killed with starts under way: counters do not fall, no caller counts as waiting, no file is left."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_WORKERS="2")
    simulator.inject(harness.delay("start", 6))

    async def start(track: dict[str, str]) -> None:
        async with harness.client(process.url, demo.key) as caller:
            await caller.start(track)

    async def numbers() -> Numbers:
        (seen,) = await ask(process.url, demo.key, 1, scrape)
        return seen

    async with gateway_process(settings, place, monkeypatch) as process:
        await harness.eventually(lambda: len(children(process.pid)) == 2)
        counted = {"route": "/problems/{slug}", "method": "GET", "status": "200"}
        await ask(process.url, demo.key, 7, lambda gateway: gateway.get("/problems/not-found"))
        starts = [asyncio.create_task(start(new_track())) for _ in range(4)]
        before = await harness.until(numbers, lambda seen: seen.get("waiting_callers") == 4)
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*starts, return_exceptions=True)
        await harness.eventually(lambda: len(children(process.pid)) == 2)
        await process.ready()
        after = await harness.until(numbers, lambda seen: seen.get("waiting_callers") == 0)
        assert before.get("http_requests_total", **counted) == after.get("http_requests_total", **counted) == 7
        (numbers_folder,) = folders(place)
        assert counters(numbers_folder) <= 2


async def test_metrics_of_one_process_make_no_files(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers lie in memory, even where a directory for several processes is set."""
    theirs = place / "theirs"
    theirs.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(theirs))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with gateway_process(settings, place, monkeypatch) as process, harness.client(process.url) as gateway:
        seen = await scrape(gateway)
        assert (await scrape(gateway)).total("http_requests_total") == seen.total("http_requests_total") + 1
        assert folders(place) == []
        assert folders(theirs, "*") == []


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that has ended may still be listed until its parent reads its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_workers_end_with_their_parent(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """The process that would ask them to end is killed: they end by themselves, and leave the port."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_WORKERS="2")
    process = await harness.GatewayProcess(settings, tmp_path / "log").ready()
    await harness.eventually(lambda: len(children(process.pid)) == 2)
    workers = children(process.pid)
    process.kill()
    await harness.eventually(lambda: not any(lives(worker) for worker in workers))
