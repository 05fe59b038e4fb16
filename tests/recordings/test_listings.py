"""Lists are asked for together, and whoever waits for one hears what became of it."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.recordings.listings import Listing, ListingCache
from gateway.recordings.targets import Kind, Mode, Target
from gateway.secrets import Secret
from gateway.videosdk.client import ListedRow, VideoSDK
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


ROWS = [
    ListedRow(id=f"{mode}-{participant}-{kind}", participant_id=participant, kind=kind, mode=mode)
    for mode in ("track", "room")
    for participant in ("ada", "bob")
    for kind in ("audio", "video")
]


@pytest.mark.parametrize(
    ("participant", "kind", "found"),
    [
        ("ada", Kind.VIDEO, ["track-ada-video"]),
        ("bob", Kind.AUDIO, ["track-bob-audio"]),
        ("eve", Kind.AUDIO, []),
        ("ada", None, ["track-ada-audio", "track-ada-video"]),
        ("", Kind.AUDIO, ["track-ada-audio", "track-bob-audio"]),
    ],
)
def test_listing_of_a_target_holds_its_rows_only(participant: str, kind: Kind | None, found: list[str]) -> None:
    """Rows of its mode, its participant and its kind, as far as the target has one."""
    listed = Listing(ROWS, 0.0).of(Target(Mode.TRACK, "room", participant, kind))
    assert [row.id for row in listed] == found


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
