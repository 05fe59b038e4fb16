"""The claims that this process holds, and what keeps them alive."""

import asyncio
from typing import Any

import msgspec
import structlog

from gateway.coordinator.protocol import Finished, Lease, Timing
from gateway.coordinator.scripts import Scripts
from gateway.errors import CoordinationUnavailable
from gateway.observability import metrics

__all__ = ["Leases"]

_log = structlog.get_logger("gateway.coordinator")


class Leases:
    """What one process holds.

    Args:
        scripts: The protocol's.
        timing: How often a claim is renewed.
    """

    def __init__(self, scripts: Scripts, timing: Timing) -> None:
        self._scripts = scripts
        self._timing = timing
        self.held: dict[str, Lease] = {}
        """By attempt."""
        self._stops: set[str] = set()
        """Attempts during which a stop was requested."""

    def hold(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        self.held[lease.attempt] = lease

    def drop(self, lease: Lease) -> None:
        """Renew a lease no more."""
        self.held.pop(lease.attempt, None)
        self._stops.discard(lease.attempt)

    def lose(self, lease: Lease) -> None:
        """Take note that the target is no longer ours: nothing more may be sent for it."""
        self.drop(lease)
        metrics.LEASES_LOST.inc()
        _log.warning("lease.lost", target=lease.key, operation=lease.operation)

    def is_lost(self, lease: Lease) -> bool:
        """Tell whether the target is no longer ours."""
        return lease.attempt not in self.held

    def stop_wanted(self, lease: Lease) -> bool:
        """Tell whether a stop was requested since the lease was claimed."""
        return lease.attempt in self._stops

    async def renew(self, lease: Lease, **promotion: Any) -> Finished:
        """Renew a lease once, and learn whether a stop was requested meanwhile.

        Args:
            lease: Which.
            promotion: What `renew.lua` is given beside it, where a probe becomes a start.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        arguments = {
            "attempt": lease.attempt,
            "op": lease.operation,
            "action": lease.action,
            "epoch": lease.epoch,
            "generation": lease.record.generation,
            "fingerprint": lease.record.fingerprint,
            "recording": lease.record.recording,
            "stops_at": lease.record.stops_at,
            "promote_to_start": False,
            "restore": True,
            "max_duration": 0,
        }
        reply = await self._scripts.run("renew", lease.key, arguments | promotion)
        renewed = msgspec.json.decode(reply, type=Finished)
        if renewed.stop and lease.attempt in self.held:
            self._stops.add(lease.attempt)
        else:
            self._stops.discard(lease.attempt)
        if renewed.how == "restored":
            _log.warning("lease.restored", target=lease.key, operation=lease.operation)
        return renewed

    async def renew_for_ever(self) -> None:
        """Renew everything that is held, round by round."""
        while True:
            await asyncio.sleep(self._timing.renewal)
            await asyncio.gather(*(self._renew_quietly(lease) for lease in list(self.held.values())))

    async def _renew_quietly(self, lease: Lease) -> None:
        # A renewal that fails stops nothing: losing the lease costs a probe by another leader, not a second start.
        try:
            renewed = await self.renew(lease)
        except CoordinationUnavailable:
            return
        except Exception:  # noqa: BLE001 - one lease's trouble must not end the renewing of the others
            _log.exception("renewal.failed", target=lease.key)
            return
        if renewed.how == "lost" and lease.attempt in self.held:
            self.lose(lease)
