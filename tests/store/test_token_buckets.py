"""What a bucket answers: how much is left, and how long until the cost would be there."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.errors import CoordinationUnavailable
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.token_buckets import TokenBuckets
from tests import harness

pytestmark = pytest.mark.anyio

SLOW = 0.001
"""Tokens a minute: none comes back while a test runs."""


@pytest.fixture
async def buckets(valkey: EmbeddedValkey) -> AsyncGenerator[TokenBuckets]:
    """Buckets on a real server."""
    connection = Connection(valkey.url)
    yield TokenBuckets(connection)
    await connection.aclose()


@pytest.mark.parametrize(
    ("spent", "cost", "force", "allowed", "remaining", "missing"),
    [
        (0, 4, False, True, 6, 0),
        (6, 4, False, True, 0, 0),
        (7, 4, False, False, 3, 1),
        (10, 4, False, False, 0, 4),
        (7, 4, True, True, -1, 0),
        (10, 0, False, True, 0, 0),
    ],
)
async def test_take_answers_what_is_left_and_how_long_to_wait(
    buckets: TokenBuckets,
    request: pytest.FixtureRequest,
    spent: float,
    cost: float,
    force: bool,
    allowed: bool,
    remaining: float,
    missing: float,
) -> None:
    """A cost that is there is taken without a wait; one that is not takes nothing and waits for what is missing."""
    name = f"t:{abs(hash(request.node.nodeid))}"
    if spent:
        await buckets.take(name, per_minute=SLOW, burst=10, cost=spent)

    quota = await buckets.take(name, per_minute=SLOW, burst=10, cost=cost, force=force)

    assert quota.allowed is allowed
    assert quota.remaining == pytest.approx(remaining, abs=0.01)
    assert quota.wait * SLOW / 60 == pytest.approx(missing, abs=0.01)
    assert quota.full * SLOW / 60 == pytest.approx(10 - remaining, abs=0.01)


async def test_take_while_a_failing_script_runs_is_answered_after_it() -> None:
    """A caller that comes while Redis is asked in vain for another is asked for next, and waits for ever in no case."""
    connection = Connection("redis://127.0.0.1:1")
    buckets = TokenBuckets(connection)
    first = asyncio.create_task(buckets.take("away", per_minute=1, burst=1, cost=1))
    # Not a wait: the loop is let go on until the script is on its way.
    for _ in range(3):
        await asyncio.sleep(0)
    assert not first.done()
    async with asyncio.timeout(harness.BOUND):
        second = buckets.take("away", per_minute=1, burst=1, cost=1)
        answers = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in answers] == [CoordinationUnavailable] * 2
    await connection.aclose()
