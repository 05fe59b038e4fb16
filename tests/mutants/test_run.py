"""The runner of mutants, on a project of its own with a few that are known to be killed or to survive."""

import sys
from collections.abc import Mapping
from typing import Final

import pytest

from tests.mutants.__main__ import report
from tests.mutants.mutant import Mutant
from tests.mutants.recording import Recording, load, record
from tests.mutants.run import Bounds, Verdict, drawn, every, run
from tests.mutants.tree import Project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the runner waits for processes in Linux's way")

_MODULE: Final = '''\
"""A scratch module."""

LIMIT = 3


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
from pathlib import Path

from scratch.bucket import allowed, count_down, label


def test_allowed():
    assert allowed(1, 2)
    assert not allowed(2, 2)


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
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that is no part of any repository."""
    root = tmp_path_factory.mktemp("project")
    for name, text in {
        "scratch/__init__.py": "",
        "scratch/bucket.py": _MODULE,
        "tests/test_bucket.py": _TESTS,
        "pyproject.toml": '[tool.pytest.ini_options]\naddopts = ["-p", "no:schemathesis"]\npythonpath = ["."]\n',
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return Project(root, "scratch")


@pytest.fixture(scope="module")
def recording(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Which of its tests run which of its lines."""
    file = tmp_path_factory.mktemp("recorded") / "lines.json"
    made = record(project, file, ["tests"])
    assert load(project, file) == made
    return made


def _mutants(project: Project, *codes: str) -> list[Mutant]:
    sources = project.sources()
    found = {mutant.becomes(sources[mutant.module]): mutant for mutant in every(sources)}
    return [found[code] for code in codes]


def _verdicts(verdicts: list[Verdict], sources: Mapping[str, str]) -> dict[str, tuple[bool, str]]:
    return {one.mutant.becomes(sources[one.mutant.module]): (one.killed, one.by) for one in verdicts}


def test_run_tells_killed_from_survived(project: Project, recording: Recording) -> None:
    """A mutant that a test notices twice is killed by that test; one that no test notices, or runs, survives."""
    sources = project.sources()
    mutants = _mutants(
        project,
        "LIMIT = 4",
        "return asked + spent < LIMIT",
        'return "none" if number <= 0 else str(number)',
        "return one - 5",
    )

    verdicts = run(project, recording, mutants, 1, Bounds(workers=1))

    test = "tests/test_bucket.py::test_allowed"
    assert _verdicts(verdicts, sources) == {
        "LIMIT = 4": (True, test),
        "return asked + spent < LIMIT": (True, test),
        'return "none" if number <= 0 else str(number)': (False, ""),
        "return one - 5": (False, "no test runs it"),
    }
    said = report(verdicts, sources)
    assert "50.0 % of 4 killed" in said
    assert '+    return "none" if number <= 0 else str(number)' in said
    assert "LIMIT = 4" not in said
    assert project.sources() == sources


def test_run_without_end_counts_as_killed(project: Project, recording: Recording) -> None:
    """A mutant whose test never ends is ended after the test's time, and counts as killed."""
    (endless,) = [
        mutant
        for mutant in every(project.sources())
        if mutant.operator == "statement" and mutant.code(_MODULE) == "number -= 1"
    ]

    (verdict,) = run(project, recording, [endless], 1, Bounds(workers=1, deadline=0.5))

    assert (verdict.killed, verdict.by) == (True, "time-out")


def test_run_after_its_minutes_begins_no_mutant(project: Project, recording: Recording) -> None:
    """Once the time is over, what is left is not tried."""
    assert run(project, recording, every(project.sources()), 1, Bounds(workers=1, minutes=0)) == []


def test_record_keeps_only_tests_that_pass(recording: Recording) -> None:
    """A test that fails without a mutant would kill them all."""
    assert {name.partition("::")[2] for name in recording.seconds} == {
        "test_allowed", "test_label", "test_that_fails_once", "test_count_down",
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


def test_state_of_a_project_changes_with_any_source(project: Project) -> None:
    """What was recorded of other sources, or other tests, is not used."""
    state = project.state()
    test = project.root / "tests/test_bucket.py"
    try:
        test.write_text(f"{_TESTS}\n")
        assert project.state() != state
    finally:
        test.write_text(_TESTS)
    assert project.state() == state
