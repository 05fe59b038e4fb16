"""A caller group: callers of one process who want the same of one target, and are answered together."""

import asyncio
import math
from contextvars import copy_context

import msgspec

from gateway.coordinator import Claim, Command, MaxDuration, Record
from gateway.observability import tracing
from gateway.recordings.model import Answer, Descriptor, Outcome, Problem
from gateway.recordings.targets import StartParameters, Target

__all__ = ["CallerGroup", "give_up", "what_goes_on"]


class CallerGroup:
    """Callers who are answered together, and what Redis said to them."""

    def __init__(
        self,
        key: str,
        target: Target,
        command: Command,
        parameters: StartParameters | None,
        caller: str,
        arrived_at: float | None,
        asked_at: int | None,
        max_duration: MaxDuration,
    ) -> None:
        self.key = key
        self.target = target
        self.command = command
        self.caller = caller
        self.parameters = parameters
        self.max_duration = max_duration
        self.fingerprint = parameters.fingerprint if parameters else ""
        self.descriptor = ""
        if parameters:
            described = Descriptor(requested_by=caller, file_format=parameters.file_format or "")
            self.descriptor = msgspec.json.encode(described).decode()
        self.arrived_at = arrived_at
        """When (`clock`) the earliest of its callers came, until Redis has answered for the first time."""
        self.waiters: list[asyncio.Future[Answer | Problem | None]] = []
        """Each is answered with None once it has waited for as long as it would."""
        self.deadline = 0.0
        """Until when (`clock`) the most patient caller waits."""
        self.claim: Claim | None = None
        """What Redis said last."""
        self.claiming = True
        """Redis is asked, and may have it lead."""
        self.number = self.asked_at = "" if asked_at is None else str(asked_at)
        """The number (see `claim.lua`) that its callers gave: a start's retry yields to stops asked for since, and a
        stop is about nothing that was started since. A stop without one gets `asked_at` from Redis."""
        self.stop_recorded = False
        """A stop that Redis knows of: it happens, whether or not its callers wait for it."""
        self.waited_for_another = False
        """Another operation was in flight when it came."""
        self.submitted = False
        """Redis has answered for the first time, or will not."""
        self.merged_into: CallerGroup | None = None
        """The group that this one's waiters went over to."""
        self.context = copy_context()
        """Of its first caller: that caller's trace shows what is done for the group."""
        self.trace = ""
        """Where the operation's trace is that answered it."""
        self.is_leader = False

    @property
    def abandoned(self) -> bool:
        """No caller waits, and no stop was promised."""
        return self.command is Command.START and all(caller.done() for caller in self.waiters)

    def moves_end(self, record: Record, now: int, longest: float) -> bool:
        """Tell whether what it asks for ends earlier than what it joins, or later for who may lengthen it.

        The claim decides (`claim.lua`); this says whether it is worth one.

        Args:
            record: What it joins.
            now: Redis's clock (ms).
            longest: Seconds that the setting allows.
        """
        seconds = min((most for most in (self.max_duration.seconds, longest) if most), default=0.0)
        if not seconds:
            return False
        stops_at = now + seconds * 1000
        return stops_at < (record.stops_at or math.inf) or (self.max_duration.lengthens and stops_at > record.stops_at)

    @property
    def resolved(self) -> "CallerGroup":
        """The group in which its waiters are answered."""
        return self if self.merged_into is None else self.merged_into.resolved

    def link(self, caller: asyncio.Future[Answer | Problem | None]) -> None:
        """Link the trace of a caller to the operation's, unless that trace shows the operation anyway."""
        if not (self.is_leader and caller is self.waiters[0]):
            tracing.link(self.trace)

    def answer(self, answer: Answer | Problem) -> None:
        """Answer every caller that still waits."""
        for caller in self.waiters:
            if not caller.done():
                caller.set_result(answer)

    def answer_leading(self, answer: Answer, others: Outcome) -> None:
        """Answer the first caller that still waits with what the operation did, and the others that they joined it."""
        waiting = [caller for caller in self.waiters if not caller.done()]
        for position, caller in enumerate(waiting):
            caller.set_result(msgspec.structs.replace(answer, outcome=others) if position else answer)


def give_up(caller: asyncio.Future[Answer | Problem | None]) -> None:
    """Answer a caller that has waited for as long as it would."""
    if not caller.done():
        caller.set_result(None)


def what_goes_on(claim: Claim | None) -> str:
    """Say what a caller leaves behind whose wait ran out."""
    if claim is None:
        return "Redis has not answered yet, and the request may still be carried out; ask again to learn its result."
    if claim.action == "grace":
        return "Redis has just come up; nothing was sent for this request."
    if not claim.record.holder:
        return "An earlier stop is not confirmed yet and will be repeated; nothing was sent for this request."
    return "The operation goes on; ask again to learn its result."
