"""Every route answers as documented, whatever it is sent: a short form of `make fuzz`."""

import random
from pathlib import Path

import pytest

from tests.fuzz.run import fuzz, target

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]


async def test_fuzzed_requests_are_answered_as_documented(tmp_path: Path) -> None:
    """All phases of Schemathesis against a live process find no 5xx and nothing the contract does not say."""
    seed = random.randrange(2**32)
    async with target(tmp_path) as aim:
        done = await fuzz(aim, tmp_path, 10, seed)
    assert done.code == 0, f"seed {seed}\n{done.report}"
    assert done.cases > 200, done.report
    assert "Operations:       25 selected / 25 total" in done.report
    assert all(f"✅  {phase}" in done.report for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"))
