"""A session ends, whatever hangs in it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BEGINS = """
import asyncio
import pytest

pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def stuck():
    yield
    await asyncio.Event().wait()

@pytest.fixture
async def calm():
    yield
"""
HANGS = {
    "test": "async def test_hangs(calm):\n    await asyncio.Event().wait()\nasync def test_next(calm): pass\n",
    "fixture of a test that failed": "async def test_fails(stuck):\n    assert False\n",
    "fixture of a test that passed": "async def test_passes(stuck):\n    pass\n",
}
SAYS = {
    "test": "the test hangs: it did not end in 6 s",
    "fixture of a test that failed": "Timeout (0:00:03)!",
    "fixture of a test that passed": "Timeout (0:00:03)!",
}


@pytest.mark.parametrize("hanging", HANGS)
def test_session_with_a_hanging_test_ends(tmp_path: Path, hanging: str) -> None:
    """A hanging test fails and the next one passes; a hanging fixture ends the process, which says where it stood."""
    file = tmp_path / "test_hanging.py"
    file.write_text(BEGINS + HANGS[hanging])
    options = ["-p", "tests.endings", "-p", "no:cacheprovider", "-p", "no:randomly", "--confcutdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-o", "timeout=9", "--rootdir", str(tmp_path), str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert SAYS[hanging] in done.stdout + done.stderr
    if hanging == "test":
        assert "1 failed, 1 passed" in done.stdout
