"""Every key that the gateway writes to Redis goes by itself: not before its time, and not long after it.

The parts that write are used as the gateway uses them, on a real server; the bounds are what `claims.py` documents.
"""

import re
from collections.abc import AsyncGenerator, Generator
from datetime import timedelta
from typing import Any, Final, cast

import pytest
import redis

from gateway.coordinator import Command, Completion, Coordinator, MaxDuration, Record, Timing
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.clock import clock
from gateway.store.connection import Connection
from gateway.store.idempotency_records import IdempotencyKey, IdempotencyRecords
from gateway.store.tickets import Tickets
from gateway.store.token_buckets import TokenBuckets
from tests import harness

pytestmark = pytest.mark.anyio

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
SLACK: Final = 2 * MINUTE
"""How long (ms) after a key was written a busy machine may take to look at it."""
TIMING: Final = Timing(memory=30 * 3600.0, keep=7 * 3600.0, replay=40 * 60.0, lease=60.0, verify_absent="never")
"""Each bound another number, so that none can be taken for another."""
MEMORY, KEEP, REPLAY = (round(seconds * 1000) for seconds in (TIMING.memory, TIMING.keep, TIMING.replay))
ANSWERS, TICKETS = timedelta(days=1, hours=2), timedelta(days=1, seconds=1800)
"""More than a day: where only the seconds of a duration are taken, little is left of them."""


@pytest.fixture(scope="module")
def server() -> Generator[EmbeddedValkey]:
    """A server that only these tests write to."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def admin(server: EmbeddedValkey) -> Generator["redis.Redis"]:
    """A client of it; the server is emptied first."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
async def connection(server: EmbeddedValkey) -> AsyncGenerator[Connection]:
    """The way to it."""
    connection = Connection(server.url)
    yield connection
    await connection.aclose()


def lifetimes(admin: "redis.Redis") -> dict[str, int]:
    """Return how long (ms) each key still lives, by what kind of key it is."""
    found: dict[str, int] = {}
    for key in cast("list[str]", admin.keys("*")):
        kind = next((name for name, pattern in KINDS.items() if re.fullmatch(pattern, key)), f"unknown {key}")
        found[kind] = admin.pttl(key)
    return found


KINDS: Final = {
    "due": r"rec:\{\d\d\}:[^:]+:due",
    "ends": r"rec:\{\d\d\}:[^:]+:ends",
    "epoch": r"rec:\{\d\d\}:epoch",
    "targets": r"rec:\{\d\d\}:t:[^:]+:targets",
    "events": r"rec:\{\d\d\}:t:[^:]+:events",
    "answers": r"rec:\{\d\d\}:answers:[0-9a-f]{32}",
    "answered": r"rec:\{\d\d\}:answered:[0-9a-f]{32}",
    "ticket": r"rec:\{\d\d\}:ticket:[0-9a-f]{64}",
    "limit": r"rec:\{\d\d\}:limit:.+",
    "report": r"rec:\{\d\d\}:limit-report:[0-9a-f]{16}",
    "record": r"rec:\{\d\d\}:t:[^:]+:[^:]+:video",
}
"""Every kind of key that there is; what is none of them is not documented."""


def completion(state: str, confirmed_by: str) -> Completion:
    """Return an operation's end in a state that was seen just now."""
    return Completion(record=Record(state=state, confirmed_by=confirmed_by))


async def recorded(connection: Connection) -> tuple[Coordinator, str]:
    """Bring a track to a recording that is looked at again."""
    coordinator = Coordinator(connection, TIMING, "t")
    key = coordinator.key("room", "p", "video")
    _, lease = await coordinator.claim(key, Command.STOP)
    assert lease is not None
    await coordinator.finish(lease, completion("recording", "list"), due_in=60)
    return coordinator, key


def check(admin: "redis.Redis", expected: dict[str, int]) -> None:
    """Fail where a key lives shorter or longer than it is to, or is of another kind."""
    found = lifetimes(admin)
    assert found.keys() == expected.keys()
    wrong = {kind: ms for kind, ms in found.items() if not expected[kind] - SLACK < ms <= expected[kind]}
    assert not wrong, f"to live for {[(kind, expected[kind]) for kind in wrong]}: {wrong}"


@pytest.fixture
def believed(admin: "redis.Redis") -> None:
    """Let the server be one that has been up for long, so that nobody waits for its memory."""
    run = cast("dict[str, str]", admin.info("server"))["run_id"]
    now = admin.time()[0] * 1000
    for bucket in range(16):
        admin.set(f"rec:{{{bucket:02d}}}:epoch", f"{run}:{now - HOUR}", px=HOUR)


RUNNING: Final = {"record": MEMORY, "due": MEMORY, "epoch": 2 * MEMORY, "targets": 2 * MEMORY, "events": REPLAY}


@pytest.mark.usefixtures("believed")
async def test_record_that_runs_lives_as_long_as_a_recording_can(connection: Connection, admin: "redis.Redis") -> None:
    """With it live its due time, its room's tracks and events, and the epoch that tells what can be believed."""
    await recorded(connection)
    for key in cast("list[str]", admin.keys("*epoch")):
        if admin.pttl(key) <= HOUR:
            admin.delete(key)
    check(admin, RUNNING)


@pytest.mark.usefixtures("believed")
async def test_end_of_a_recording_lives_longer_than_its_record(connection: Connection, admin: "redis.Redis") -> None:
    """Whatever else is written of the project, what has to end is found."""
    coordinator, key = await recorded(connection)
    claim, _ = await coordinator.claim(key, Command.START, max_duration=MaxDuration(HOUR / 1000))
    assert claim.moved_from == "0"
    for name in cast("list[str]", admin.keys("*epoch")):
        if admin.pttl(name) <= HOUR:
            admin.delete(name)
    check(admin, RUNNING | {"ends": 2 * MEMORY})


@pytest.mark.usefixtures("believed")
async def test_record_that_ended_lives_as_long_as_it_can_be_read(connection: Connection, admin: "redis.Redis") -> None:
    """`GATEWAY_KEEP_ENDED_HOURS`; what else belongs to the room is not shortened by it."""
    coordinator, key = await recorded(connection)
    _, lease = await coordinator.claim(key, Command.STOP)
    assert lease is not None
    await coordinator.finish(lease, completion("stopped", "reply"), answered=True, due_in=60)
    for name in cast("list[str]", admin.keys("*epoch")):
        if admin.pttl(name) <= HOUR:
            admin.delete(name)
    check(admin, RUNNING | {"record": KEEP})


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize("write", ["claim", "renew", "release", "suspect_since", "confirm", "revoke"])
async def test_keys_live_on_with_every_write(connection: Connection, admin: "redis.Redis", write: str) -> None:
    """Each script that writes gives the record, and what it is found by, their whole time again."""
    coordinator, key = await recorded(connection)
    lease = None
    if write in {"renew", "release", "revoke"}:
        _, lease = await coordinator.claim(key, Command.STOP)
        assert lease is not None
    record = await coordinator.records.read(key)
    assert record is not None
    kept = [name for name in cast("list[str]", admin.keys("*")) if not name.endswith("epoch")]
    for name in kept:
        admin.pexpire(name, MINUTE)
    match write:
        case "claim":
            await coordinator.claim(key, Command.STOP)
        case "renew":
            await coordinator.leases.renew(cast("Any", lease))
        case "release":
            await coordinator.release(cast("Any", lease), Completion())
        case "suspect_since":
            await coordinator.records.invalidate(key)
        case "confirm":
            # What is as old as the record itself is not believed: the first try may come in the same millisecond.
            await harness.until(
                lambda: coordinator.records.confirm(key, record, seen_at=clock(), evidence="{}", due_in=60), every=0.002
            )
        case _:
            await coordinator.records.revoke(key, cast("Any", lease).attempt)
    found = lifetimes(admin)
    short = {kind for kind in ("record", "due", "targets") if not RUNNING[kind] - SLACK < found[kind] <= RUNNING[kind]}
    assert not short, found


async def test_events_of_a_room_that_is_watched_live_on(connection: Connection, admin: "redis.Redis") -> None:
    """A reader holds on to the last event, in a room in which nothing happens, too."""
    coordinator = Coordinator(connection, TIMING, "t")
    await coordinator.records.room("room")
    assert "events" not in lifetimes(admin)
    for _ in range(2):
        await coordinator.records.room("room", watch=True)
        assert REPLAY - SLACK < lifetimes(admin)["events"] <= REPLAY
        admin.pexpire(coordinator.records.channel("room"), MINUTE)


async def test_marks_of_all_buckets_live_twice_as_long_as_a_recording(
    connection: Connection, admin: "redis.Redis"
) -> None:
    """A start-up marks sixteen epochs and leaves nothing else behind; of none does it claim to know from earlier."""
    seconds, micros = admin.time()
    await Coordinator(connection, TIMING, "t").records.mark()
    check(admin, {"epoch": 2 * MEMORY})
    assert admin.dbsize() == 16
    marks = cast("list[str]", admin.mget(cast("list[str]", admin.keys("*"))))
    assert min(int(mark.rpartition(":")[2]) for mark in marks) >= seconds * 1000 + micros // 1000


async def test_answer_under_an_idempotency_key_is_kept_for_its_days(
    connection: Connection, admin: "redis.Redis"
) -> None:
    """Days and not only the seconds of a day; from when it was asked, and anew from when it was answered."""
    answers, key = IdempotencyRecords(connection, ANSWERS), IdempotencyKey(("t", "caller"), ("start", "key"), "f")
    lifetime = round(ANSWERS.total_seconds() * 1000)

    def left(ttl: int) -> None:
        for name in cast("list[str]", admin.keys("*")):
            admin.pexpire(name, ttl)

    assert (await answers.begin(key, remember=True)).verdict == "new"
    check(admin, {"answers": lifetime, "answered": lifetime})
    left(MINUTE)
    await answers.keep(key, "an answer")
    check(admin, {"answers": lifetime, "answered": lifetime})
    # Asked again, or answered again, it is not kept for longer.
    left(HOUR)
    assert (await answers.begin(key, remember=True)).verdict == "replay"
    await answers.keep(key, "another answer")
    check(admin, {"answers": HOUR, "answered": HOUR})


async def test_ticket_is_kept_for_its_lifetime(connection: Connection, admin: "redis.Redis") -> None:
    """Days and not only the seconds of a day; nothing is left of one that was redeemed."""
    tickets = Tickets(connection, TICKETS)
    ticket = await tickets.issue(("t", "room"), b"{}")
    check(admin, {"ticket": round(TICKETS.total_seconds() * 1000)})
    assert await tickets.redeem(("t", "room"), ticket) == b"{}"
    check(admin, {})


@pytest.mark.parametrize(("cost", "full"), [(30, 30), (60, 60), (90, 90)])
async def test_bucket_of_a_limit_is_kept_until_it_is_full(
    connection: Connection, admin: "redis.Redis", cost: int, full: int
) -> None:
    """One token a minute comes back: gone too early it would be a full one, and later it says nothing."""
    buckets = TokenBuckets(connection)
    buckets.spend("t:caller:x", per_minute=1, burst=60, cost=cost)
    await buckets.sync()
    check(admin, {"limit": full * MINUTE + 1_000, "report": 2 * MINUTE})
