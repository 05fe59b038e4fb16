"""Finds what nobody asks for any more and is not settled: crashed claims, unknown starts, stops without an answer.

Every script of the protocol writes down when its track has to be looked at again. Any replica may take up what is due;
the claim decides who does. All that is due in a room is looked after together: one list answers for it.
"""

import asyncio
import random

import structlog

from gateway.coordinator import Coordinator
from gateway.errors import CoordinationUnavailable, NewerRecord
from gateway.recordings.model import track_of
from gateway.recordings.reconciler import Watcher
from gateway.store.scripts import BUCKETS

__all__ = ["Settler"]

_ROUND_SECONDS = 1.0
_MAX_PER_BUCKET = 500

_log = structlog.get_logger("gateway.settler")


class Settler:
    """Settles, in the background, whatever is due.

    Args:
        coordinator: Where due times are read.
        reconciler: Who looks after what is due.
        every: Seconds between two rounds, about.
        max_per_bucket: Tracks of a bucket that are taken up in one round, the longest due first.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        reconciler: Watcher,
        *,
        every: float = _ROUND_SECONDS,
        max_per_bucket: int = _MAX_PER_BUCKET,
    ) -> None:
        self._coordinator = coordinator
        self._reconciler = reconciler
        self._every = every
        self._max_per_bucket = max_per_bucket
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look_for_ever(), name="reconciler_loop")

    async def stop(self) -> None:
        """Stop looking. What is under way is left to the other replicas."""
        tasks = [*self._busy.values(), *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_for_ever(self) -> None:
        while True:
            # Jittered, so that replicas seldom reach for the same track in the same moment.
            await asyncio.sleep(self._every * random.uniform(0.7, 1.3))  # noqa: S311
            try:
                await self._look()
            except CoordinationUnavailable:
                continue
            except Exception:  # noqa: BLE001 - whatever went wrong, the next round must come
                _log.exception("look.failed")

    async def _look(self) -> None:
        for bucket in random.sample(range(BUCKETS), BUCKETS):
            rooms: dict[str, list[str]] = {}
            for key in await self._coordinator.due(bucket, self._max_per_bucket):
                rooms.setdefault(track_of(key).room_id, []).append(key)
            for room, keys in rooms.items():
                if room not in self._busy:
                    task = self._busy[room] = asyncio.create_task(self._check(keys), name="check")
                    task.add_done_callback(lambda _, room=room: self._busy.pop(room, None))

    async def _check(self, keys: list[str]) -> None:
        try:
            await self._reconciler.check(keys)
        except (CoordinationUnavailable, NewerRecord):
            pass
        except Exception:  # noqa: BLE001 - one room's trouble must not end the settling of the others
            _log.exception("check.failed")
