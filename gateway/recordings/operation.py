"""One operation on a target: what its leader has to do, what it learns, and what became of it."""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from gateway.coordinator import UNBOUNDED, Claim, Command, Completion, Lease, MaxDuration, Record
from gateway.recordings.evidence import Evidence, began_with, dead_rows, only_dead, with_dead
from gateway.recordings.model import Descriptor, EndReason, Origin, Outcome, Problem, Status
from gateway.recordings.targets import StartParameters, Target
from gateway.store.clock import clock
from gateway.videosdk.rows import ListedRow

__all__ = ["Operation", "Result", "begun_by", "is_foreign"]

_FOREIGN = msgspec.json.encode(Descriptor(origin=Origin.VIDEOSDK)).decode()
"""What the record says of a recording that was started outside the gateway."""


def begun_by(record: Record, row: ListedRow) -> bool:
    """Tell whether the start that a record tells of may have begun a row: a foreign one began before that."""
    return not is_foreign(record) and began_with(row, record.started_at)


def is_foreign(record: Record) -> bool:
    """Tell whether a record tells of a recording that was started outside the gateway."""
    return record.recording == _FOREIGN


class Operation:
    """What a leader needs to know, and what it learns.

    Args:
        key: The target's record.
        target: What is to be started, stopped or looked at.
        command: What its callers want.
        claim: Of which it is the operation.
        lease: The same.
        parameters: Of a start.
        descriptor: What callers may read of the recording that a start begins.
        max_duration: For how long that may record.
        deadline: Until when (`clock`) a caller waits for the result.
    """

    def __init__(
        self,
        key: str,
        target: Target,
        command: Command,
        claim: Claim,
        lease: Lease,
        *,
        parameters: StartParameters | None = None,
        descriptor: str = "",
        max_duration: MaxDuration = UNBOUNDED,
        deadline: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.key = key
        self.target = target
        self.command = command
        self.claim = claim
        self.lease = lease
        self.parameters = parameters or StartParameters()
        self.fingerprint = parameters.fingerprint if parameters else ""
        self.descriptor = descriptor
        self.max_duration = max_duration
        self.deadline = deadline
        self.begun_at = clock()
        """After its claim was answered: what Redis counts from is earlier."""
        self.record = claim.record
        """What is known of the recording by now."""
        self.looked_at = lease.granted_at
        """When (`clock`) the list was asked last: what it says is no younger."""
        self.stop_pending = False
        """A stop was requested meanwhile, and is left to do."""
        self.stop_missed = False
        """The list shows a recording that a stop should have ended which VideoSDK confirmed."""
        self.refused_at: float | None = None
        """When (`clock`) VideoSDK refused the start first."""
        self.upstream = ""
        """What VideoSDK answered last, in a word."""

    @property
    def serves(self) -> Command:
        """What the operation's result is about: a probe serves the command that it was claimed for."""
        return self.command if self.lease.action == "probe" else Command(self.lease.action)

    @property
    def evidence(self) -> Evidence | None:
        """What lists have shown of the recording."""
        return Evidence.decode(self.record.evidence, self.record.generation)

    @property
    def dead(self) -> tuple[str, ...]:
        """Names of the target's rows that are open for ever."""
        return dead_rows(self.record.evidence)

    def learn(self, evidence: Evidence) -> None:
        """Note what a list shows of the recording."""
        self.record = replace(self.record, evidence=with_dead(evidence.encode(), *self.dead))

    def forget_recording(self) -> None:
        """Begin another recording, of which nothing is known."""
        self.record = replace(self.record, evidence=only_dead(self.record.evidence))

    def bury(self, name: str) -> None:
        """Note that a row is dead."""
        self.record = replace(self.record, evidence=with_dead(self.record.evidence, name))

    def promoted(self, lease: Lease) -> None:
        """Go on with the lease of a start."""
        self.lease = lease
        self.record = replace(lease.record, evidence=self.record.evidence)

    def adopt(self, generation: str) -> None:
        """Take what the list shows for a recording that was started outside the gateway, of unknown parameters."""
        self.record = replace(
            self.record,
            generation=generation,
            fingerprint="",
            recording=_FOREIGN,
            stops_at=0,
            evidence=Evidence.moved(self.record.evidence, self.record.generation, generation),
        )

    def because(self, state: Status, outcome: Outcome | None, problem: Problem | None) -> str:
        """Return why a recording ended, as far as its leader can tell."""
        if state is Status.FAILED and problem is not None:
            return EndReason.REFUSED
        # Where nothing was known, the list may have been behind what the stop was about (`Probe.open_row`).
        asked = outcome is Outcome.STOPPED or (
            outcome is Outcome.NOT_RECORDING and self.claim.before in {"", Status.STOPPING}
        )
        if state is not Status.STOPPED or not asked:
            return ""
        return EndReason.MAX_DURATION if self.claim.record.is_timed else EndReason.STOPPED


class Result(Completion, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an operation; the payload that travels to every waiter."""

    command: Command
    outcome: Outcome | None = None
    """What the leader's own caller gets."""
    problem: Problem | None = None
    fingerprint: str = ""
    """Of the parameters that a start was asked for with."""
    trace: str = ""
    """Where the operation's trace is (`traceparent`), for those who join it; empty where none is made."""

    @property
    def state(self) -> str:
        """What the target is in now; empty where nothing was decided."""
        return self.record.state if self.record else ""

    @staticmethod
    def decode(payload: bytes | str) -> "Result":
        """Read a payload."""
        return msgspec.json.decode(payload, type=Result)
