"""A pytest plugin that records which test runs which line, and how long each test takes.

Runs inside the copied tree (`-p mutants_recorder`), in every worker of pytest-xdist. What child processes of a test run
is not recorded.
"""

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

_FOLDER = Path(os.environ["MUTANTS_RECORDING"])
_COVERAGE = coverage.Coverage(
    data_file=str(_FOLDER / "lines"), data_suffix=str(os.getpid()), source=[os.environ["MUTANTS_PACKAGE"]],
    config_file=False, messages=False,
)  # fmt: skip
_SECONDS: dict[str, float] = {}
_NOT_PASSED: set[str] = set()
_FAILED: set[str] = set()

_COVERAGE.start()  # before any conftest imports what is measured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tell the lines of one test from those of others, and how long it would take on a machine of its own."""
    _COVERAGE.switch_context(item.nodeid)
    computed = time.process_time()
    try:
        return (yield)
    finally:
        _COVERAGE.switch_context("")
        computed = time.process_time() - computed
        # What the test computed took so much longer as the machine had others to serve.
        busy = max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
        _SECONDS[item.nodeid] = computed + max(_SECONDS.get(item.nodeid, 0.0) - busy * computed, 0.0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how long a test took, with its fixtures."""
    _SECONDS[report.nodeid] = _SECONDS.get(report.nodeid, 0.0) + report.duration
    if not report.passed:
        _NOT_PASSED.add(report.nodeid)
    if report.failed:
        _FAILED.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write down what was recorded; a controller of workers has recorded nothing of its own."""
    _COVERAGE.stop()
    if getattr(session.config.option, "numprocesses", None) and not hasattr(session.config, "workerinput"):
        return
    _COVERAGE.save()
    passed = {test: seconds for test, seconds in _SECONDS.items() if test not in _NOT_PASSED}
    (_FOLDER / f"seconds.{os.getpid()}.json").write_text(json.dumps(passed))
    (_FOLDER / f"failed.{os.getpid()}.json").write_text(json.dumps(sorted(_FAILED)))
