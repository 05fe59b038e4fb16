"""The runner of mutants, on a project of its own with a few that are known to be killed or to survive."""

import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.mutants.__main__ import report
from tests.mutants.mutant import Mutant
from tests.mutants.recording import Recording, load, record
from tests.mutants.run import Bounds, Verdict, drawn, every, run
from tests.mutants.tree import Project, copies

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the runner waits for processes in Linux's way")

_MODULE: Final = '''\
"""A scratch module."""

LIMIT = 1


def allowed(asked: int, spent: int) -> bool:
    """Tell whether there is room."""
    return asked + spent <= LIMIT


def label(number: int) -> str:
    """Return a name."""
    return "none" if number < 0 else str(number)


def count_down(number: int) -> int:
    """Return 0."""
    while number > 0:
        number -= 1
    return number


def untested(one: int) -> int:
    """Return the next."""
    return one + 5
'''
_TESTS: Final = """\
import os
from pathlib import Path

from scratch.bucket import allowed, count_down, label


def test_allowed():
    assert allowed(1, 0)
    assert not allowed(1, 1)


def test_label():
    assert label(5) == "5"


def test_that_fails_once():
    once = Path("failed once")
    if label(0) == "none" and not once.exists():
        once.touch()
        raise AssertionError


def test_count_down():
    assert count_down(2) == 0


def test_that_fails():
    raise AssertionError


def test_that_was_disturbed():
    disturbed = Path("disturbed")
    if "MUTANTS_RECORDING" in os.environ and not disturbed.exists():
        disturbed.touch()
        raise AssertionError
"""
_LEFT_OUT: Final = (
    "schemathesis",
    "randomly",
    "faker",
    "hypothesispytest",
    "valkey",
    "anyio",
    "xdist",
    "xdist.looponfail",
)
"""Plugins that take long to import, and that nothing here needs."""
_OPTIONS: Final = ", ".join(f'"-pno:{name}"' for name in _LEFT_OUT)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that is no part of any repository."""
    root = tmp_path_factory.mktemp("project")
    for name, text in {
        "scratch/__init__.py": "",
        "scratch/bucket.py": _MODULE,
        "tests/test_bucket.py": _TESTS,
        "tests/test_other.py": "def test_other():\n    pass\n",
        "pyproject.toml": f'[tool.pytest.ini_options]\naddopts = [{_OPTIONS}]\npythonpath = ["."]\n',
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return Project(root, "scratch")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recording is kept."""
    return tmp_path_factory.mktemp("recorded") / "lines.json"


@pytest.fixture(scope="module")
def recording(project: Project, kept: Path) -> Recording:
    """Which of its tests run which of its lines."""
    made = record(project, kept)
    assert load(project, kept) == (made, [])
    return made


def _mutants(project: Project, *codes: str) -> list[Mutant]:
    sources = project.sources()
    found = {mutant.becomes(sources[mutant.module]): mutant for mutant in every(sources)}
    return [found[code] for code in codes]


def _verdicts(verdicts: list[Verdict], sources: Mapping[str, str]) -> dict[str, tuple[bool, str]]:
    return {one.mutant.becomes(sources[one.mutant.module]): (one.killed, one.by) for one in verdicts}


def test_run_tells_killed_from_survived(project: Project, recording: Recording) -> None:
    """A mutant is killed by the test that fails or does not end twice; one that no test notices, or runs, survives."""
    sources = project.sources()
    mutants = _mutants(
        project,
        "LIMIT = 2",
        "return asked + spent < LIMIT",
        'return "none" if number <= 0 else str(number)',
        "return one - 5",
    )
    (endless,) = [
        mutant for mutant in every(sources) if mutant.operator == "statement" and mutant.code(_MODULE) == "number -= 1"
    ]

    verdicts = run(project, recording, [*mutants, endless], 1, Bounds(workers=1, deadline=0.25))

    test = "tests/test_bucket.py::test_allowed"
    assert _verdicts(verdicts, sources) == {
        "LIMIT = 2": (True, test),
        "return asked + spent < LIMIT": (True, test),
        'return "none" if number <= 0 else str(number)': (False, ""),
        "return one - 5": (False, ""),
        "pass": (True, "tests/test_bucket.py::test_count_down"),
    }
    assert [one.mutant for one in verdicts if one.late] == [endless]
    said = report(verdicts, sources)
    assert "60.0 % of 5 killed" in said
    assert '+    return "none" if number <= 0 else str(number)' in said
    assert "LIMIT = 2" not in said
    assert project.sources() == sources


def test_run_after_its_minutes_begins_no_mutant(project: Project, recording: Recording) -> None:
    """Once the time is over, what is left is not tried."""
    assert run(project, recording, every(project.sources()), 1, Bounds(workers=1, minutes=0)) == []


def test_record_keeps_only_tests_that_pass(recording: Recording) -> None:
    """A test that fails without a mutant would kill them all; one that failed once may have met a busy machine."""
    assert {name.partition("::")[2] for name in recording.seconds} == {
        "test_allowed", "test_label", "test_that_fails_once", "test_count_down",
        "test_that_was_disturbed", "test_other",
    }  # fmt: skip


def test_draw_with_one_seed_is_the_same_with_another_differs(project: Project) -> None:
    """A seed decides which mutants are tried, and no two of one kind in one line are."""
    mutants = every(project.sources())

    def draw(seed: int) -> list[Mutant]:
        return list(drawn(mutants, seed, lambda _: True))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    places = [(mutant.line, mutant.operator) for mutant in draw(1)]
    assert len(places) == len(set(places)) > 10


def test_load_after_an_edit_of_tests_names_only_their_file(project: Project, recording: Recording, kept: Path) -> None:
    """A file of tests that has changed is recorded anew, and no other; one that all share concerns them all."""
    test, settings = project.root / "tests/test_bucket.py", project.root / "pyproject.toml"
    with _edited(test, f"{_TESTS}\n"):
        loaded, missing = load(project, kept)
        assert missing == ["tests/test_bucket.py"]
        assert set(loaded.seconds) == {"tests/test_other.py::test_other"}
    with _edited(settings, f"{settings.read_text()}\n"):
        assert load(project, kept)[1] == ["tests/test_bucket.py", "tests/test_other.py"]
    assert load(project, kept) == (recording, [])


def test_load_after_an_edit_of_a_module_moves_its_lines(project: Project, recording: Recording, kept: Path) -> None:
    """A line that moves keeps its tests, and what was recorded is known to be of other sources."""
    with _edited(project.root / "scratch/bucket.py", _MODULE.replace("LIMIT = 1", "\n\nLIMIT = 1")):
        loaded, missing = load(project, kept)
    before, after = (of.lines["scratch/bucket.py"] for of in (recording, loaded))
    assert missing == []
    assert (recording.stale, loaded.stale) == (False, True)
    line = 1 + _MODULE.splitlines().index("    return asked + spent <= LIMIT")
    assert after[line + 2] == before[line] == {"tests/test_bucket.py::test_allowed"}


def test_run_with_old_recording_believes_no_test_that_fails_without_a_mutant(
    project: Project, recording: Recording
) -> None:
    """Where the sources have changed since, a test must pass on them before its failure on a mutant counts."""
    text = _MODULE.replace("spent <= LIMIT", "spent <= LIMIT + 1")
    with _edited(project.root / "scratch/bucket.py", text):
        stale = replace(recording, sources=project.sources(), stale=True)
        (wrong,) = [mutant for mutant in every(stale.sources) if "spent < LIMIT" in mutant.becomes(text)]
        (verdict,) = run(project, stale, [wrong], 1, Bounds(workers=1))
    assert (verdict.killed, verdict.by) == (False, "")


def test_tests_of_a_script_are_those_of_the_class_that_sends_it() -> None:
    """Those that run the class, on one server; tests of the protocol's scripts cannot notice another's mutant."""
    sender, other = "tests/api/test_sender.py::test_one", "tests/coordinator/test_scripts.py::test_two"
    script, module = "gateway/store/limit.lua", "gateway/store/token_buckets.py"
    sources = {script: "return 1", module: 'SCRIPT = Script("gateway.store", "limit")'}
    seconds = {sender: 0.1, other: 0.1, f"{sender}[redis-6.2]": 0.1}
    recording = Recording(seconds, {module: {1: frozenset({sender, f"{sender}[redis-6.2]"})}}, sources)
    assert recording.tests(Mutant(script, "constant", 7, 8, "2", 1, 1)) == [sender]


def test_tests_named_for_a_module_come_first_also_where_they_run_it() -> None:
    """Of what a module declares, a test in this process can tell as much as one that starts another."""
    module = "gateway/observability/metrics.py"
    tests = [f"tests/observability/test_metrics.py::test_{name}" for name in ("here", "elsewhere")]
    stranger = "tests/api/test_start.py::test_start"
    lines = {module: {2: frozenset({tests[0], stranger})}}
    recording = Recording(dict.fromkeys([stranger, *tests], 0.1), lines, {module: "A = f(1)\nB = 2"})
    assert set(recording.tests(Mutant(module, "constant", 6, 7, "2", 1, 1))[:2]) == set(tests)


def test_copies_of_a_killed_process_go_with_the_next() -> None:
    """What a process that was killed has left in the folder for temporary files does not stay."""
    left = (
        "from tests.mutants.tree import copies; import os; c = copies(); print(c.__enter__(), flush=True); os._exit(9)"
    )
    said = subprocess.run([sys.executable, "-c", left], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    folder = Path(said.stdout.strip())
    assert folder.is_dir()
    with copies() as own:
        assert not folder.exists()
        assert own.is_dir()
    assert not own.exists()


@contextmanager
def _edited(file: Path, text: str) -> Generator[None]:
    before = file.read_text()
    file.write_text(text)
    try:
        yield
    finally:
        file.write_text(before)
