"""`python -m tests.faults`: play the fault matrix, print the table, and fail where a promise was broken."""

import argparse
import asyncio
import functools
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.heal import Healed, heal_with_defaults
from tests.faults.history import Trouble
from tests.faults.rows import ROWS, SHORT
from tests.faults.run import Report, play_rows, table, too_busy
from tests.faults.scene import Row
from tests.faults.truth import Cell, truth_table, truth_with_defaults


def main() -> int:
    """Run the command; 1 where anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=7.0, help="how long each row is disturbed")
    parser.add_argument("--rows", nargs="*", help="numbers of rows; all where absent")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--short", action="store_true", help="a few rows, in less than a minute")
    parser.add_argument("--truth", action="store_true", help="only how long it takes until records are right")
    parser.add_argument("--at-once", type=int, default=2, help="rows that are disturbed at the same time")
    parser.add_argument("--keep", type=Path, help="a folder for the histories and logs of rows that failed")
    arguments = parser.parse_args()
    wanted = SHORT if arguments.short else arguments.rows
    if unknown := set(wanted or ()) - {row.number for row in ROWS}:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    rows = [row for row in ROWS if (not wanted or row.number in wanted) and not arguments.truth]
    show = functools.partial(print, flush=True)
    lacking = [f"row {row.number} cannot be played: {lack}" for row in rows if (lack := row.needs())]
    for lack in lacking:
        show(lack)
    rows = [row for row in rows if not row.needs()]
    show(f"seed {arguments.seed}")
    begun = time.monotonic()
    reports, healed, cells, stalls = asyncio.run(_play(arguments, rows, show, everything=not wanted))
    for report in reports:
        if not report.good:
            show(report.explain())
            if arguments.keep:
                report.keep(arguments.keep)
    if reports:
        show(table(reports))
    for one in healed:
        show(f"default settings, {one}")
    if cells:
        show(f"default settings, webhooks and what is read\n{truth_table(cells)}")
    show(f"{time.monotonic() - begun:.0f} s, seed {arguments.seed}")
    doubts = [*(_thin(reports) if reports and not wanted else []), too_busy(reports)]
    timely = all(one.good for one in [*healed, *cells])
    if stalls and not timely:
        doubts.append(f"the machine was too busy to judge times: {len(stalls)} times it kept processes from their work")
    for doubt in filter(None, doubts):
        show(doubt)
    # Where nobody looks at what is shown, a row that was not played must not pass for one that was.
    skipped = lacking and os.environ.get("CI") == "true"
    return 0 if timely and all(one.good for one in reports) and not any(doubts) and not skipped else 1


def _thin(reports: Sequence[Report]) -> list[str]:
    """Say where a run of everything was too small."""
    sums = {
        "calls": (sum(len(one.history.calls) for one in reports), 10_000),
        "upstream starts": (sum(one.starts for one in reports), 300),
        "kills": (sum(one.kills for one in reports), 20),
    }
    lack = "too little happened to prove anything"
    return [f"{lack}: {got} {name}, at least {wanted} wanted" for name, (got, wanted) in sums.items() if got < wanted]


async def _play(
    arguments: argparse.Namespace, rows: Sequence[Row], show: Any, *, everything: bool
) -> tuple[list[Report], list[Healed], list[Cell], list[Trouble]]:
    if arguments.truth:
        return [], [], *await truth_with_defaults(arguments.seed)
    reports = await play_rows(
        rows, seconds=arguments.seconds, seed=arguments.seed, at_once=arguments.at_once, show=show
    )
    if not everything:
        return reports, [], [], []
    # Without the rows beside them, because these two are about time.
    healed, truth = await asyncio.gather(heal_with_defaults(arguments.seed), truth_with_defaults(arguments.seed))
    return reports, healed, *truth


if __name__ == "__main__":
    sys.exit(main())
