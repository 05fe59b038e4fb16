"""Claims, records and their scripts: the state of every target, shared by all replicas.

`protocol.py` describes what lies in Redis. The scripts lie beside this module; each says what it decides and why that
must be one step.
"""

import asyncio
import secrets
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog
from msgspec.structs import replace

from gateway.coordinator.leases import Leases
from gateway.coordinator.protocol import (
    UNBOUNDED,
    Claim,
    Command,
    Completion,
    Finished,
    Lease,
    MaxDuration,
    Timing,
    Verdict,
)
from gateway.coordinator.records import Records, newer_record
from gateway.coordinator.rewrites import Rewrites
from gateway.coordinator.scripts import Scripts, record_key
from gateway.errors import CoordinationUnavailable
from gateway.observability import metrics, tracing
from gateway.store.clock import RedisClock, clock
from gateway.store.connection import Connection
from gateway.store.notifications import CHANNEL
from gateway.store.retries import Retries

__all__ = ["Coordinator"]

_HOLD_SECONDS: Final = 2.0
_LAST_TRY_SECONDS: Final = 0.4
_NOT_AFTER_SLACK_MS: Final = 1250
_MAX_EVENTS: Final = 1_000
_MAX_TARGETS: Final = 1_000
_MAY_LAND: Final = frozenset({"unknown", "stopping"})
_LATE: Final = {"late": True}
"""Written some time after it was true: those who wait have to look for themselves."""

_log = structlog.get_logger("gateway.coordinator")


class Coordinator:
    """One process's share in the protocol.

    Args:
        connection: How Redis is reached.
        timing: The protocol's times; the same in every replica.
        project: Separates the projects that share a Redis; safe in a key.
        max_events: Events of a room that are kept, about.
        max_targets: Targets of a room that are shown: what runs first, and then the latest changed.
    """

    def __init__(
        self,
        connection: Connection,
        timing: Timing,
        project: str,
        *,
        max_events: int = _MAX_EVENTS,
        max_targets: int = _MAX_TARGETS,
    ) -> None:
        self.timing = timing
        self.max_events = max_events
        self.boot = secrets.token_hex(4)
        """Names this process among all there ever were."""
        self._connection = connection
        self._project = project
        self._attempts = 0
        self._clock = RedisClock(connection.now)
        lasting = {
            "channel": CHANNEL,
            "ttl": _ms(timing.memory),
            "memory": _ms(timing.memory),
            "keep": _ms(timing.keep),
            "replay": _ms(timing.replay),
            "most_events": max_events,
            "lease": _ms(timing.lease),
            "trust": _ms(timing.trust),
            "quiet": _ms(timing.quiet),
            "settle": _ms(timing.settle),
            "grace": _ms(timing.grace),
            "longest": _ms(timing.longest),
        }
        self.scripts = Scripts(connection, lasting)
        self.records = Records(
            self.scripts, connection, self._clock, timing, project, max_events=max_events, max_targets=max_targets
        )
        self.leases = Leases(self.scripts, timing)
        """What this process holds."""
        self._rewrites = Rewrites(self.scripts, connection, timing.renewal)
        self._background: list[asyncio.Task[None]] = []
        self._retries = Retries()

    async def start(self) -> None:
        """Begin to renew in the background what this process holds, and to write again what Redis has forgotten."""
        self._background = [
            asyncio.create_task(self.leases.renew_for_ever(), name="renew-leases"),
            asyncio.create_task(self._rewrites.rewrite_for_ever(), name="rewrites"),
        ]

    async def stop(self) -> None:
        """Stop renewing, after a last try to write what is still unwritten."""
        await self._retries.stop(_HOLD_SECONDS)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def key(self, room: str, *parts: str) -> str:
        """Return the key of the record that these parts name within its room."""
        return record_key(self._project, room, *parts)

    @metrics.phase("claim")
    async def claim(
        self,
        key: str,
        command: Command,
        *,
        fingerprint: str = "",
        recording: str = "",
        seen: str = "",
        asked_at: str = "",
        max_duration: MaxDuration = UNBOUNDED,
        since: float | None = None,
    ) -> tuple[Claim, Lease | None]:
        """Claim the target, or learn why that is not needed or not possible; a lease comes with the verdict `lead`.

        Asks until two seconds after `since` (`clock`; now unless given), and twice in any case, always as the same
        attempt: an earlier try whose reply was lost is not repeated but answered again.

        Raises:
            CoordinationUnavailable: Redis did not answer.
            NewerRecord: A later version of the gateway looks after the target.
        """
        self._attempts += 1
        attempt = f"{self.boot}.{self._attempts}"
        give_up = (clock() if since is None else since) + _HOLD_SECONDS
        late = failed = 0
        first_try: float | None = None
        while True:
            granted_at = clock()
            try:
                async with asyncio.timeout(max(give_up - granted_at, _LAST_TRY_SECONDS)):
                    claim = await self._claim_once(
                        key, command, attempt, fingerprint, recording, seen, asked_at, max_duration, first_try
                    )
            except (CoordinationUnavailable, TimeoutError):
                # A first try that took long may be this process's own fault: it slept, or was stopped.
                failed += 1
                first_try = first_try or granted_at
                if self._connection.open or (clock() > give_up and failed > 1):
                    self._abandon(key, attempt)
                    raise CoordinationUnavailable(
                        "Redis does not answer, so exactly one start cannot be promised.", retry_after=2
                    ) from None
                await asyncio.sleep(_HOLD_SECONDS / 40)
                continue
            if claim.verdict is Verdict.NEWER:
                raise newer_record()
            if claim.verdict is Verdict.LATE:
                # Either this command waited in a stopped server, or our idea of its clock is off: learn it anew.
                self._clock.forget()
                late += 1
                if clock() > give_up and late > 1:
                    raise CoordinationUnavailable("Redis answers too slowly.", retry_after=2)
                continue
            break
        tracing.note(verdict=claim.verdict, action=claim.action)
        if claim.moved_from:
            moved = {"moved_from": claim.moved_from, "stops_at": claim.record.stops_at}
            self._rewrites.keep("move_end", key, attempt, {**moved, "generation": claim.record.generation})
        if claim.verdict is not Verdict.LEAD:
            return claim, None
        # An earlier try may have won already, and lost its reply: Redis counts from that one.
        granted_at -= max(self.timing.lease - claim.lease_left / 1000, 0)
        lease = Lease(
            key=key,
            attempt=attempt,
            operation=claim.record.operation,
            action=claim.action,
            epoch=claim.epoch,
            asked_at=claim.asked_at,
            granted_at=granted_at,
            record=claim.record,
        )
        self.leases.hold(lease)
        return claim, lease

    async def promote_to_start(
        self, lease: Lease, *, fingerprint: str, recording: str, max_duration: MaxDuration = UNBOUNDED
    ) -> Lease | None:
        """Turn a lease that gathered evidence into one for a start, with a send window and a quiet time of its own.

        Args:
            lease: What was claimed for a probe.
            fingerprint: Of the start's parameters.
            recording: What callers may read of it.
            max_duration: For how long it may record.

        Returns:
            The lease to start with; None where the target is no longer ours, and nothing may be sent.

        Raises:
            CoordinationUnavailable: Redis did not answer: nothing may be sent.
        """
        granted_at = clock()
        renewed = await self.leases.renew(
            lease,
            promote_to_start=True,
            restore=False,
            fingerprint=fingerprint,
            recording=recording,
            max_duration=_ms(max_duration.seconds),
        )
        if renewed.how != "ok":
            self.leases.lose(lease)
            return None
        record = replace(
            lease.record,
            generation=renewed.generation,
            fingerprint=fingerprint,
            recording=recording,
            started_at=renewed.now,
            stops_at=renewed.stops_at,
        )
        promoted = replace(lease, action=Command.START, granted_at=granted_at, record=record)
        self.leases.hold(promoted)
        return promoted

    @metrics.phase("finish")
    async def finish(
        self,
        lease: Lease,
        completion: Completion,
        *,
        seen_at: float | None = None,
        settled: bool = False,
        answered: bool = False,
        due_in: float = 0,
        upstream: str = "",
    ) -> Finished:
        """Write what became of the operation and wake those who wait.

        Where Redis does not answer, the write is repeated in the background until it succeeds or the lease's quiet
        time is over, and the result is `pending`: what we know is true all the same.

        Args:
            lease: Whose operation it was.
            completion: What became of it; with a record.
            seen_at: When (`clock`) that was seen; None is now.
            settled: Nothing that was sent earlier can still land.
            answered: What this operation itself sent cannot land any more.
            due_in: Seconds after which it is looked at again; 0 is never.
            upstream: What VideoSDK answered last, in a word.
        """
        stop_wanted = self.leases.stop_wanted(lease)
        self.leases.drop(lease)
        arguments = {
            "attempt": lease.attempt,
            "op": lease.operation,
            "action": lease.action,
            "epoch": lease.epoch,
            "asked_at": lease.asked_at,
            "result": msgspec.json.encode(completion).decode(),
            "seen_ago": 0 if seen_at is None else max(_ms(clock() - seen_at), 0),
            "settled": settled,
            "answered": answered,
            "due_in": _ms(due_in),
            "upstream": upstream,
        }
        state = completion.record.state if completion.record else ""
        lands_for = self.timing.quiet if state in _MAY_LAND and not answered and not settled else 0
        try:
            return await self._finish_once(lease.key, arguments, state, lands_for)
        except CoordinationUnavailable:
            self.leases.hold(lease)
            self._finish_later(lease, arguments, state, lands_for)
            return Finished("pending", stop=stop_wanted)

    async def release(self, lease: Lease, completion: Completion) -> None:
        """Give the target back as it was, because nothing was sent. Where Redis does not answer, the lease lapses."""
        self.leases.drop(lease)
        result = msgspec.json.encode(completion).decode()
        with suppress(CoordinationUnavailable):
            await self._release_once(lease.key, lease.attempt, result, lease.asked_at)

    def rewrite_recent(self) -> None:
        """Write once more, soon, what this process wrote of late: Redis may have forgotten it."""
        self._rewrites.suspect()

    def now_ms(self) -> int:
        """Return Redis's clock in ms, as far as its last reply tells; our own before the first."""
        return self._clock.now_ms()

    # --- scripts -------------------------------------------------------------------------------------------------

    async def _claim_once(
        self,
        key: str,
        command: Command,
        attempt: str,
        fingerprint: str,
        recording: str,
        seen: str,
        asked_at: str,
        max_duration: MaxDuration,
        first_try: float | None,
    ) -> Claim:
        not_after = await self._clock.learned_now_ms() + _NOT_AFTER_SLACK_MS
        sent = clock()
        reply = await self.scripts.run(
            "claim",
            key,
            {
                "command": command,
                "attempt": attempt,
                "fingerprint": fingerprint,
                "recording": recording,
                "seen": seen,
                "asked_at": asked_at,
                "asked_ago": 0 if first_try is None else _ms(sent - first_try),
                "not_after": not_after,
                "verify_absent": self.timing.verify_absent,
                "max_duration": _ms(max_duration.seconds),
                "lengthens": max_duration.lengthens,
                "only_of": max_duration.only_of,
            },
        )
        claim = msgspec.json.decode(reply, type=Claim, strict=False)
        self._clock.learn(claim.now, sent)
        return claim

    async def _finish_once(self, key: str, arguments: dict[str, Any], state: str, lands_for: float) -> Finished:
        finished = msgspec.json.decode(await self.scripts.run("finish", key, arguments), type=Finished)
        tracing.note(how=finished.how, state=state)
        if finished.how not in {"ok", "repeated"}:
            metrics.fenced_write(finished.how)
            _log.warning("finish." + finished.how, target=key, operation=arguments["op"], state=state)
        if finished.how != "stale":
            self._rewrites.keep(
                "finish",
                key,
                arguments["attempt"],
                {**arguments, **_LATE, "stop_wanted": finished.stop},
                open_until=clock() + lands_for if lands_for else 0,
                horizons=(finished.start_may_land_ms, finished.stop_may_land_ms),
            )
        return finished

    def _finish_later(self, lease: Lease, arguments: dict[str, Any], state: str, lands_for: float) -> None:
        late = {**arguments, **_LATE}
        self._retries.begin(
            "finish", lambda: self._finish_once(lease.key, late, state, lands_for),
            pause=0.1, longest_pause=1.0, seconds=2 * self.timing.quiet, at_end=lambda: self.leases.drop(lease),
        )  # fmt: skip

    def _abandon(self, key: str, attempt: str) -> None:
        """Give back what a claim may have won although its reply was lost; otherwise it would have to lapse."""
        pause = self.timing.renewal / 2
        self._retries.begin(
            "abandon", lambda: self._release_once(key, attempt, ""),
            pause=pause, longest_pause=pause, seconds=self.timing.lease,
        )  # fmt: skip

    async def _release_once(self, key: str, attempt: str, result: str, asked_at: str = "0") -> None:
        arguments = {"attempt": attempt, "result": result, "asked_at": asked_at}
        if msgspec.json.decode(await self.scripts.run("release", key, arguments), type=Finished).how == "ok":
            self._rewrites.keep("release", key, attempt, {**arguments, "result": ""})


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
