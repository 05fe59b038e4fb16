"""How long it takes until a track whose leader was killed has an answer, with the settings that operators get."""

import asyncio
import time
from typing import Final

from msgspec import Struct

from gateway.sandbox.faults import Fault
from tests import harness
from tests.faults.checker import Violation, check
from tests.faults.clients import Caller, Recorder, Track
from tests.faults.history import History, Limits
from tests.faults.stage import Replica, Stage

__all__ = ["Healed", "heal_with_defaults"]

_DEFAULTS: Final = {
    "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "10",
    "GATEWAY_SEND_WINDOW_SECONDS": "2",
    "GATEWAY_SETTLE_SECONDS": "5",
    "GATEWAY_LEASE_SECONDS": "4",
    "GATEWAY_REQUEST_DEADLINE_SECONDS": "30",
}
_LEASE: Final = 4.0
_QUIET: Final = 17.0


class Healed(Struct, frozen=True):
    """One measurement, in seconds from the kill to the first answer that is definite."""

    name: str
    seconds: float
    target: float
    answers: int
    violations: list[Violation]

    @property
    def good(self) -> bool:
        """Whether the target was met and nothing else went wrong."""
        return self.seconds <= self.target and not self.violations

    def __str__(self) -> str:
        """Return a line for people."""
        verdict = "" if self.good else "   TOO LATE" if self.seconds > self.target else f"   {self.violations}"
        return f"{self.name}: {self.seconds:.1f} s (at most {self.target:.1f} s), {self.answers} answers{verdict}"


async def heal_with_defaults(seed: int = 0) -> list[Healed]:
    """Kill the leaders of two starts, one that took effect and one that did not, and wait for those who joined them."""
    limits = Limits(upstream_timeout=10, quiet=_QUIET, lease=_LEASE)
    async with Stage(replicas=3, settings=_DEFAULTS, seed=seed) as stage:
        recorder = Recorder()
        applied, lost = Track("heal", "applied"), Track("heal", "lost")
        stage.simulator.inject(
            Fault(action="hang_after", endpoint="start", participant_id="applied"),
            Fault(action="hang_before", endpoint="start", participant_id="lost"),
        )
        leader, *others = stage.serving
        callers = [Caller(recorder, stage.demo.key, 30) for _ in range(22)]
        starts = [asyncio.create_task(callers[number].call(leader, "start", track, deadline=40)) for number, track in
                  enumerate((applied, lost))]  # fmt: skip
        await harness.eventually(lambda: sum(call.fault is not None for call in stage.simulator.calls) == len(starts))
        asked = {other.name: other.gate.claims for other in others}
        joiners = [
            asyncio.create_task(caller.call(_other(others, number), "start", (applied, lost)[number % 2], deadline=40))
            for number, caller in enumerate(callers[2:])
        ]
        # Until the others have asked the server about both tracks, so that they wait for the leader.
        await harness.eventually(lambda: all(other.gate.claims >= asked[other.name] + 2 for other in others))
        killed = time.monotonic()
        stage.kill(leader)
        await asyncio.gather(*starts, *joiners)
        for caller in callers:
            caller.close()
        history = History(
            calls=recorder.calls, upstream=stage.upstream_calls(), intervals=stage.intervals(),
            troubles=[*stage.troubles, *stage.waits.stalls()], limits=limits,
        )  # fmt: skip
    violations = check(history)
    return [
        _healed(history, violations, "kill -9 after the start took effect", applied, killed, _LEASE + 0.5),
        _healed(history, violations, "kill -9 before the start took effect", lost, killed, _QUIET + 0.5 + 0.5),
    ]


def _other(others: list[Replica], number: int) -> Replica:
    return others[number // 2 % len(others)]


def _healed(
    history: History, violations: list[Violation], name: str, track: Track, killed: float, target: float
) -> Healed:
    answers = [call for call in history.calls if call.track == track.name and call.ok]
    first = min((call.ended for call in answers), default=float("inf"))
    return Healed(name, first - killed, target, len(answers), [one for one in violations if one.track == track.name])
