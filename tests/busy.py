"""Run the whole suite on a busy machine: some times, each in another random order, beside loops that compute.

Every run prints its seed, what passed, what failed and how long it took. `make test ARGS="--randomly-seed=SEED"`
repeats the order.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

LONGEST_RUN_SECONDS = 3600
"""A run that takes longer hangs."""
EXIT_SECONDS = 60
"""What an interrupted run gets to put away its servers."""


@dataclass(frozen=True)
class Run:
    """What one run of the suite came to."""

    passed: int
    failed: tuple[str, ...]
    skipped: int
    seconds: float
    status: int | None

    @property
    def green(self) -> bool:
        """Say whether everything passed, and pytest ended by itself and agrees."""
        return self.status == 0 and not self.failed and self.passed > 0


def main(arguments: list[str]) -> int:
    """Run the suite as often as asked for; 0 if every run is green."""
    parser = argparse.ArgumentParser(prog="make test-busy", description="Run the suite on a busy machine.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--loops", type=int, default=2, help="how many processes compute beside it")
    parser.add_argument("--seed", type=int, help="the first run's order; the next runs count on from it")
    options, chosen = parser.parse_known_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(2**31)
    runs: list[Run] = []
    with _busy(options.loops):
        for number in range(options.runs):
            run = _run(seed + number, chosen)
            runs.append(run)
            print(_line(number + 1, seed + number, run), flush=True)
    return 0 if all(run.green for run in runs) else 1


def _line(number: int, seed: int, run: Run) -> str:
    ended = "" if run.status is not None else f", stopped after {LONGEST_RUN_SECONDS} s"
    counts = f"{run.passed} passed, {len(run.failed)} failed, {run.skipped} skipped, {run.seconds:.0f} s"
    return "\n  failed: ".join([f"run {number}, seed {seed}: {counts}{ended}", *run.failed])


def _run(seed: int, chosen: list[str]) -> Run:
    """Run pytest in a process group of its own, so that a run that hangs can be ended with all its workers."""
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", f"--randomly-seed={seed}", f"--junitxml={report}", *chosen]
        started_op = time.monotonic()
        process = subprocess.Popen(command, start_new_session=True)
        try:
            status = process.wait(LONGEST_RUN_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
        return _read(report, time.monotonic() - started_op, status)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _read(report: Path, seconds: float, status: int | None) -> Run:
    if not report.exists():
        return Run(0, (), 0, seconds, status)
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    names = tuple(sorted({f"{case.get('classname')}::{case.get('name')}" for case in failed}))
    return Run(len(cases) - len(failed) - len(skipped), names, len(skipped), seconds, status)


@contextmanager
def _busy(loops: int) -> Generator[None]:
    """Compute in so many processes, with the priority of everything else."""
    spawn = get_context("spawn")
    processes = [spawn.Process(target=_compute, args=(os.getpid(),), daemon=True) for _ in range(loops)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _compute(parent: int) -> None:
    # A loop that outlived an interrupted run would disturb the next one.
    while os.getppid() == parent:
        sum(range(100_000))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
