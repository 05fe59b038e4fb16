"""A crowd waits for one start: those who come after it claim together, a few times a second, and wait no longer."""

import asyncio
from collections.abc import AsyncGenerator, Generator

import pytest

from gateway.coordinator import Timing
from gateway.recordings import Kind, Mode, Outcome, StartParameters, Target
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.recordings.parts import Parts, settled_valkey

pytestmark = pytest.mark.anyio

TRACK = Target(Mode.TRACK, "crowds-room", "ada", Kind.VIDEO)
CROWD = 3
PATIENT = Timing(upstream_timeout=20, send_window=10, settle=1, lease=10, trust=60, check=60, verify_absent="never")
"""Nothing times out on a busy machine."""


@pytest.fixture
def valkey() -> Generator[EmbeddedValkey]:
    """A server of the test's own."""
    with settled_valkey() as server:
        yield server


@pytest.fixture
async def parts(valkey: EmbeddedValkey, simulator: Simulator) -> AsyncGenerator[Parts]:
    """A process's parts, in which those who come after a crowd would gather for longer than a test may take."""
    bounds = {"crowd": CROWD, "crowd_seconds": 1000}
    async with Parts(valkey, simulator.url, PATIENT, coalescer=bounds).running(settling=False) as running:
        yield running


def start(parts: Parts) -> asyncio.Task[Outcome | None]:
    """Have a caller start the track; its outcome."""

    async def ask() -> Outcome | None:
        return (await parts.recordings.start(TRACK, StartParameters(), caller="demo", timeout=60)).outcome

    return asyncio.create_task(ask())


async def crowd(parts: Parts, simulator: Simulator) -> list[asyncio.Task[Outcome | None]]:
    """Have a crowd come while VideoSDK takes its time, and two more, of whom the last can but gather."""
    simulator.inject(Fault(action="delay", endpoint="start", seconds=2, room_id=TRACK.room_id))
    waiting = [start(parts) for _ in range(CROWD)]
    await harness.eventually(lambda: simulator.calls)
    for _ in range(2):
        waiting.append(start(parts))
        await harness.turns(5)
    return waiting


async def test_starts_behind_a_crowd_claim_together_when_the_operation_finishes(
    parts: Parts, simulator: Simulator
) -> None:
    """However many come one by one, they claim once; and once the start is answered they wait no longer."""
    waiting = await crowd(parts, simulator)
    claims = parts.connection.made["claim"]
    for _ in range(10):
        waiting.append(start(parts))
        await harness.turns(5)
    outcomes = await asyncio.gather(*waiting)
    assert outcomes.count(Outcome.STARTED) == 1
    assert set(outcomes) <= {Outcome.STARTED, Outcome.JOINED, Outcome.ALREADY_RECORDING}
    assert sum(call.endpoint == "start" for call in simulator.calls) == 1
    assert parts.connection.made["claim"] <= claims + 2


async def test_stop_behind_a_crowd_claims_at_once(parts: Parts, simulator: Simulator) -> None:
    """A stop does not gather: Redis knows of it while the start is still in flight, and it happens after the start."""
    waiting = await crowd(parts, simulator)
    waiting.append(start(parts))
    stop = asyncio.create_task(parts.recordings.stop(TRACK, caller="demo", timeout=60))
    key = parts.coordinator.key(TRACK.room_id, *TRACK.parts)

    record = await harness.until(lambda: parts.connection.read(key), lambda seen: "stop_requested_at" in seen)
    assert record["state"] == "starting"
    assert (await stop).outcome in {Outcome.STOPPED, Outcome.JOINED}
    await asyncio.gather(*waiting)
