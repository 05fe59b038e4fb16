"""What processes together take from a bucket, what that costs in scripts, and what becomes of what they hold."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.errors import CoordinationUnavailable
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.scripts import Script
from gateway.store.token_buckets import Quota, TokenBuckets
from tests import harness
from tests.faults.proxy import Gate
from tests.recordings.parts import ErringConnection, Log

pytestmark = pytest.mark.anyio

SLOW = 0.001
"""Tokens a minute: none comes back while a test runs."""
NEVER = 3600.0
"""Seconds: nothing happens in the background."""


class Process:
    """One process's buckets, all of one size, on the way to a real server."""

    def __init__(self, connection: Connection, burst: float, **bounds: float) -> None:
        self.connection = connection
        self.burst = burst
        settings = {"sync_every": NEVER, "idle_seconds": NEVER} | bounds
        self.buckets = TokenBuckets(connection, **settings)  # pyright: ignore[reportArgumentType]

    async def take(self, name: str, cost: float = 0.1) -> Quota:
        """Take where it is there."""
        return await self.buckets.take(name, per_minute=SLOW, burst=self.burst, cost=cost)

    async def look(self, name: str) -> Quota:
        """Say how it stands."""
        return await self.buckets.look(name, per_minute=SLOW, burst=self.burst)

    def spend(self, name: str, cost: float = 0.9) -> Quota:
        """Take what was spent."""
        return self.buckets.spend(name, per_minute=SLOW, burst=self.burst, cost=cost)

    async def request(self, name: str) -> bool:
        """Arrive, and pay the rest if let in; returns whether it was."""
        allowed = (await self.take(name)).allowed
        if allowed:
            self.spend(name)
        return allowed

    async def start(self, name: str) -> bool:
        """Start a target, where it is not overdrawn; returns whether it was started."""
        allowed = (await self.take(name, 0)).allowed
        if allowed:
            self.spend(name, 1)
        return allowed

    @property
    def scripts(self) -> int:
        """How many scripts it has run."""
        assert isinstance(self.connection, ErringConnection)
        return self.connection.made["limit"]


MakeProcess = Callable[..., Process]


@pytest.fixture
async def process(valkey: EmbeddedValkey) -> AsyncGenerator[MakeProcess]:
    """Make processes that share a real server."""
    async with AsyncExitStack() as stack:

        def make(burst: float, connection: Connection | None = None, **bounds: float) -> Process:
            made = Process(connection or ErringConnection(valkey.url), burst, **bounds)
            stack.push_async_callback(made.connection.aclose)
            stack.push_async_callback(made.buckets.close, 5)
            return made

        yield make


@pytest.fixture
async def redis(valkey: EmbeddedValkey) -> AsyncGenerator[Redis]:
    """A client of the server."""
    async with Redis.from_url(valkey.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A bucket that no other test uses."""
    return f"t:{uuid.uuid4().hex}"


async def tokens(redis: Redis, name: str) -> float | None:
    """Return what Redis says is left in a bucket; nothing where it was never used."""
    found = [key async for key in redis.scan_iter(match=f"*:limit:{name}")]
    values = [str(await redis.get(key)) for key in found]
    return float(values[0].split()[0]) if values else None


async def fill(redis: Redis, name: str) -> None:
    """Fill a bucket up, as time does."""
    async for key in redis.scan_iter(match=f"*:limit:{name}"):
        await redis.delete(key)


# --- what is answered --------------------------------------------------------------------------------------------


async def test_take_at_once_asks_redis_for_nothing(process: MakeProcess, name: str) -> None:
    """What this process can say of a bucket it says without a wait; what only Redis can say it does not say."""
    one = process(1)

    def take(cost: float) -> Quota | None:
        return one.buckets.take_at_once(name, per_minute=SLOW, burst=1, cost=cost)

    first = take(1)
    assert first is not None
    assert first.allowed
    assert take(1) is None
    assert one.scripts == 0


@pytest.mark.parametrize(
    ("spent", "cost", "allowed", "remaining", "missing"),
    [(0, 4, True, 6, 0), (6, 4, True, 0, 0), (7, 4, False, 3, 1), (10, 4, False, 0, 4), (10, 0, True, 0, 0)],
)
async def test_take_answers_what_is_left_and_how_long_to_wait(
    process: MakeProcess, name: str, spent: float, cost: float, allowed: bool, remaining: float, missing: float
) -> None:
    """A cost that is there is taken without a wait; one that is not takes nothing and waits for what is missing."""
    one = process(10)
    if spent:
        await one.take(name, spent)

    quota = await one.take(name, cost)

    assert quota.allowed is allowed
    assert quota.remaining == pytest.approx(remaining, abs=0.01)
    assert quota.wait * SLOW / 60 == pytest.approx(missing, abs=0.01)
    assert quota.full * SLOW / 60 == pytest.approx(10 - remaining, abs=0.01)


async def test_look_says_what_all_processes_left_and_takes_nothing(process: MakeProcess, name: str) -> None:
    """A process that never used the bucket asks Redis; again and again, nothing is gone, and what is owed shows."""
    one, other = process(10), process(10)
    await one.take(name, 6)
    await one.buckets.sync()

    seen = [await other.look(name) for _ in range(20)]

    assert {round(quota.remaining, 2) for quota in seen} == {4}
    assert (await other.take(name, 4)).allowed
    one.spend(name, 3)
    await one.buckets.sync()
    owed = await process(10).look(name)
    assert (round(owed.remaining), round(owed.full * SLOW / 60)) == (-3, 13)


async def test_look_at_a_bucket_heard_of_lately_runs_no_script(process: MakeProcess, name: str) -> None:
    """However many ask, it is one script until the next synchronisation is due."""
    one = process(10)
    await asyncio.gather(*(one.look(name) for _ in range(50)))
    for _ in range(50):
        await one.look(name)
    assert one.scripts == 1


async def test_look_shows_what_this_process_has_not_reported(process: MakeProcess, name: str) -> None:
    """What was spent here a moment ago is missing at once."""
    one = process(10)
    await one.look(name)
    one.spend(name, 0.5)
    assert (await one.look(name)).remaining == pytest.approx(9.5, abs=0.01)


async def test_take_while_a_failing_script_runs_is_answered_after_it() -> None:
    """A caller that comes while Redis is asked in vain for another is asked for next, and waits for ever in no case."""
    connection = Connection("redis://127.0.0.1:1")
    buckets = TokenBuckets(connection)
    # The first of all is let in on trust.
    assert (await buckets.take("away", per_minute=1, burst=1, cost=1)).allowed
    first = asyncio.create_task(buckets.take("away", per_minute=1, burst=1, cost=1))
    await harness.turns(3)  # until the script is on its way
    assert not first.done()
    async with asyncio.timeout(harness.BOUND):
        second = buckets.take("away", per_minute=1, burst=1, cost=1)
        answers = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in answers] == [CoordinationUnavailable] * 2
    await connection.aclose()


async def test_spend_takes_what_is_not_there(process: MakeProcess, name: str) -> None:
    """Of three tokens four are spent: one is owed, and nothing is allowed until it is there."""
    one = process(10)
    await one.take(name, 7)

    quota = one.spend(name, 4)

    assert quota.allowed
    assert quota.remaining == pytest.approx(-1, abs=0.01)
    assert not (await one.take(name, 0)).allowed


async def test_take_beyond_the_limit_is_refused_at_the_limit(process: MakeProcess, name: str) -> None:
    """One process lets in exactly as many requests as the bucket holds, and knows at each how much is left."""
    one, left = process(40), list[float]()
    for _ in range(50):
        quota = await one.take(name)
        if quota.allowed:
            left.append(one.spend(name).remaining)
    assert left == pytest.approx([39 - number for number in range(40)], abs=0.01)


async def test_take_beyond_the_limit_costs_no_more_scripts(process: MakeProcess, name: str) -> None:
    """A process that knows that nothing is left refuses without asking Redis each time."""
    one = process(1)
    assert await one.request(name)
    assert not await one.request(name)
    before = one.scripts
    assert not any([await one.request(name) for _ in range(100)])
    assert one.scripts == before


async def test_take_of_many_waiting_together_is_granted_in_order(process: MakeProcess, name: str) -> None:
    """Five arrive at once where there is enough for three: the first three are let in, and one script is run."""
    one = process(3)
    quotas = await asyncio.gather(*(one.take(name, 1) for _ in range(5)))
    assert [quota.allowed for quota in quotas] == [True, True, True, False, False]
    assert one.scripts == 1


class LateReply(Connection):
    """The way to a real server, on which replies wait until they are let go."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.came, self.go = asyncio.Event(), asyncio.Event()

    async def evaluate(self, script: str, sha: str, keys: Sequence[str], argument: bytes) -> bytes:
        """Run a script."""
        reply = await super().evaluate(script, sha, keys, argument)
        self.came.set()
        await self.go.wait()
        return reply


async def test_take_that_waits_is_not_paid_from_by_others(
    process: MakeProcess, valkey: EmbeddedValkey, name: str
) -> None:
    """What is spent while a request waits for Redis does not take away what Redis hands out for that request."""
    connection = LateReply(valkey.url)
    one = process(10, connection)
    assert await one.request(name)
    waiting = asyncio.create_task(one.take(name))
    await connection.came.wait()
    one.spend(name, 5)
    connection.go.set()
    assert (await waiting).allowed


async def test_take_from_a_new_bucket_without_redis_has_no_answer(process: MakeProcess, name: str) -> None:
    """A process that cannot reach Redis says nothing of a bucket that it has heard nothing of."""
    connection = Connection("redis://127.0.0.1:1")
    one = process(10, connection)
    with pytest.raises(CoordinationUnavailable):
        await connection.now()
    with pytest.raises(CoordinationUnavailable):
        await one.take(name)


# --- by how much a limit can be exceeded -------------------------------------------------------------------------


async def test_two_processes_together_exceed_a_limit_by_one_request_each(process: MakeProcess, name: str) -> None:
    """Requests that come one after the other: all that the bucket holds is used, and at most one more by each."""
    here, there = process(100), process(100)
    let_in = 0
    for _ in range(100):
        let_in += await here.request(name) + await there.request(name)
    assert 100 <= let_in <= 102


async def test_two_processes_together_exceed_a_limit_by_what_one_holds_while_it_fills_up(
    process: MakeProcess, redis: Redis, name: str
) -> None:
    """A process holds at most a tenth of the burst, however much its last requests took."""
    here, there = process(100), process(100)
    for _ in range(60):
        await here.request(name)
    await fill(redis, name)
    await here.buckets.sync()
    await fill(redis, name)
    let_in = 0
    for _ in range(100):
        let_in += await there.request(name)
    for _ in range(100):
        let_in += await here.request(name)
    assert 105 < let_in <= 112


async def test_process_reports_at_once_what_exceeds_a_tenth_of_the_burst(
    process: MakeProcess, redis: Redis, name: str
) -> None:
    """Ten of a hundred tokens may be owed until the next round; Redis hears of eleven at once."""
    here, there = process(100), process(100)
    here.spend(name, 10)
    await there.take(name)
    await there.buckets.sync()
    assert (await there.take(name)).remaining > 99
    await there.buckets.close(5)
    assert here.scripts == 0
    here.spend(name, 1)

    async def left() -> float:
        return await tokens(redis, name) or 0

    assert await harness.until(left, lambda left: left < 90) == pytest.approx(88.8, abs=0.01)


async def test_processes_together_overdraw_a_target_by_one_start_each(process: MakeProcess, name: str) -> None:
    """Three processes, three starts: three more are let through, however the processes take turns."""
    processes = [process(3) for _ in range(3)]
    started = 0
    for _ in range(5):
        for one in processes:
            started += await one.start(name)
    assert 3 <= started <= 6


# --- what it costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["targets", "callers"])
async def test_first_request_of_many_is_settled_by_few_scripts(
    process: MakeProcess, redis: Redis, name: str, limit: str
) -> None:
    """Two hundred and fifty targets or callers are met without asking Redis; two scripts then report all of them."""
    one = process(3)
    use = one.start if limit == "targets" else one.request
    assert all([await use(f"{name}-{number}") for number in range(250)])
    assert one.scripts == 0
    await one.buckets.sync()
    assert one.scripts == 2
    assert await tokens(redis, f"{name}-249") == pytest.approx(2, abs=0.01)


async def test_requests_of_a_caller_cost_few_scripts(process: MakeProcess, name: str) -> None:
    """Four hundred requests, one after the other: at most one script for five."""
    one = process(1000, sync_every=0.25)
    one.buckets.open()
    assert all([await one.request(name) for _ in range(400)])
    assert one.scripts <= 80


# --- what is held and owed ---------------------------------------------------------------------------------------


async def used(one: Process, name: str) -> None:
    """Have a process use four tokens, and hold some more for later."""
    for _ in range(4):
        assert await one.request(name)


async def test_unused_tokens_of_an_idle_process_return(process: MakeProcess, redis: Redis, name: str) -> None:
    """What was drawn and not used is given back after a while, and not before."""
    one = process(100)
    await used(one, name)
    await one.buckets.sync()
    left = await tokens(redis, name)
    assert left is not None
    assert left < 95.5
    hasty = process(100, sync_every=0.02, idle_seconds=0.1)
    hasty.buckets.open()
    await used(hasty, f"{name}-hasty")
    await harness.until(lambda: tokens(redis, f"{name}-hasty"), lambda left: left == pytest.approx(96, abs=0.01))


async def test_close_reports_everything(process: MakeProcess, redis: Redis, name: str) -> None:
    """At the end Redis has what was spent, and what was not used, of every bucket."""
    one = process(100)
    await used(one, name)
    one.spend(f"{name}-target", 1)
    await one.buckets.close(5)
    assert await tokens(redis, name) == pytest.approx(96, abs=0.01)
    assert await tokens(redis, f"{name}-target") == pytest.approx(99, abs=0.01)


async def test_settling_after_an_unexpected_error_goes_on(process: MakeProcess, redis: Redis, name: str) -> None:
    """The error is logged, and what was spent is reported in the next round."""
    one, log = process(10, sync_every=0.01), Log()
    assert isinstance(one.connection, ErringConnection)
    one.connection.err("limit")
    one.buckets.open()
    one.spend(name, 1)
    await log.shows("limits.failed")
    await harness.until(lambda: tokens(redis, name), lambda left: left == pytest.approx(9, abs=0.01))


async def test_settling_after_redis_was_lost_goes_on(name: str) -> None:
    """What was spent while no connection could be made is reported afterwards, once."""
    with EmbeddedValkey(port=0) as server:
        gate = Gate(server.port)
        await gate.open()
        connection = Connection(f"redis://127.0.0.1:{gate.port}", probe_every=0.02)
        one = Process(connection, 10, sync_every=0.01)
        one.buckets.open()
        one.spend(name, 1)
        async with Redis.from_url(server.url, decode_responses=True) as admin:
            await harness.until(lambda: tokens(admin, name), lambda left: left == pytest.approx(9, abs=0.01))
            gate.shut()
            one.spend(name, 1)
            await harness.eventually(lambda: connection.open)
            one.spend(name, 1)
            await gate.reopen()
            await harness.until(lambda: tokens(admin, name), lambda left: left == pytest.approx(7, abs=0.01))
        await one.buckets.close(5)
        await connection.aclose()
        await gate.close()


class LostReply(Connection):
    """The way to a real server, on which the reply to the first script is lost."""

    lost = 0

    async def evaluate(self, script: str, sha: str, keys: Sequence[str], argument: bytes) -> bytes:
        """Run a script."""
        reply = await super().evaluate(script, sha, keys, argument)
        if not self.lost:
            self.lost += 1
            raise CoordinationUnavailable("the reply is lost")
        return reply


async def test_report_whose_reply_was_lost_is_taken_once(
    process: MakeProcess, valkey: EmbeddedValkey, redis: Redis, name: str
) -> None:
    """The same report again takes nothing a second time; what was spent meanwhile is taken with the next one."""
    one = process(10, LostReply(valkey.url))
    one.spend(name, 1)
    await one.buckets.sync()
    assert await tokens(redis, name) == pytest.approx(9, abs=0.01)
    one.spend(name, 1)
    await one.buckets.sync()
    assert await tokens(redis, name) == pytest.approx(8, abs=0.01)


async def test_report_that_comes_twice_takes_what_was_spent_once(process: MakeProcess, name: str) -> None:
    """Its reply was lost, or a Cluster's client has repeated it; the one after it counts again."""
    connection = process(10).connection
    script = Script("gateway.store", "limit")

    async def left(report: int) -> float:
        argument = msgspec.json.encode({"report": report, "buckets": [[SLOW / 60, 10, 3, 0, 0]]})
        reply = await connection.evaluate(
            script.text, script.sha, [f"{{{name}}}:report", f"{{{name}}}:bucket"], argument
        )
        ((_, tokens),) = msgspec.json.decode(reply)
        return round(tokens, 2)

    assert [await left(report) for report in (1, 1, 2, 1)] == [7, 7, 4, 4]


async def test_report_that_is_given_up_is_not_repeated(process: MakeProcess, redis: Redis, name: str) -> None:
    """Redis does not answer for too long: what was spent is forgotten, and the bucket is free to be taken from."""
    one = process(10, give_up_seconds=-1)
    assert isinstance(one.connection, ErringConnection)
    one.connection.away("limit")
    one.spend(name, 1)
    await one.buckets.sync()
    assert one.buckets.take_at_once(name, per_minute=SLOW, burst=10, cost=0) is not None
    one.connection.errors.clear()
    await one.buckets.sync()
    assert await tokens(redis, name) is None


async def test_close_while_redis_hangs_ends_with_its_grace(name: str) -> None:
    """What cannot be reported is given up, and not only once Redis's own time-out has passed."""
    with harness.PatientValkey() as server:
        connection = Connection(server.url)
        buckets = TokenBuckets(connection, sync_every=NEVER, idle_seconds=NEVER)
        await buckets.take(name, per_minute=SLOW, burst=10, cost=1)
        buckets.spend(name, per_minute=SLOW, burst=10, cost=9)
        server.pause()
        try:
            async with asyncio.timeout(harness.BOUND):
                await buckets.close(grace=0.05)
            assert connection.failures == 0
        finally:
            server.resume()
        await connection.aclose()
