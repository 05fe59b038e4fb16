"""What is remembered under idempotency keys: within a caller's bounds, the oldest out, and nothing of it twice."""

import uuid
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from gateway.store.idempotency_records import IdempotencyKey, IdempotencyRecords
from tests import harness

pytestmark = pytest.mark.anyio


class Caller:
    """A caller that no other test knows, what it sends, and what Redis remembers of it."""

    def __init__(self, connection: Connection, redis: Any) -> None:
        self._connection = connection
        self._redis = redis
        self.account = ("t", uuid.uuid4().hex)

    def records(self, **bounds: Any) -> IdempotencyRecords:
        """Return what remembers, with these bounds."""
        return IdempotencyRecords(self._connection, timedelta(hours=bounds.pop("hours", 1)), **bounds)

    def key(self, name: object, fingerprint: str = "f") -> IdempotencyKey:
        """Return a key of its own."""
        return IdempotencyKey(self.account, ("start", str(name)), fingerprint)

    async def remembered(self, records: IdempotencyRecords) -> tuple[int, int]:
        """Return how many keys are remembered, and their bytes: what is written down, and what it adds up to."""
        # Whatever a question finds, the sum has to be that of what lies there.
        await records.begin(self.key("a question"), remember=False)
        for name in [name async for name in self._redis.scan_iter(match="*:answers:*", count=1000)]:
            fields = cast("dict[bytes, bytes]", await self._redis.hgetall(name))
            if self.account[1].encode() in b"".join(fields.values()):
                count, total = int(fields.pop(b"count")), int(fields.pop(b"bytes"))
                assert (count, total) == (len(fields), sum(len(key) + len(value) for key, value in fields.items()))
                return len(fields), total
        return 0, 0


@pytest.fixture
async def caller(valkey: EmbeddedValkey) -> AsyncGenerator[Caller]:
    """A caller of the test's own."""
    connection = Connection(valkey.url)
    async with Redis.from_url(valkey.url) as redis:
        yield Caller(connection, redis)
    await connection.aclose()


async def test_keys_beyond_the_bound_push_out_the_oldest(caller: Caller) -> None:
    """Of ten keys four are remembered, the last four; those that went are as good as new."""
    records, answer = caller.records(max_keys=4), caller.account[1]
    forgotten = 0
    for number in range(10):
        forgotten += (await records.begin(caller.key(number), remember=True)).forgotten
        await records.keep(caller.key(number), answer)
    assert forgotten == 6
    assert (await caller.remembered(records))[0] == 4
    verdicts = [(await records.begin(caller.key(number), remember=False)).verdict for number in range(10)]
    assert verdicts == ["new"] * 6 + ["replay"] * 4


async def test_answers_beyond_the_bytes_push_out_the_oldest(caller: Caller) -> None:
    """However long the answers, their sum stays within the bound; one that is longer alone is not kept."""
    records, answer = caller.records(max_bytes=2_000), caller.account[1] + "x" * 500
    for number in range(10):
        await records.keep(caller.key(number), answer)
    count, total = await caller.remembered(records)
    assert count == 3
    assert total <= 2_000
    assert (await records.begin(caller.key(9), remember=False)).answer == answer
    await records.keep(caller.key("long"), "x" * 2_000)
    assert await caller.remembered(records) == (0, 0)


async def test_key_that_is_answered_later_is_as_young_as_its_answer(caller: Caller) -> None:
    """What was begun first and answered last stays; the sum counts its answer once."""
    records, answer = caller.records(max_keys=2), caller.account[1]
    await records.begin(caller.key("slow"), remember=True)
    await records.keep(caller.key("fast"), answer)
    await records.keep(caller.key("slow"), answer)
    await records.keep(caller.key("slow"), answer + "another")
    await records.keep(caller.key("next"), answer)
    verdicts = {name: (await records.begin(caller.key(name), remember=False)) for name in ("slow", "fast", "next")}
    assert {name: known.verdict for name, known in verdicts.items()} == {
        "slow": "replay", "fast": "new", "next": "replay",
    }  # fmt: skip
    assert verdicts["slow"].answer == answer
    assert (await caller.remembered(records))[0] == 2


async def test_keys_go_when_their_hours_are_over(caller: Caller) -> None:
    """A caller that goes on sending does not keep its old keys alive."""
    answer = caller.account[1]
    await caller.records().keep(caller.key("old"), answer)
    brief = caller.records(hours=0.01 / 3600)

    async def gone() -> bool:
        return (await brief.begin(caller.key("old"), remember=False)).verdict == "new"

    await harness.until(gone)
    assert await caller.remembered(caller.records()) == (0, 0)


async def test_key_of_a_question_that_need_not_be_remembered_leaves_nothing(caller: Caller) -> None:
    """A stop that has no answer yet: its retry stops again."""
    records = caller.records()
    for _ in range(2):
        assert (await records.begin(caller.key("stop"), remember=False)).verdict == "new"
    assert await caller.remembered(records) == (0, 0)
    await records.keep(caller.key("stop"), caller.account[1])
    assert (await records.begin(caller.key("stop"), remember=False)).verdict == "replay"
    assert (await records.begin(caller.key("stop", "other"), remember=False)).verdict == "differs"
