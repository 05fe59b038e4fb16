"""Which tests run which lines, recorded once for a state of the tree, and which tests can therefore notice a mutant."""

import ast
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import coverage
import msgspec

from tests.mutants.mutant import Mutant
from tests.mutants.tree import Project, Tree

__all__ = ["Recording", "load", "record"]

_NEVER: Final = ("tests/mutants/", "tests/model/test_mutants.py", "tests/image/", "tests/bench/")
"""Tests that look for rules by name would notice a mutant for the wrong reason; the others build or measure."""
_NAMED: Final = {
    ".lua": ("tests/coordinator/", "tests/model/test_protocol_model.py"),
    "gateway/__main__.py": ("tests/test_main.py",),
    "gateway/serving/server.py": ("tests/test_main.py",),
    "gateway/serving/healthcheck.py": ("tests/test_main.py",),
    "gateway/lifecycle.py": ("tests/test_main.py", "tests/blackbox/test_shutdown.py"),
}
"""Tests that run scripts without the gateway's own way to Redis, or in processes of their own: not recorded."""


@dataclass(frozen=True)
class Recording:
    """What was recorded.

    Attributes:
        seconds: How long each test takes that passed.
        lines: By module and line, the tests that run it.
        sources: The texts it was recorded with.
    """

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, frozenset[str]]]
    sources: Mapping[str, str]

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that can notice a mutant: fast ones first, and of each file one before a second of any."""
        able = self._by_script(mutant) if mutant.module.endswith(".lua") else self._by_line(mutant)
        for names, files in _NAMED.items():
            if mutant.module.endswith(names):
                able = able | {test for test in self.seconds if test.startswith(files)}
        able = {test for test in able if test in self.seconds and not test.startswith(_NEVER)}
        by_file: dict[str, list[str]] = {}
        for test in sorted(able, key=lambda test: (self.seconds[test], test)):
            by_file.setdefault(test.partition("::")[0], []).append(test)
        rounds = itertools.zip_longest(*by_file.values())
        return [test for tests in rounds for test in sorted(filter(None, tests), key=self.seconds.__getitem__)]

    def _by_line(self, mutant: Mutant) -> frozenset[str]:
        body = _body_around(self.sources[mutant.module], mutant.line)
        if body is None:
            return self._by_name(mutant) or self._module(mutant.module)
        if mutant.line in body:
            return self._ran(mutant.module, range(mutant.line, mutant.last_line + 1))
        return self._ran(mutant.module, body)

    def _by_name(self, mutant: Mutant) -> frozenset[str]:
        """What is defined outside of functions is run by nothing; what uses its name is."""
        found: frozenset[str] = frozenset()
        for name in _defined_at(self.sources[mutant.module], mutant.line):
            word = re.compile(rf"\b{name}\b")
            modules = [mutant.module] if name.startswith("_") else list(self.sources)
            for module in modules:
                numbers = [n for n, line in enumerate(self.sources[module].splitlines(), 1) if word.search(line)]
                found |= self._ran(module, numbers)
        return found

    def _by_script(self, mutant: Mutant) -> frozenset[str]:
        """Return the tests that run the line of Python which sends the script, or the class that the script is for."""
        name = Path(mutant.module).stem
        found: frozenset[str] = frozenset()
        for module, source in self.sources.items():
            if not module.endswith(".py"):
                continue
            if name == "prelude" and "scripts.run(" in source:
                found |= self._module(module)
            if f'Script("{name}"' in source:
                found |= self._module(module)
            sending = re.compile(rf'\brun\(\s*"{name}"')
            found |= self._ran(module, [source.count("\n", 0, place.start()) + 1 for place in sending.finditer(source)])
        return found

    def _ran(self, module: str, lines: Iterable[int]) -> frozenset[str]:
        known = self.lines.get(module, {})
        return frozenset().union(*(known.get(line, frozenset[str]()) for line in lines))

    def _module(self, module: str) -> frozenset[str]:
        return frozenset().union(*self.lines.get(module, {}).values())


def _body_around(source: str, line: int) -> range | None:
    """Return the lines of the body of the innermost function that a line belongs to, with its head; None outside."""
    best: range | None = None
    size = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            last = node.end_lineno or first
            if first <= line <= last and (best is None or last - first < size):
                best, size = range(node.body[0].lineno, last + 1), last - first
    return best


def _defined_at(source: str, line: int) -> set[str]:
    """Return the names that the statement around a line gives something to, outside of functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.lineno <= line <= (node.end_lineno or node.lineno):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}
    return names


class _Stored(msgspec.Struct):
    tests: list[str]
    seconds: list[float]
    lines: dict[str, dict[int, list[int]]]


def load(project: Project, file: Path) -> Recording | None:
    """Return what was recorded of this state of the tree, if anything was."""
    if not file.exists():
        return None
    stored = msgspec.json.decode(file.read_bytes(), type=_Stored)
    lines = {
        module: {line: frozenset(stored.tests[place] for place in places) for line, places in lines.items()}
        for module, lines in stored.lines.items()
    }
    return Recording(dict(zip(stored.tests, stored.seconds, strict=True)), lines, project.sources())


def record(project: Project, file: Path, arguments: Sequence[str]) -> Recording:
    """Run tests once with every line noted, and keep what was found.

    Args:
        project: Of what.
        file: Where it is kept.
        arguments: Of pytest: which tests, how many at a time.

    Raises:
        RuntimeError: The tests could not be run.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        tree = Tree(project, Path(temporary).resolve() / "tree")
        folder = Path(temporary).resolve() / "recorded"
        folder.mkdir()
        environ = {**tree.environ, "MUTANTS_RECORDING": str(folder), "MUTANTS_PACKAGE": project.package}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "mutants_recorder", "-p", "no:cacheprovider", *arguments]
        ended = subprocess.run(command, cwd=tree.folder, env=environ, check=False)
        stored = _collected(tree, folder)
    if not stored.tests:
        raise RuntimeError(f"no test passed while it was recorded (pytest ended with {ended.returncode})")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(stored))
    loaded = load(project, file)
    assert loaded
    return loaded


def _collected(tree: Tree, folder: Path) -> _Stored:
    seconds: dict[str, float] = {}
    for part in folder.glob("seconds.*.json"):
        seconds |= json.loads(part.read_text())
    places = {test: place for place, test in enumerate(seconds)}
    lines: dict[str, dict[int, set[int]]] = {}
    for part in folder.glob("lines.*"):
        data = coverage.CoverageData(str(part))
        data.read()
        for measured in data.measured_files():
            module = str(Path(measured).relative_to(tree.folder))
            for line, contexts in data.contexts_by_lineno(measured).items():
                ran = {places[context] for context in contexts if context in places}
                if ran:
                    lines.setdefault(module, {}).setdefault(line, set()).update(ran)
    listed = {module: {line: sorted(ran) for line, ran in known.items()} for module, known in lines.items()}
    return _Stored(list(places), [round(seconds[test], 4) for test in places], listed)
