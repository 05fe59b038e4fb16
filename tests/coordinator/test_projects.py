"""Two projects on one Redis, below the API: whose tracks are looked after, counted and shown to operators."""

import itertools
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import redis

from gateway.coordinator import Backlog, Command, Completion, Coordinator, Record, Timing
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.scripts import BUCKETS
from tests import harness

pytestmark = pytest.mark.anyio

LONG_AGO_MS = 90_000
TRACK = ("room", "someone", "video")


@pytest.fixture
async def connection() -> AsyncGenerator[Connection]:
    """The way to a server of this test's own, up for so long that its memory is believed."""
    with EmbeddedValkey() as server:
        with redis.Redis.from_url(server.url) as admin:
            since = int(time.time() * 1000) - LONG_AGO_MS
            run: Any = admin.info("server")["run_id"]  # pyright: ignore
            for bucket in range(BUCKETS):
                admin.set(f"rec:{{{bucket:02d}}}:epoch", f"{run}:{since}", ex=600)
        connection = Connection(server.url)
        yield connection
        await connection.aclose()


async def unknown_track(connection: Connection, project: str) -> Coordinator:
    """Leave a start of a project unknown, and due."""
    coordinator = Coordinator(connection, Timing(verify_absent="never"), project)
    _, lease = await coordinator.claim(coordinator.key(*TRACK), Command.START)
    assert lease is not None
    await coordinator.finish(lease, Completion(record=Record(state="unknown")), due_in=0.001)
    return coordinator


async def due(coordinator: Coordinator, most: int = 10) -> list[str]:
    """Return what a settler would take up."""
    return [key for bucket in range(BUCKETS) for key in await coordinator.records.due(bucket, most)]


def bucket(coordinator: Coordinator) -> str:
    """Return the bucket of the track."""
    return coordinator.key(*TRACK).split(":")[1]


async def test_unknown_start_is_due_counted_and_shown_in_its_own_project_only(connection: Connection) -> None:
    """The settler, the gauges and the admin list read one project's due times."""
    one, other = await unknown_track(connection, "one"), Coordinator(connection, Timing(), "other")
    found = await harness.until(lambda: due(one))
    assert found == [one.key(*TRACK)]
    assert await due(other) == []
    seen = [await Backlog(connection, project).uncertainty() for project in ("one", "other")]
    assert [uncertainty.count for uncertainty in seen if uncertainty is not None] == [1, 0]
    pending_tracks = [await Backlog(connection, project).pending(10) for project in ("one", "other")]
    assert [[track.key for track in tracks] for tracks in pending_tracks] == [found, []]


async def test_overdue_tracks_of_one_project_do_not_keep_the_other_waiting(connection: Connection) -> None:
    """A bound on what is taken up at once is used up by one's own tracks alone."""
    one = await unknown_track(connection, "one")
    names = (f"other-{number}" for number in itertools.count())
    project = next(name for name in names if bucket(Coordinator(connection, Timing(), name)) == bucket(one))
    other = await unknown_track(connection, project)
    assert other.key(*TRACK) != one.key(*TRACK)
    assert await harness.until(lambda: due(other, most=1)) == [other.key(*TRACK)]
