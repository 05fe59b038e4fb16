"""What one leader is to do, and for whom."""

from collections.abc import Callable

from msgspec import Struct

from gateway.coordinator import Claim, Command, Lease
from gateway.recordings.model import EndReason, Outcome, Problem, StartParameters, Status, Track

__all__ = ["Operation"]


class Operation(Struct, frozen=True):
    """What a leader needs to know: whose track, which claim, and what its callers want."""

    key: str
    track: Track
    command: Command
    parameters: StartParameters | None
    claim: Claim
    lease: Lease
    deadline: Callable[[], float]
    """Until when (`clock`) somebody waits for the result."""

    @property
    def serves(self) -> Command:
        """What the operation's result is about: a verification or a look serves whoever wished for it."""
        return Command(self.lease.action) if self.lease.action in {"start", "stop"} else self.command

    def because(self, state: Status, outcome: Outcome | None, problem: Problem | None) -> str:
        """Return why a recording ended, as far as its leader can tell."""
        if state is Status.FAILED and problem is not None:
            return EndReason.REFUSED
        asked = outcome is Outcome.STOPPED or (
            outcome is Outcome.NOT_RECORDING and self.claim.before == Status.STOPPING
        )
        return EndReason.STOPPED if state is Status.STOPPED and asked else ""
