"""How fast calls may follow each other, and who goes first."""

import asyncio
import time

import pytest

from gateway.videosdk.pace import Pace
from tests import harness

pytestmark = pytest.mark.anyio


async def test_turns_of_those_that_go_last_hold_up_others_by_one_at_most() -> None:
    """Five that let others go first come, then one that does not: it is the second or third to have its turn."""
    pace, order = Pace(200), list[str]()

    async def take(name: str, *, last: bool) -> None:
        await pace.turn(last=last)
        order.append(name)

    readers = [asyncio.create_task(take(f"reader {number}", last=True)) for number in range(5)]
    await harness.turns(3)
    await take("start", last=False)
    before = order.index("start")
    await asyncio.gather(*readers)
    assert before <= 2
    assert len(order) == 6


async def test_turns_come_no_faster_than_the_rate() -> None:
    """Each waits for its part of a second after the one before."""
    pace, begun = Pace(100), time.monotonic()
    for last in (False, True, False, True):
        await pace.turn(last=last)
    # A timer may be early by what a clock cannot tell apart.
    assert time.monotonic() - begun > 3 * 0.009


async def test_turns_without_a_rate_are_taken_at_once() -> None:
    """0 is no limit."""
    pace = Pace(0)
    async with asyncio.timeout(harness.BOUND):
        for last in (True, False) * 50:
            await pace.turn(last=last)
