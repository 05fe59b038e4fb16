"""What this process wrote of late, kept for a Redis that may have forgotten it.

A replica that is promoted has not heard its master's last moment, and what was lost with that moment had been
acknowledged: a stop that was carried out and answered is again an unfinished stop. Only the process that wrote it knows
better. So that process writes it once more, before others may act on what Redis remembers (`claim.lua`, the grace),
and the scripts take no notice of it wherever nothing was forgotten.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from gateway.coordinator.protocol import Finished
from gateway.coordinator.scripts import Scripts
from gateway.errors import CoordinationUnavailable
from gateway.observability import metrics
from gateway.store.clock import clock
from gateway.store.connection import Connection
from gateway.store.scripts import bucket_in

__all__ = ["Rewrites"]

_REMEMBERED_SECONDS: Final = 10.0
"""Longer than a replica lags and a failure takes to be noticed."""
_LONGEST_SECONDS: Final = 60.0
"""How long a write is kept that could not be repeated: longer than a failover takes."""
_SLEPT_SECONDS: Final = 5.0
"""A round that comes so late was kept from its work: what was known before it may be long over."""

_RESTORED: Final = {"finish": "finish.restored", "release": "release.restored", "move_end": "move_end.restored"}
_log = structlog.get_logger("gateway.coordinator")


class _Write(Struct, frozen=True):
    script: str
    key: str
    arguments: dict[str, Any]
    at: float
    """When (`clock`) it was written first."""
    open_until: float
    """Until when something may still land after it, 0 where nothing can."""
    horizons: tuple[int, int]
    """How many ms after `at` a start and a stop could land that were sent before it."""

    def arguments_at(self, moment: float) -> dict[str, Any]:
        """Return the script's arguments as they are at a moment (`clock`)."""
        passed = round((moment - self.at) * 1000)
        start, stop = (max(horizon - passed, 0) for horizon in self.horizons)
        return {**self.arguments, "start_may_land_ms": start, "stop_may_land_ms": stop}


class Rewrites:
    """The last writes of one process.

    Args:
        scripts: The protocol's.
        connection: Whose failures say that Redis may have forgotten something.
        every: Seconds between two rounds.
        now: The clock.
    """

    def __init__(
        self, scripts: Scripts, connection: Connection, every: float, now: Callable[[], float] = clock
    ) -> None:
        self._scripts = scripts
        self._connection = connection
        self._every = every
        self._now = now
        self._writes: dict[str, _Write] = {}
        self._forgotten: set[str] = set()
        """Attempts whose writes a Redis may have forgotten, and that could not be repeated so far."""
        self._failures = 0
        self._gap: bool = False
        self._looked_at = now()

    def keep(
        self,
        script: str,
        key: str,
        attempt: str,
        arguments: dict[str, Any],
        *,
        open_until: float = 0,
        horizons: tuple[int, int] = (0, 0),
    ) -> None:
        """Keep what an attempt has written.

        Args:
            script: What wrote it. Run again where nothing was forgotten, it must change nothing.
            key: The target's record.
            attempt: Whose write it is; it has one.
            arguments: The script's.
            open_until: When (`clock`) nothing that the attempt sent can land any more: until then it is repeated in
                every round, because a Redis that forgets it would grant a start.
            horizons: For how many ms more a start and a stop may land that were sent before.
        """
        self._writes[attempt] = _Write(script, key, arguments, self._now(), open_until, horizons)

    def suspect(self) -> None:
        """Have everything repeated in the next round: Redis may be another one than it was."""
        self._gap = True

    async def rewrite_for_ever(self) -> None:
        """Repeat what has to be repeated, round by round."""
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.repeat()
            except Exception:  # noqa: BLE001 - whatever went wrong, the next round must come
                self._gap = True
                _log.exception("telling.failed")

    async def repeat(self) -> None:
        """Repeat what has to be repeated, once."""
        failures, moment = self._connection.failures, self._now()
        forgetful = self._gap or failures != self._failures
        self._gap, self._failures = False, failures
        if moment - self._looked_at > self._every + _SLEPT_SECONDS:
            self._forgotten.clear()
        self._looked_at = moment
        self._writes = {attempt: one for attempt, one in self._writes.items() if self._lasts(attempt, one, moment)}
        if forgetful:
            self._forgotten.update(self._writes)
        self._forgotten &= self._writes.keys()
        # One of each bucket first: where a node is still away, not each need find that out, nor be kept back by others.
        buckets: dict[str, list[str]] = {}
        for attempt, one in self._writes.items():
            if attempt in self._forgotten or one.open_until > moment:
                buckets.setdefault(bucket_in(one.key), []).append(attempt)
        await asyncio.gather(*(self._repeat_all(attempts) for attempts in buckets.values()))

    def _lasts(self, attempt: str, one: _Write, moment: float) -> bool:
        longest = _LONGEST_SECONDS if attempt in self._forgotten else _REMEMBERED_SECONDS
        return moment < max(one.at + longest, one.open_until)

    async def _repeat_all(self, attempts: list[str]) -> None:
        if await self._repeat(attempts[0]):
            await asyncio.gather(*(self._repeat(attempt) for attempt in attempts[1:]))

    async def _repeat(self, attempt: str) -> bool:
        write = self._writes[attempt]
        try:
            reply = await self._scripts.run(write.script, write.key, write.arguments_at(self._now()))
        except CoordinationUnavailable:
            return False
        how = msgspec.json.decode(reply, type=Finished).how
        if how != "early":
            self._forgotten.discard(attempt)
        if how in {"ok", "restored", "late"}:
            metrics.fenced_write("restored")
            _log.warning(_RESTORED[write.script], target=write.key, attempt=attempt)
        return True
