"""Measures: the programs take turns, so that whatever changes during a run changes for all of them.

Of each turn it is the CPU time that is looked at, and of all turns the median: another machine, or a busy one, then
says nearly the same, above all of the ratios between programs.
"""

import statistics
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import redis
from msgspec import Struct

from gateway.sandbox.ports import free_port
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.bench.load import Answered, ask, drive
from tests.bench.processes import Cores, Served, cpu_seconds, on
from tests.bench.programs import Program, Surroundings
from tests.bench.scenarios import CONNECTIONS, SCENARIOS, Asking, Scenario

__all__ = ["Bench", "Figures", "measure", "serve", "surroundings_of"]

_WARM_UP = 320


class Figures(Struct, frozen=True, kw_only=True):
    """What one request of one scenario costs one program.

    Attributes:
        program: By name.
        scenario: By name.
        cpu_us: Microseconds of CPU of the program, user and system, of all its processes and threads.
        busy: Share of a core that it kept busy; far from 1, the rate says more about the load than about the program.
        rate: Requests a second.
        p50_ms: Milliseconds until half of the answers were there.
        p99_ms: Milliseconds until 99 % of the answers were there.
        scripts: That Redis ran.
        scripts_us: Microseconds of Redis's CPU in scripts, by its own count.
        redis_us: Microseconds of CPU of Redis's process.
        calls: To the upstream.
        resident_mib: Memory of the program after it.
    """

    program: str
    scenario: str
    cpu_us: float
    busy: float
    rate: float
    p50_ms: float
    p99_ms: float
    scripts: float
    scripts_us: float
    redis_us: float
    calls: float
    resident_mib: float


class _Counts(Struct, frozen=True):
    """What has been counted so far."""

    cpu: float
    redis_cpu: float
    scripts: int
    scripts_us: float
    calls: int


class Bench:
    """Redis, the upstream, and the programs that run."""

    def __init__(self, valkey: EmbeddedValkey, upstream: Served) -> None:
        self._valkey, self._upstream = valkey, upstream

    @property
    def upstream_port(self) -> int:
        """Where the upstream listens."""
        return self._upstream.port

    async def upstream_calls(self) -> tuple[int, float]:
        """Return how many calls the upstream got, and when it answered the last, by `time.perf_counter`."""
        _, said = await ask(self._upstream.port, "/calls")
        counts = msgspec.json.decode(said)
        return counts["calls"], counts["answered_at"]

    async def turn(self, program: str, served: Served, scenario: Scenario, asking: Asking, count: int) -> Figures:
        """Have a program answer so many requests of a scenario."""
        requests = scenario.requests(asking, count)
        before = await self._counts(served)
        answered = await drive(served.port, requests, scenario.expected, together=scenario.together)
        after = await self._counts(served)
        return _figures(program, scenario.name, answered, before, after, served.resident_mib)

    async def _counts(self, served: Served) -> _Counts:
        scripts, microseconds = self.scripts()
        calls, _ = await self.upstream_calls()
        return _Counts(served.cpu_seconds, cpu_seconds(self._valkey.pid), scripts, microseconds, calls)

    def scripts(self) -> tuple[int, float]:
        """Return how many scripts Redis ran, and for how many microseconds."""
        with redis.Redis.from_url(self._valkey.url) as admin:
            commands = cast("dict[str, dict[str, Any]]", admin.info("commandstats"))
        run = [counts for name, counts in commands.items() if name.startswith(("cmdstat_eval", "cmdstat_fcall"))]
        return sum(counts["calls"] for counts in run), sum(counts["usec"] for counts in run)


def _figures(
    program: str, scenario: str, answered: Answered, before: _Counts, after: _Counts, resident_mib: float
) -> Figures:
    waits = sorted(answered.waits)
    count = len(waits)
    return Figures(
        program=program,
        scenario=scenario,
        cpu_us=(after.cpu - before.cpu) / count * 1e6,
        busy=(after.cpu - before.cpu) / answered.elapsed,
        rate=count / answered.elapsed,
        p50_ms=waits[count // 2] * 1e3,
        p99_ms=waits[int(count * 0.99)] * 1e3,
        scripts=(after.scripts - before.scripts) / count,
        scripts_us=(after.scripts_us - before.scripts_us) / count,
        redis_us=(after.redis_cpu - before.redis_cpu) / count * 1e6,
        calls=(after.calls - before.calls) / count,
        resident_mib=resident_mib,
    )


async def measure(
    programs: Sequence[Program],
    folder: Path,
    *,
    rounds: int,
    requests: int,
    cores: Cores,
    warm_up: int = _WARM_UP,
    connections: int = CONNECTIONS,
    scenarios: Sequence[str] = (),
) -> list[Figures]:
    """Measure programs side by side, with a Redis and an upstream of their own.

    Args:
        programs: To compare.
        folder: For their logs.
        rounds: How often each has its turn; the figures are medians.
        requests: Of a turn.
        cores: Who runs where.
        warm_up: Requests of each scenario that are sent before any is counted.
        connections: To each program, in its turn.
        scenarios: Names; all unless given.
    """
    chosen = [scenario for scenario in SCENARIOS if not scenarios or scenario.name in scenarios]
    turns: dict[tuple[str, str], list[Figures]] = {}
    with on(cores.others):
        async with surroundings_of(folder, cores) as (bench, surroundings), AsyncExitStack() as stack:
            running: list[tuple[Program, Served, Asking]] = []
            for program in programs:
                served = serve(program, surroundings, folder, cores)
                stack.enter_context(served)
                await served.ready(program.ready)
                asking = Asking(surroundings.key, connections)
                await drive(served.port, [asking.running()], frozenset({201}))
                running.append((program, served, asking))
            for number in range(rounds + 1):
                for scenario in chosen:
                    for program, served, asking in running:
                        if program.plain and not scenario.plain:
                            continue
                        count = (requests if number else warm_up) * program.times
                        figures = await bench.turn(program.name, served, scenario, asking, count)
                        if number:
                            turns.setdefault((program.name, scenario.name), []).append(figures)
    return [_median(figures) for figures in turns.values()]


@asynccontextmanager
async def surroundings_of(folder: Path, cores: Cores) -> AsyncGenerator[tuple[Bench, Surroundings]]:
    """Run a Redis and an upstream."""
    port = free_port()
    command = (sys.executable, "-m", "tests.bench.upstream", str(port))
    upstream = Served(command, port, folder / "upstream.log", environ={}, cores=cores.others)
    with EmbeddedValkey(port=0) as valkey, upstream:
        harness.age(valkey)
        await upstream.ready("/calls")
        yield Bench(valkey, upstream), Surroundings.make(folder, valkey.url, f"http://127.0.0.1:{port}")


def serve(
    program: Program, surroundings: Surroundings, folder: Path, cores: Cores, more: Mapping[str, str] | None = None
) -> Served:
    """Make the process of a program, with more settings than all programs have."""
    port = free_port()
    last = () if program.port_option is None else (program.port_option, str(port))
    log = folder / f"{program.name}.log"
    environ = {**surroundings.environ(port), **(more or {})}
    return Served((*program.command, *last), port, log, environ=environ, cores=cores.measured)


def _median(turns: list[Figures]) -> Figures:
    fields = [field for field in Figures.__struct_fields__ if field not in {"program", "scenario"}]
    medians = {field: statistics.median(getattr(figures, field) for figures in turns) for field in fields}
    return Figures(program=turns[0].program, scenario=turns[0].scenario, **medians)
