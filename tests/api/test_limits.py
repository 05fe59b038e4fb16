"""How often callers may ask: what costs how much, who is refused, and what is said of it."""

import asyncio
import re
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.api.rate_limits import RateLimiter
from gateway.auth.api_keys import Caller, new_key
from gateway.coordinator import Record
from gateway.recordings import Answer, Kind, Mode, Outcome, Target, recording_of
from gateway.sandbox.faults import Fault
from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.token_buckets import TokenBuckets
from tests import harness
from tests.api_client import START, STOP, ApiClient, NewTrack
from tests.faults.proxy import Gate
from tests.recordings.parts import ErringConnection

pytestmark = pytest.mark.anyio


CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]
_MEMBER = re.compile(r'"(caller|track|questions)";(q|r)=([0-9]+);(w|t)=([0-9]+)')


@asynccontextmanager
async def limited(
    valkey: EmbeddedValkey, simulator: Simulator, folder: Path, *, name: str, own: int | None = None, **settings: str
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway with limits to a caller of its own."""
    key, entry = new_key(f"{name}-{folder.name}"[:64].strip("-"))
    file = folder / "callers.toml"
    file.write_text(entry if own is None else f"{entry}starts_per_minute = {own}\n")
    environ = harness.environment(valkey.url, simulator.url, file, **harness.CALM) | settings
    async with harness.serve(environ) as url, harness.client(url, key) as client:
        yield client


def told(answer: httpx.Response) -> dict[str, tuple[int, int, int]]:
    """Return quota, what is left of it and the seconds, by policy; check the form of both headers."""
    policies = _members(answer.headers["ratelimit-policy"])
    left = _members(answer.headers["ratelimit"])
    assert policies.keys() == left.keys()
    assert all(window == 60 for _, window in policies.values())
    return {name: (policies[name][0], *left[name]) for name in policies}


def _members(field: str) -> dict[str, tuple[int, int]]:
    found = [_MEMBER.fullmatch(member) for member in field.split(", ")]
    assert all(found), field
    return {member[1]: (int(member[3]), int(member[5])) for member in found if member}


async def test_limit_charges_one_for_an_upstream_call_and_a_tenth_otherwise(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """A start and a stop cost a token each; nine answers that cost VideoSDK nothing are nine tenths of one."""
    async with limited(valkey, simulator, tmp_path, name="cost", own=1) as client:
        # At one a minute, what comes back while this runs does not show. One token: it may be overdrawn once.
        track = new_track()
        started = await client.start(track)
        assert started.status_code == 201
        assert told(started)["caller"][:2] == (1, 0)
        assert (await client.start(track)).status_code == 429
    async with limited(valkey, simulator, tmp_path, name="tenth", own=10) as client:
        track = new_track()
        started = await client.start(track)
        assert told(started)["caller"][:2] == (10, 9)
        again = [await client.start(track) for _ in range(9)]
        assert {answer.json()["outcome"] for answer in again} == {"already_recording"}
        assert told(again[-1])["caller"][1] == 8
        stopped = await client.stop(track)
        assert told(stopped)["caller"][1] == 7
        assert "track" not in told(stopped)


async def test_limit_of_a_caller_exceeded_is_answered_429_with_retry_after(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    tmp_path: Path,
    new_track: NewTrack,
    check_problem: CheckProblem,
) -> None:
    """429 with Retry-After and nothing left; VideoSDK hears nothing of it; a stop is refused just the same."""
    async with limited(valkey, simulator, tmp_path, name="over", GATEWAY_CALLER_STARTS_PER_MINUTE="2") as client:
        for _ in range(2):
            assert (await client.start(new_track())).status_code == 201
        calls = sum(call.method == "POST" for call in simulator.calls)
        for route in (START, STOP):
            answer = await client.post(route, json=new_track())
            check_problem(answer, "too-many-requests")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            quota, left, seconds = told(answer)["caller"]
            assert (quota, left) == (2, 0)
            assert seconds == int(answer.headers["retry-after"])
        # Lists may be asked for all the same: a gateway looks after the tracks of other tests.
        assert sum(call.method == "POST" for call in simulator.calls) == calls


async def test_limit_exceeded_by_simultaneous_starts_is_paid_back(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """Starts of many tracks that arrive together pass, and are paid for afterwards."""
    async with limited(valkey, simulator, tmp_path, name="owed", GATEWAY_CALLER_STARTS_PER_MINUTE="3") as client:
        answers = await asyncio.gather(*(client.start(new_track()) for _ in range(10)))
        assert Counter(answer.status_code for answer in answers) == {201: 10}
        refused = await client.start(new_track())
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 60


async def test_limit_lets_fifty_equal_starts_pass(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """Fifty equal starts are one real one: neither the caller's limit of ten nor the track's of two minds."""
    simulator.inject(harness.delay("start", 2))
    async with limited(
        valkey, simulator, tmp_path, name="storm", own=10, GATEWAY_TRACK_STARTS_PER_MINUTE="2"
    ) as client:
        track = new_track()
        answers = await asyncio.gather(*(client.start(track) for _ in range(50)))
        assert Counter(answer.json()["outcome"] for answer in answers) == {"started": 1, "joined": 49}


async def test_limit_charges_one_refusal_to_fifty_equal_starts(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """Fifty callers hear of one refusal: it costs what one refusal costs."""
    simulator.inject(harness.delay("start", 2))
    simulator.inject(Fault(action="refuse", endpoint="start", status=404, times=None))
    async with limited(valkey, simulator, tmp_path, name="refused", own=20) as client:
        track = new_track()
        answers = await asyncio.gather(*(client.start(track) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {422}
        calls = sum(call.endpoint == "start" for call in simulator.calls)
        simulator.clear_faults()
        after = await client.start(new_track())
        assert after.status_code == 201
        assert told(after)["caller"][1] >= 20 - 5 - calls - 2


async def test_limit_charges_a_whole_token_for_an_unanswered_stop(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """202: VideoSDK may have carried it out. The only token of a caller is gone, and comes back in a minute."""
    track, folder = new_track(), tmp_path / "another"
    folder.mkdir()
    assert (await gateway.start(track)).status_code == 201
    simulator.inject(Fault(action="reset_before", endpoint="stop", room_id=track["roomId"]))
    async with limited(valkey, simulator, folder, name="unanswered", own=1) as client:
        stopped = await client.stop(track)
        assert stopped.status_code == 202
        # Of the last tenth, or of nothing, less than seven seconds would be missing.
        assert told(stopped)["caller"][2] > 30


async def test_limit_charges_an_unanswered_stop_once_to_all_its_callers(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """Ten who stop together are told 202; it costs a tenth of a token each, and the rest of one."""
    track, folder = new_track(), tmp_path / "another"
    folder.mkdir()
    assert (await gateway.start(track)).status_code == 201
    simulator.inject(harness.delay("stop", 0.3))
    simulator.inject(Fault(action="reset_before", endpoint="stop", room_id=track["roomId"]))
    async with limited(valkey, simulator, folder, name="together", own=20) as client:
        answers = await asyncio.gather(*(client.stop(track) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {202}
        assert min(told(answer)["caller"][1] for answer in answers) >= 17


async def test_limit_counts_a_thousand_simultaneous_takes_in_few_scripts(valkey: EmbeddedValkey) -> None:
    """A thousand takes at once are a few scripts, and exactly as many are granted as there are tokens for."""
    connection = Connection(valkey.url)
    limits, name = TokenBuckets(connection), f"test:{uuid.uuid4().hex}"
    async with Redis.from_url(valkey.url) as redis:

        async def scripts() -> int:
            stats: dict[str, Any] = await redis.info("commandstats")
            return sum(stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in ("eval", "evalsha"))

        before = await scripts()
        quotas = await asyncio.gather(*(limits.take(name, per_minute=0.01, burst=50, cost=0.1) for _ in range(1000)))
        assert await scripts() - before <= 4
        assert sum(quota.allowed for quota in quotas) == 500
        owed = limits.spend(name, per_minute=0.01, burst=50, cost=0.9)
        assert owed.remaining == pytest.approx(-0.9, abs=0.01)
        assert not (await limits.take(name, per_minute=0.01, burst=50, cost=0)).allowed
        (key,) = [key async for key in redis.scan_iter(match=f"*{name}")]
        assert await redis.pttl(key) > 0
    await connection.aclose()


async def test_limits_of_many_starts_cost_a_script_for_five_at_most(valkey: EmbeddedValkey) -> None:
    """Three hundred starts of distinct tracks by one caller, one by one, the caller's and the tracks' limits on."""
    connection = ErringConnection(valkey.url)
    buckets = TokenBuckets(connection)
    limiter = RateLimiter(buckets, uuid.uuid4().hex[:8], caller_per_minute=10_000, target_per_minute=30)
    buckets.open()

    async def start(number: int) -> None:
        target = Target(Mode.TRACK, "room", f"p{number}", Kind.VIDEO)
        admission = await limiter.admit(Caller("demo", account="demo"), target, starts=True)
        admission.check()
        admission.charge(Answer(Outcome.STARTED, recording_of("", target, Record())))
        admission.leave()

    for number in range(300):
        await start(number)
    scripts = connection.made["limit"]
    await buckets.close(5)
    await connection.aclose()
    assert 0 < scripts <= 60


async def test_limits_reach_redis_while_serving_and_at_the_end(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """What a start costs beyond its arrival is reported in the background; at the end nothing is held any more."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        earlier = {key async for key in redis.scan_iter(match="*:limit:*")}

        async def left() -> dict[str, float]:
            """Return what was left in each new bucket when it was last reported, by what limits it."""
            keys = [key async for key in redis.scan_iter(match="*:limit:*") if key not in earlier]
            return {key.split(":")[4]: float(str(await redis.get(key)).split()[0]) for key in keys}

        async with limited(
            valkey, simulator, tmp_path, name="settled", own=60, GATEWAY_TRACK_STARTS_PER_MINUTE="2"
        ) as client:
            assert (await client.start(new_track())).status_code == 201
            # One token a second comes back.
            held = await harness.until(left, lambda left: len(left) == 2 and left["caller"] < 59)
            assert held["target"] < 1.5
            for _ in range(2):
                assert (await client.start(new_track())).status_code == 201
        assert (await left())["caller"] >= 57 - 0.01


async def test_limit_of_a_track_exceeded_delays_the_start_only(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """Start and stop in a loop: the third start waits; other tracks and every stop go on."""
    async with limited(valkey, simulator, tmp_path, name="loop", GATEWAY_TRACK_STARTS_PER_MINUTE="1") as client:
        track = new_track()
        for _ in range(2):
            assert (await client.start(track)).status_code == 201
            assert (await client.stop(track)).json()["outcome"] == "stopped"
        answer = await client.start(track)
        assert "track" in check_problem(answer, "too-many-requests")["detail"]
        assert told(answer)["track"][:2] == (1, 0)
        assert (await client.stop(track)).status_code == 200
        assert (await client.start(new_track())).status_code == 201


async def test_limit_of_zero_sends_no_limit_headers(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """With 0 there is none, and no header speaks of one."""
    async with limited(valkey, simulator, tmp_path, name="none", own=0, GATEWAY_TRACK_STARTS_PER_MINUTE="0") as client:
        answers = [await client.start(new_track()) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {201}
        assert not any(name.startswith("ratelimit") for answer in answers for name in answer.headers)


async def test_limit_of_a_participant_is_counted_per_room(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """What ada spends in one room is not missing to ada in another."""
    async with limited(
        valkey,
        simulator,
        tmp_path,
        name="join",
        GATEWAY_JOIN_TOKENS="on",
        GATEWAY_CALLER_STARTS_PER_MINUTE="1",
    ) as client:
        room = new_track()["roomId"]
        statuses: list[int] = []
        for number in (1, 1, 2):
            track = {"roomId": f"{room}-{number}", "participantId": "ada", "kind": "video"}
            token = demo_join_token(harness.API_KEY, harness.SECRET, room=track["roomId"], participant="ada")
            headers = {"authorization": f"Bearer {token}"}
            statuses.append((await client.start(track, headers=headers)).status_code)
        assert statuses == [201, 429, 201]


async def test_limit_of_reads_counts_the_calls_they_cause(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """The lists of two rooms are allowed, three modes each; what Redis or a list of a moment ago answers is free."""
    track = new_track()
    rooms = [f"{track['roomId']}-{number}" for number in range(3)]
    async with limited(
        valkey, simulator, tmp_path, name="ask", GATEWAY_CALLER_QUESTIONS_PER_MINUTE="6", GATEWAY_TRUST_SECONDS="600"
    ) as client:
        assert (await client.start(track)).status_code == 201
        for _ in range(3):
            assert [(await client.list(room)).status_code for room in rooms[:2]] == [200, 200]
            assert (await client.show({**track, "roomId": rooms[0]})).status_code == 404
            assert (await client.show(track)).json()["status"] == "recording"
        for answer in (await client.list(rooms[2]), await client.show({**track, "roomId": rooms[2]})):
            assert "reads" in check_problem(answer, "too-many-requests")["detail"]
            assert told(answer)["questions"][:2] == (6, 0)
            assert int(answer.headers["retry-after"]) == told(answer)["questions"][2]
        assert (await client.list(track["roomId"])).status_code == 200
        assert (await client.stop(track)).json()["outcome"] == "stopped"
        assert {room: len(harness.calls_for(simulator, room)) for room in rooms} == {
            rooms[0]: 3, rooms[1]: 3, rooms[2]: 0,
        }  # fmt: skip


async def test_limit_without_redis_lets_a_stop_through(
    simulator: Simulator, tmp_path: Path, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """Nobody counts then: a start is refused for its own reason, and a stop is carried out."""
    with EmbeddedValkey() as server:
        url = server.url
    async with limited(EmbeddedValkeyAt(url), simulator, tmp_path, name="down") as client:  # pyright: ignore[reportArgumentType]
        track = new_track()
        check_problem(await client.start(track), "coordination-unavailable")
        stopped = await client.stop(track)
        assert stopped.status_code == 200
        assert stopped.json()["coordinated"] is False
        assert "ratelimit" not in stopped.headers


async def test_limit_while_redis_is_slow_leaves_time_for_the_claim() -> None:
    """Within the three seconds after which a start is refused, a claim has to be tried: counting must not use them."""
    caller, track = Caller("somebody", account="somebody"), Target(Mode.TRACK, "room", "ada", Kind.VIDEO)
    with EmbeddedValkey(port=0) as server:
        gate = Gate(server.port)
        await gate.open()
        connection = Connection(f"redis://127.0.0.1:{gate.port}")
        rate_limiter = RateLimiter(TokenBuckets(connection), "project", caller_per_minute=10, target_per_minute=0)
        assert "ratelimit" in (await rate_limiter.admit(caller, track, starts=True)).headers
        # Longer than counting may take, shorter than what Redis may take for anything.
        gate.slow = (0.8, 0.8)
        admission = await rate_limiter.admit(caller, track, starts=True)
        admission.check()
        assert "ratelimit" not in admission.headers
        assert connection.healthy
        await connection.aclose()
        await gate.close()


class EmbeddedValkeyAt:
    """Where a server was."""

    def __init__(self, url: str) -> None:
        self.url = url
