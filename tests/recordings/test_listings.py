"""Lists are asked for together, and whoever waits for one hears what became of it."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.recordings.listings import Listing, ListingCache
from gateway.secrets import Secret
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.tokens import FixedToken
from tests import harness

pytestmark = pytest.mark.anyio


class _NoToken(FixedToken):
    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(Secret("t"))
        self._meanwhile = meanwhile

    def current(self) -> str:
        self._meanwhile()
        raise RuntimeError("a mistake")


async def test_list_that_fails_unexpectedly_fails_for_every_waiter() -> None:
    """Also those who came while it was made, and as what it is: to be cancelled is something else."""
    late: list[asyncio.Task[Listing]] = []

    def ask_late() -> None:
        if not late:
            late.append(asyncio.create_task(listings.ask("room", "late")))

    videosdk = VideoSDK("http://127.0.0.1:9", _NoToken(ask_late), timeout=harness.BOUND)
    listings = ListingCache(videosdk)
    async with asyncio.timeout(harness.BOUND):
        told = await asyncio.gather(
            *(listings.ask("room", f"p{number}") for number in range(2)), return_exceptions=True
        )
        told += await asyncio.gather(*late, return_exceptions=True)
    assert [type(error) for error in told] == [RuntimeError] * 3
    await videosdk.aclose()
