"""Writes that are repeated in the background: until they succeed, and not for ever."""

import asyncio

import pytest

from gateway.errors import CoordinationUnavailable
from gateway.store.retries import Retries
from tests import harness

pytestmark = pytest.mark.anyio


class Write:
    """A write that fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tries = 0
        self.over = asyncio.Event()

    async def __call__(self) -> None:
        """Make it."""
        self.tries += 1
        if self.tries <= self.failures:
            raise CoordinationUnavailable("not now")


async def test_write_is_repeated_until_it_succeeds() -> None:
    """Two tries fail, the third succeeds, and there is no fourth."""
    retries, write = Retries(), Write(2)
    retries.begin("write", write, pause=0, longest_pause=0, seconds=60, at_end=write.over.set)
    await harness.eventually(lambda: not retries.pending)
    assert write.tries == 3
    assert write.over.is_set()


async def test_write_that_never_succeeds_is_given_up_in_time() -> None:
    """After its seconds it is over, as if it had succeeded: nothing holds on to what it was for."""
    retries, write = Retries(), Write(10**9)
    retries.begin("write", write, pause=0, longest_pause=0, seconds=0.05, at_end=write.over.set)
    await harness.eventually(lambda: not retries.pending)
    assert write.tries > 1
    assert write.over.is_set()


async def test_stopping_waits_for_writes_no_longer_than_its_grace() -> None:
    """What is still unwritten then is given up, and nothing of it is left."""
    retries, write = Retries(), Write(10**9)
    retries.begin("write", write, pause=0.001, longest_pause=0.001, seconds=3600, at_end=write.over.set)
    await harness.eventually(lambda: write.tries)
    async with asyncio.timeout(20):
        await retries.stop(0.01)
    assert not retries.pending
    assert write.over.is_set()
