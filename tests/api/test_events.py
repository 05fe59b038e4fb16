"""Live events: what a room's readers receive, what they miss, and who may be one."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import jwt
import msgspec
import pytest
from redis.asyncio import Redis

from gateway.api.events import EventStreams
from gateway.api.rate_limits import RateLimiter
from gateway.auth.api_keys import LEEWAY_SECONDS, Caller
from gateway.auth.policy import Policy
from gateway.errors import Unauthenticated
from gateway.recordings.room_feeds import RoomFeeds
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.tickets import Tickets
from tests import harness
from tests.api_client import START, STOP, ApiClient, NewTrack
from tests.leaks import EVIDENCE
from tests.listener import Listener, listening

pytestmark = pytest.mark.anyio


Check = Callable[[httpx.Response, str], dict[str, Any]]


@asynccontextmanager
async def replica(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, **more: str
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway; a client of the demo caller."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **{**harness.CALM, **more})
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        yield client


@pytest.fixture
async def pages(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo) -> AsyncGenerator[ApiClient]:
    """A gateway that lets join tokens in; its client shows nothing by itself."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_JOIN_TOKENS="on")
    async with harness.serve(settings) as url, harness.client(url) as client:
        yield client


def bearer(track: dict[str, str], *, lasts: float = 600, moderates: bool = False) -> dict[str, str]:
    """Make the header a participant's page sends."""
    claims = {
        "apikey": harness.API_KEY,
        "permissions": ["allow_join", *(["allow_mod"] if moderates else [])],
        "roomId": track["roomId"],
        "participantId": track["participantId"],
        "exp": time.time() + lasts,
    }
    return {"authorization": f"Bearer {jwt.encode(claims, harness.SECRET, algorithm='HS256')}"}


def bare(track: dict[str, str]) -> dict[str, str]:
    """Return what a stop says of a track."""
    return {name: track[name] for name in ("roomId", "participantId", "kind")}


async def play(gateway: ApiClient, track: dict[str, str]) -> None:
    """Start a track and stop it."""
    assert (await gateway.start(track)).status_code == 201
    assert (await gateway.stop(bare(track))).status_code == 200


async def ticket(gateway: ApiClient, room: str, headers: dict[str, str] | None = None) -> str:
    """Get a ticket."""
    answer = await gateway.post(f"/v1/rooms/{room}/events/tickets", headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    left = datetime.fromisoformat(answer.json()["expiresAt"]) - datetime.now(UTC)
    assert timedelta(seconds=10) < left <= timedelta(seconds=31)
    return answer.json()["ticket"]


# --- what is sent ------------------------------------------------------------------------------------------------


async def test_events_begin_with_the_room_and_continue_with_each_change(
    gateway: ApiClient, new_track: NewTrack
) -> None:
    """The snapshot comes first; each change is the recording as GET shows it, with a growing id; then nothing more."""
    before, track = (
        new_track(),
        new_track(webhookUrl="http://127.0.0.1:9/hook?key=s3cr3t-query", bucketDirPath="hidden"),
    )
    EVIDENCE.guard("s3cr3t-query", "a webhook's query")
    started = (await gateway.start(before)).json()
    async with listening(gateway, track["roomId"]) as reader:
        assert reader.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reader.response.headers["cache-control"] == "no-store"
        assert reader.response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in reader.response.headers
        await reader.until(lambda reader: reader.received)
        assert reader.text.startswith("retry: ")
        assert reader.received[0].event == "snapshot"
        assert [recording["id"] for recording in reader.received[0].data["recordings"]] == [started["id"]]

        await play(gateway, track)
        await reader.until_statuses("starting", "recording", "stopping", "stopped")
        shown = (await gateway.get("/v1/recordings/track/" + "/".join(bare(track).values()))).json()
        assert reader.received[-1].data == shown
        assert {update.data["id"] for update in reader.changes} == {shown["id"]}
        positions = [tuple(map(int, update.id.split("-"))) for update in reader.received]
        assert positions == sorted(set(positions))
        for secret in ("s3cr3t-query", "hidden", "127.0.0.1:9"):
            assert secret not in reader.text


@pytest.mark.parametrize("status", [402, 429])
async def test_events_of_a_failed_start_show_the_failure(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, status: int
) -> None:
    """Who saw it starting sees that it failed; who comes later sees what GET shows, which may be nothing."""
    track = new_track()
    room = track["roomId"]
    simulator.inject(Fault(action="refuse", endpoint="start", status=status, times=2))
    async with listening(gateway, room) as reader:
        assert (await gateway.start(track)).status_code >= 400
        await reader.until_statuses("starting", "failed")
        shown = await gateway.get("/v1/recordings/track/" + "/".join(bare(track).values()))
        assert shown.is_success == (status == 402)
        async with (
            listening(gateway, room) as later,
            listening(gateway, room, lastEventId=reader.received[0].id) as again,
        ):
            await later.until(lambda later: later.received)
            assert later.received[0].data == {"recordings": [shown.json()] if shown.is_success else []}
            await again.until_statuses("starting", "failed")


@pytest.mark.parametrize("said", ["Last-Event-ID", "lastEventId"])
async def test_events_after_a_reconnect_continue_without_gap_or_repetition(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, said: str
) -> None:
    """On the same replica or another: what two readers with a gap heard is what one without update."""
    first, second = new_track(), new_track()
    room = first["roomId"]

    def after(reader: Listener) -> dict[str, Any]:
        return {"headers": {said: reader.last}} if said == "Last-Event-ID" else {said: reader.last}

    async with (
        replica(valkey, simulator, demo) as here,
        replica(valkey, simulator, demo) as there,
        listening(here, room) as whole,
    ):
        async with listening(here, room) as reader:
            await here.start(first)
            await reader.until_statuses("starting", "recording")
        await play(there, second)
        for gateway in (here, there):
            async with listening(gateway, room, **after(reader)) as resumed:
                await resumed.until_statuses("starting", "recording", "stopping", "stopped")
                assert {update.data["participantId"] for update in resumed.received} == {second["participantId"]}
        async with listening(there, room, **after(resumed)) as resumed:
            await here.stop(bare(first))
            await resumed.until_statuses("stopping", "stopped")
        await whole.until(lambda whole: len(whole.changes) == 8)
        assert [update.id for update in whole.changes][-2:] == [update.id for update in resumed.received]


@pytest.mark.parametrize("last", ["0-0", "1-1", "999999999999999999-0", "nonsense", "-", "+", "$", "1" * 400])
async def test_events_from_an_unknown_id_begin_with_the_room(
    gateway: ApiClient, new_track: NewTrack, last: str
) -> None:
    """Forgotten, made up or not an id at all: the reader gets the room as it is, and the changes after it."""
    track = new_track()
    await gateway.start(track)
    async with listening(gateway, track["roomId"], headers={"last-event-id": last}) as reader:
        await reader.until(lambda reader: reader.received)
        assert reader.received[0].event == "snapshot"
        assert [recording["status"] for recording in reader.received[0].data["recordings"]] == ["recording"]
        await gateway.stop(bare(track))
        await reader.until_statuses("stopping", "stopped")
    assert (await gateway.get("/readyz")).status_code == 200


async def test_events_after_redis_forgot_begin_with_the_room(
    gateway: ApiClient, valkey: EmbeddedValkey, new_track: NewTrack
) -> None:
    """A reader that saw an empty room receives it again once Redis has forgotten what happened since."""
    track = new_track()
    async with listening(gateway, track["roomId"]) as reader:
        await reader.until(lambda reader: reader.received)
    await gateway.start(track)
    async with Redis.from_url(valkey.url) as redis:
        assert await redis.delete(*[key async for key in redis.scan_iter(f"*{track['roomId']}:events")]) == 1
    async with listening(gateway, track["roomId"], lastEventId=reader.last) as again:
        await again.until(lambda again: again.received)
        assert again.received[0].event == "snapshot"
        assert len(again.received[0].data["recordings"]) == 1


async def test_events_with_a_timeout_header_end_after_it(gateway: ApiClient, new_track: NewTrack) -> None:
    """The stream ends after `X-Request-Timeout-Ms`, without a request to reconnect; a wrong value fails."""
    room = new_track()["roomId"]
    async with listening(gateway, room, headers={"x-request-timeout-ms": "300"}) as reader:
        await reader.until(lambda reader: reader.ended)
        assert [update.event for update in reader.received] == ["snapshot"]
    refused = await gateway.get(f"/v1/rooms/{room}/events", headers={"x-request-timeout-ms": "0"})
    assert refused.status_code == 422


# --- who may read ------------------------------------------------------------------------------------------------


async def test_events_show_a_participant_its_own_tracks_and_a_moderator_all(
    pages: ApiClient, new_track: NewTrack
) -> None:
    """In the snapshot, in the changes, and in what it missed; through a ticket no more than without."""
    own, other, late = new_track(), new_track(), new_track("audio")
    late["participantId"] = own["participantId"]
    room = own["roomId"]
    for track in (own, other):
        await pages.start(track, headers=bearer(track))
    shown = await ticket(pages, room, bearer(own))
    async with (
        listening(pages, room, headers=bearer(own)) as mine,
        listening(pages, room, ticket=shown) as ticketed,
        listening(pages, room, headers=bearer(own, moderates=True)) as everybody,
    ):
        await everybody.until(lambda reader: reader.received)
        for track in (other, late):
            answer = await pages.post(STOP if track is other else START, json=bare(track), headers=bearer(track))
            assert answer.is_success
        await everybody.until_statuses("stopping", "stopped", "starting", "recording")
        for reader in (mine, ticketed):
            await reader.until_statuses("starting", "recording")
            assert len(reader.received[0].data["recordings"]) == 1
            assert other["participantId"] not in reader.text
    async with listening(pages, room, headers=bearer(own), lastEventId=everybody.received[0].id) as resumed:
        await resumed.until_statuses("starting", "recording")
        assert other["participantId"] not in resumed.text


async def test_events_without_permission_are_refused(
    pages: ApiClient, gateway: ApiClient, new_track: NewTrack, check_problem: Check
) -> None:
    """An unknown caller, a foreign room, no scope, no room: the gateway refuses events and tickets alike."""
    track = new_track()
    foreign = {**track, "roomId": "somebody-elses"}
    for method, path in (("GET", "events"), ("POST", "events/tickets")):

        async def ask(client: ApiClient, room: str, headers: dict[str, str]) -> httpx.Response:
            return await client.request(method, f"/v1/rooms/{room}/{path}", headers=headers)  # noqa: B023

        answer = await ask(pages, track["roomId"], {})
        check_problem(answer, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        check_problem(await ask(pages, track["roomId"], bearer(track, lasts=-120)), "unauthenticated")
        assert check_problem(await ask(pages, track["roomId"], bearer(foreign)), "forbidden")["rule"] == "room"
        assert check_problem(await ask(gateway, "x" * 129, {}), "invalid-request")["errors"][0]["field"] == "roomId"


async def test_events_outside_the_keys_scope_or_rooms_are_refused(
    gateway: ApiClient, demo: harness.Demo, new_track: NewTrack, check_problem: Check
) -> None:
    """A key without `recordings:read` reads no events, and one for other rooms none of this."""
    room = new_track()["roomId"]
    lines = demo.file.read_text()
    short = {"x-request-timeout-ms": "100"}
    for text, rule in ((harness.scoped(lines, "recordings:start"), "scope"), (f'{lines}rooms = ["school-*"]', "room")):
        demo.file.write_text(text)
        for method, path in (("GET", "events"), ("POST", "events/tickets")):
            answer = await harness.until(
                lambda: gateway.request(method, f"/v1/rooms/{room}/{path}", headers=short),  # noqa: B023
                lambda answer: answer.status_code == 403 and answer.json()["rule"] == rule,  # noqa: B023
            )
            check_problem(answer, "forbidden")


async def test_ticket_opens_its_room_once_on_any_replica(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, check_problem: Check
) -> None:
    """Made here, used there; not twice, not elsewhere, not made up. Redis holds its hash, for half a minute."""
    room = new_track()["roomId"]
    async with replica(valkey, simulator, demo) as here, replica(valkey, simulator, demo) as there:
        shown = await ticket(here, room)
        # What is shown in the query must be in no log.
        anonymous = harness.client(str(there.base_url))
        async with anonymous, Redis.from_url(valkey.url) as redis:
            kept = {
                key: value async for key in redis.scan_iter("*:ticket:*") if room in str(value := await redis.get(key))
            }
            ((key, value),) = kept.items()
            assert shown not in f"{key}{value}"
            assert 0 < await redis.pttl(key) <= 30_000

            answers = [await anonymous.get("/v1/rooms/another/events", params={"ticket": shown})]
            async with listening(anonymous, room, ticket=shown) as reader:
                await reader.until(lambda reader: reader.received)
            answers += [
                await anonymous.get(f"/v1/rooms/{room}/events", params={"ticket": wrong})
                for wrong in (shown, shown[:-1], "x" * 43, "", "x" * 5000)
            ]
            for answer in answers:
                check_problem(answer, "unauthenticated")
    EVIDENCE.log.flush()
    logged = await asyncio.to_thread(Path(EVIDENCE.log.name).read_text, "utf-8")
    assert "/events" in logged
    assert shown not in logged


EVER_LATER = (2, 8, 32)
"""Seconds until something expires: as few as will do on a machine that is not busy."""


@contextmanager
def tried_in_time(seconds: int) -> Generator[None]:
    """Let pass that something expired before it was used, unless it had the longest time of all."""
    try:
        yield
    except AssertionError as refused:
        if "expired" not in str(refused) or seconds == EVER_LATER[-1]:
            raise


@pytest.mark.parametrize("way", ["header", "ticket"])
async def test_events_end_when_the_join_token_expires(pages: ApiClient, new_track: NewTrack, way: str) -> None:
    """Not later than the join token itself, also behind a ticket; the last event says why."""
    track = new_track()
    for seconds in EVER_LATER:
        # It is good for a minute more, as clocks differ.
        headers = bearer(track, lasts=seconds - LEEWAY_SECONDS)
        with tried_in_time(seconds):
            query = {"ticket": await ticket(pages, track["roomId"], headers)} if way == "ticket" else {}
            async with listening(pages, track["roomId"], headers=headers if way == "header" else {}, **query) as reader:
                await reader.until(lambda reader: reader.ended)
                assert [update.event for update in reader.received] == ["snapshot", "reconnect"]
                assert reader.received[-1].data == {"reason": "expired"}
            return


async def test_events_end_when_the_api_key_expires(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """An API key's `expires` ends what it opened."""
    lasting = demo.file.read_text()
    for seconds in EVER_LATER:
        moment = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        demo.file.write_text(lasting.replace('" }]', f'", expires = {moment} }}]'))
        with tried_in_time(seconds):
            async with (
                replica(valkey, simulator, demo) as gateway,
                listening(gateway, new_track()["roomId"]) as reader,
            ):
                await reader.until(lambda reader: reader.ended)
                assert reader.received[-1].data == {"reason": "expired"}
            return


async def test_events_end_when_the_keys_expiry_is_brought_forward(
    gateway: ApiClient, demo: harness.Demo, new_track: NewTrack, check_problem: Check, tmp_path: Path
) -> None:
    """A key that leaked gets an `expires` that is past: what it opened ends with the next event, its tickets too."""
    track, other = new_track(), harness.Demo(tmp_path / "other", "other")
    over = f'", expires = {(datetime.now(UTC) - timedelta(minutes=1)).isoformat()} }}]'
    shown = await ticket(gateway, track["roomId"])
    async with listening(gateway, track["roomId"]) as reader:
        await reader.until(lambda reader: reader.received)
        demo.file.write_text(demo.file.read_text().replace('" }]', over) + other.file.read_text())
        await harness.until(lambda: gateway.show(track), lambda answer: answer.status_code == 401)
        answer = await gateway.start(track, headers={"authorization": f"Bearer {other.key}"})
        assert answer.status_code == 201
        await reader.until(lambda reader: reader.ended)
        assert reader.received[-1].data == {"reason": "expired"}
        assert len(reader.received) == 2
    answer = await gateway.get(
        f"/v1/rooms/{track['roomId']}/events", params={"ticket": shown}, headers={"authorization": ""}
    )
    check_problem(answer, "unauthenticated")


@pytest.mark.parametrize(("expires", "admitted"), [(None, True), (60, True), (-1, False)])
async def test_ticket_is_good_no_longer_than_what_it_was_made_with(
    valkey: EmbeddedValkey, new_track: NewTrack, expires: float | None, *, admitted: bool
) -> None:
    """A ticket lives for half a minute; a key or token that expires before ends it."""
    room, connection = new_track()["roomId"], Connection(valkey.url)
    tickets = Tickets(connection, timedelta(seconds=30))
    streams = EventStreams(cast("RoomFeeds", None), tickets, cast("RateLimiter", None), "project", lambda _: True)
    caller = Caller("ada", Policy(), "account", expires=None if expires is None else time.time() + expires)
    shown = await tickets.issue(streams._scope(room), msgspec.json.encode(caller))
    if admitted:
        assert (await streams.admit(room, shown)).name == "ada"
    else:
        with pytest.raises(Unauthenticated, match="expired"):
            await streams.admit(room, shown)
    await connection.aclose()


# --- many, slow and none -----------------------------------------------------------------------------------------


async def subscriptions(valkey: EmbeddedValkey, room: str) -> int:
    """Count who listens to a room."""
    async with Redis.from_url(valkey.url) as redis:
        names = [name for name in await redis.pubsub_channels("rec:*:events") if f":{room}:" in str(name)]
        return sum(count for _, count in await redis.pubsub_numsub(*names)) if names else 0


async def test_events_of_two_hundred_readers_use_one_subscription(
    gateway: ApiClient, valkey: EmbeddedValkey, new_track: NewTrack
) -> None:
    """Each reader receives every event once, in the same order; when all are gone, so is the subscription."""
    track = new_track()
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            opening = [
                group.create_task(stack.enter_async_context(listening(gateway, track["roomId"]))) for _ in range(200)
            ]
        readers = [task.result() for task in opening]
        assert await subscriptions(valkey, track["roomId"]) == 1
        await play(gateway, track)
        for reader in readers:
            await reader.until_statuses("starting", "recording", "stopping", "stopped")
        assert len({tuple(update.id for update in reader.changes) for reader in readers}) == 1
        assert await subscriptions(valkey, track["roomId"]) == 1
    await harness.until(lambda: subscriptions(valkey, track["roomId"]), lambda count: count == 0)


async def test_events_beyond_the_bound_of_readers_are_refused_until_one_leaves(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, check_problem: Check
) -> None:
    """The gateway refuses one reader too many with Retry-After, and accepts it when another hangs up.

    Of eight places one caller may have two.
    """
    room = new_track()["roomId"]
    async with (
        replica(valkey, simulator, demo, GATEWAY_MOST_EVENT_READERS="8") as gateway,
        listening(gateway, room),
    ):
        async with listening(gateway, room):
            refused = await gateway.get(f"/v1/rooms/{room}/events")
            assert check_problem(refused, "too-many-waiting")["bound"] == "event-readers-per-caller"
            assert int(refused.headers["retry-after"]) > 0
        ending = {"x-request-timeout-ms": "1"}
        await harness.until(
            lambda: gateway.get(f"/v1/rooms/{room}/events", headers=ending), lambda answer: answer.is_success
        )


@pytest.fixture
def fragile() -> EmbeddedValkey:
    """A server of the test's own, to be harmed."""
    return harness.AgedValkey()


@pytest.mark.parametrize("outage", ["frozen", "emptied", "subscriber cut"])
async def test_events_continue_after_a_redis_outage(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, outage: str
) -> None:
    """Afterwards they go on without a gap; where Redis has forgotten, they are given the room anew."""
    first, second = new_track(), new_track()
    with fragile:
        async with (
            replica(fragile, simulator, demo, **harness.BRIEF) as here,
            replica(fragile, simulator, demo, **harness.BRIEF) as there,
            listening(here, first["roomId"]) as reader,
        ):
            await here.start(first)
            await reader.until_statuses("starting", "recording")
            if outage == "frozen":
                fragile.pause()
                await harness.until(lambda: here.get("/readyz"), lambda answer: answer.status_code == 503)
                fragile.resume()
            elif outage == "emptied":
                fragile.kill()
                await harness.until(lambda: here.get("/readyz"), lambda answer: answer.status_code == 503)
                fragile.restart()
            else:
                async with Redis.from_url(fragile.url) as redis:
                    assert await redis.client_kill_filter(_type="pubsub") > 0
            await harness.until(lambda: there.start(second), lambda answer: answer.status_code in {200, 201})
            await reader.until(lambda reader: "recording" in statuses_of(reader, second))
            assert not reader.ended
            if outage == "emptied":
                assert [update.event for update in reader.received].count("snapshot") > 1
            else:
                # A claim that was frozen with Redis may have been given back first: that is an event as well.
                assert statuses_of(reader, second)[-2:] == ["starting", "recording"]
                assert len({update.id for update in reader.received}) == len(reader.received)
                assert [update.event for update in reader.received].count("snapshot") == 1
            await there.stop(bare(second))
            await reader.until(lambda reader: statuses_of(reader, second)[-2:] == ["stopping", "stopped"])
            await harness.until(lambda: subscriptions(fragile, first["roomId"]), lambda count: count == 1)


def statuses_of(reader: Listener, track: dict[str, str]) -> list[str]:
    """Return the statuses that a reader received of one track: changes, and later snapshots."""
    statuses: list[str] = []
    for update in reader.received[1:]:
        several = update.data.get("recordings", [update.data])
        statuses += [one["status"] for one in several if one.get("participantId") == track["participantId"]]
    return statuses


async def flood(valkey: EmbeddedValkey, room: str, count: int, size: int) -> None:
    """Tell a room's readers of many large changes, the way the scripts do."""
    async with Redis.from_url(valkey.url) as redis:
        (name,) = [name for name in await redis.pubsub_channels("rec:*:events") if f":{room}:" in str(name)]
        assert isinstance(name, bytes)
        key = name.decode().removesuffix("events") + "track:flooder:video"
        described = json.dumps({"requestedBy": "x" * size})
        async with redis.pipeline(transaction=False) as pipeline:
            for number in range(count):
                record = json.dumps({"state": "recording", "generation": f"{number + 1}", "recording": described})
                pipeline.xadd(name, {"key": key, "record": record})
            pipeline.pexpire(name, 60_000)
            pipeline.publish(name, "update")
            await pipeline.execute()


async def test_events_to_a_reader_that_takes_nothing_are_cut_off(
    gateway: ApiClient, valkey: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Other readers receive everything; the gateway drops what waits for the one that does not read."""
    room = new_track()["roomId"]
    lines = [
        f"GET /v1/rooms/{room}/events HTTP/1.1",
        f"Host: {gateway.base_url.host}",
        f"Authorization: Bearer {demo.key}",
        "",
        "",
    ]
    # Nothing is read from it but what comes first: the rest stays in the buffers between.
    address = gateway.base_url.host, gateway.base_url.port
    stuck, writer = await asyncio.open_connection(*address, limit=1024)
    try:
        writer.write("\r\n".join(lines).encode())
        await stuck.readuntil(b"event: snapshot")
        async with listening(gateway, room) as quick:
            await flood(valkey, room, 600, 16_000)
            await quick.until(lambda quick: len(quick.changes) == 600)
            assert {update.data["requestedBy"] for update in quick.changes} == {"x" * 16_000}
            assert not quick.ended
        await harness.until(lambda: subscriptions(valkey, room), lambda count: count == 0)
        with pytest.raises(ConnectionResetError):
            await stuck.read()
    finally:
        writer.close()
