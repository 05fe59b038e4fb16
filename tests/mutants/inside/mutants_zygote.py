"""A process that has imported pytest and all libraries, but nothing of the tree it stands in, and forks to run tests.

Runs inside the copied tree. Each line of its input is a request in JSON: `tests` (in order), `seconds` (the time-out),
`folder` (of its own, for temporary files). It answers each with a line: `code` (pytest's, or -1 for a time-out), `cpu`
seconds and the test that failed. What it forks dies with it.

    python -m mutants_zygote PACKAGE MODULE...    with the modules of the package and its tests to look through
"""

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

_LIST = "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module(n)\nprint(*sys.modules)"
_PLUGINS = ("pytest_timeout", "pytest_randomly", "anyio.pytest_plugin", "_pytest.assertion.rewrite")


class Chosen:
    """Keeps the chosen tests, in their order, and notes which failed."""

    def __init__(self, tests: list[str]) -> None:
        self._order = {test: place for place, test in enumerate(tests)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out and sort."""
        items[:] = sorted((item for item in items if item.nodeid in self._order), key=self._place)

    def _place(self, item: pytest.Item) -> int:
        return self._order[item.nodeid]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the first that failed."""
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that cannot be read."""
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (collection)"


def main(package: str, *modules: str) -> None:
    """Import, then fork for each request."""
    _import_libraries(package, modules)
    gc.collect()
    gc.freeze()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # also in the middle of a run
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line), prctl)) + "\n")
        sys.stdout.flush()


def _import_libraries(package: str, modules: tuple[str, ...]) -> None:
    """Import what the modules import, which another process finds out, but nothing that may be changed."""
    listed = subprocess.run([sys.executable, "-c", _LIST, *modules], stdout=subprocess.PIPE, text=True, check=True)
    for name in (*listed.stdout.split(), *_PLUGINS):
        if name.partition(".")[0] not in {package, "tests", "__main__"}:
            with suppress(ImportError, AttributeError):
                importlib.import_module(name)


def _run(wanted: dict[str, Any], prctl: Any) -> dict[str, Any]:
    folder = Path(wanted["folder"])
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            if prctl is not None:
                prctl(1, signal.SIGKILL)
            code = _test(wanted["tests"], folder, wanted["seed"])
        finally:
            os._exit(code)
    ended = os.pidfd_open(pid)
    late = not select.select([ended], [], [], wanted["seconds"])[0]
    os.close(ended)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # also what a test that was stopped has left behind
    _, status, usage = os.wait4(pid, 0)
    failed = folder / "failed"
    return {
        "code": -1 if late else os.waitstatus_to_exitcode(status),
        "cpu": usage.ru_utime + usage.ru_stime,
        "seconds": time.monotonic() - begun,
        "failed": failed.read_text() if failed.exists() else "",
    }


def _test(tests: list[str], folder: Path, seed: int) -> int:
    os.setsid()
    os.environ["TMPDIR"] = str(folder)
    log = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # A module that was changed and changed back within a second must not be taken from a cache.
    sys.dont_write_bytecode = True
    chosen = Chosen(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    options = ["-x", "-q", "--assert=plain", "--tb=no", "-p", "no:cacheprovider", "--timeout=60"]
    randomly = ["--randomly-dont-reorganize", f"--randomly-seed={seed}"]
    try:
        code = int(pytest.main([*options, *randomly, f"--basetemp={folder}/p", *files], plugins=[chosen]))
    except BaseException:  # noqa: BLE001 - what pytest finds left open when all is over says nothing of the tests
        traceback.print_exc()
        code = int(bool(chosen.failed))
    (folder / "failed").write_text(chosen.failed)
    return code


if __name__ == "__main__":
    main(*sys.argv[1:])
