"""Plays rows, a few at a time, and says what came of each: a line of a table, and where something broke, why."""

import asyncio
import math
import multiprocessing
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from tests.faults.checker import Judgement, Violation, count_duplicates, judge
from tests.faults.ends import late, summary
from tests.faults.history import History
from tests.faults.scene import Row, play
from tests.faults.timeline import timeline

__all__ = ["Report", "play_rows", "table", "too_busy"]


class Report(Struct, frozen=True, kw_only=True):
    """What came of one row."""

    row: Row
    history: History
    log: str
    judgement: Judgement
    shortfalls: list[str]
    seconds: float

    @property
    def violations(self) -> list[Violation]:
        """Promises that were broken."""
        return self.judgement.violations

    @property
    def duplicates(self) -> int:
        """Starts that took effect while another recording was open."""
        return count_duplicates(self.history)

    @property
    def good(self) -> bool:
        """Whether everything that was promised was kept."""
        return not self.violations and not self.shortfalls

    @property
    def starts(self) -> int:
        """Starts that reached VideoSDK."""
        return sum(call.endpoint == "start" for call in self.history.upstream)

    @property
    def kills(self) -> int:
        """Gateways killed with SIGKILL."""
        return sum(trouble.what == "kill" for trouble in self.history.troubles)

    def cells(self) -> list[str]:
        """Return the row of the table."""
        took = sorted(call.ended - call.begun for call in self.history.calls if call.status)
        heals = heal_times(self.history)
        return [
            self.row.number,
            self.row.name,
            str(len(self.history.calls)),
            str(self.starts),
            str(self.duplicates),
            str(len(self.violations) + len(self.shortfalls)),
            str(self.judgement.excused),
            _ms(took, 0.5),
            _ms(took, 0.99),
            f"{max(heals):.1f}" if heals else "-",
            str(self.kills),
        ]

    def keep(self, folder: Path) -> None:
        """Write the history and the gateways' logs into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        name = self.row.number.replace(" ", "-")
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(self.history))
        (folder / f"{name}.log").write_text(self.log)

    def explain(self, most: int = 3) -> str:
        """Return the violations, with what happened around the first of them."""
        lines = [f"=== {self.row.number} {self.row.name}: {len(self.violations)} violations"]
        lines += self.shortfalls
        lines += [f"{one.rule} {one.track} at {one.at:.3f}: {one.text}" for one in self.violations[:40]]
        seen: set[tuple[str, str]] = set()
        for one in self.violations:
            if (one.rule, one.track) not in seen and len(seen) < most and one.at:
                seen.add((one.rule, one.track))
                lines.append(f"{one.rule}: {one.text}\n{timeline(self.history, one.track, one.at)}")
        return "\n".join(lines)


def heal_times(history: History) -> list[float]:
    """Return, for each kill and each track that lost a call by it, the seconds to the first answer that is definite."""
    healed: list[float] = []
    for trouble in history.troubles:
        if trouble.what != "kill":
            continue
        at = trouble.begun
        struck = {
            call.track for call in history.calls
            if call.process == trouble.process and call.op != "get" and call.begun <= at <= call.ended
        }  # fmt: skip
        for track in struck:
            answers = (
                call.ended for call in history.calls
                if call.track == track and call.ended > at and call.definite and call.op != "get"
            )  # fmt: skip
            healed.append(min(answers, default=math.inf) - at)
    return healed


def _ms(took: Sequence[float], share: float) -> str:
    return f"{took[min(int(len(took) * share), len(took) - 1)] * 1000:.0f}" if took else "-"


_MAX_EXCUSED: Final = 0.02
"""Share of all calls."""

HEAD = ["row", "scenario", "calls", "starts", "dup", "viol", "excused", "p50 ms", "p99 ms", "heal s", "kills"]


def table(reports: Sequence[Report]) -> str:
    """Return the table, with a line of sums, and how many searches for an order came to nothing."""
    total = [
        "", "all", str(sum(len(one.history.calls) for one in reports)), str(sum(one.starts for one in reports)),
        str(sum(one.duplicates for one in reports)),
        str(sum(len(one.violations) + len(one.shortfalls) for one in reports)),
        str(sum(one.judgement.excused for one in reports)), "", "", "",
        str(sum(one.kills for one in reports)),
    ]  # fmt: skip
    rows = [HEAD, *[one.cells() for one in reports], total]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in
                  enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    searches = sum(one.judgement.searches for one in reports)
    given_up = sum(one.judgement.given_up for one in reports)
    stalls = [one for report in reports for one in report.history.troubles if one.what == "stall"]
    longest = max((one.ended - one.begun for one in stalls), default=0.0)
    return "\n".join(
        [
            *lines,
            f"an order of all calls was searched for {searches} tracks, and given up for {given_up}",
            summary([report.history for report in reports]),
            f"the machine kept processes from their work {len(stalls)} times, for {longest:.1f} s at most",
        ]
    )


def too_busy(reports: Sequence[Report]) -> str:
    """Say that too many calls were excused to tell what the gateway is worth, where that is so."""
    calls = sum(len(one.history.calls) for one in reports)
    excused = sum(one.judgement.excused for one in reports)
    if excused <= _MAX_EXCUSED * calls:
        return ""
    return f"the machine was too busy to judge: {excused} of {calls} calls timed out while it kept processes from work"


async def play_row(row: Row, *, seconds: float, seed: int, turn: asyncio.Semaphore, court: Executor) -> Report:
    """Play one row and judge it, in a process of its own: other rows are being played in this one."""
    begun = time.monotonic()
    try:
        history, log = await play(row, seconds=seconds, seed=seed, turn=turn)
    except Exception:  # noqa: BLE001 - the other rows are played all the same
        shortfall = f"it could not be played to its end\n{traceback.format_exc()}"
        return Report(
            row=row, history=History(), log="", judgement=Judgement([]), shortfalls=[shortfall],
            seconds=time.monotonic() - begun,
        )  # fmt: skip
    judgement = await asyncio.get_running_loop().run_in_executor(court, judge, history)
    shortfalls = row.judge(history, log) if row.judge else []
    slow = [heal for heal in heal_times(history) if heal > 30]
    shortfalls += [f"not healed within 30 s: {heal:.1f}" for heal in slow]
    shortfalls += late(history)
    shortfalls += [f"the log says {word}" for word in ("party.failed", "settle.failed") if word in log]
    took = time.monotonic() - begun
    return Report(row=row, history=history, log=log, judgement=judgement, shortfalls=shortfalls, seconds=took)


async def play_rows(
    rows: Sequence[Row], *, seconds: float, seed: int, at_once: int = 2, show: Any = print
) -> list[Report]:
    """Play rows, some disturbed at once while others begin or come to rest, and show each as it ends."""
    turns, places = asyncio.Semaphore(at_once), asyncio.Semaphore(3 * at_once)
    stalls: list[float] = [0.0]
    watch = asyncio.create_task(_watch(stalls))

    court = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    async def one(row: Row, number: int) -> Report:
        async with places:
            report = await play_row(row, seconds=seconds, seed=seed * 100 + number, turn=turns, court=court)
        show("  ".join(report.cells()) + f"  ({report.seconds:.0f} s)")
        return report

    try:
        return list(await asyncio.gather(*(one(row, number) for number, row in enumerate(rows))))
    finally:
        watch.cancel()
        await asyncio.to_thread(court.shutdown)
        show(f"longest stall of clients, proxies and simulator: {max(stalls):.2f} s")


async def _watch(stalls: list[float]) -> None:
    """Note for how long this process was kept from its work: what it measures then is not the gateway's doing."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.05)
        stalls.append(time.monotonic() - before - 0.05)
