"""Finds what nobody asks for any more and is not settled: crashed claims, unknown starts, stops without an answer.

Every script of the protocol writes down when its track has to be looked at again. Any replica may take up what is due;
the claim decides who does.
"""

import asyncio
import random

import structlog

from gateway.coordinator import BUCKETS, Coordinator
from gateway.errors import CoordinationUnavailable
from gateway.recordings.recordings import Recordings

__all__ = ["Settler"]

_ROUND_SECONDS = 1.0
_MOST_PER_BUCKET = 20
_AT_ONCE = 16

_log = structlog.get_logger("gateway.settler")


class Settler:
    """Settles, in the background, whatever is due.

    Args:
        coordinator: Where due times are read.
        recordings: Who settles a track.
    """

    def __init__(self, coordinator: Coordinator, recordings: Recordings) -> None:
        self._coordinator = coordinator
        self._recordings = recordings
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look_for_ever(), name="settler")

    async def stop(self) -> None:
        """Stop looking. What is under way is left to the other replicas."""
        tasks = [*self._busy.values(), *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_for_ever(self) -> None:
        while True:
            # Jittered, so that replicas seldom reach for the same track in the same moment.
            await asyncio.sleep(_ROUND_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311
            try:
                await self._look()
            except CoordinationUnavailable:
                continue

    async def _look(self) -> None:
        for bucket in random.sample(range(BUCKETS), BUCKETS):
            for key in await self._coordinator.due(bucket, _MOST_PER_BUCKET):
                if key not in self._busy:
                    task = self._busy[key] = asyncio.create_task(self._settle(key), name="settle")
                    task.add_done_callback(lambda _, key=key: self._busy.pop(key, None))

    async def _settle(self, key: str) -> None:
        async with self._places:
            try:
                await self._recordings.settle(key)
            except CoordinationUnavailable:
                pass
            except Exception:  # noqa: BLE001 - one track's trouble must not end the settling of the others
                _log.exception("settle.failed", track=key)
