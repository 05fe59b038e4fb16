"""Two projects on one Redis: whatever goes through Redis, neither meets anything of the other's."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.api_client import ApiClient, NewTrack, address
from tests.listener import listening
from tests.observability.numbers import scrape
from tests.projects import TwoProjects, two_projects

pytestmark = pytest.mark.anyio

BUCKETS = 16


@pytest.fixture
async def projects(valkey: EmbeddedValkey, tmp_path: Path, signer: Signer) -> AsyncGenerator[TwoProjects]:
    """Two projects, on the Redis of all tests."""
    async with two_projects(valkey, tmp_path, signer) as both:
        yield both


async def listed(gateway: ApiClient, track: dict[str, str]) -> list[dict[str, Any]]:
    """Return what an operator sees of a track."""
    answer = await gateway.get("/v1/admin/tracks", params={"limit": "1000"})
    assert answer.status_code == 200, answer.text
    return [one for one in answer.json()["tracks"] if track.items() <= one.items()]


async def test_start_in_both_projects_starts_in_both(projects: TwoProjects, new_track: NewTrack) -> None:
    """Claims and records: the same ids are two tracks, each with a recording, a list and an end of its own."""
    track = new_track()
    async with projects.gateways() as (one, other):
        started = await asyncio.gather(one.start(track), other.start(track))
        assert [answer.json()["outcome"] for answer in started] == ["started", "started"]
        assert (await one.stop(track)).json()["outcome"] == "stopped"
        assert (await other.show(track)).json()["status"] == "recording"
        assert (await other.start(track)).json()["outcome"] == "already_recording"
    for project in (projects.one, projects.other):
        assert sum(call.endpoint == "start" for call in project.simulator.calls) == 1
    assert not any(call.endpoint == "stop" for call in projects.other.simulator.calls)


async def test_track_of_one_project_is_unknown_to_the_other(projects: TwoProjects, new_track: NewTrack) -> None:
    """Room lists and reads of one track: a room that records in one project holds nothing in the other."""
    track = new_track()
    async with projects.gateways() as (one, other):
        assert (await one.start(track)).status_code == 201
        for gateway, recordings in ((one, 1), (other, 0)):
            room = await gateway.get("/v1/recordings", params={"roomId": track["roomId"]})
            assert len(room.json()["recordings"]) == recordings
        assert (await other.show(track)).status_code == 404
        assert (await other.stop(track)).json()["outcome"] == "not_recording"
        for action, body in (("settle", None), ("release", {"reason": "to see"})):
            path = address(track).replace("recordings/track", "admin/tracks")
            assert (await one.post(f"{path}/{action}", json=body)).status_code == 200
        assert (await one.show(track)).json()["status"] == "recording"


async def test_operator_of_an_unknown_project_may_not_touch_a_claim(projects: TwoProjects, new_track: NewTrack) -> None:
    """Admin: settling and releasing are about the operator's own project, where there is no such track."""
    track = new_track()
    path = address(track).replace("recordings/track", "admin/tracks")
    async with projects.gateways() as (one, other):
        projects.one.simulator.inject(harness.delay("start", 0.5))
        start = asyncio.create_task(one.start(track))
        await harness.until(lambda: listed(one, track), lambda found: found and found[0].get("claim"))
        assert await listed(other, track) == []
        assert (await other.post(f"{path}/settle")).status_code == 404
        assert (await other.post(f"{path}/release", json={"reason": "to see"})).status_code == 404
        assert (await start).json()["outcome"] == "started"


async def test_ticket_of_one_project_opens_nothing_in_the_other(projects: TwoProjects, new_track: NewTrack) -> None:
    """Tickets: refused by the other project's gateway, which does not use it up."""
    room = new_track()["roomId"]
    async with projects.gateways() as (one, other):
        ticket = (await one.post(f"/v1/rooms/{room}/events/tickets")).json()["ticket"]
        async with other.stream("GET", f"/v1/rooms/{room}/events", params={"ticket": ticket}) as refused:
            assert refused.status_code == 401
        one.headers.pop("authorization")
        async with listening(one, room, ticket=ticket) as reader:
            await reader.until(lambda reader: reader.received)


async def test_idempotency_key_of_one_project_is_new_to_the_other(projects: TwoProjects, new_track: NewTrack) -> None:
    """Replays: the same caller, key and body in the other project is another request; so is another body."""
    track, key = new_track(), {"idempotency-key": "the-same-in-both"}
    async with projects.gateways() as (one, other):
        assert (await one.start(track, headers=key)).status_code == 201
        answer = await other.start(track, headers=key)
        assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (201, None)
        again = await one.start(track, headers=key)
        assert again.headers["idempotency-replayed"] == "true"
        key = {"idempotency-key": "with-different-bodies"}
        assert (await one.start(new_track(), headers=key)).status_code == 201
        assert (await other.start(new_track(), headers=key)).status_code == 201


async def test_limit_used_up_in_one_project_is_whole_in_the_other(
    valkey: EmbeddedValkey, tmp_path: Path, signer: Signer, new_track: NewTrack
) -> None:
    """Limits: neither the caller's nor the track's starts of one project count in the other."""
    track = new_track()
    async with (
        two_projects(valkey, tmp_path, signer, starts_per_minute=2) as projects,
        projects.gateways(GATEWAY_TRACK_STARTS_PER_MINUTE="5") as (one, other),
    ):
        assert (await one.start(track)).status_code == 201
        assert (await one.stop(track)).status_code == 200
        assert (await one.start(track)).status_code == 429
        answer = await other.start(track)
        assert answer.status_code == 201
        assert answer.headers["ratelimit"].startswith('"caller";r=1;')
        assert '"track";r=4;' in answer.headers["ratelimit"]


async def test_events_of_one_project_are_absent_from_the_other(projects: TwoProjects, new_track: NewTrack) -> None:
    """Events: what happens in the other project's room of the same name is neither an event nor part of the room."""
    track = new_track()
    foreign = new_track(kind="audio")
    async with projects.gateways() as (one, other):
        async with listening(one, track["roomId"]) as reader:
            await reader.until(lambda reader: reader.received)
            assert (await other.start(foreign)).status_code == 201
            assert (await one.start(track)).status_code == 201
            await reader.until_statuses("starting", "recording")
            assert {update.data["kind"] for update in reader.changes} == {"video"}
        async with listening(one, track["roomId"], lastEventId=reader.received[0].id) as again:
            await again.until_statuses("starting", "recording")


async def test_key_in_redis_of_one_project_is_never_the_others(
    valkey: EmbeddedValkey, tmp_path: Path, signer: Signer, new_track: NewTrack
) -> None:
    """What Redis keeps for one project it keeps once more for the other; only epochs and checks are the server's."""
    track = new_track()
    async with (
        two_projects(valkey, tmp_path, signer, starts_per_minute=600) as projects,
        projects.gateways(GATEWAY_TRACK_STARTS_PER_MINUTE="30", GATEWAY_CHECK_SECONDS="3600") as gateways,
        Redis.from_url(valkey.url, decode_responses=True) as redis,
    ):
        known = await keys(redis)
        kept: list[list[str]] = []
        for gateway in gateways:
            await use_everything(gateway, track)
            # The limits follow in the background, one after the other.
            found = await harness.until(
                lambda: keys(redis), lambda found, known=known: any(kind_of(key) == "limit" for key in found - known)
            )
            kept.append(sorted(kind_of(key) for key in found - known))
            known |= found
    first, second = ([kind for kind in kinds if kind != "limit"] for kinds in kept)
    assert first == second
    assert set(kept[0]) == {"record", "targets", "events", "due", "limit", "answers", "answered", "ticket"}


async def use_everything(gateway: ApiClient, track: dict[str, str]) -> None:
    """Do all that leaves something behind in Redis."""
    room = track["roomId"]
    async with listening(gateway, room) as reader:
        assert (await gateway.start(track, headers={"idempotency-key": "one"})).status_code == 201
        await reader.until_statuses("starting", "recording")
    assert (await gateway.post(f"/v1/rooms/{room}/events/tickets")).status_code == 201
    for path in (address(track), f"/v1/recordings?roomId={room}", "/v1/admin/tracks", "/metrics", "/readyz"):
        assert (await gateway.get(path)).status_code == 200


async def keys(redis: "Redis") -> set[str]:
    """Return the names of all keys but the server's own: epochs, and checks whether it can be written to."""
    found = redis.scan_iter(match="rec:*", count=1_000)
    return {key async for key in found if not key.endswith((":epoch", ":check"))}


def kind_of(key: str) -> str:
    """Name what a key is for."""
    parts = key.split(":")
    if parts[2] in {"limit", "answers", "answered", "ticket"}:
        return parts[2]
    return parts[-1] if parts[-1] in {"due", "targets", "events"} else "record"


async def test_reconciler_leaves_the_tracks_of_another_project_alone(
    valkey: EmbeddedValkey, projects: TwoProjects, new_track: NewTrack
) -> None:
    """The reconciler: a recording that is due stays as it is while only the other project's gateways run.

    Their account does not know it: they would find that it had ended, and say so.
    """
    track = new_track()
    async with projects.one.gateway(GATEWAY_CHECK_SECONDS="0.05") as one:
        assert (await one.start(track)).status_code == 201
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        (key,) = [key async for key in redis.scan_iter(match=f"rec:*:{track['roomId']}:*:{track['kind']}")]
        before = await redis.hgetall(key)
        (due,) = [name async for name in redis.scan_iter(match=f"{':'.join(key.split(':')[:2])}:*due")
                  if await redis.zscore(name, key) is not None]  # fmt: skip
        at = await redis.zscore(due, key)
        assert at is not None
        await harness.eventually(lambda: time.time() * 1000 > at)
        async with projects.other.gateway() as other:
            begun = await looked_at(redis)

            async def rounds() -> float:
                return (await looked_at(redis) - begun) / BUCKETS

            # A whole round, and so much of the next that what was found in it has been asked about.
            await harness.until(rounds, lambda rounds: rounds > 1)
            numbers = await scrape(other)
        after = await redis.hgetall(key)
    assert after == before
    assert not [call for call in projects.other.simulator.calls if call.room_id == track["roomId"]]
    assert numbers.get("settler_lag_seconds") == 0


async def looked_at(redis: "Redis") -> int:
    """Return how often the server was asked for what is due."""
    return (await redis.info("commandstats"))["cmdstat_zrange"]["calls"]
