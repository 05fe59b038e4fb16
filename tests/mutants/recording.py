"""Which tests run which lines, recorded once for a state of the tree, and which tests can therefore notice a mutant."""

import ast
import difflib
import itertools
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Final

import coverage
import msgspec

from tests.mutants.mutant import Mutant
from tests.mutants.tree import Project, Tree, copies

__all__ = ["Recording", "load", "record"]

_NEVER: Final = ("tests/mutants/", "tests/model/test_mutants.py", "tests/image/", "tests/bench/")
"""Tests that look for rules by name would notice a mutant for the wrong reason; the others build or measure."""
_NAMED: Final = {
    "decorator": ("tests/api/test_openapi.py", "tests/api/test_routes_and_policies.py"),
    "gateway/api/": ("tests/api/test_openapi.py",),
    "gateway/api/context.py": ("tests/observability/test_logs.py",),
    "gateway/api/middleware.py": ("tests/observability/",),
    "gateway/observability/logs.py": ("tests/observability/test_logs.py",),
    "gateway/observability/metrics.py": (
        "tests/observability/test_metrics.py",
        "tests/observability/test_sums.py",
        "tests/observability/test_workers.py",
        "tests/test_docs.py::test_metrics_page",
    ),
    "gateway/observability/workers.py": (
        "tests/observability/test_metrics.py",
        "tests/observability/test_workers.py",
    ),
    "gateway/observability/tracing.py": ("tests/observability/test_traces.py",),
    "tracing.": ("tests/observability/test_traces.py",),
    "UpstreamCall(": ("tests/observability/test_metrics.py",),
    "Drain(": ("tests/blackbox/test_shutdown.py",),
    "gateway/coordinator/*.lua": ("tests/coordinator/", "tests/model/test_protocol_model.py"),
    "gateway/settings/": (
        "tests/test_settings.py",
        "tests/test_docs.py::test_settings_page",
        "tests/chart/test_settings_reach.py::test_chart_g",
        "tests/chart/test_settings_reach.py::test_values_schema",
    ),
    "gateway/__main__.py": ("tests/test_main.py",),
    "gateway/app.py": ("tests/test_app.py", "tests/blackbox/test_shutdown.py"),
    "gateway/recordings/recordings.py": ("tests/test_app.py",),
    "gateway/terminal/": ("tests/terminal/", "tests/test_main.py"),
    "gateway/serving/server.py": (
        "tests/test_main.py",
        "tests/observability/test_workers.py",
        "tests/serving/test_files.py",
    ),
    "gateway/serving/healthcheck.py": ("tests/test_main.py",),
    "gateway/store/bucket_shares.py": ("tests/store/test_token_buckets.py",),
    "gateway/lifecycle.py": ("tests/test_main.py", "tests/blackbox/test_shutdown.py"),
}
"""By the end or beginning of a path, by the operator, or by what the function uses: tests that run it in processes of
their own, or without the gateway's way to Redis, which is not recorded; and tests of what code outside of functions
declares."""
_TABLE: Final = "tests/coordinator/test_transitions.py::test_commands"
"""Writes down what every script of the protocol does to every kind of record, in a second."""
_OTHER_SERVERS: Final = re.compile(r"\[(redis|redis-6\.2|valkey-8\.1)[-\]]")
"""Tests of a script on these: a mistake in it shows on the fourth server as well, in a quarter of the time."""
_NEAR: Final = 0.3
"""How much a test counts that may run a line, beside one that was seen to."""

_APART: Final = 10.0
"""The same of a test of processes that is named for the module."""
_SELDOM: Final = 24.0
"""How many times more a test counts that runs what hardly another does."""
_ATTRIBUTE: Final = re.compile(r"self\.\w+\b(?=(\[[^]]*\])? *[-+:]?[\w\[\], ]*= )")


@dataclass(frozen=True)
class Recording:
    """What was recorded.

    Attributes:
        seconds: How long each test takes that passed.
        lines: By module and line, the tests that run it.
        sources: The texts of the modules and scripts, as they are.
        stale: Whether it was recorded with other sources: a test that fails on a mutant may fail without it.
    """

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, frozenset[str]]]
    sources: Mapping[str, str]
    stale: bool = False

    def tests(self, mutant: Mutant, seconds: float = 12.0) -> list[str]:
        """Return the tests that can notice a mutant: the closest first, then of each file one, then a second.

        Args:
            mutant: Which.
            seconds: Of recorded time, for the closest.
        """
        source = self.sources[mutant.module]
        body = None if mutant.module.endswith(".lua") else _body_around(source, mutant.line)
        function = "\n".join(source.splitlines()[body.start - 1 : body.stop]) if body else ""
        named = tuple(
            file
            for names, files in _NAMED.items()
            if fnmatch(mutant.module, names)
            or mutant.operator == names
            or mutant.module.startswith(names)
            or (names[-1] in ".(" and names in function)
            for file in files
        )
        near = self._by_script(mutant) if mutant.module.endswith(".lua") else self._by_line(mutant)
        is_script = mutant.module.endswith(".lua")
        weight = 1.0 if mutant.operator in _NAMED or is_script else _NEAR
        if mutant.module in _NAMED or any(word in function for word in _NAMED if word[-1] in ".("):
            weight = _APART
        by_name = {test: weight for test in self.seconds if test.startswith(named or "-")}
        if mutant.operator in _NAMED:  # what a route declares decides also for those who never reach its function
            near = dict.fromkeys(near.keys() - by_name.keys(), 0.1)
        # What no test runs in the recorded process is best noticed by those that run it in others.
        able = near if any(near.values()) or not by_name else dict.fromkeys(near, 0.0)
        able = {test: max(by_name.get(test, 0.0), able.get(test, 0.0)) for test in {**by_name, **able}}
        able = {test: able[test] for test in able if test in self.seconds and not test.startswith(_NEVER)}
        if is_script:
            able = {test: able[test] for test in able if not _OTHER_SERVERS.search(test)}
        by_file: dict[str, list[str]] = {}
        for test in sorted(able, key=lambda test: (self.seconds[test], test)):
            by_file.setdefault(test.partition("::")[0], []).append(test)
        rounds = itertools.zip_longest(*by_file.values())
        others = [test for tests in rounds for test in sorted(filter(None, tests), key=self.seconds.__getitem__)]
        # Those that are about the module look closest; of all others, a few of each file look from everywhere.
        own = (f"tests/{Path(mutant.module).parent.name}/", *named)
        table = _TABLE if mutant.module.startswith("gateway/coordinator/") and is_script else "-"
        written = [test for test in able if test.startswith(table)]
        return list(dict.fromkeys((*written, *self._within(self._closest(able, mutant, own), seconds), *others)))

    def _closest(self, tests: Mapping[str, float], mutant: Mutant, own: tuple[str, ...]) -> list[str]:
        """Sort tests by how much they are about a module: its share of the lines that each runs, by its seconds.

        A test in the module's folder, or in a file that is called for it, is more about it than its lines say. So is
        one that runs a line near the mutant which few run: it meets the case that the others never come to.
        """
        module = mutant.module
        rarest = self._rarest(mutant)
        about: dict[str, float] = {}
        name = f"/test_{Path(module).stem}"
        for test, weight in tests.items():
            lines = self._lines_of[test]
            share = lines[module] / max(lines.total(), 1) + 0.1 * test.startswith(own) + 0.2 * (name in test)
            seldom = 1 - rarest.get(test, len(tests)) / max(len(tests), 1)
            about[test] = weight * share * (1 + _SELDOM * seldom**4) / (self.seconds[test] + 0.1)
        # Of the rows of one table each tells less than the one before.
        rows = Counter[str]()
        for test in sorted(about, key=lambda test: (-about[test], test)):
            function = test.partition("[")[0]
            about[test] /= 1 + rows[function] / 8
            rows[function] += 1
        return sorted(about, key=lambda test: (-about[test], test))

    def _rarest(self, mutant: Mutant) -> dict[str, int]:
        """Return how many tests run the rarest line near a mutant that each of them runs.

        Near is what is in the same function, and what uses the attribute that the mutant's line gives something to.
        """
        if mutant.module.endswith(".lua"):
            return {}
        source = self.sources[mutant.module]
        near = set(_body_around(source, mutant.line) or ())
        lines = source.splitlines()
        if given := _ATTRIBUTE.search(lines[mutant.line - 1]):
            near |= {number for number, line in enumerate(lines, 1) if given[0] in line}
        rarest: dict[str, int] = {}
        for line in near:
            ran = self.lines.get(mutant.module, {}).get(line, frozenset[str]())
            for test in ran:
                rarest[test] = min(rarest.get(test, len(ran)), len(ran))
        return rarest

    @cached_property
    def _lines_of(self) -> Mapping[str, Counter[str]]:
        """By test, how many lines of each module it runs."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for module, lines in self.lines.items():
            for ran in lines.values():
                for test in ran:
                    found[test][module] += 1
        return found

    def _within(self, tests: Iterable[str], seconds: float) -> Iterator[str]:
        for test in tests:
            seconds -= self.seconds[test]
            if seconds < 0:
                return
            yield test

    def _by_line(self, mutant: Mutant) -> dict[str, float]:
        """Return the tests that run a line, each with its weight: 0 where they only run the module."""
        module = dict.fromkeys(self._module(mutant.module), 0.0)
        body = _body_around(self.sources[mutant.module], mutant.line)
        if body is None:
            return module | dict.fromkeys(self._by_name(mutant), 1.0)
        # Of a coroutine that an exception is thrown into, Python 3.11 reports no further line: the tests that begin
        # the function may run it.
        around = dict.fromkeys(self._ran(mutant.module, body), _NEAR)
        lines = range(mutant.line, mutant.last_line + 1) if mutant.line in body else body
        return module | around | dict.fromkeys(self._ran(mutant.module, lines), 1.0)

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

    def _by_script(self, mutant: Mutant) -> dict[str, float]:
        """Return the tests that run the line of Python which sends the script, or the class that the script is for."""
        name = Path(mutant.module).stem
        found: frozenset[str] = frozenset()
        for module, source in self.sources.items():
            if not module.endswith(".py"):
                continue
            if name == "prelude" and "scripts.run(" in source:
                found |= self._module(module)
            if re.search(rf'Script\([^)]*"{name}"\)', source):
                found |= self._module(module)
            sending = re.compile(rf'\brun\(\s*"{name}"')
            found |= self._ran(module, [source.count("\n", 0, place.start()) + 1 for place in sending.finditer(source)])
        return dict.fromkeys(found, 1.0)

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
    files: dict[str, str]
    sources: dict[str, str]


def load(project: Project, file: Path, paths: Sequence[str] = ("tests/",)) -> tuple[Recording, list[str]]:
    """Return what was recorded and still holds, and the test files that have to be recorded.

    A file of tests is recorded anew when it, or what it shares with others, has changed. Of a module that has changed,
    each line that is still there keeps its tests; a new line has those of the function that it is in.

    Args:
        project: Of what.
        file: Where it is kept.
        paths: Beginnings of the paths of the tests.
    """
    wanted = {name: digest for name, digest in project.test_files().items() if name.startswith(tuple(paths))}
    wanted = {name: digest for name, digest in wanted.items() if not name.startswith(_NEVER)}
    if not file.exists():
        return Recording({}, {}, project.sources()), list(wanted)
    stored = msgspec.json.decode(file.read_bytes(), type=_Stored)
    missing = [name for name, digest in wanted.items() if stored.files.get(name) != digest]
    holds = wanted.keys() - missing
    seconds = {
        test: seconds
        for test, seconds in zip(stored.tests, stored.seconds, strict=True)
        if test.partition("::")[0] in holds
    }
    sources = project.sources()
    lines: dict[str, dict[int, frozenset[str]]] = {}
    for module, known in stored.lines.items():
        places = _moved(stored.sources[module], sources.get(module, ""))
        for line, tests in known.items():
            if line in places:
                ran = frozenset(stored.tests[test] for test in tests if stored.tests[test] in seconds)
                lines.setdefault(module, {})[places[line]] = ran
    return Recording(seconds, lines, sources, stale=sources != stored.sources), missing


def _moved(before: str, after: str) -> dict[int, int]:
    """Return where each line of a text that has not changed stands in another."""
    if before == after:
        return {line: line for line in range(1, before.count("\n") + 2)}
    blocks = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    return {
        block.a + place + 1: block.b + place + 1
        for block in blocks.get_matching_blocks()
        for place in range(block.size)
    }


def record(
    project: Project, file: Path, paths: Sequence[str] = ("tests/",), arguments: Sequence[str] = ()
) -> Recording:
    """Run the tests that have not been recorded yet with every line noted, and keep what was found.

    Args:
        project: Of what.
        file: Where it is kept.
        paths: Beginnings of the paths of the tests.
        arguments: Of pytest: how many at a time.

    Raises:
        RuntimeError: The tests could not be run.
    """
    known, missing = load(project, file, paths)
    if missing:
        files = {name: digest for name, digest in project.test_files().items() if name.startswith(tuple(paths))}
        with copies() as temporary:
            tree = Tree(project, temporary / "tree")
            seconds, lines, failed = _recorded(tree, temporary / "first", [*arguments, *missing])
            if seconds and failed:
                # The machine may have been busy; what fails by itself fails again, and is left out.
                more, their, _ = _recorded(tree, temporary / "again", failed)
                seconds, lines = {**seconds, **more}, _together(lines, their)
        if not seconds:
            raise RuntimeError("no test passed while it was recorded")
        known = Recording({**known.seconds, **seconds}, _together(known.lines, lines), known.sources)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(_stored(known, files)))
    return load(project, file, paths)[0]


def _recorded(
    tree: Tree, folder: Path, arguments: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[int, frozenset[str]]], list[str]]:
    """Run pytest with every line noted; return how long each test took, who ran what, and the tests that failed."""
    folder.mkdir()
    environ = {**tree.environ, "MUTANTS_RECORDING": str(folder), "MUTANTS_PACKAGE": tree.package}
    options = ["-q", "-p", "mutants_recorder", "-p", "no:cacheprovider", "--show-capture=no", *arguments]
    subprocess.run([sys.executable, "-m", "pytest", *options], cwd=tree.folder, env=environ, check=False)
    failed = {test for part in folder.glob("failed.*.json") for test in json.loads(part.read_text())}
    return *_collected(tree, folder), sorted(failed)


def _stored(recording: Recording, files: dict[str, str]) -> _Stored:
    tests = list(recording.seconds)
    places = {test: place for place, test in enumerate(tests)}
    lines = {
        module: {line: sorted(places[test] for test in ran) for line, ran in known.items()}
        for module, known in recording.lines.items()
    }
    seconds = [round(recording.seconds[test], 4) for test in tests]
    return _Stored(tests, seconds, lines, files, dict(recording.sources))


def _together(*recorded: Mapping[str, Mapping[int, frozenset[str]]]) -> dict[str, dict[int, frozenset[str]]]:
    lines: dict[str, dict[int, frozenset[str]]] = {}
    for part in recorded:
        for module, known in part.items():
            of = lines.setdefault(module, {})
            for line, ran in known.items():
                of[line] = of.get(line, frozenset()) | ran
    return lines


def _collected(tree: Tree, folder: Path) -> tuple[dict[str, float], dict[str, dict[int, frozenset[str]]]]:
    seconds: dict[str, float] = {}
    for part in folder.glob("seconds.*.json"):
        seconds |= json.loads(part.read_text())
    parts: list[dict[str, dict[int, frozenset[str]]]] = []
    for part in folder.glob("lines.*"):
        data = coverage.CoverageData(str(part))
        data.read()
        for measured in data.measured_files():
            module = str(Path(measured).relative_to(tree.folder))
            ran = {
                line: frozenset(contexts) & seconds.keys()
                for line, contexts in data.contexts_by_lineno(measured).items()
            }
            parts.append({module: {line: tests for line, tests in ran.items() if tests}})
    return seconds, _together(*parts)
