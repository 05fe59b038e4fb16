"""Fixtures for tests of the API: what a problem looks like, and what reached the servers behind the gateway."""

from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from redis.asyncio import Redis

from gateway.errors import PROBLEMS
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness


def check_problem(answer: httpx.Response, slug: str) -> dict[str, Any]:
    """Check that an answer is this problem, whole and well formed; return the document."""
    known = PROBLEMS[slug]
    assert answer.status_code == known.status, answer.text
    assert answer.headers["content-type"] == "application/problem+json; charset=utf-8"
    document = answer.json()
    assert document["type"] == f"/problems/{slug}"
    assert document["title"] == known.title
    assert document["status"] == known.status
    assert document["detail"]
    assert document["detail"] != document["title"]
    assert document["instance"].isascii()
    assert unquote(document["instance"]) == answer.request.url.path
    assert document["requestId"] == answer.headers["x-request-id"] != ""
    return document


@pytest.fixture(name="check_problem")
def check_problem_fixture() -> Callable[[httpx.Response, str], dict[str, Any]]:
    """Give tests the check of problems."""
    return check_problem


@pytest.fixture
def nothing_reaches(valkey: EmbeddedValkey, simulator: Simulator):
    """Give tests a block in which no call may reach VideoSDK, no key may appear in Redis, and no script may run there.

    Scripts that look for overdue work do not count: they come by themselves. They are told apart by their command:
    looking is a ZRANGE, everything a request does is EVALSHA or HGETALL.
    """

    @asynccontextmanager
    async def block():
        async with Redis.from_url(valkey.url) as redis:
            commands = await _commands(redis)
            # Where nothing has run since the last such block, it was at rest then and still is.
            if _AT_REST.get(valkey.url) != commands:
                commands = await _at_rest(redis)
            size, calls = await redis.dbsize(), len(simulator.calls)
            yield
            assert await redis.dbsize() <= size  # some go by themselves
            assert await _commands(redis) == commands
            assert len(simulator.calls) == calls
            _AT_REST[valkey.url] = commands

    return block


_AT_REST: dict[str, dict[str, int]] = {}
"""What each server had run at the end of the last such block."""


async def _at_rest(redis: Redis) -> dict[str, int]:
    """Wait until nothing follows of earlier requests, as their limits do a quarter of a second later.

    What they left to be looked at another time is taken away.
    """
    before: list[dict[str, int]] = []

    async def look() -> dict[str, int]:
        scheduled = [key async for key in redis.scan_iter("rec:*:due")]
        if scheduled:
            await redis.delete(*scheduled)
        before.append(await _commands(redis))
        return before[-1]

    return await harness.until(look, lambda now: before[-2:] == [now, now], every=0.3)


async def _commands(redis: Redis) -> dict[str, int]:
    statistics: dict[str, Any] = await redis.info("commandstats")
    return {
        name: values["calls"]
        for name, values in statistics.items()
        if name.removeprefix("cmdstat_") in {"eval", "evalsha", "hgetall", "hset", "set", "publish"}
    }
