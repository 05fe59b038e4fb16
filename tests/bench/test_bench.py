"""The measurements can be made: nothing is said of times, which are another machine's, or busier, every time."""

import json
import os
import sys
from pathlib import Path

import pytest

from gateway.sandbox.ports import free_port
from tests import harness
from tests.bench.crowds import Sizes
from tests.bench.crowds import measure as measure_crowds
from tests.bench.load import UnexpectedAnswerError, ask, drive
from tests.bench.measuring import Figures, measure
from tests.bench.processes import ANY, Served, cpu_seconds
from tests.bench.programs import FASTAPI, GATEWAY, Program, node
from tests.bench.report import read, table, write
from tests.bench.scenarios import SCENARIOS

pytestmark = pytest.mark.anyio

CONNECTIONS = 4
CALLS = {"start": 1.0, "stop": 1.0, "join": 1 / CONNECTIONS}
"""Upstream calls of a request; others make none."""


async def short(programs: list[Program], folder: Path) -> list[Figures]:
    """Measure with as few requests as show that all of it works."""
    count = 2 * CONNECTIONS
    return await measure(
        programs, folder, rounds=1, requests=count, warm_up=CONNECTIONS, connections=CONNECTIONS, cores=ANY
    )


async def test_bench_measures_every_scenario_of_the_gateway_beside_a_plain_program(tmp_path: Path) -> None:
    """Every scenario is answered as it should be, costs something, and calls the upstream as often as it must."""
    figures = await short([GATEWAY, FASTAPI], tmp_path)
    of_gateway = {one.scenario: one for one in figures if one.program == GATEWAY.name}
    assert list(of_gateway) == [scenario.name for scenario in SCENARIOS]
    plain = [one.scenario for one in figures if one.program == FASTAPI.name]
    assert plain == [scenario.name for scenario in SCENARIOS if scenario.plain]
    assert {name: one.calls for name, one in of_gateway.items()} == {name: CALLS.get(name, 0) for name in of_gateway}
    # One request is far less than a tick of the kernel's, and costs something all the same, on a machine however fast.
    assert all(min(one.cpu_us, one.rate, one.p50_ms, one.p99_ms, one.resident_mib) > 0 for one in figures)
    assert of_gateway["start"].scripts >= 2
    assert of_gateway["start"].scripts_us > 0


async def test_bench_measures_the_program_for_node(tmp_path: Path) -> None:
    """It does what a plain program is measured by, and calls the upstream as often as the gateway does."""
    program = node(tmp_path / "node")
    if program is None:
        harness.skip_unless_ci("there is no Node, or its packages cannot be had")
    figures = await short([program], tmp_path)
    assert [one.scenario for one in figures] == [scenario.name for scenario in SCENARIOS if scenario.plain]
    assert {one.scenario: one.calls for one in figures} == {one.scenario: CALLS.get(one.scenario, 0) for one in figures}


async def test_bench_measures_crowds(tmp_path: Path) -> None:
    """Each is answered as it should be; a storm on two processes is one upstream call."""
    sizes = Sizes(processes=2, storm=20, webinar=8, concurrency=4, alone=4, records=(10, 20), in_room=(1, 10))
    lines = await measure_crowds(tmp_path, sizes, ANY)
    assert len(lines) == 11
    assert [line for line in lines if line.startswith("  1 upstream call(s)")]


async def test_load_with_an_unexpected_answer_fails(tmp_path: Path) -> None:
    """An answer of another status is no measurement; the error shows the answer."""
    port = free_port()
    command = (sys.executable, "-m", "tests.bench.upstream", str(port))
    with Served(command, port, tmp_path / "upstream.log", environ={}, cores=frozenset()) as upstream:
        await upstream.ready("/calls")
        request = b"GET /v2/recordings/participant/track?roomId=r HTTP/1.1\r\nhost: h\r\n\r\n"
        answered = await drive(port, [[request, request], [request]], frozenset({200}))
        assert len(answered.waits) == 3
        _, said = await ask(port, "/calls")
        assert json.loads(said)["calls"] == 3
        with pytest.raises(UnexpectedAnswerError, match="200 OK"):
            await drive(port, [[request]], frozenset({201}))


FORKS = """
import os, pathlib, sys, time
mine, parents = os.pipe()
child = os.fork()
if not child:
    os.close(parents)
    while time.process_time() < 0.2:
        pass
    pathlib.Path(sys.argv[1]).touch()
    os.read(mine, 1)  # until the parent is gone
    os._exit(0)
os.waitpid(child, 0)
"""


async def test_cpu_time_of_a_process_is_that_of_its_children_too(tmp_path: Path) -> None:
    """A worker's time is counted as the gateway's."""
    done = tmp_path / "done"
    command = (sys.executable, "-c", FORKS, str(done))
    with Served(command, 0, tmp_path / "log", environ={}, cores=frozenset()) as served:
        await harness.eventually(done.exists)
        assert served.cpu_seconds - cpu_seconds(served.pid) >= 0.2
        assert cpu_seconds(os.getpid()) > 0


def figures(program: str, scenario: str, cpu_us: float) -> Figures:
    """Make figures of which only the cost matters."""
    others = {name: 1.0 for name in Figures.__struct_fields__ if name not in {"program", "scenario", "cpu_us"}}
    return Figures(program=program, scenario=scenario, cpu_us=cpu_us, **others)


def test_table_compares_each_cost_with_a_start_of_the_plain_programs(tmp_path: Path) -> None:
    """Each line has the cost, its ratio to the start of each plain program, and to the same cost of an earlier run."""
    run = [figures("gateway", "start", 300), figures("plain", "start", 100), figures("gateway", "livez", 50)]
    write([figures("gateway", "start", 600), figures("plain", "start", 100)], tmp_path / "before.json")
    lines = table(run, ["plain"], read(tmp_path / "before.json")).splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [
        ["start", "gateway", "300", "3.00", "0.50"],
        ["start", "plain", "100", "1.00", "1.00"],
        ["livez", "gateway", "50", "0.50", "-"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_figures_that_were_written_are_read_again(tmp_path: Path) -> None:
    """A later run compares itself with all that an earlier one has measured."""
    run = [figures("gateway", "start", 300.5), figures("plain", "start", 100.25)]
    write(run, tmp_path / "figures.json")
    assert read(tmp_path / "figures.json") == run
