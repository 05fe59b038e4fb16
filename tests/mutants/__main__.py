"""`make mutants`: SEED, MODULES (paths' beginnings), COUNT and MINUTES in the environment."""

import itertools
import os
import signal
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from tests.mutants.accepted import entries, without
from tests.mutants.recording import record
from tests.mutants.run import Bounds, Verdict, every, run
from tests.mutants.tree import Project

_ROOT: Final = Path(__file__).parents[2]
_ENOUGH: Final = 0.85
_RECORDED: Final = (
    "tests/api tests/auth tests/recordings tests/coordinator tests/store tests/videosdk tests/observability "
    "tests/serving tests/terminal tests/harm tests/settings_reach tests/fundamentals tests/topologies "
    "tests/chart/test_settings_reach.py tests/model/test_protocol_model.py tests/blackbox/test_shutdown.py "
    "tests/blackbox/test_keep_alive.py tests/test_app.py tests/test_docs.py tests/test_leaks.py "
    "tests/test_lifecycle.py tests/test_main.py tests/test_secret tests/test_settings.py tests/test_startup_files.py"
)
"""What runs the gateway in its own process, or is named for a module; the others' processes leave no lines."""


def main() -> int:
    """Run, print, write the report; return 1 where too many survive."""
    signal.signal(signal.SIGTERM, _terminate)
    seed = int(os.environ.get("SEED") or 1)
    modules = (os.environ.get("MODULES") or "").replace(",", " ").split()
    bounds = Bounds(
        count=int(os.environ.get("COUNT") or 160),
        minutes=float(os.environ.get("MINUTES") or 20),
        seconds=float(os.environ.get("SECONDS") or 25),
    )
    project = Project(_ROOT)
    sources = project.sources()
    listed = entries()
    left = without(every(sources), sources, listed)
    mutants = [mutant for mutant in left if not modules or mutant.module.startswith(tuple(modules))]
    folder = _ROOT / "build" / "mutants"
    paths = (os.environ.get("RECORD") or _RECORDED).split()
    kept = folder / f"recorded-{zlib.crc32(' '.join(paths).encode()):08x}.json"
    recording = record(project, kept, paths, ["--numprocesses", "4", "--dist", "loadfile"])
    begun = time.monotonic()
    print(f"{len(mutants)} mutants of {len(left)}, beside {len(listed)} entries that are accepted; seed {seed}")
    verdicts = run(project, recording, mutants, seed, bounds, _say)
    text = report(verdicts, sources)
    text += f"\n{time.monotonic() - begun:.0f} s; seed {seed}\n"
    (folder / f"{seed}.txt").write_text(text)
    print(f"\n{text}")
    killed = sum(verdict.killed for verdict in verdicts)
    return 0 if verdicts and killed >= _ENOUGH * len(verdicts) else 1


def _terminate(number: int, _: FrameType | None) -> None:
    """End as after any exception, so that the copies go."""
    sys.exit(128 + number)


def _say(verdict: Verdict) -> None:
    word = "late    " if verdict.late else "killed  " if verdict.killed else "SURVIVED"
    place = f"{verdict.mutant.module}:{verdict.mutant.line}"
    print(f"{word} {verdict.cpu:5.1f} s  {place}  {verdict.mutant.operator}  {verdict.by}", flush=True)


def report(verdicts: Sequence[Verdict], sources: Mapping[str, str]) -> str:
    """Return killed and survived by module, and the survivors as diffs."""
    lines = [_survivor(verdict, sources) for verdict in verdicts if not verdict.killed]
    lines.append(f"{'module':44}{'killed':>8}{'survived':>10}")
    for module, of in itertools.groupby(verdicts, lambda verdict: verdict.mutant.module):
        lines.append(_row(module, list(of)))
    lines.append(_row("all", verdicts))
    cpu = sum(verdict.cpu for verdict in verdicts)
    share = 100 * sum(verdict.killed for verdict in verdicts) / max(len(verdicts), 1)
    lines.append(f"{share:.1f} % of {len(verdicts)} killed, {cpu / max(len(verdicts), 1):.1f} s of CPU each")
    return "\n".join(lines)


def _row(name: str, verdicts: Sequence[Verdict]) -> str:
    killed = sum(verdict.killed for verdict in verdicts)
    return f"{name:44}{killed:8}{len(verdicts) - killed:10}"


def _survivor(verdict: Verdict, sources: Mapping[str, str]) -> str:
    mutant, source = verdict.mutant, sources[verdict.mutant.module]
    tried = verdict.by or f"{verdict.tests} tests passed" + (f", {verdict.left} not run" if verdict.left else "")
    entry = [f"operator: {mutant.operator}", f"code:     {mutant.code(source)}", f"becomes:  {mutant.becomes(source)}"]
    return "\n".join([mutant.diff(source), *entry, f"({tried})", ""])


if __name__ == "__main__":
    sys.exit(main())
