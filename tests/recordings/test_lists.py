"""Lists are asked for together, and whoever waits for one hears what became of it."""

import asyncio

import pytest

from gateway.recordings import Lists
from gateway.secret import Secret
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.tokens import FixedToken

pytestmark = pytest.mark.anyio


class _NoToken(FixedToken):
    def current(self) -> str:
        raise RuntimeError("a mistake")


async def test_a_mistake_reaches_all_who_wait() -> None:
    """Also those who came while it was made, and as what it is: to be cancelled is something else."""
    videosdk = VideoSDK("http://127.0.0.1:9", _NoToken(Secret("t")), timeout=2)
    lists = Lists(videosdk)
    asked = [asyncio.create_task(lists.ask("room", f"p{number}")) for number in range(2)]
    await asyncio.sleep(0)
    asked += [asyncio.create_task(lists.ask("room", "late"))]
    async with asyncio.timeout(10):
        told = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(error) for error in told] == [RuntimeError] * 3
    await videosdk.aclose()
