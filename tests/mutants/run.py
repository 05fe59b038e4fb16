"""Makes mutants of the gateway, runs the tests that can notice each, and says which survived."""

import json
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest
import redis

from gateway.sandbox.valkey import EmbeddedValkey
from tests.mutants import lua, python
from tests.mutants.mutant import Mutant
from tests.mutants.recording import Recording
from tests.mutants.tree import Project, Tree, copies

__all__ = ["Bounds", "Verdict", "drawn", "every", "run"]

_LEFT_OUT: Final = ("gateway/sandbox/", "gateway/api/swagger/", "gateway/api/openapi_texts.py")
"""No behaviour of the product: the simulator, vendored files, the contract's examples."""
_FIRST_SECONDS: Final = 2.0
_FIRST_TESTS: Final = 12
"""Tests that take this long together, and no more of them, are tried first, in a process of their own: most mutants die
there, and to read fewer files of tests is faster."""

_LATE: Final = -1
"""The code of a run that was ended because a test took too long."""
_BUSIEST: Final = 4.0
"""How many times as long a test may take on a busy machine."""
_STARTING_SECONDS: Final = 20.0
"""How long importing and collecting may take."""
_SOUND_SECONDS: Final = 120.0
"""How long a test may take on the code as it is."""


@dataclass(frozen=True)
class Bounds:
    """How much is done.

    Attributes:
        count: How many mutants at most.
        minutes: After which no further mutant is begun.
        workers: How many at a time: more than there are cores, for tests wait more than they compute.
        seconds: Of recorded time that the tests of one mutant may take.
        deadline: How long a test may take beside four times what was recorded; longer on a busy machine.
    """

    count: int = 160
    minutes: float = 20.0
    workers: int = 7
    seconds: float = 25.0
    deadline: float = 5.0


@dataclass
class Verdict:
    """What became of one mutant.

    Attributes:
        mutant: Which.
        killed: Whether a test failed, or did not end.
        by: The test, or why there was none.
        late: Whether it is killed because that test did not end.
        cpu: What it cost in seconds.
        tests: How many tests were to be run.
        left: How many more could have noticed, but would have taken too long.
    """

    mutant: Mutant
    killed: bool = False
    by: str = ""
    late: bool = False
    cpu: float = 0.0
    tests: int = 0
    left: int = 0


def every(sources: Mapping[str, str], modules: Sequence[str] = ()) -> list[Mutant]:
    """Return every mutant of modules whose path begins with one of these, or of all that are behaviour."""
    found: list[Mutant] = []
    for module, source in sources.items():
        wanted = module.startswith(tuple(modules)) if modules else not module.startswith(_LEFT_OUT)
        if wanted:
            found += lua.named(module, source)
            found += (lua if module.endswith(".lua") else python).mutants(module, source)
    return found


def drawn(mutants: Collection[Mutant], seed: int, compiles: Callable[[Mutant], bool]) -> Iterator[Mutant]:
    """Yield mutants in an order that the seed decides: as many of each kind, and of modules as they are long.

    Of the changes of one kind in one line only one is drawn: the others would tell the same.
    """
    choice = random.Random(seed)
    kinds: dict[str, dict[str, list[Mutant]]] = {}
    for mutant in mutants:
        kinds.setdefault(mutant.module, {}).setdefault(mutant.operator.partition(" ")[0], []).append(mutant)
    weights = {module: len({m.line for ms in of.values() for m in ms}) for module, of in kinds.items()}
    places: set[tuple[str, int, str]] = set()
    while kinds:
        module = choice.choices(list(kinds), [weights[name] for name in kinds])[0]
        kind = choice.choice(list(kinds[module]))
        group = kinds[module][kind]
        mutant = group.pop(choice.randrange(len(group)))
        if not group:
            del kinds[module][kind]
        if not kinds[module]:
            del kinds[module]
        place = (module, mutant.line, mutant.operator)
        if place not in places and compiles(mutant):
            places.add(place)
            yield mutant


def run(
    project: Project,
    recording: Recording,
    mutants: Collection[Mutant],
    seed: int,
    bounds: Bounds,
    say: Callable[[Verdict], None] = lambda _: None,
) -> list[Verdict]:
    """Try mutants, several at a time.

    Raises:
        RuntimeError: The tests fail on the code as it is, so nothing could be said of mutants.
    """
    with copies() as temporary, _Compiler(recording.sources) as compiler:
        order = drawn(mutants, seed, compiler.compiles)
        shared = _Shared(recording, bounds, say)
        for mutant, _ in zip(order, range(bounds.count), strict=False):
            shared.waiting.put(mutant)
        threads = [
            threading.Thread(target=shared.work, args=(project, temporary / str(number)), daemon=True)
            for number in range(bounds.workers)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:  # where this process is told to end, a run in progress must not outlive the copies
            shared.end()
            for thread in threads:
                thread.join(30)
    if shared.failure:
        raise RuntimeError(shared.failure[0])
    return sorted(shared.verdicts, key=lambda verdict: (verdict.mutant.module, verdict.mutant.start))


class _Shared:
    """What the workers of one run share."""

    def __init__(self, recording: Recording, bounds: Bounds, say: Callable[[Verdict], None]) -> None:
        self.recording = recording
        self.bounds = bounds
        self.say = say
        self.waiting: queue.Queue[Mutant] = queue.Queue()
        self.verdicts: list[Verdict] = []
        self.failure: list[str] = []
        self._until = time.monotonic() + bounds.minutes * 60
        self._sound: dict[str, bool] = {}
        """Of tests that were recorded with other sources: whether they pass on these."""
        self._zygotes: list[_Zygote] = []

    def end(self) -> None:
        """Stop at once."""
        self._until = 0
        for zygote in self._zygotes:
            zygote.kill()

    def work(self, project: Project, folder: Path) -> None:
        """Try mutants in a copy of the project until there are none, or there is no time."""
        if time.monotonic() >= self._until:
            return
        try:
            with _Zygote(Tree(project, folder / "tree"), folder) as zygote:
                self._zygotes.append(zygote)
                self._try_as_it_is(zygote)
                while time.monotonic() < self._until and not self.failure:
                    verdict = self._try(zygote, self.waiting.get_nowait())
                    self.verdicts.append(verdict)
                    self.say(verdict)
        except queue.Empty:
            pass
        except Exception as error:  # noqa: BLE001 - said by the thread that waits for this one
            self.failure.append(f"{type(error).__name__}: {error}")

    def _try_as_it_is(self, zygote: "_Zygote") -> None:
        """Run a few tests on the code as it is."""
        fast = sorted(self.recording.seconds, key=self.recording.seconds.__getitem__)
        chosen = [test for test in fast if self._sound.get(test, True)][:_FIRST_TESTS]
        told = zygote.run(dict.fromkeys(chosen, _SOUND_SECONDS))
        if told["failed"] in chosen and self.recording.stale:
            self._sound[told["failed"]] = False
            self._try_as_it_is(zygote)
        elif told["code"] != 0:
            raise RuntimeError(f"the tests fail without a mutant: {told}\n{zygote.output()}")

    def _try(self, zygote: "_Zygote", mutant: Mutant) -> Verdict:
        able = [test for test in self.recording.tests(mutant, self.bounds.seconds / 2) if self._sound.get(test, True)]
        chosen = self._within(able, self.bounds.seconds)
        verdict = Verdict(mutant, by="no test runs it", tests=len(chosen), left=len(able) - len(chosen))
        if not chosen:
            return verdict
        verdict.by = ""
        first = self._within(chosen, _FIRST_SECONDS)[:_FIRST_TESTS]
        with zygote.tree.changed(mutant.module, mutant.applied(self.recording.sources[mutant.module])):
            for tests in (_by_file(first), _by_file(chosen[len(first) :])):
                if not verdict.killed:
                    self._test(zygote, verdict, tests)
        if self.recording.stale and verdict.by in chosen and not self._is_sound(zygote, verdict.by):
            return self._try(zygote, mutant)
        return verdict

    def _is_sound(self, zygote: "_Zygote", test: str) -> bool:
        """Tell whether a test passes on the code as it is, which has changed since the test was recorded."""
        if test not in self._sound:
            self._sound[test] = zygote.run({test: _SOUND_SECONDS})["code"] == 0
        return self._sound[test]

    def _test(self, zygote: "_Zygote", verdict: Verdict, tests: Sequence[str]) -> None:
        """Run tests on a mutant. One that fails or does not end must do so twice: the machine may have been busy."""
        while tests and not verdict.killed:
            told = self._run(zygote, verdict, tests)
            if told["code"] == 0:
                return
            failed = told["failed"]
            again = self._run(zygote, verdict, [failed] if failed in tests else tests, patience=2)
            verdict.killed = again["code"] != 0
            if verdict.killed:
                verdict.by, verdict.late = failed or f"pytest: {told['code']}", again["code"] == _LATE
            tests = tests[tests.index(failed) + 1 :] if failed in tests else []

    def _run(self, zygote: "_Zygote", verdict: Verdict, tests: Sequence[str], patience: float = 1) -> dict[str, Any]:
        busy = patience * min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0), _BUSIEST)
        allowed = {test: busy * (self.bounds.deadline + 4 * self.recording.seconds[test]) for test in tests}
        told = zygote.run(allowed, busy * _STARTING_SECONDS)
        if told["code"] == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise RuntimeError(f"none of these tests was found: {tests[:3]}\n{zygote.output()}")
        verdict.cpu += told["cpu"]
        return told

    def _within(self, tests: Sequence[str], seconds: float) -> list[str]:
        chosen: list[str] = []
        for test in tests:
            seconds -= self.recording.seconds[test]
            if seconds < 0 and chosen:
                break
            chosen.append(test)
        return chosen


def _by_file(tests: Sequence[str]) -> list[str]:
    """Sort tests so that a file's come together: what they share is made once."""
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    return sorted(tests, key=lambda test: files.index(test.partition("::")[0]))


class _Zygote:
    """The process that forks test runs in one tree."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.tree = tree
        self._folder = folder / "t"
        self._command = [sys.executable, "-m", "mutants_zygote", tree.package, *_imported(tree)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=self.tree.folder, env=self.tree.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()
        self._process.wait(30)

    def run(self, tests: Mapping[str, float], seconds: float = _SOUND_SECONDS) -> dict[str, Any]:
        """Run tests in a fork, each for so many seconds at most; return what it says of them."""
        assert self._process.stdin
        assert self._process.stdout
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        wanted = {"tests": tests, "seconds": seconds, "folder": str(self._folder)}
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that forks has ended")
        return json.loads(line)

    def kill(self) -> None:
        """End it, and with it what it has forked."""
        self._process.kill()

    def output(self) -> str:
        """Return the end of what pytest said last."""
        return (self._folder / "output").read_text(errors="replace")[-3000:]


def _imported(tree: Tree) -> list[str]:
    """Return the modules whose libraries are worth importing beforehand: the package's, and what tests share."""
    package = tree.folder / tree.package
    names = [f"{tree.package}.{path.stem}" for path in sorted(package.glob("*.py")) if path.stem[0] != "_"]
    shared = [name for name in ("harness", "conftest") if (tree.folder / "tests" / f"{name}.py").exists()]
    return [*names, *(f"tests.{name}" for name in shared)]


class _Compiler:
    """Tells what compiles: what does not dies whatever is tested. Asks a server about Lua."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources

    def __enter__(self) -> Self:
        self._server = EmbeddedValkey().__enter__() if any(name.endswith(".lua") for name in self._sources) else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.__exit__(None, None, None)

    def compiles(self, mutant: Mutant) -> bool:
        """Tell whether a mutant compiles, and differs."""
        if self._server is None or not mutant.module.endswith(".lua"):
            return python.is_change(mutant, self._sources[mutant.module])
        with redis.Redis.from_url(self._server.url) as client:
            try:
                client.script_load(mutant.applied(self._sources[mutant.module]))
            except redis.ResponseError:
                return False
        return True
