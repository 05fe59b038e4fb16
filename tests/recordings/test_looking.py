"""When VideoSDK's list is asked, and how much of it: by reads, by webhooks, by the reconciler."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.coordinator import Command, Completion, Record
from gateway.errors import NotFound
from gateway.recordings import Kind, Mode, StartParameters, Target, WebhookEvent
from gateway.recordings.model import Answer, Outcome
from gateway.recordings.webhook_events import EventType
from gateway.sandbox.faults import Fault
from gateway.sandbox.shapes import Target as SimulatedTarget
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from gateway.store.clock import clock
from tests import harness
from tests.recordings.parts import CALM, Parts, settled_valkey

pytestmark = pytest.mark.anyio

ROOM = "room"
ADA, BOB = (Target(Mode.TRACK, ROOM, participant, Kind.VIDEO) for participant in ("ada", "bob"))


@pytest.fixture
def valkey() -> Generator[EmbeddedValkey]:
    """A server of the test's own."""
    with settled_valkey() as server:
        yield server


@pytest.fixture
async def parts(valkey: EmbeddedValkey, simulator: Simulator) -> AsyncGenerator[Parts]:
    """A process's parts; nothing looks after what is due."""
    async with Parts(valkey, simulator.url, CALM).running(settling=False) as running:
        yield running


def key_of(parts: Parts, target: Target) -> str:
    """Return the name of a target's record."""
    return parts.coordinator.key(target.room_id, *target.parts)


async def start(parts: Parts, *targets: Target) -> None:
    """Have targets recorded, a few milliseconds ago."""
    for target in targets:
        await parts.recordings.start(target, StartParameters(), caller="demo", timeout=60)
    begun = await parts.connection.now()
    await harness.until(parts.connection.now, lambda now: now > begun + 2, every=0.001)
    parts.coordinator.now_ms()


def lists(simulator: Simulator) -> list[str | None]:
    """Return of which participant each list was asked for, None of all."""
    return [call.participant_id or None for call in simulator.calls if call.endpoint == "list"]


# --- reads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doubted", [(), (ADA,), (BOB,), (ADA, BOB)], ids=["none", "one", "another", "all"])
async def test_list_of_a_room_asks_videosdk_where_a_record_is_not_believed(
    parts: Parts, simulator: Simulator, doubted: tuple[Target, ...]
) -> None:
    """For the whole room, where but one of its records is in doubt; not at all while all are believed."""
    await start(parts, ADA, BOB)
    for target in doubted:
        await parts.coordinator.records.invalidate(key_of(parts, target))
    recordings = await parts.recordings.list(ROOM)
    assert {recording.status for recording in recordings} == {"recording"}
    assert lists(simulator)[:1] == ([None] if doubted else [])


@pytest.mark.parametrize(("doubted", "asked"), [(False, []), (True, ["ada"])])
async def test_get_asks_videosdk_for_the_participant_where_the_record_is_not_believed(
    parts: Parts, simulator: Simulator, doubted: bool, asked: list[str]
) -> None:
    """The list of one participant, not of the room; nothing while the record is believed."""
    await start(parts, ADA)
    if doubted:
        await parts.coordinator.records.invalidate(key_of(parts, ADA))
    assert (await parts.recordings.get(ADA)).status == "recording"
    assert lists(simulator)[:1] == asked


async def test_list_of_an_unknown_room_asks_videosdk_for_the_room(parts: Parts, simulator: Simulator) -> None:
    """Nothing is known, and something may record."""
    assert await parts.recordings.list("elsewhere") == []
    assert lists(simulator) == [None]


async def test_start_in_a_room_remembered_as_unknown_has_it_asked_for_again(parts: Parts, simulator: Simulator) -> None:
    """For a while VideoSDK is asked once for a room of which it shows nothing, but not beyond a start there."""
    for _ in range(2):
        with pytest.raises(NotFound):
            await parts.recordings.get(BOB)
        assert await parts.recordings.list(ROOM) == []
    assert lists(simulator) == [None]
    await start(parts, ADA)
    with pytest.raises(NotFound):
        await parts.recordings.get(BOB)
    assert lists(simulator) == [None, None]


# --- the reconciler --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("due", "asked"), [((ADA,), ["ada"]), ((ADA, BOB), [None])], ids=["one", "two"])
async def test_reconciler_asks_for_one_participant_or_for_the_room(
    parts: Parts, simulator: Simulator, due: tuple[Target, ...], asked: list[str | None]
) -> None:
    """One list answers for all that is due in a room; where that is one target, it is its participant's."""
    await start(parts, *due)
    await parts.reconciler.check([key_of(parts, target) for target in due])
    assert lists(simulator) == asked


async def test_reconciler_asks_for_a_participant_once_for_all_their_tracks(parts: Parts, simulator: Simulator) -> None:
    """Their list answers for all of them, and those of the room's other participants are not needed."""
    audio = Target(Mode.TRACK, ROOM, "ada", Kind.AUDIO)
    await start(parts, ADA, audio)
    begun = len(simulator.calls)
    await parts.reconciler.check([key_of(parts, target) for target in (ADA, audio)])
    assert [(call.endpoint, call.participant_id) for call in simulator.calls[begun:]] == [("list", "ada")]


@pytest.mark.parametrize(("status", "again"), [(400, True), (402, False), (403, False), (404, True), (409, True)])
async def test_stop_of_what_never_was_has_the_list_asked_again_where_something_may_begin(
    parts: Parts, valkey: EmbeddedValkey, simulator: Simulator, status: int, again: bool
) -> None:
    """Not where the room has no session: any number of such stops in made-up rooms costs no comparison."""
    simulator.inject(Fault(action="refuse", endpoint="stop", status=status))
    answer = await parts.recordings.stop(ADA, caller="demo", timeout=60)
    assert answer.outcome == Outcome.NOT_RECORDING
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        scores = [await redis.zcard(key) async for key in redis.scan_iter(match="*:t:due")]
    assert sum(scores) == again


# --- rooms whose list is longer than is read -------------------------------------------------------------------------


@pytest.fixture
async def in_parts(valkey: EmbeddedValkey, signer: Signer) -> AsyncGenerator[tuple[Parts, Simulator]]:
    """A process's parts, and a VideoSDK whose list of the room's tracks has a page more than is read."""
    async with harness.simulator(signer=signer, most_per_page=2) as simulator:
        simulator.account.start(SimulatedTarget("track", ROOM, "eve", "video"), {}, None)
        small = Parts(valkey, simulator.url, CALM, videosdk={"max_pages": 1})
        async with small.running(settling=False) as running:
            yield running, simulator


async def due_at(valkey: EmbeddedValkey) -> dict[str, float]:
    """Return when each record is looked at next."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        queues = [await redis.zrange(name, 0, -1, withscores=True) async for name in redis.scan_iter(match="*:t:due")]
    return {str(key): float(score) for queue in queues for key, score in queue}


async def test_reconciler_notices_an_end_in_a_room_that_is_too_long(in_parts: tuple[Parts, Simulator]) -> None:
    """Of the targets that are due each is compared with its own list: one ended, two go on, one of them the room's."""
    parts, simulator = in_parts
    due = (ADA, BOB, Target(Mode.ROOM, ROOM))
    await start(parts, *due)
    simulator.end_recording(ROOM, "ada", "video", webhook=False)
    before = len(lists(simulator))
    await parts.reconciler.check([key_of(parts, target) for target in due])
    told = [await parts.recordings.known(target) for target in due]
    assert [recording and recording.status for recording in told] == ["stopped", "recording", "recording"]
    assert [recording and recording.confirmed_by for recording in told] == ["list", "list", "list"]
    assert lists(simulator)[before:].count(None) == 1


async def test_reconciler_lets_rest_what_the_list_of_one_participant_did_not_tell(
    in_parts: tuple[Parts, Simulator], valkey: EmbeddedValkey
) -> None:
    """The other is compared all the same, and is not looked at again before its time."""
    parts, simulator = in_parts
    await start(parts, ADA, BOB)
    simulator.inject(Fault(action="error", endpoint="list", participant_id="ada", times=None))
    before = await due_at(valkey)
    await parts.reconciler.check([key_of(parts, target) for target in (ADA, BOB)])
    ada, bob = [await parts.recordings.known(target) for target in (ADA, BOB)]
    assert ada is not None
    assert bob is not None
    assert (ada.status, ada.confirmed_by, bob.status, bob.confirmed_by) == ("recording", "reply", "recording", "list")
    after = await due_at(valkey)
    assert before[key_of(parts, ADA)] < after[key_of(parts, ADA)] < after[key_of(parts, BOB)]


async def test_get_of_an_unknown_target_in_a_room_that_is_too_long_shows_what_videosdk_lists(
    in_parts: tuple[Parts, Simulator],
) -> None:
    """By the list of its participant, as the whole room's cannot be had; that is tried once."""
    parts, simulator = in_parts
    await start(parts, ADA, BOB)
    eve, audio = (Target(Mode.TRACK, ROOM, "eve", kind) for kind in (Kind.VIDEO, Kind.AUDIO))
    assert (await parts.recordings.get(eve)).status == "recording"
    assert lists(simulator)[:2] == [None, "eve"]
    before = len(lists(simulator))
    with pytest.raises(NotFound):
        await parts.recordings.get(audio)
    assert None not in lists(simulator)[before:]


# --- webhooks --------------------------------------------------------------------------------------------------------


async def become(parts: Parts, state: str) -> None:
    """Bring Ada's track into a state, without VideoSDK."""
    if state:
        _, lease = await parts.coordinator.claim(key_of(parts, ADA), Command.START)
        assert lease is not None
        record = Record(state=state, generation=lease.operation, confirmed_by="list")
        await parts.coordinator.finish(lease, Completion(record=record), settled=state not in {"unknown", "stopping"})


SAID = [
    # event              record       the list of its participant is asked   the record is doubted
    (EventType.STARTING, "recording", False, False),
    (EventType.STOPPING, "recording", False, False),
    (EventType.STARTED,  "",          True,  False),
    (EventType.STARTED,  "stopped",   True,  False),
    (EventType.STARTED,  "recording", False, False),
    (EventType.STARTED,  "unknown",   True,  False),
    (EventType.STOPPED,  "",          True,  False),
    (EventType.STOPPED,  "stopped",   True,  False),
    (EventType.STOPPED,  "failed",    True,  False),
    (EventType.STOPPED,  "recording", True,  True),
    (EventType.FAILED,   "recording", True,  True),
    (EventType.LEFT,     "recording", True,  True),
    (EventType.ENDED,    "recording", True,  True),
    (EventType.ENDED,    "stopped",   False, False),
    (EventType.LEFT,     "failed",    False, False),
]  # fmt: skip


@pytest.mark.parametrize(("happened", "state", "looks", "doubts"), SAID)
async def test_webhook_has_looked_what_it_may_have_changed(
    parts: Parts, simulator: Simulator, happened: EventType, state: str, looks: bool, doubts: bool
) -> None:
    """An end is looked at where something may record, a beginning where nothing is known to; an echo costs nothing."""
    await become(parts, state)
    # Bob's is recorded in any case, and only an end of the session is about that.
    await start(parts, BOB)
    before = len(lists(simulator))
    of_one = {EventType.LEFT: (ADA.participant_id, None, None), EventType.ENDED: (None, None, None)}
    participant, kind, mode = of_one.get(happened, (ADA.participant_id, "video", Mode.TRACK))
    event = WebhookEvent(room_id=ROOM, participant_id=participant, kind=kind, type=happened, mode=mode)
    await parts.webhook_events.handle(event)
    taken_up = set(parts.reconciler._reconciling)
    await parts.reconciler.reconcile_all(taken_up)
    assert ("ada" in lists(simulator)[before:]) is looks
    assert (key_of(parts, BOB) in taken_up) is (happened is EventType.ENDED)
    assert (key_of(parts, ADA) in taken_up) is (doubts or state == "unknown")


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stopped", "outcome"), [(False, "started"), (True, None)])
async def test_retry_of_a_start_yields_to_a_stop_that_was_asked_for_since(
    parts: Parts, stopped: bool, outcome: str | None
) -> None:
    """A retry counts as asked when it was first asked: after the stop before it, and before the one since."""
    await start(parts, ADA)
    await parts.recordings.stop(ADA, caller="demo", timeout=60)
    before = await parts.connection.now()
    asked_at = await harness.until(parts.connection.now, lambda now: now > before, every=0.001)
    if stopped:
        await harness.until(parts.connection.now, lambda now: now > asked_at, every=0.001)
        # Redis counts a stop that is asked for where nothing records, too.
        await parts.coordinator.records.invalidate(key_of(parts, ADA))
        await parts.recordings.stop(ADA, caller="demo", timeout=60)
    answer = await parts.recordings.start(ADA, StartParameters(), caller="demo", timeout=60, asked_at=asked_at)
    assert answer.outcome == outcome


async def test_finish_without_a_due_time_leaves_nothing_due(parts: Parts) -> None:
    """Unless it is said when, no reconciler looks; a list of a while ago confirms for that while only."""
    await become(parts, "recording")
    key = key_of(parts, ADA)
    assert key not in await parts.connection.scheduled(f"{key[:8]}:t:due", 2**53, 100)
    record = await parts.coordinator.records.read(key)
    assert record is not None
    written = await parts.connection.now()
    await harness.until(parts.connection.now, lambda now: now > written + 300, every=0.005)
    seen_at = clock()
    await harness.until(parts.connection.now, lambda now: now > written + 900, every=0.005)
    assert await parts.coordinator.records.confirm(key, record, seen_at=seen_at)
    assert key not in await parts.connection.scheduled(f"{key[:8]}:t:due", 2**53, 100)
    confirmed = await parts.coordinator.records.read(key)
    assert confirmed is not None
    assert record.confirmed < confirmed.confirmed <= await parts.connection.now() - 300


# --- without Redis ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "shown"), [(None, "webm"), ("mp4", "mp4")])
async def test_start_without_redis_shows_the_format_that_was_asked_for(
    parts: Parts, asked: str | None, shown: str
) -> None:
    """VideoSDK's own where none was; and that it is known to this process alone."""
    answer = await parts.without_redis.start(key_of(parts, ADA), ADA, StartParameters(file_format=asked), "demo")
    assert isinstance(answer, Answer)
    assert (answer.outcome, answer.recording.file_format, answer.recording.coordinated) == ("started", shown, False)


async def test_without_redis_a_target_is_open_while_its_own_row_is(parts: Parts, simulator: Simulator) -> None:
    """Another track of its participant is not it, and a row that has an end is over."""
    audio = Target(Mode.TRACK, ROOM, "ada", Kind.AUDIO)
    await start(parts, ADA)
    assert [await parts.without_redis._is_open(target) for target in (ADA, audio, BOB)] == [True, False, False]
    simulator.end_recording(ROOM, "ada", "video", webhook=False)
    assert not await parts.without_redis._is_open(ADA)


@pytest.mark.parametrize(
    ("before", "fault", "found"),
    [
        ("start", None, "joined"),
        ("start", "reset_before", "outcome-unknown"),
        ("stop", None, "started"),
    ],
)
async def test_start_without_redis_joins_a_start_that_was_answered_meanwhile(
    parts: Parts, simulator: Simulator, before: str, fault: Any, found: str
) -> None:
    """It waits for its turn, and shares the answer of a start; neither that of a stop, nor one that did not come."""
    key, here = key_of(parts, ADA), parts.without_redis
    if fault:
        simulator.inject(Fault(action=fault, endpoint="start"))
    first = here.stop(key, ADA) if before == "stop" else here.start(key, ADA, StartParameters(), "demo")
    _, answer = await asyncio.gather(first, here.start(key, ADA, StartParameters(), "demo"))
    assert (answer.outcome if isinstance(answer, Answer) else answer.slug) == found
    assert sum(call.endpoint == "start" for call in simulator.calls) == 1


async def test_stops_without_redis_leave_no_turn_behind(parts: Parts) -> None:
    """Several at a time, one after the other, and then nothing is kept of the target's turn."""
    key = key_of(parts, ADA)
    async with parts.without_redis._turn(key):
        async with asyncio.timeout(harness.BOUND):
            waiting = asyncio.gather(*(parts.without_redis.stop(key, ADA) for _ in range(3)))
            await harness.eventually(lambda: parts.without_redis._turns[key].users == 4)
        assert not waiting.done()
    # The same turn is theirs, and that of others who come meanwhile.
    assert parts.without_redis._turns[key].users == 3
    await waiting
    # Until Redis has heard of it, that takes turns too.
    await harness.eventually(lambda: parts.without_redis._turns == {})
