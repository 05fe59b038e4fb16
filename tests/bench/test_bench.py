"""The measurements can be made: nothing is said of what comes out, which is another machine's every time."""

from pathlib import Path

import pytest

from tests.bench.servers import PATHS, SHIPPED, compare, table


@pytest.mark.anyio
async def test_what_is_shipped_can_be_measured(tmp_path: Path) -> None:
    """Every path is answered as it should be and has cost something; the table compares the first with itself."""
    costs = await compare([SHIPPED], tmp_path, rounds=1, requests=64)
    assert [(cost.server, cost.path) for cost in costs] == [(SHIPPED.name, path) for path in PATHS]
    assert all(cost.microseconds > 0 for cost in costs)
    lines = table(costs).splitlines()
    assert len(lines) == 1 + len(PATHS)
    assert all(line.endswith(" 1.00") for line in lines[1:])
