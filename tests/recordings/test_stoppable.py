"""A stop by a caller who may stop only some recordings is about the one that was looked at, and no later one."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from msgspec.structs import replace

from gateway.errors import CoordinationUnavailable, DeadlineExceeded
from gateway.recordings import Kind, Mode, Outcome, StartParameters, Status, Target
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import NewTrack
from tests.recordings.parts import TIMING, Parts

pytestmark = pytest.mark.anyio

OWN = "participant:ada"


def is_own(starter: str | None) -> bool:
    """Tell whether a recording is one of those that the caller may stop."""
    return starter == OWN


def new_target(new_track: NewTrack) -> Target:
    """Return a target that no other test uses."""
    track = new_track()
    return Target(Mode.TRACK, track["roomId"], track["participantId"], Kind(track["kind"]))


@pytest.fixture
async def parts(valkey: EmbeddedValkey, simulator: Simulator) -> AsyncGenerator[Parts]:
    """One process that believes nothing for long, and looks at nothing by itself."""
    async with Parts(valkey, simulator.url, replace(TIMING, trust=0.0)).running(settling=False) as running:
        yield running


async def start(parts: Parts, target: Target, caller: str = OWN) -> Outcome | None:
    """Start without parameters; return what that did."""
    return (await parts.recordings.start(target, StartParameters(), caller=caller, timeout=30)).outcome


async def test_stop_under_a_number_leaves_what_was_started_since(
    parts: Parts, simulator: Simulator, new_track: NewTrack
) -> None:
    """Between the look and the stop a service stops and starts again: its recording goes on."""
    target = new_target(new_track)
    assert await start(parts, target) is Outcome.STARTED
    number = await parts.recordings.stoppable(target, is_own, timeout=5)
    assert number is not None
    await parts.recordings.stop(target, caller="service", timeout=30)
    assert await start(parts, target, "service") is Outcome.STARTED
    answer = await parts.recordings.stop(target, caller=OWN, timeout=30, number=number)
    assert (answer.outcome, answer.recording.status) == (Outcome.JOINED, Status.STOPPED)
    assert [row.end is None for row in simulator.rows] == [False, True]
    assert await parts.recordings.stoppable(target, is_own, timeout=5) is None


async def test_stop_under_a_number_without_redis_stops_nothing(simulator: Simulator, new_track: NewTrack) -> None:
    """Without the record nothing tells what was started since: it may be another's. A stop of everything is done."""
    target = new_target(new_track)
    with EmbeddedValkey() as server:
        harness.age(server)
        async with Parts(server, simulator.url, TIMING).running(settling=False) as parts:
            await start(parts, target)
            number = await parts.recordings.stoppable(target, is_own, timeout=5)
            server.kill()
            with pytest.raises(CoordinationUnavailable):
                await parts.recordings.stop(target, caller=OWN, timeout=30, number=number)
            assert [row.end is None for row in simulator.rows] == [True]
            assert (await parts.recordings.stop(target, caller="service", timeout=30)).outcome is Outcome.STOPPED


async def test_stop_under_a_number_leaves_a_later_start_in_flight(
    parts: Parts, simulator: Simulator, new_track: NewTrack
) -> None:
    """The same while the service's start is being sent: no stop is noted for it."""
    target = new_target(new_track)
    await start(parts, target)
    number = await parts.recordings.stoppable(target, is_own, timeout=5)
    await parts.recordings.stop(target, caller="service", timeout=30)
    simulator.inject(harness.delay("start", 0.3))
    later = asyncio.create_task(start(parts, target, "service"))
    await harness.eventually(lambda: [call.endpoint for call in simulator.calls].count("start") == 2)
    answer = await parts.recordings.stop(target, caller=OWN, timeout=30, number=number)
    assert answer.outcome is Outcome.JOINED
    assert await later is Outcome.STARTED
    record = await parts.coordinator.records.read(parts.coordinator.key(target.room_id, *target.parts))
    assert record is not None
    assert (record.state, record.stop_due) == ("recording", False)


async def test_stoppable_after_the_end_looks_whether_another_was_begun_beside_the_gateway(
    parts: Parts, simulator: Simulator, new_track: NewTrack
) -> None:
    """What the caller started has ended, and VideoSDK records it for another client: that is not its to stop."""
    target = new_target(new_track)
    await start(parts, target)
    number = await parts.recordings.stoppable(target, is_own, timeout=5)
    await parts.recordings.stop(target, caller=OWN, timeout=30, number=number)
    assert await parts.recordings.stoppable(target, is_own, timeout=5) is not None
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}, trust_env=False) as other:
        body = {"roomId": target.room_id, "participantId": target.participant_id, "kind": target.kind}
        await other.post(f"{simulator.url}/v2/recordings/participant/track/start", json=body)

    async def refused() -> bool:
        return await parts.recordings.stoppable(target, is_own, timeout=5) is None

    await harness.until(refused)


async def test_stoppable_while_a_start_looks_at_the_list_waits_for_so_long(
    valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """Who starts is not known before the list has answered: the caller waits, and no longer than it said."""
    timing = replace(TIMING, verify_absent="always", upstream_timeout=20.0)
    async with Parts(valkey, simulator.url, timing).running(settling=False) as parts:
        target = new_target(new_track)
        simulator.inject(harness.delay("list", 0.5))
        starting = asyncio.create_task(start(parts, target))
        await harness.eventually(lambda: any(call.endpoint == "list" for call in simulator.calls))
        with pytest.raises(DeadlineExceeded, match="nothing was stopped"):
            await parts.recordings.stoppable(target, is_own, timeout=0.05)
        assert await parts.recordings.stoppable(target, is_own, timeout=30) is not None
        assert await starting is Outcome.STARTED


async def test_stop_under_a_number_that_was_promised_happens(
    parts: Parts, simulator: Simulator, new_track: NewTrack
) -> None:
    """It is noted while its own start is being sent, and its caller does not wait for it."""
    target = new_target(new_track)
    simulator.inject(harness.delay("start", 0.3))
    starting = asyncio.create_task(start(parts, target))
    await harness.eventually(lambda: any(call.endpoint == "start" for call in simulator.calls))
    number = await parts.recordings.stoppable(target, is_own, timeout=5)
    answer = await parts.recordings.stop(target, caller=OWN, timeout=0.05, number=number)
    assert answer.outcome is Outcome.STOP_REQUESTED
    record = await parts.coordinator.records.read(parts.coordinator.key(target.room_id, *target.parts))
    assert record is not None
    assert record.stop_due, "if this process died now, no other would carry it out"
    await starting
    await harness.eventually(lambda: [row.end is None for row in simulator.rows] == [False])
