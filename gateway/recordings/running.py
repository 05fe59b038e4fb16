"""Finds all that records in a room, for callers who want it stopped: what Redis knows, and what VideoSDK lists."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from msgspec import Struct

from gateway.coordinator import Coordinator, Record
from gateway.errors import CoordinationUnavailable, NewerRecord, UpstreamError
from gateway.recordings.decoding import key_of
from gateway.recordings.listings import Listing, ListingCache
from gateway.recordings.model import ENDED
from gateway.recordings.operation import is_foreign
from gateway.recordings.targets import Target, target_of
from gateway.store.clock import clock

__all__ = ["RoomSearch", "RunningTarget", "may_look_again"]

_LOOK_AGAIN_SECONDS: Final = 0.1
"""How often a record is read while a probe that a start may have begun keeps to itself who asked for it."""


class RunningTarget(Struct, frozen=True):
    """A target that is recorded, may be, or is about to be."""

    target: Target
    is_foreign: bool
    """It was started outside the gateway."""


class RoomSearch:
    """One search of one room for all that records in it.

    Args:
        coordinator: Where the records are.
        listings: Says what VideoSDK records.
        room: Its id.
    """

    def __init__(self, coordinator: Coordinator, listings: ListingCache, room: str) -> None:
        self._coordinator = coordinator
        self._listings = listings
        self._room = room
        self.complete = False
        """Whether there was nothing else: Redis and VideoSDK both have answered, and no start was still to be seen."""

    async def found(self, timeout: float, *, certain: bool) -> AsyncGenerator[RunningTarget]:
        """Yield what records, each target once: at once what Redis knows, and then what VideoSDK lists beside it.

        What is started after the search began is not found.

        Args:
            timeout: Seconds that the list, and probes that a start may have begun, may take.
            certain: Whether it must be known what is foreign, which Redis alone tells.

        Raises:
            CoordinationUnavailable: Redis does not answer, and what is foreign must be known, or VideoSDK does not
                answer either.
        """
        give_up_at = clock() + timeout
        try:
            records: Mapping[str, Record] | None = (await self._coordinator.records.room(self._room)).records
        except CoordinationUnavailable:
            if certain:
                raise
            records = None
        began_at = self._coordinator.now_ms() * 1000
        known = {target_of(key): record for key, record in (records or {}).items()}
        seen = {target for target, record in known.items() if _runs(record)}
        for target in seen:
            yield RunningTarget(target, is_foreign(known[target]))
        # Of more than are shown, those that only just start are in no list either.
        cut = len(seen) >= self._coordinator.records.max_targets
        listing = await self._list(timeout)
        if records is not None:
            probed = {target for target, record in known.items() if _is_probed(record)}
            for found in await self._later(listing, seen, probed, began_at, give_up_at):
                yield found
            self.complete = self.complete and not cut
        elif listing is None:
            raise CoordinationUnavailable("Neither Redis nor VideoSDK answers.", retry_after=1)
        else:
            for target in listing.open_targets(self._room):
                yield RunningTarget(target, is_foreign=True)

    async def _list(self, timeout: float) -> Listing | None:
        try:
            async with asyncio.timeout(timeout):
                return await self._listings.ask(self._room)
        except (UpstreamError, TimeoutError):
            return None

    async def _later(
        self, listing: Listing | None, seen: set[Target], probed: set[Target], began_at: int, give_up_at: float
    ) -> list[RunningTarget]:
        """Return what records beside what was seen before.

        Args:
            listing: What VideoSDK lists, if it could be had.
            seen: What Redis knew to record when the search began.
            probed: What a probe held then.
            began_at: When the search began, as a number (see `claim.lua`).
            give_up_at: Until when (`clock`) to wait for probes.
        """
        listed = set[Target]() if listing is None else listing.open_targets(self._room)
        records, all_seen = await self._records((probed | listed) - seen, give_up_at)
        self.complete = listing is not None and all_seen
        found: list[RunningTarget] = []
        for target, record in records.items():
            if record is None or not _runs(record):
                if self._is_open(target, record, listing):
                    found.append(RunningTarget(target, is_foreign=True))
            elif is_foreign(record) or target in probed or record.started_op <= began_at:
                # Another caller's later start is no part of this.
                found.append(RunningTarget(target, is_foreign(record)))
        return found

    async def _records(self, targets: set[Target], give_up_at: float) -> tuple[dict[Target, Record | None], bool]:
        """Return the records of targets once no probe holds them, and whether that was so in time."""
        found: dict[Target, Record | None] = {}
        left: list[Target] = list(targets)
        while left:
            try:
                read = await asyncio.gather(
                    *(self._coordinator.records.look(key_of(self._coordinator, target)) for target in left)
                )
            except (CoordinationUnavailable, NewerRecord):
                return found, False
            found |= dict(zip(left, read, strict=True))
            left = [target for target in left if (record := found[target]) is not None and _is_probed(record)]
            if left and not await may_look_again(give_up_at):
                return found, False
        return found, True

    def _is_open(self, target: Target, record: Record | None, listing: Listing | None) -> bool:
        """Tell whether the list shows a recording of a target whose record, if there is one, says that it has ended."""
        if listing is None:
            return False
        now, settle = self._coordinator.now_ms(), self._coordinator.timing.settle
        return bool(listing.open_rows_of(target, record or Record(), now, settle))


async def may_look_again(give_up_at: float) -> bool:
    """Wait a moment before what a probe holds is read again; False once that is too late (`clock`)."""
    if clock() > give_up_at:
        return False
    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
    return True


def _runs(record: Record) -> bool:
    return bool(record.state) and record.state not in ENDED


def _is_probed(record: Record) -> bool:
    """Tell whether a probe looks what records where the record knows of nothing: it may be the beginning of a start."""
    return not _runs(record) and record.is_probed
