"""What this process wrote of late, kept for a Redis that may have forgotten it.

A replica that is promoted has not heard its master's last moment, and what was lost with that moment had been
acknowledged: a stop that was carried out and answered is again a stop that nobody finished. Nobody but whoever wrote it
knows better. So whoever wrote it writes it once more, before others may act on what Redis remembers (`claim.lua`, the
grace), and the scripts take no notice of it wherever nothing was forgotten.
"""

import asyncio
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from gateway import telemetry
from gateway.coordinator.claims import Finished, clock
from gateway.coordinator.connection import Connection
from gateway.coordinator.script import Scripts
from gateway.errors import CoordinationUnavailable

__all__ = ["Told"]

_REMEMBERED_SECONDS: Final = 10.0
"""Longer than a replica lags and a failure takes to be noticed."""

_log = structlog.get_logger("gateway.coordinator")


class _Telling(Struct, frozen=True):
    script: str
    key: str
    arguments: dict[str, Any]
    at: float
    """When (`clock`) it was told first."""
    open_until: float
    """Until when something may still land after it, 0 where nothing can."""


class Told:
    """The last writes of one process.

    Args:
        scripts: The protocol's.
        connection: Whose failures say that Redis may have forgotten something.
        every: Seconds between two rounds of telling again.
    """

    def __init__(self, scripts: Scripts, connection: Connection, every: float) -> None:
        self._scripts = scripts
        self._connection = connection
        self._every = every
        self._tellings: dict[str, _Telling] = {}
        self._failures = 0
        self._gap: bool = False

    def keep(self, script: str, key: str, attempt: str, arguments: dict[str, Any], *, open_until: float = 0) -> None:
        """Keep what an attempt is about to write.

        Args:
            script: What writes it. Run again where nothing was forgotten, it must change nothing.
            key: The track's record.
            attempt: Whose write it is; it has one.
            arguments: The script's.
            open_until: When (`clock`) nothing that the attempt sent can land any more: until then it is told again in
                every round, because a Redis that forgets it would let somebody start.
        """
        self._tellings[attempt] = _Telling(script, key, arguments, clock(), open_until)

    def suspect(self) -> None:
        """Have everything told again in the next round: Redis may be another one than it was."""
        self._gap = True

    async def tell_for_ever(self) -> None:
        """Tell again what has to be, round by round."""
        while True:
            await asyncio.sleep(self._every)
            await self._round()

    async def _round(self) -> None:
        failures, moment = self._connection.failures, clock()
        forgetful = self._gap or failures != self._failures
        self._gap, self._failures = False, failures
        if not forgetful:
            self._tellings = {
                attempt: telling for attempt, telling in self._tellings.items()
                if moment < max(telling.at + _REMEMBERED_SECONDS, telling.open_until)
            }  # fmt: skip
        again = [(attempt, one) for attempt, one in self._tellings.items() if forgetful or one.open_until > moment]
        # The first alone: where Redis is still away, that need not be found out by each.
        for batch in (again[:1], again[1:]):
            if not all(await asyncio.gather(*(self._tell(*one) for one in batch))):
                self._gap = self._gap or forgetful
                return

    async def _tell(self, attempt: str, telling: _Telling) -> bool:
        try:
            reply = await self._scripts.run(telling.script, telling.key, telling.arguments)
        except CoordinationUnavailable:
            return False
        if msgspec.json.decode(reply, type=Finished).how in {"ok", "restored", "late"}:
            telemetry.fenced_write("restored")
            event = "finish.restored" if telling.script == "finish" else "release.restored"
            _log.warning(event, key=telling.key, attempt=attempt)
        return True
