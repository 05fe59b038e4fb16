"""How long a recording may last: the gateway stops it then, whatever else goes on and whichever replica is left."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
from msgspec.structs import replace

from gateway.coordinator import Timing
from gateway.observability import metrics
from gateway.recordings import EndReason, Kind, MaxDuration, Mode, Origin, Outcome, Recording, StartParameters, Target
from gateway.recordings.model import Answer
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.observability.numbers import Numbers
from tests.recordings.parts import TIMING, Log, Parts, settled_valkey

pytestmark = pytest.mark.anyio

ADA, BEN = (Target(Mode.TRACK, "room", name, Kind.VIDEO) for name in ("ada", "ben"))
NOTHING = StartParameters()
SHORT, LONG = MaxDuration(0.4), MaxDuration(3600.0)
HANGING = replace(TIMING, upstream_timeout=90.0, trust=0)
"""A list that is asked for may take longer than any test."""
HANGS = harness.delay("list", 80.0)


@pytest.fixture
def valkey() -> Generator[EmbeddedValkey]:
    """A server of the test's own: what others left there would be stopped here."""
    with settled_valkey() as server:
        yield server


@asynccontextmanager
async def process(
    valkey: EmbeddedValkey, simulator: Simulator, timing: Timing = TIMING, *, settling: bool = True
) -> AsyncGenerator[Parts]:
    """Run a process; without settling it only serves callers."""
    async with Parts(valkey, simulator.url, timing).running(settling=settling) as running:
        yield running


async def start(parts: Parts, target: Target = ADA, max_duration: MaxDuration = LONG) -> Answer:
    """Ask for a start."""
    return await parts.recordings.start(target, NOTHING, caller="demo", timeout=30, max_duration=max_duration)


async def ended(parts: Parts, target: Target = ADA) -> Recording:
    """Wait until the record says that it is over."""

    async def known() -> Recording:
        recording = await parts.recordings.known(target)
        assert recording is not None
        return recording

    return await harness.until(known, lambda recording: recording.status == "stopped")


async def begin_elsewhere(simulator: Simulator, target: Target) -> None:
    """Start a recording outside the gateway."""
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}) as another:
        assert (await another.post(f"{simulator.url}{target.start_path}", json=target.ids)).is_success


def sent(simulator: Simulator, endpoint: str) -> int:
    """Count calls that were made."""
    return sum(call.endpoint == endpoint for call in simulator.calls)


def timed_stops() -> float:
    """Return how many recordings were stopped because their time was over, by the metrics of this process."""
    text = metrics.render(metrics.GaugeValues(redis_up=True), "", "")[0].decode()
    return Numbers(text).total("timed_stops_total")


def lasts(answer: Answer) -> float | None:
    """Return for how many seconds from its start a recording may last."""
    recording = answer.recording
    if recording.stops_at is None or recording.requested_at is None:
        return None
    return (recording.stops_at - recording.requested_at) / timedelta(seconds=1)


async def test_start_with_a_duration_is_stopped_when_that_is_over(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """The answer says when; the record then says why; the log names it, and it is counted, once."""
    log, before = Log(), timed_stops()
    async with process(valkey, simulator) as parts:
        answer = await start(parts, max_duration=SHORT)
        assert (answer.outcome, lasts(answer)) == (Outcome.STARTED, SHORT.seconds)

        recording = await ended(parts)
        await harness.eventually(lambda: timed_stops() > before)

    assert recording.ended_because is EndReason.MAX_DURATION
    assert recording.stops_at == answer.recording.stops_at
    assert recording.ended_at is not None
    assert recording.stops_at is not None
    assert recording.ended_at >= recording.stops_at
    assert [row.end is not None for row in simulator.rows] == [True]
    assert (sent(simulator, "start"), sent(simulator, "stop"), timed_stops() - before) == (1, 1, 1)
    assert log.events().count("recording.time_over") == 1


async def test_start_without_a_duration_has_no_end(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """Nothing ends what nobody bounded."""
    async with process(valkey, simulator) as parts:
        assert lasts(await start(parts, max_duration=MaxDuration())) is None


async def test_end_is_kept_by_another_replica(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """The process that started it looks after nothing: another one stops it."""
    async with process(valkey, simulator, settling=False) as one:
        await start(one, max_duration=SHORT)
        async with process(valkey, simulator):
            assert (await ended(one)).ended_because is EndReason.MAX_DURATION


async def test_end_that_passed_while_no_process_ran_is_kept_by_the_next(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """A restart forgets nothing: what has to end is stopped as soon as a process runs again."""
    async with process(valkey, simulator, settling=False) as one:
        answer = await start(one, max_duration=SHORT)
        stops_at = answer.recording.stops_at
        assert stops_at is not None
        await harness.eventually(lambda: one.coordinator.now_ms() > stops_at.timestamp() * 1000)
    assert simulator.rows[0].end is None
    async with process(valkey, simulator) as next_one:
        assert (await ended(next_one)).ended_because is EndReason.MAX_DURATION


async def probed(parts: Parts, target: Target) -> str:
    """Wait until a probe looks at a target, and return by which attempt."""
    key = parts.coordinator.key(target.room_id, *target.parts)

    async def prober() -> str:
        record = await parts.coordinator.records.look(key)
        return record.holder if record is not None and record.action == "probe" else ""

    return await harness.until(prober)


async def test_end_does_not_wait_for_what_else_is_due_in_the_room(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """While another target of the room is looked at, in the only place there is for that, it is stopped."""
    bounds = {"max_concurrent_rooms": 1}
    async with Parts(valkey, simulator.url, HANGING, reconciler=bounds).running() as parts:
        await start(parts, BEN)
        simulator.inject(HANGS)
        await parts.coordinator.records.invalidate(parts.coordinator.key("room", *BEN.parts))
        leader = await probed(parts, BEN)

        await start(parts, max_duration=SHORT)

        assert (await ended(parts)).ended_because is EndReason.MAX_DURATION
        assert await probed(parts, BEN) == leader


async def test_end_overtakes_the_probe_of_the_very_target(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """A look at what has to end may take long where the list does: the stop is sent meanwhile."""
    async with process(valkey, simulator, HANGING) as parts:
        await start(parts, max_duration=MaxDuration(0.7))
        simulator.inject(HANGS)
        parts.reconciler.reconcile_soon(parts.coordinator.key("room", *ADA.parts))
        await probed(parts, ADA)

        assert (await ended(parts)).ended_because is EndReason.MAX_DURATION


async def test_starts_with_several_durations_at_once_end_at_the_earliest(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """They are one start all the same, and each is answered with an end that suits it."""
    simulator.inject(harness.delay("start", 0.2))
    bounds = (MaxDuration(), LONG, MaxDuration(600.0), MaxDuration(60.0), MaxDuration(600.0))
    async with process(valkey, simulator, settling=False) as one, process(valkey, simulator, settling=False) as other:
        answers = await asyncio.gather(
            *(start(parts, max_duration=max_duration) for max_duration in bounds for parts in (one, other))
        )
        last = await one.recordings.known(ADA)

    assert sent(simulator, "start") == 1
    assert [answer.outcome for answer in answers].count(Outcome.STARTED) == 1
    assert last is not None
    assert last.stops_at is not None
    for max_duration, answer in zip((max_duration for max_duration in bounds for _ in range(2)), answers, strict=True):
        assert max_duration.seconds == 0 or answer.recording.stops_at is not None
        if max_duration.seconds == 60.0:
            assert answer.recording.stops_at == last.stops_at


async def test_start_that_joins_one_in_flight_is_bounded_as_it_asks(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """A start that waits for a longer one, on another replica, moves the end before it is answered."""
    simulator.inject(harness.delay("start", 0.3))
    async with process(valkey, simulator, settling=False) as one, process(valkey, simulator, settling=False) as other:
        first = asyncio.create_task(start(one, max_duration=LONG))
        await harness.eventually(lambda: simulator.calls)
        joined, longer = await asyncio.gather(
            start(other, max_duration=MaxDuration(60.0)), start(other, max_duration=MaxDuration(7200.0))
        )
        known = await one.recordings.known(ADA)

    assert lasts(await first) == LONG.seconds
    assert known is not None
    assert known.stops_at is not None
    assert joined.outcome is Outcome.ALREADY_RECORDING
    assert joined.recording.stops_at == known.stops_at
    assert known.stops_at < (longer.recording.requested_at or known.stops_at) + timedelta(seconds=120)


async def test_start_that_may_lengthen_puts_the_end_off(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """What joins without that leaves the end where it is."""
    async with process(valkey, simulator, settling=False) as parts:
        first = await start(parts, max_duration=LONG)
        longer = await start(parts, max_duration=MaxDuration(7200.0))
        lengthened = await start(parts, max_duration=MaxDuration(7200.0, lengthens=True))

    assert longer.recording.stops_at == first.recording.stops_at
    assert lengthened.recording.stops_at is not None
    assert first.recording.stops_at is not None
    assert lengthened.recording.stops_at > first.recording.stops_at
    assert sent(simulator, "start") == 1


async def test_recording_begun_beside_the_gateway_ends_only_if_a_start_joins_it(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """It is not the gateway's to stop, whatever the setting; a start that finds it bounds it like its own."""
    timing = replace(TIMING, longest=0.4, verify_absent="always")
    for target in (ADA, BEN):
        await begin_elsewhere(simulator, target)
    async with process(valkey, simulator, timing) as parts:
        for target in (ADA, BEN):
            key = parts.coordinator.key("room", *target.parts)
            await parts.coordinator.records.invalidate(key)
            await parts.reconciler.reconcile_all([key])
        found = await parts.recordings.known(BEN)
        answer = await start(parts, max_duration=MaxDuration())

        assert (answer.outcome, answer.recording.origin) == (Outcome.ALREADY_RECORDING, Origin.VIDEOSDK)
        assert (await ended(parts)).ended_because is EndReason.MAX_DURATION
        other = await parts.recordings.known(BEN)

    assert found is not None
    assert other is not None
    assert (found.stops_at, other.stops_at, other.status) == (None, None, "recording")


async def test_recording_that_is_found_after_one_with_an_end_has_none(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """What the gateway stopped had an end; what another begins then is another recording."""
    async with process(valkey, simulator) as parts:
        await start(parts, max_duration=SHORT)
        await ended(parts)
        await begin_elsewhere(simulator, ADA)
        key = parts.coordinator.key("room", *ADA.parts)
        await parts.coordinator.records.invalidate(key)
        await parts.reconciler.reconcile_all([key])
        found = await parts.recordings.known(ADA)

    assert found is not None
    assert (found.status, found.origin, found.stops_at) == ("recording", Origin.VIDEOSDK, None)


async def test_stop_at_the_end_that_videosdk_does_not_answer_is_repeated(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """Like any other stop, until it is known that nothing runs; the reason stays."""
    simulator.inject(Fault(action="error", endpoint="stop", times=1))
    async with process(valkey, simulator) as parts:
        await start(parts, max_duration=SHORT)

        assert (await ended(parts)).ended_because is EndReason.MAX_DURATION

    assert sent(simulator, "stop") == 2
    assert [row.end is not None for row in simulator.rows] == [True]
