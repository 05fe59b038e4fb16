"""The measurements can be made: nothing is said of what comes out, which is another machine's every time."""

from pathlib import Path

import pytest

from tests.bench.servers import PATHS, SHIPPED, Cost, compare, table


@pytest.mark.anyio
async def test_bench_measures_every_path_of_the_shipped_server(tmp_path: Path) -> None:
    """Every path is answered as it should be and has cost something; the table compares the first with itself."""
    costs = await compare([SHIPPED], tmp_path, rounds=1, requests=1)
    assert [(cost.server, cost.path) for cost in costs] == [(SHIPPED.name, path) for path in PATHS]
    # One request is far less than a tick of the kernel's, and costs something all the same, on a machine however fast.
    assert all(cost.microseconds > 0 for cost in costs)
    lines = table(costs).splitlines()
    assert len(lines) == 1 + len(PATHS)
    assert all(line.endswith(" 1.00") for line in lines[1:])


def test_bench_table_compares_each_path_with_the_first_server() -> None:
    """Each line has the cost of its server, and its ratio to the first server's on the same path."""
    costs = [
        Cost(server, path, microseconds * times)
        for server, times in (("first", 1), ("other", 1.5))
        for path, microseconds in zip(PATHS, (200, 560, 3400), strict=True)
    ]
    shown = [line.rsplit(maxsplit=4) for line in table(costs).splitlines()[1:]]
    assert [(line[0].split()[0], *line[1:]) for line in shown] == [
        ("livez", "first", "200", "us", "1.00"),
        ("livez", "other", "300", "us", "1.50"),
        ("repeated", "first", "560", "us", "1.00"),
        ("repeated", "other", "840", "us", "1.50"),
        ("new", "first", "3400", "us", "1.00"),
        ("new", "other", "5100", "us", "1.50"),
    ]
