"""Clients generated from the contract work unedited, and linters find nothing in it."""

import json
import shutil
import sys
import uuid
from pathlib import Path

import httpx
import pytest

from gateway.sandbox.simulator import Simulator
from tests import harness
from tests.browser import node_project

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parent
CONTRACT = FOLDER.parents[1] / "openapi" / "gateway.yaml"
WORKS = {
    "started": [[200, "joined"], [201, "started"]],
    "ids": 1,
    "again": [200, "already_recording"],
    "conflict": [409, "/problems/parameters-differ", ["bucketDirPath"]],
    "seen": [200, "recording"],
    "stopped": [200, "stopped"],
    "batch": [[0, 201, "started"], [0, 201, "started"], [1, 201, "started"], [2, 422, ["items[2].kind"]]],
    "ended": [True, 0, ["stopped", "stopped", "stopped"]],
}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generators and linters from npm, and the contract beside them."""
    folder = node_project.installed(FOLDER / "node", tmp_path_factory.mktemp("clients"))
    shutil.copy(CONTRACT, folder)
    return folder


def tool(project: Path, name: str) -> Path:
    """Return the path of an installed program."""
    return project / "node_modules" / ".bin" / name


@pytest.fixture
def slow_start(simulator: Simulator) -> None:
    """Have a start take long enough for another to meet it."""
    simulator.inject(harness.delay("start", 2))


@pytest.mark.usefixtures("slow_start")
async def test_typescript_client_is_generated_and_works(
    project: Path, tmp_path: Path, gateway: httpx.AsyncClient, demo: harness.Demo
) -> None:
    """openapi-typescript generates without a warning; what is written against it compiles in strict mode and works."""
    generate = [tool(project, "openapi-typescript"), project / "gateway.yaml", "-o", project / "api.ts"]
    # Elsewhere, since beside the linter's rules it would lint as well, without the linter's list of exceptions.
    code, out, err = await node_project.run(*generate, cwd=tmp_path)
    assert (code, "⚠" in out + err, "✘" in out + err) == (0, False, False), out + err

    code, out, err = await node_project.run(tool(project, "tsc"), cwd=project)
    assert code == 0, out + err

    use = ["node", "out/use.js", str(gateway.base_url), demo.key, f"ts-{uuid.uuid4().hex[:8]}"]
    code, out, err = await node_project.run(*use, cwd=project)
    assert code == 0, err
    assert json.loads(out) == WORKS


@pytest.mark.usefixtures("slow_start")
async def test_python_client_is_generated_and_works(
    tmp_path: Path, gateway: httpx.AsyncClient, demo: harness.Demo
) -> None:
    """openapi-python-client generates without a warning, and what it generates works, warnings being errors."""
    generate = ["generate", "--path", CONTRACT, "--meta", "none", "--output-path", "recording_gateway_client"]
    code, out, err = await node_project.run(
        Path(sys.executable).with_name("openapi-python-client"), *generate, "--fail-on-warning", cwd=tmp_path
    )
    assert code == 0, out + err
    assert "arning" not in out + err, out + err

    shutil.copy(FOLDER / "use.py", tmp_path)
    use = [sys.executable, "-W", "error", "use.py", str(gateway.base_url), demo.key, f"py-{uuid.uuid4().hex[:8]}"]
    code, out, err = await node_project.run(*use, cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out) == WORKS


async def test_redocly_reports_nothing(project: Path) -> None:
    """Redocly's recommended rules find neither an error nor a warning."""
    lint = ["lint", "gateway.yaml", "--config", "redocly.yaml", "--format", "json"]
    code, out, err = await node_project.run(tool(project, "redocly"), *lint, cwd=project)
    report = json.loads(out[out.index("{") :])
    problems = [f"{problem['ruleId']}: {problem['location'][0]['pointer']}" for problem in report["problems"]]
    assert (code, problems) == (0, []), err


async def test_spectral_reports_nothing(project: Path) -> None:
    """Spectral's rules for OpenAPI find nothing, down to hints."""
    lint = ["lint", "gateway.yaml", "--ruleset", "spectral.yaml", "--fail-severity", "hint", "--format", "json"]
    code, out, err = await node_project.run(tool(project, "spectral"), *lint, cwd=project)
    assert code == 0, out + err
    assert json.loads(out[: out.rindex("]") + 1]) == []


async def test_contract_with_a_planted_defect_fails_both_linters(project: Path, tmp_path: Path) -> None:
    """A contract with a planted defect fails both: their silence about ours means something."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        CONTRACT.read_text("utf-8").replace("operationId: stopTrackRecording", "operationId: getLiveness")
    )
    redocly, _, _ = await node_project.run(
        tool(project, "redocly"), "lint", broken, "--config", "redocly.yaml", cwd=project
    )
    spectral, out, _ = await node_project.run(
        tool(project, "spectral"), "lint", broken, "--ruleset", "spectral.yaml", cwd=project
    )
    assert (redocly, spectral) == (1, 1)
    assert "operation-operationId-unique" in out


@pytest.mark.parametrize("folder", ["browser", "clients"])
def test_lock_files_name_no_registry(folder: str) -> None:
    """The lock file leaves the choice of a registry to the installer."""
    lock = json.loads((FOLDER.parent / folder / "node" / "package-lock.json").read_text("utf-8"))
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
