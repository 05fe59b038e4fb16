"""A process that has imported pytest and all libraries, but nothing of the tree it stands in, and forks to run tests.

Runs inside the copied tree. Each line of its input is a request in JSON: `tests` (in order, each with the seconds that
it may take), `seconds` (for what comes before the first), `folder` (of its own, for temporary files). It answers each
with a line: `code` (pytest's, or -1 where a test took too long), `cpu` seconds and the test that failed or did not end.
The first that fails ends a run. What it forks dies with it.

    python -m mutants_zygote PACKAGE MODULE...    with the modules of the package and its tests to look through
"""

import compileall
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
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

_LIST = "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module(n)\nprint(*sys.modules)"
_BEGUN, _FAILED = "b", "f"
_PLUGINS = ("pytest_timeout", "xdist.plugin", "anyio.pytest_plugin", "_pytest.assertion.rewrite", "unittest.mock")
_LEFT_OUT = ("cacheprovider", "randomly", "faker", "hypothesispytest", "valkey")
"""Plugins that only take time here."""


class Chosen:
    """Keeps the chosen tests, in their order, and writes to a pipe which begins, and which fails."""

    def __init__(self, tests: Collection[str], pipe: int) -> None:
        self._order = {test: place for place, test in enumerate(tests)}
        self._pipe = pipe

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out and sort."""
        items[:] = sorted((item for item in items if item.nodeid in self._order), key=self._place)

    def _place(self, item: pytest.Item) -> int:
        return self._order[item.nodeid]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which begins."""
        self._say(_BEGUN, nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say which has failed."""
        if report.failed:
            self._say(_FAILED, report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Say which module cannot be read."""
        if report.failed:
            self._say(_FAILED, f"{report.nodeid} (collection)")

    def _say(self, what: str, nodeid: str) -> None:
        os.write(self._pipe, f"{what}{nodeid}\n".encode())


def main(package: str, *modules: str) -> None:
    """Import, then fork for each request."""
    # So that a fork has only the changed module and its tests to compile.
    compileall.compile_dir(package, quiet=2)
    compileall.compile_dir("tests", maxlevels=0, quiet=2)
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
    begun = time.monotonic()
    said, saying = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            os.close(said)
            if prctl is not None:
                prctl(1, signal.SIGKILL)
            code = _test(wanted["tests"], Path(wanted["folder"]), saying)
        finally:
            os._exit(code)
    os.close(saying)
    ended = os.pidfd_open(pid)
    failed, late = _watch(ended, said, wanted)
    os.close(ended)
    os.close(said)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # also what a test that was stopped has left behind
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return {
        "code": -1 if late else int(bool(failed)) or code,
        "cpu": usage.ru_utime + usage.ru_stime,
        "seconds": time.monotonic() - begun,
        "failed": failed,
    }


def _watch(ended: int, said: int, wanted: dict[str, Any]) -> tuple[str, bool]:
    """Wait for the end of a run, for a test that fails, or for the end of a test's time.

    Returns:
        The test that failed or is late, and whether it is late.
    """
    text, test, watched = "", "", [ended, said]
    until = time.monotonic() + wanted["seconds"]
    while ready := select.select(watched, [], [], max(until - time.monotonic(), 0))[0]:
        if said not in ready:
            return "", False
        read = os.read(said, 65536).decode()
        if not read:
            watched = [ended]
        *lines, text = (text + read).split("\n")
        for line in lines:
            test = line[1:]
            if line[0] == _FAILED:
                return test, False
            until = time.monotonic() + wanted["tests"][test]
    return test, True


def _test(tests: Collection[str], folder: Path, pipe: int) -> int:
    os.setsid()
    os.environ["TMPDIR"] = str(folder)
    log = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # A module that was changed and changed back within a second must not be taken from a cache.
    sys.dont_write_bytecode = True
    chosen = Chosen(tests, pipe)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    options = ["-x", "-q", "--assert=plain", "--tb=no", "--timeout=0", f"--basetemp={folder}/p"]
    left_out = [f"-pno:{name}" for name in _LEFT_OUT]
    try:
        return int(pytest.main([*options, *left_out, *files], plugins=[chosen]))
    except BaseException:  # noqa: BLE001 - what pytest finds left open when all is over says nothing of the tests
        traceback.print_exc()
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:])
