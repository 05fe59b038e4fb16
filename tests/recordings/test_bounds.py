"""Every bound of the domain is met with small values: who may wait, what is remembered, what is done at once."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from msgspec import Struct
from redis.asyncio import Redis

from gateway.api.rate_limits import RateLimiter
from gateway.auth.api_keys import Caller
from gateway.coordinator import Backlog, Command, Completion, Coordinator, Record
from gateway.coordinator.rewrites import Rewrites
from gateway.errors import TooManyWaiting
from gateway.recordings import (
    EventType,
    Kind,
    Mode,
    Outcome,
    Reconciler,
    StartParameters,
    Target,
    WebhookEvent,
    WebhookEvents,
)
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.token_buckets import TokenBuckets
from tests import harness
from tests.recordings.parts import Parts, settled_valkey

pytestmark = pytest.mark.anyio

NOTHING = StartParameters()
ROOM = "room"


@pytest.fixture
def valkey() -> Generator[EmbeddedValkey]:
    """A server of the test's own."""
    with settled_valkey() as server:
        yield server


@pytest.fixture
async def parts(valkey: EmbeddedValkey, simulator: Simulator) -> AsyncGenerator[Parts]:
    """A process's parts; nothing looks after what is due."""
    async with Parts(valkey, simulator.url).running(settling=False) as running:
        yield running


def track(participant: str, room: str = ROOM) -> Target:
    """Return a track."""
    return Target(Mode.TRACK, room, participant, Kind.VIDEO)


def key_of(parts: Parts, one: Target) -> str:
    """Return the name of a track's record."""
    return parts.coordinator.key(one.room_id, *one.parts)


def asked(simulator: Simulator, endpoint: str = "list") -> int:
    """Count the calls of an endpoint."""
    return sum(call.endpoint == endpoint for call in simulator.calls)


class HeldReconciler(Reconciler):
    """Takes up every track it is given, and finishes when let go."""

    def __init__(self, parts: Parts, **bounds: Any) -> None:
        super().__init__(parts.coordinator, parts.listings, parts.leader, **bounds)
        self.begun: list[str] = []
        self.running = self.most_running = 0
        self.go = asyncio.Event()

    async def reconcile(self, key: str) -> None:
        """Reconcile a track."""
        self.begun.append(key)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self.go.wait()
        self.running -= 1


# --- callers -----------------------------------------------------------------------------------------------------


class Waiters:
    """Callers of a process whose VideoSDK answers none of them."""

    def __init__(self, parts: Parts) -> None:
        self._recordings = parts.recordings
        self.tasks: list[asyncio.Task[Any]] = []

    async def start(self, one: Target, account: str) -> str:
        """Have an account start a track; return the bound that refuses it, empty where it waits."""
        return await self._enter(self._recordings.start(one, NOTHING, caller="demo", timeout=60, account=account))

    async def stop(self, one: Target, account: str) -> str:
        """Have an account stop it."""
        return await self._enter(self._recordings.stop(one, caller="demo", timeout=60, account=account))

    async def _enter(self, command: Coroutine[Any, Any, Any]) -> str:
        task = asyncio.create_task(command)
        await harness.turns(2)
        if not task.done():
            self.tasks.append(task)
            return ""
        error = task.exception()
        assert isinstance(error, TooManyWaiting), error
        assert error.retry_after
        return error.extensions["bound"]

    async def leave(self) -> None:
        """Have all of them hang up."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()


@asynccontextmanager
async def full_house(valkey: EmbeddedValkey, simulator: Simulator, **bounds: int) -> AsyncGenerator[Waiters]:
    """Run a process in which every caller waits."""
    for endpoint in ("start", "stop"):
        simulator.inject(Fault(action="hang_before", endpoint=endpoint, times=None))
    async with Parts(valkey, simulator.url, coalescer=bounds).running(settling=False) as parts:
        waiters = Waiters(parts)
        try:
            yield waiters
        finally:
            await waiters.leave()


async def test_callers_beyond_the_bound_are_refused_until_others_leave(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """Two may wait for one track and three in all; one more is refused, and let in when others have left."""
    async with full_house(valkey, simulator, max_waiting=3, max_waiting_per_target=2) as house:
        assert await house.start(track("ada"), "one") == ""
        assert await house.start(track("ada"), "two") == ""
        assert await house.start(track("ada"), "three") == "waiting-for-target"
        assert await house.start(track("bob", "other"), "three") == ""
        assert await house.start(track("eve", "third"), "four") == "waiting"
        await house.leave()
        assert await house.start(track("ada"), "three") == ""
        assert await house.start(track("eve", "third"), "four") == ""


async def test_start_beyond_a_callers_share_is_refused_and_another_callers_waits(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """Whatever one account takes, others find a place: for the same track, in the same room, and in another one."""
    async with full_house(valkey, simulator, max_waiting=16, max_waiting_per_target=4) as house:
        answers = [await house.start(track("ada"), "greedy") for _ in range(3)]
        assert answers == ["", "", "waiting-for-target-per-caller"]
        assert await house.start(track("ada"), "other") == ""
        await house.leave()
        same_room = [track(f"p{number}") for number in range(5)]
        assert await house.start(same_room[4], "other") == ""
        assert [await house.start(one, "greedy") for one in same_room] == ["", "", "", "", "waiting-per-caller"]
        assert await house.start(same_room[3], "other") == ""
        await house.leave()
        # The one that was refused took no place of its track.
        assert [await house.start(same_room[4], "greedy") for _ in range(2)] == ["", ""]
        await house.leave()
        rooms = [track("p", f"room-{number}") for number in range(7)]
        assert [await house.start(one, "greedy") for one in rooms] == [*[""] * 6, "waiting-per-caller"]
        assert await house.start(rooms[6], "other") == ""
        await house.leave()
        crowd = [(track(f"p{number}"), f"caller-{number}") for number in range(9)]
        assert [await house.start(one, account) for one, account in crowd] == [*[""] * 8, "waiting-per-room"]
        assert await house.start(track("p", "elsewhere"), "caller-8") == ""


async def test_stop_has_a_place_whatever_waits(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """Neither starts that fill the places nor other callers' stops keep a caller's stop out; its own many do."""
    async with full_house(valkey, simulator, max_waiting=2, max_waiting_per_target=2) as house:
        assert await house.start(track("ada"), "one") == ""
        assert await house.start(track("ada", "other"), "two") == ""
        assert await house.start(track("bob", "third"), "three") == "waiting"
        assert [await house.stop(track("ada"), f"caller-{number}") for number in range(4)] == [""] * 4
        assert await house.stop(track("ada"), "operator") == ""
        assert await house.stop(track("ada"), "operator") == "stops-waiting-per-caller"


# --- what is remembered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("participant", [None, "ada"], ids=["whole rooms", "single participants"])
async def test_lists_of_many_rooms_are_forgotten_but_the_latest(
    valkey: EmbeddedValkey, simulator: Simulator, participant: str | None
) -> None:
    """Of three rooms the first is asked for again, the other two are still known."""
    bounds = {"max_remembered": 2, "max_unknown": 2}
    async with Parts(valkey, simulator.url, listings=bounds).running(settling=False) as parts:
        for room in ("one", "two", "three"):
            await parts.listings.ask(room, participant, max_age=3600)
        for room in ("two", "three"):
            await parts.listings.ask(room, participant, max_age=3600)
        assert asked(simulator) == 3
        await parts.listings.ask("one", participant, max_age=3600)
        assert asked(simulator) == 4


def sizes(holder: object, path: str = "", seen: set[int] | None = None) -> dict[str, int]:
    """Return how much every container holds that can be reached from a part of ours, by where it was found."""
    seen = set() if seen is None else seen
    if id(holder) in seen or isinstance(holder, Rewrites | Counter | Struct):
        # What was written of late is kept for ten seconds: that has a test of its own. A counter is the test's.
        return {}
    seen.add(id(holder))
    found: dict[str, int] = {}
    inner: list[tuple[str, object]] = []
    if isinstance(holder, dict | list | set | deque):
        container = cast("Any", holder)
        found[path] = len(container)
        inner = [(f"{path}[]", item) for item in (container.values() if isinstance(holder, dict) else container)]
    elif any(base.__module__.startswith("gateway.") for base in type(holder).__mro__):
        names = [*getattr(holder, "__dict__", {}), *getattr(type(holder), "__slots__", ())]
        inner = [(f"{path}.{name}", getattr(holder, name, None)) for name in names]
    for name, value in inner:
        for where, size in sizes(value, name, seen).items():
            found[where] = found.get(where, 0) + size
    return found


async def use(here: Parts, there: Parts, rate_limiter: RateLimiter, simulator: Simulator, name: str) -> None:
    """Do everything once that anything is remembered for, with tracks that nothing else uses."""
    one, room = track(name, f"room-{name}"), f"room-{name}"
    reader = await there.room_feeds.open(room)
    admission = await rate_limiter.admit(Caller(name, account=name), one, starts=True)
    simulator.inject(Fault(action="delay", endpoint="start", seconds=0.1, participant_id=name))
    before = asked(simulator, "start")
    start = asyncio.create_task(here.recordings.start(one, NOTHING, caller=name, timeout=20))
    await harness.eventually(lambda: asked(simulator, "start") > before)
    joined, again = await asyncio.gather(
        there.recordings.start(one, NOTHING, caller=name, timeout=20),
        here.recordings.start(one, NOTHING, caller=name, timeout=20),
    )
    answers = [await start, joined, again]
    assert {answer.outcome for answer in answers} == {Outcome.STARTED, Outcome.JOINED}
    for parts in (here, there):
        await parts.listings.ask(room)
        await parts.listings.ask(room, name)
        await parts.recordings.get(one)
        await parts.recordings.list(room)
        await parts.webhook_events.handle(WebhookEvent(room, name, Kind.VIDEO, EventType.STOPPED, Mode.TRACK))
        # A start without Redis that finds it running, one that starts, and a stop.
        await parts.without_redis.start(f"{key_of(parts, one)}", one, NOTHING, name)
        other = track(f"other-{name}", room)
        await parts.without_redis.start(key_of(parts, other), other, NOTHING, name)
        await parts.without_redis.stop(key_of(parts, other), other)
        left = track(f"left-{name}", room)
        await parts.without_redis.start(key_of(parts, left), left, NOTHING, name)
    await harness.until(lambda: there.recordings.stop(one, caller=name, timeout=20), lambda answer: answer.outcome)
    admission.charge(next(answer for answer in answers if answer.outcome is Outcome.STARTED))
    admission.leave()
    reader.leave()


async def test_process_memory_does_not_grow_with_tracks(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """After seven tracks no part holds more than after three: no results, lists, locks, waiters, feeds or leases."""
    bounds: dict[str, Any] = {"listings": {"max_remembered": 2, "max_unknown": 2}, "coalescer": {"max_results": 2}}
    async with (
        Parts(valkey, simulator.url, **bounds).running() as here,
        Parts(valkey, simulator.url, **bounds).running() as there,
    ):
        buckets = TokenBuckets(here.connection, sync_every=0.05, idle_seconds=0.05)
        buckets.open()
        rate_limiter = RateLimiter(buckets, "t", caller_per_minute=100, target_per_minute=100)
        held = {"here": here.all, "there": there.all, "rate_limiter": rate_limiter}
        for number in range(3):
            await use(here, there, rate_limiter, simulator, f"first-{number}")
        # What is still under way then is not counted: the least of what was seen.
        least = sizes(held)

        def grown() -> dict[str, int]:
            now = sizes(held)
            return {where: size for where, size in now.items() if size > max(least.get(where, 0), 2)}

        for number in range(4):
            await use(here, there, rate_limiter, simulator, f"then-{number}")

        async def look() -> dict[str, int]:
            return grown()

        await harness.until(look, lambda found: not found, timeout=10)
        await buckets.close(grace=5)


async def test_limits_keep_no_more_buckets_in_mind_than_their_bound(parts: Parts) -> None:
    """Of nine buckets two are kept in mind, and Redis hears at once what was spent of those that are not."""
    buckets = TokenBuckets(parts.connection, max_shares=2)
    for number in range(9):
        buckets.spend(f"t:target:{number}", per_minute=1, burst=10, cost=1)
    await harness.eventually(lambda: max(sizes(buckets).values()) <= 2)
    async with Redis.from_url(parts.connection._url()) as redis:
        told = [key async for key in redis.scan_iter(match="*:limit:t:target:*")]
        assert len(told) == 7
        await buckets.close(5)
        assert len([key async for key in redis.scan_iter(match="*:limit:t:target:*")]) == 9


async def test_events_after_a_long_gap_begin_with_the_room(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """Two missed events are told one by one; after three the room is told as it is."""
    async with Parts(valkey, simulator.url, room_feeds={"max_missed": 2}).running(settling=False) as parts:
        first = await parts.room_feeds.open(ROOM)
        (begun,) = await first.read(5)
        first.leave()
        _, lease = await parts.coordinator.claim(key_of(parts, track("ada")), Command.START)
        assert lease is not None
        await parts.coordinator.finish(lease, Completion(record=Record(state="recording", confirmed_by="reply")))
        second = await parts.room_feeds.open(ROOM, begun.id)
        told = await second.read(5)
        assert [update.whole for update in told] == [False, False]
        await parts.coordinator.claim(key_of(parts, track("bob")), Command.START)
        heard = await second.read(20)
        assert [update.whole for update in heard] == [False]
        third = await parts.room_feeds.open(ROOM, begun.id)
        assert [update.whole for update in await third.read(5)] == [True]
        for reader in (second, third):
            reader.leave()


# --- what is done at once ----------------------------------------------------------------------------------------


async def test_reconciler_recovers_no_more_rooms_at_once_than_its_bound(parts: Parts) -> None:
    """Of five rooms two are settled at the same time."""
    held = HeldReconciler(parts, max_concurrent_rooms=2)
    keys = [key_of(parts, track("ada", f"room-{number}")) for number in range(5)]
    checks = [asyncio.create_task(held.check([key])) for key in keys]
    await harness.eventually(lambda: held.running == 2)
    held.go.set()
    await asyncio.gather(*checks)
    assert held.most_running == 2
    assert sorted(held.begun) == sorted(keys)


async def test_reconciler_compares_no_more_rooms_at_once_than_its_bound(parts: Parts, simulator: Simulator) -> None:
    """Of five rooms two are compared with VideoSDK's list at the same time."""
    tracks = [track("ada", f"room-{number}") for number in range(5)]
    for one in tracks:
        await parts.recordings.start(one, NOTHING, caller="demo", timeout=20)
    simulator.inject(harness.delay("list", 0.1))
    reconciler = HeldReconciler(parts, max_concurrent_rooms=2)
    await asyncio.gather(*(reconciler.check([key_of(parts, one)]) for one in tracks))
    calls = [call for call in simulator.calls if call.endpoint == "list"]
    assert len(calls) == 5
    for call in calls:
        assert sum(other.received <= call.received < (other.answered or 0) for other in calls) <= 2


async def test_session_end_reconciles_no_more_tracks_at_once_than_its_bound(parts: Parts) -> None:
    """Of five tracks two are settled where the event is heard; the others are due, for any replica."""
    held = HeldReconciler(parts, max_reconciling=2)
    tracks = [track(f"p-{number}") for number in range(5)]
    for one in tracks:
        await parts.recordings.start(one, NOTHING, caller="demo", timeout=20)
    await WebhookEvents(parts.coordinator, held).handle(WebhookEvent(ROOM, None, None, EventType.ENDED))
    await harness.eventually(lambda: held.begun)
    held.go.set()
    await held.close()
    assert len(held.begun) == 2
    # Redis's clock is known to some milliseconds only: what became due just now may not be due yet.
    bucket, keys = bucket_of(parts, tracks[0]), {key_of(parts, one) for one in tracks}
    await harness.until(lambda: parts.coordinator.records.due(bucket, 100), lambda due: set(due) == keys)


def bucket_of(parts: Parts, one: Target) -> int:
    """Return the number of a track's bucket."""
    return int(key_of(parts, one)[5:7])


async def test_reconciler_round_takes_no_more_tracks_of_a_bucket_than_its_bound(parts: Parts) -> None:
    """Of five that are due two are taken up; the next rounds leave the room alone that is being looked after."""
    held = HeldReconciler(parts, every=0.01, max_per_bucket=2)
    for number in range(5):
        await parts.coordinator.records.invalidate(key_of(parts, track(f"p-{number}")))
    await held.start()
    await harness.eventually(lambda: held.begun)
    seen = parts.connection.made["due"]
    await harness.eventually(lambda: parts.connection.made["due"] > seen + 3 * 16)
    assert len(held.begun) == 2
    held.go.set()
    await held.close()


async def test_show_while_the_list_hangs_is_answered_from_the_record(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """What is known is told after a moment, long before VideoSDK's own time-out."""
    one = track("ada")
    async with Parts(valkey, simulator.url, recordings={"answer_within": 0.05}).running(settling=False) as parts:
        await parts.recordings.start(one, NOTHING, caller="demo", timeout=20)
        await parts.coordinator.records.invalidate(key_of(parts, one))
        simulator.inject(Fault(action="hang_before", endpoint="list", times=None))
        answered = asyncio.create_task(parts.recordings.get(one))
        another = asyncio.create_task(parts.listings.ask(ROOM))
        await asyncio.wait([answered, another], return_when=asyncio.FIRST_COMPLETED)
        assert answered.done()
        another.cancel()
        assert answered.result().status == "recording"


async def test_close_waits_for_operations_no_longer_than_its_grace(parts: Parts, simulator: Simulator) -> None:
    """A start that VideoSDK does not answer is left to other replicas."""
    simulator.inject(Fault(action="hang_before", endpoint="start", times=None))
    start = asyncio.create_task(parts.recordings.start(track("ada"), NOTHING, caller="demo", timeout=60))
    await harness.eventually(lambda: asked(simulator, "start") == 1)
    closing = asyncio.create_task(parts.recordings.close(grace=0.01))
    await asyncio.wait([closing, start], return_when=asyncio.FIRST_COMPLETED)
    # VideoSDK's own time-out would have answered the caller first.
    assert closing.done()
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)


# --- a list that fails -------------------------------------------------------------------------------------------


async def due_at(parts: Parts, key: str) -> float:
    """Return when a track is due (ms by Redis's clock)."""
    schedule = await parts.connection.scheduled(f"{key[:8]}:t:due", 2**53, 100)
    return schedule[key]


async def test_reconciler_after_a_failed_list_leaves_the_room_for_seconds(parts: Parts, simulator: Simulator) -> None:
    """A comparison without a list makes the track due in five seconds at the earliest, for all replicas."""
    one = track("ada")
    await parts.recordings.start(one, NOTHING, caller="demo", timeout=20)
    simulator.inject(Fault(action="refuse", endpoint="list", status=500, times=None))
    before = await parts.connection.now()
    await parts.reconciler.check([key_of(parts, one)])
    assert asked(simulator) == 1
    assert await due_at(parts, key_of(parts, one)) >= before + 5_000


async def test_reconciler_after_a_failed_probe_leaves_the_track_for_seconds(parts: Parts, simulator: Simulator) -> None:
    """The same where a leader had to look, because the record was not believed any more."""
    one = track("ada")
    await parts.recordings.start(one, NOTHING, caller="demo", timeout=20)
    simulator.inject(Fault(action="refuse", endpoint="list", status=500, times=None))
    assert await parts.coordinator.records.invalidate(key_of(parts, one))
    # A doubt in the very millisecond of the claim counts as later than it.
    doubted = await parts.connection.now()
    before = await harness.until(parts.connection.now, lambda now: now > doubted, every=0.001)
    await parts.reconciler.reconcile(key_of(parts, one))
    assert asked(simulator) == 1
    assert await due_at(parts, key_of(parts, one)) >= before + 5_000


# --- what Redis keeps and tells ----------------------------------------------------------------------------------


async def claimed(coordinator: Coordinator, *participants: str) -> None:
    """Have tracks change, one after the other."""
    for participant in participants:
        await coordinator.claim(coordinator.key(ROOM, "track", participant, "video"), Command.START)


async def test_room_returns_no_more_tracks_than_its_bound(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """Of three tracks the two that changed last."""
    async with Parts(valkey, simulator.url, coordinator={"max_targets": 2}).running(settling=False) as parts:
        await claimed(parts.coordinator, "ada", "bob", "eve")
        records = (await parts.coordinator.records.room(ROOM)).records
        assert {key.split(":")[-2] for key in records} == {"bob", "eve"}


async def test_events_of_a_room_beyond_the_bound_are_dropped(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """Redis trims by the hundred: of 130 events about ten are wanted, and fewer than 120 are kept."""
    async with Parts(valkey, simulator.url, coordinator={"max_events": 10}).running(settling=False) as parts:
        coordinator = parts.coordinator
        # Few at a time, so that a busy machine answers each in time.
        lots = ([f"p-{lot}-{number}" for number in range(26)] for lot in range(5))
        await asyncio.gather(*(claimed(coordinator, *lot) for lot in lots))
        kept = await parts.connection.entries(coordinator.records.channel(ROOM), "-", 1000)
        assert 10 <= len(kept) < 120
        assert await coordinator.records.events(ROOM, "1-0") is None


async def test_backlog_counts_no_more_tracks_of_a_bucket_than_its_bound(parts: Parts) -> None:
    """Three tracks of a room are unknown; where two are looked at, two are told."""
    for name in ("ada", "bob", "eve"):
        _, lease = await parts.coordinator.claim(key_of(parts, track(name)), Command.START)
        assert lease is not None
        await parts.coordinator.finish(lease, Completion(record=Record(state="unknown")), due_in=5)
    counted = [await Backlog(parts.connection, "t", max_per_bucket=most).uncertainty() for most in (2, 3)]
    assert [seen.count for seen in counted if seen] == [2, 3]
