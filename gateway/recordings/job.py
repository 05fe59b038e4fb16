"""What one leader is to do, and for whom."""

from collections.abc import Callable

from msgspec import Struct

from gateway.coordinator import Claim, Lease, Wish
from gateway.recordings.model import Because, Outcome, Problem, StartParameters, Status, Track

__all__ = ["Job"]


class Job(Struct, frozen=True):
    """What a leader needs to know: whose track, which claim, and what its callers want."""

    key: str
    track: Track
    wish: Wish
    parameters: StartParameters | None
    claim: Claim
    lease: Lease
    patience: Callable[[], float]
    """Until when (`clock`) somebody waits for the result."""

    @property
    def serves(self) -> Wish:
        """What the operation's result is about: a verification or a look serves whoever wished for it."""
        return Wish(self.lease.doing) if self.lease.doing in {"start", "stop"} else self.wish

    def because(self, state: Status, outcome: Outcome | None, problem: Problem | None) -> str:
        """Return why a recording ended, as far as its leader can tell."""
        if state is Status.FAILED and problem is not None:
            return Because.REFUSED
        asked = outcome is Outcome.STOPPED or (
            outcome is Outcome.NOT_RECORDING and self.claim.before == Status.STOPPING
        )
        return Because.STOPPED if state is Status.STOPPED and asked else ""
