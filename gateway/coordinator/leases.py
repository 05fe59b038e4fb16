"""The claims that this process holds, and what keeps them alive."""

import asyncio

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
        timing: How long a claim lasts, and how often it is renewed.
        owner: Names this process.
    """

    def __init__(self, scripts: Scripts, timing: Timing, owner: str) -> None:
        self._scripts = scripts
        self._timing = timing
        self._owner = owner
        self.held: dict[str, Lease] = {}
        """By attempt."""

    def hold(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        self.held[lease.attempt] = lease

    def drop(self, lease: Lease) -> None:
        """Renew a lease no more."""
        self.held.pop(lease.attempt, None)

    def lose(self, lease: Lease) -> None:
        """Take note that the target is no longer ours: nothing more may be sent for it."""
        lease.lost = True
        self.drop(lease)
        metrics.LEASES_LOST.inc()
        _log.warning("lease.lost", key=lease.key, operation=lease.operation)

    async def renew(self, lease: Lease, *, promote_to_start: bool = False) -> Finished:
        """Renew a lease once, and learn whether a stop was requested meanwhile.

        Args:
            lease: Which.
            promote_to_start: Turn gathering evidence into starting.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        reply = await self._scripts.run(
            "renew",
            lease.key,
            {
                "attempt": lease.attempt,
                "op": lease.operation,
                "action": lease.action,
                "generation": lease.generation,
                "fingerprint": lease.wanted_fingerprint if promote_to_start else lease.fingerprint,
                "recording": lease.wanted_recording if promote_to_start else lease.recording,
                "owner": self._owner,
                "lease": round(self._timing.lease * 1000),
                "quiet": round(self._timing.quiet * 1000),
                "promote_to_start": promote_to_start,
                "restore": not promote_to_start,
                "epoch": lease.epoch,
            },
        )
        renewed = msgspec.json.decode(reply, type=Finished)
        lease.stop_wanted = renewed.stop
        if renewed.how == "restored":
            _log.warning("lease.restored", key=lease.key, operation=lease.operation)
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
            _log.exception("renewal.failed", key=lease.key)
            return
        if renewed.how == "lost" and lease.attempt in self.held:
            self.lose(lease)
