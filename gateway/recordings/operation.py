"""One operation on a target: what its leader has to do, and what became of it."""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from gateway.coordinator import Claim, Command, Lease
from gateway.recordings.model import Descriptor, EndReason, Outcome, Problem, Status
from gateway.recordings.targets import StartParameters, Target

__all__ = ["Completed", "Operation", "Result"]


class Operation(Struct, frozen=True):
    """What a leader needs to know: whose target, which claim, and what its callers want."""

    key: str
    target: Target
    command: Command
    parameters: StartParameters | None
    claim: Claim
    lease: Lease
    deadline: Callable[[], float]
    """Until when (`clock`) a caller waits for the result."""

    @property
    def serves(self) -> Command:
        """What the operation's result is about: a probe serves the command that it was claimed for."""
        return Command(self.lease.action) if self.lease.action in {"start", "stop"} else self.command

    def because(self, state: Status, outcome: Outcome | None, problem: Problem | None) -> str:
        """Return why a recording ended, as far as its leader can tell."""
        if state is Status.FAILED and problem is not None:
            return EndReason.REFUSED
        asked = outcome is Outcome.STOPPED or (
            outcome is Outcome.NOT_RECORDING and self.claim.before == Status.STOPPING
        )
        return EndReason.STOPPED if state is Status.STOPPED and asked else ""


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an operation; the payload that travels to every joiner.

    Without a `state` nothing was decided and everybody contends again.
    """

    command: Command
    state: Status | None = None
    outcome: Outcome | None = None
    """What the leader's own caller gets."""
    problem: Problem | None = None
    fingerprint: str = ""
    generation: str = ""
    descriptor: Descriptor | None = None
    started_at: int = 0
    confirmed_at: int = 0
    confirmed_by: str = ""
    ended_at: int = 0
    because: str = ""
    trace: str = ""
    """Where the operation's trace is (`traceparent`), for those who join it; empty where none is made."""

    def encode(self) -> str:
        """Return the payload."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def decode(payload: bytes | str) -> "Result":
        """Read a payload."""
        return msgspec.json.decode(payload, type=Result)


class Completed(Struct, frozen=True):
    """What a leader returns.

    Attributes:
        result: What became of the operation, already written to the record.
        stop_pending: A stop was requested meanwhile, and is left to do.
    """

    result: Result
    stop_pending: bool = False
