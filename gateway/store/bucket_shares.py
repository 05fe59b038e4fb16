"""What one process holds, owes and knows of a token bucket that all replicas share: arithmetic, without Redis."""

import asyncio
from typing import Final

from msgspec import Struct

__all__ = ["BucketShare", "Quota", "ReportLine"]

_LEAST: Final = 1e-6
"""What floating point lost of ten tenths must not cost an eleventh."""
_MAX_OWED: Final = 0.1
"""Of the burst: who owes more reports it at once."""
_ROUNDS_AHEAD: Final = 2
"""For how many synchronisations a process draws tokens in advance."""


class Quota(Struct, frozen=True):
    """How a bucket stands, as far as this process knows.

    Attributes:
        allowed: Whether the cost was taken.
        remaining: Tokens left; negative where more was spent than there was.
        wait: Seconds until the cost would be there.
        full: Seconds until nothing is missing.
    """

    allowed: bool
    remaining: float
    wait: float
    full: float


class ReportLine(Struct):
    """What a report says of one bucket and asks of it.

    Attributes:
        share: Whose.
        spent: What Redis has to take; negative gives back.
        need: For the requests that wait.
        spare: For requests to come.
        kept: What the share held and the waiting requests will get, beside what they need.
        waiting: They, and what each costs.
    """

    share: "BucketShare"
    spent: float
    need: float
    spare: float
    kept: float
    waiting: list[tuple[float, asyncio.Future[Quota]]]


class BucketShare:
    """One bucket, as one process sees it.

    Args:
        name: The bucket's.
        now: The time, as in all methods by a clock that never steps.
        sync_every: Seconds from one synchronisation with Redis to the next.
    """

    def __init__(self, name: str, now: float, sync_every: float) -> None:
        self.name = name
        self.rate = self.burst = 0.0
        self.waiting: list[tuple[float, asyncio.Future[Quota]]] = []
        self._sync_every = sync_every
        self._held = 0.0
        """Tokens that were drawn and not used; negative: spent and not reported."""
        self._line: ReportLine | None = None
        """What is being reported."""
        self._tokens: float | None = None
        """What Redis said is left, at `_heard_at`."""
        self._heard_at = 0.0
        self._spent = 0.0
        """Since the last report, at `_reported_at`."""
        self._reported_at = self._used_at = now
        self._draws = False

    def take(self, cost: float, now: float, *, trusted: bool) -> Quota | None:
        """Take from what is held; None where Redis has to be asked. A cost of 0 asks whether the bucket is overdrawn.

        Args:
            cost: How much.
            now: The time.
            trusted: A bucket of which Redis has said nothing yet is taken for a full one, once.
        """
        self._used_at = now
        if not cost:
            # At most one report behind: this is what bounds how far processes together exceed a target's limit.
            return None if self._held < 0 or self._line is not None else self._quota(cost, now, self._solvent(now))
        self._draws = True
        new = self._tokens is None and not self._held and self._line is None and not self.waiting
        if self._held + _LEAST >= cost or (new and trusted):
            self._held -= cost
            self._spent += cost
            return self._quota(cost, now, allowed=True)
        lacking = self._is_fresh(now) and self._left(now) + _LEAST < cost
        return self._quota(cost, now, allowed=False) if lacking else None

    def look(self, now: float) -> Quota | None:
        """Say how the bucket stands, and take nothing; None where Redis was not heard of lately."""
        return self._quota(0, now, self._solvent(now)) if self._is_fresh(now) else None

    def spend(self, cost: float, now: float) -> Quota:
        """Take what was spent already, even where it is not there."""
        self._used_at = now
        self._held -= cost
        self._spent += cost
        return self._quota(cost, now, allowed=True)

    @property
    def owes_much(self) -> bool:
        """Whether more is owed than other processes may do without knowing of."""
        return -self._held > max(self.burst * _MAX_OWED, 1)

    def due(self, now: float, idle_seconds: float) -> bool:
        """Return whether Redis has to hear of it."""
        if self._held < 0 or self._idle(now, idle_seconds):
            return self._held != 0
        return self._held < self._wanted(now) / 2

    def forgettable(self, now: float, idle_seconds: float) -> bool:
        """Return whether it says nothing that a share without a past would not say."""
        busy = self._held or self._line is not None or self.waiting
        return not busy and self._idle(now, idle_seconds) and self._left(now) + _LEAST >= self.burst

    def retire(self) -> None:
        """Give back everything with the next report."""
        self._used_at = float("-inf")

    def line(self, now: float, idle_seconds: float) -> ReportLine:
        """Begin a report."""
        idle = self._idle(now, idle_seconds) and not self.waiting
        wanted = 0 if idle else self._wanted(now)
        spent = -self._held if idle else max(-self._held, 0)
        self._held += spent
        costs = sum(cost for cost, _ in self.waiting)
        kept = min(self._held, costs)
        self._held -= kept
        line = ReportLine(self, spent, costs - kept, max(wanted - self._held, 0), kept, self.waiting)
        self.waiting, self._spent, self._reported_at, self._line = [], 0.0, now, line
        return line

    def confirm(self, given: float, tokens: float, now: float) -> None:
        """Take what Redis has handed out, and let the waiting requests have it."""
        line, self._line = self._line, None
        assert line is not None  # noqa: S101 - it was begun
        self._tokens, self._heard_at = tokens, now
        pot, answers = line.kept + given, list[tuple[float, bool, asyncio.Future[Quota]]]()
        for cost, answer in line.waiting:
            # One that waits no longer has come in without an answer: it pays like the others.
            allowed = pot + _LEAST >= cost if cost else pot + self._held + tokens + _LEAST >= 0
            if allowed:
                pot -= cost
                self._spent += cost
            answers.append((cost, allowed, answer))
        self._held += pot
        for cost, allowed, answer in answers:
            if not answer.done():
                answer.set_result(self._quota(cost, now, allowed))

    def fail(self, error: Exception) -> None:
        """Let no request wait any longer; what was spent is still being reported."""
        waiting, self.waiting = self.waiting, []
        if (line := self._line) is not None:
            waiting = line.waiting + waiting
            self._held += line.kept
            line.need, line.spare, line.kept, line.waiting = 0, 0, 0, []
        for _, answer in waiting:
            if not answer.done():
                answer.set_exception(error)

    def give_up(self) -> None:
        """Report it no longer."""
        self._line = None

    def _is_fresh(self, now: float) -> bool:
        return self._tokens is not None and now - self._heard_at < self._sync_every

    def _idle(self, now: float, seconds: float) -> bool:
        return now - self._used_at >= seconds

    def _wanted(self, now: float) -> float:
        """Return how much to hold: what requests will take, by what they took since the last report; nothing or one."""
        if not self._draws or not self._spent:
            return 0
        rounds = max((now - self._reported_at) / self._sync_every, 1)
        return max(self._spent / rounds * _ROUNDS_AHEAD, 1)

    def _left(self, now: float) -> float:
        tokens = self.burst if self._tokens is None else self._tokens + (now - self._heard_at) * self.rate
        reported = self._line.kept - self._line.spent if self._line is not None else 0
        return min(min(tokens, self.burst) + self._held + reported, self.burst)

    def _solvent(self, now: float) -> bool:
        return self._left(now) + _LEAST >= 0

    def _quota(self, cost: float, now: float, allowed: bool) -> Quota:
        left = self._left(now)
        wait = 0 if allowed else max(cost - left, 0) / self.rate
        return Quota(allowed, left, wait, max(self.burst - left, 0) / self.rate)
