"""What records in a room, as a search finds it: what Redis knows first, and then what VideoSDK lists beside it."""

import uuid

import httpx
import pytest
from redis.asyncio import Redis

from gateway.coordinator import Command
from gateway.recordings import Kind, Mode, RoomSearch, StartParameters, Target
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.recordings.parts import Parts

pytestmark = pytest.mark.anyio


def new_room() -> str:
    """Return a room that no other test uses."""
    return f"room-{uuid.uuid4().hex[:12]}"


def track(participant: str, room: str) -> Target:
    """Return a track of a participant."""
    return Target(Mode.TRACK, room, participant, Kind.VIDEO)


async def start(parts: Parts, target: Target) -> None:
    """Start recording it."""
    await parts.recordings.start(target, StartParameters(), caller="test", timeout=20)


async def outside(simulator: Simulator, target: Target) -> None:
    """Start outside the gateway."""
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}) as somebody:
        answer = await somebody.post(f"{simulator.url}{target.start_path}", json=target.ids)
        assert answer.is_success


async def test_search_leaves_out_what_is_started_after_it_began(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """Between the record and the list another recording starts: the list shows it, and it is no part of the search."""
    async with Parts(valkey, simulator.url).running(settling=False) as parts:
        room = new_room()
        before, later, foreign = (track(name, room) for name in ("before", "later", "foreign"))
        await start(parts, before)
        search = RoomSearch(parts.coordinator, parts.listings, room)
        found = search.found(20, certain=True)
        first = await anext(found)
        assert (first.target, first.is_foreign) == (before, False)
        # What the process takes for Redis's time is ahead by the way of a reply, at most.
        began_at = parts.coordinator.now_ms()
        async with Redis.from_url(valkey.url) as redis:
            await harness.until(redis.time, lambda now: now[0] * 1000 + now[1] // 1000 > began_at)
        await start(parts, later)
        await outside(simulator, foreign)
        # Started outside the gateway it cannot be told from what ran before.
        assert [(one.target, one.is_foreign) async for one in found] == [(foreign, True)]
        assert search.complete


async def test_search_of_more_than_is_shown_finds_them_in_the_list_and_is_not_complete(
    valkey: EmbeddedValkey, simulator: Simulator
) -> None:
    """Of three recordings the room shows two: the third is found in the list, and is known to be the gateway's own."""
    room = new_room()
    targets = [track(name, room) for name in ("ada", "bob", "eve")]
    async with Parts(valkey, simulator.url, coordinator={"max_targets": 2}).running(settling=False) as parts:
        for target in targets:
            await start(parts, target)
        search = RoomSearch(parts.coordinator, parts.listings, room)
        found = [one async for one in search.found(20, certain=True)]
        assert sorted(one.target.participant_id for one in found) == ["ada", "bob", "eve"]
        assert not any(one.is_foreign for one in found)
        assert not search.complete


async def test_search_whose_probe_outlasts_it_is_not_complete(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """A leader still looks whether anything records: it may be about to start, so nothing is claimed about it."""
    async with Parts(valkey, simulator.url).running(settling=False) as parts:
        target = track("probed", new_room())
        await start(parts, target)
        await parts.recordings.stop(target, caller="test", timeout=20)
        key = parts.coordinator.key(target.room_id, *target.parts)
        await parts.coordinator.records.invalidate(key)
        claim, lease = await parts.coordinator.claim(key, Command.RECONCILE)
        assert (claim.action, lease is not None) == ("probe", True)
        search = RoomSearch(parts.coordinator, parts.listings, target.room_id)
        assert [one async for one in search.found(0.5, certain=True)] == []
        assert not search.complete
