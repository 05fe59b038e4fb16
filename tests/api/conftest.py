"""Fixtures for tests of the API: what a problem looks like, and what reached the servers behind the gateway."""

import re
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Monitor

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

    What comes by itself does not count: looks for overdue work (a ZRANGE), and at records that were there before.
    """

    @asynccontextmanager
    async def block():
        async with Redis.from_url(valkey.url, decode_responses=True) as redis:
            commands = await _commands(redis)
            # Where nothing has run since the last such block, it was at rest then and still is.
            if _AT_REST.get(valkey.url) != commands:
                await _at_rest(redis)
            records = {key for key in cast("list[str]", await redis.keys("rec:*")) if not _NO_RECORD.search(key)}
            size, calls = await redis.dbsize(), len(simulator.calls)
            async with redis.monitor() as monitor:
                yield
                ran = await _commands_until_now(redis, monitor)
            assert [command for command in ran if records.isdisjoint(command.split())] == []
            assert await redis.dbsize() <= size  # some go by themselves
            assert len(simulator.calls) == calls
            _AT_REST[valkey.url] = await _commands(redis)

    return block


_OF_REQUESTS = {"eval", "evalsha", "hgetall", "hset", "set", "publish"}
_NO_RECORD = re.compile(r"^rec:\{..\}:(limit|answer|ticket)|:(due|ends|targets|events|epoch)$")

_AT_REST: dict[str, dict[str, int]] = {}
"""What each server had run at the end of the last such block."""


async def _at_rest(redis: Redis) -> dict[str, int]:
    """Wait until nothing follows of earlier requests, as their limits do a quarter of a second later."""
    before: list[dict[str, int]] = []

    async def look() -> dict[str, int]:
        before.append(await _commands(redis))
        return before[-1]

    return await harness.until(look, lambda now: before[-2:] == [now, now], every=0.3)


async def _commands(redis: Redis) -> dict[str, int]:
    statistics: dict[str, Any] = await redis.info("commandstats")
    return {
        name: values["calls"] for name, values in statistics.items() if name.removeprefix("cmdstat_") in _OF_REQUESTS
    }


async def _commands_until_now(redis: Redis, monitor: Monitor) -> list[str]:
    """Return the commands of requests that the server has run since it has been watched, without those in scripts."""
    now = uuid4().hex
    await redis.echo(now)
    ran: list[str] = []
    while now not in (command := await monitor.next_command())["command"]:
        if command["client_type"] != "lua" and command["command"].split()[0].lower() in _OF_REQUESTS:
            ran.append(command["command"])
    return ran
