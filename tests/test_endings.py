"""A session ends, whatever hangs in it."""

import subprocess
import sys
from contextlib import ExitStack
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
    "test": "the test hangs: it did not end in 10 s",
    "fixture of a test that failed": "Timeout (0:00:05)!",
    "fixture of a test that passed": "Timeout (0:00:05)!",
}
TIMEOUT = "15"
"""Seconds: a third of it lies between the bound of a test and the end of its process, more than any stall lasts."""


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of a session for each; side by side, because all they do is wait."""
    running: dict[str, subprocess.Popen[str]] = {}
    with ExitStack() as stack:
        for hanging, code in HANGS.items():
            folder = tmp_path_factory.mktemp("hanging")
            file = folder / "test_hanging.py"
            file.write_text(BEGINS + code)
            options = ["-p", "tests.endings", "-p", "no:cacheprovider", "-p", "no:randomly"]
            options += ["-o", f"timeout={TIMEOUT}", "--confcutdir", str(folder), "--rootdir", str(folder)]
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, str(file)],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            running[hanging] = stack.enter_context(process)
            stack.callback(process.kill)
        said = {hanging: process.communicate(timeout=120)[0] for hanging, process in running.items()}
    return {hanging: (running[hanging].returncode, said[hanging]) for hanging in HANGS}


@pytest.mark.parametrize("hanging", HANGS)
def test_session_with_a_hanging_test_ends(sessions: dict[str, tuple[int, str]], hanging: str) -> None:
    """A hanging test fails and the next one passes; a hanging fixture ends the process, which says where it stood."""
    code, said = sessions[hanging]
    assert code == 1, said
    assert SAYS[hanging] in said
    if hanging == "test":
        assert "1 failed, 1 passed" in said
