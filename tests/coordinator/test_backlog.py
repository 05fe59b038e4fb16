"""How much is uncertain, as operators are told: since when it is, and how late somebody is to look at it."""

import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
import redis

from gateway.coordinator import Backlog, Command, Completion, Coordinator, Record, Timing
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.scripts import BUCKETS
from tests import harness
from tests.coordinator.track import Track

LONG_AGO = 90_000


def test_backlog_keeps_since_when_a_track_is_unknown(track: Track) -> None:
    """Found out nothing, again: still the same uncertainty. Found out: it is over."""
    track.finish(track.claim("start"), "unknown", confirmed_by="", due_in=1000)
    since = track.record["uncertain_since"]
    assert int(since) == track.ms
    track.wait(5000)
    again = track.claim("reconcile")
    assert again["action"] == "probe"
    assert track.record["uncertain_since"] == since
    track.finish(again, "unknown", confirmed_by="", due_in=1000)
    assert track.record["uncertain_since"] == since
    track.wait(5000)
    track.finish(track.claim("reconcile"), "recording", confirmed_by="list")
    assert track.record["uncertain_since"] == "0"
    track.finish(track.claim("stop"), "stopping", confirmed_by="", due_in=1000)
    assert int(track.record["uncertain_since"]) == track.ms
    track.wait(5000)
    track.finish(track.claim("reconcile"), "stopped")
    assert track.record["uncertain_since"] == "0"


@pytest.fixture
def fresh() -> Generator[EmbeddedValkey]:
    """A server where nothing is uncertain."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def connection(fresh: EmbeddedValkey) -> AsyncGenerator[Connection]:
    """The way to it."""
    connection = Connection(fresh.url)
    yield connection
    await connection.aclose()


@pytest.mark.anyio
async def test_backlog_counts_unknown_tracks_and_lapsed_leases(fresh: EmbeddedValkey, connection: Connection) -> None:
    """An operation in flight is not uncertain; one whose lease has lapsed is, and so is one that ended as unknown."""
    coordinator = Coordinator(connection, Timing(lease=60, verify_absent="never"), "t")
    with redis.Redis.from_url(fresh.url) as admin:
        # Up for so long that nobody waits for its memory any more.
        run, since = admin.info("server")["run_id"], int(time.time() * 1000) - LONG_AGO  # pyright: ignore
        for bucket in range(BUCKETS):
            admin.set(f"rec:{{{bucket:02d}}}:epoch", f"{run}:{since}", ex=600)
    leases: dict[str, Any] = {}
    for name in ("flying", "unknown", "dead"):
        _, leases[name] = await coordinator.claim(coordinator.key(f"room-{name}", "p", "video"), Command.START)
        assert leases[name] is not None
    assert (await Backlog(connection, "t").uncertainty()).count == 0  # pyright: ignore[reportOptionalMemberAccess]
    await coordinator.finish(leases["unknown"], Completion(record=Record(state="unknown")), due_in=5)
    with redis.Redis.from_url(fresh.url) as admin:
        lapsed = int(time.time() * 1000) - LONG_AGO
        admin.hset(leases["dead"].key, mapping={"lease": lapsed, "granted": lapsed})
        admin.zadd(f"{leases['dead'].key.partition('}')[0]}}}:t:due", {leases["dead"].key: lapsed})
    seen = await Backlog(connection, "t").uncertainty()
    assert seen is not None
    assert seen.count == 2
    assert LONG_AGO / 1000 <= seen.oldest < LONG_AGO / 1000 + 60
    assert LONG_AGO / 1000 <= seen.lag < LONG_AGO / 1000 + 60


@pytest.mark.anyio
async def test_backlog_counts_what_a_probe_looks_for_where_redis_has_forgotten_it(
    fresh: EmbeddedValkey, connection: Connection
) -> None:
    """A start that only looks yet is not uncertain; once Redis forgets it, what it would have found is."""
    coordinator = Coordinator(connection, Timing(lease=60, verify_absent="always"), "t")
    harness.age(fresh)
    _, lease = await coordinator.claim(coordinator.key("room", "p", "video"), Command.START)
    assert lease is not None
    assert lease.action == "probe"
    assert (await Backlog(connection, "t").uncertainty()).count == 0  # pyright: ignore[reportOptionalMemberAccess]
    with redis.Redis.from_url(fresh.url) as admin:
        admin.flushall()
    assert (await coordinator.leases.renew(lease)).how == "restored"
    assert (await Backlog(connection, "t").uncertainty()).count == 1  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.anyio
async def test_backlog_asked_by_many_reads_redis_once(fresh: EmbeddedValkey, connection: Connection) -> None:
    """Whoever reaches the port may ask: Redis does not feel it."""
    backlog = Backlog(connection, "t")
    await backlog.uncertainty()
    with redis.Redis.from_url(fresh.url) as admin:
        before = admin.info("commandstats")["cmdstat_zrange"]["calls"]  # pyright: ignore
        for _ in range(50):
            await backlog.uncertainty()
        assert admin.info("commandstats")["cmdstat_zrange"]["calls"] == before == 16  # pyright: ignore
