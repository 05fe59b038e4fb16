"""Callers who want the same, and are answered together."""

import asyncio
from contextvars import copy_context

import msgspec

from gateway.coordinator import Claim, Command
from gateway.observability import tracing
from gateway.recordings.model import Answer, Descriptor, Outcome, Problem, StartParameters, Track

__all__ = ["Batch"]


class Batch:
    """Callers of this process who want the same of one track, and are answered together."""

    def __init__(
        self,
        key: str,
        track: Track,
        command: Command,
        parameters: StartParameters | None,
        caller: str,
        arrived_at: float | None,
        asked_at: int | None,
    ) -> None:
        self.key = key
        self.track = track
        self.command = command
        self.caller = caller
        self.parameters = parameters
        self.fingerprint = parameters.fingerprint if parameters else ""
        self.descriptor = ""
        if parameters:
            described = Descriptor(requested_by=caller, file_format=parameters.file_format or "webm")
            self.descriptor = msgspec.json.encode(described).decode()
        self.arrived_at = arrived_at
        """When (`clock`) the earliest of its callers came, until Redis has answered for the first time."""
        self.waiters: list[asyncio.Future[Answer | Problem]] = []
        self.deadline = 0.0
        """Until when (`clock`) the most patient caller waits."""
        self.claim: Claim | None = None
        """What Redis said last."""
        self.target = "" if asked_at is None else str(asked_at)
        """What the wish is bound to (see `claim.lua`): the recording of a stop, the first asking of a start's retry."""
        self.stop_recorded = False
        """A stop that Redis knows of: it happens, whether or not its callers wait for it."""
        self.waited_for_another = False
        """Another operation was in flight when it came."""
        self.submitted = asyncio.Event()
        """Set when Redis has answered for the first time."""
        self.merged_into: Batch | None = None
        """The party that this one's callers went over to."""
        self.context = copy_context()
        """Of its first caller: what is done for the party is told in that caller's trace."""
        self.trace = ""
        """Where the operation's trace is that answered it."""
        self.is_leader = False

    @property
    def abandoned(self) -> bool:
        """Nobody waits, and nothing was promised."""
        return self.command is Command.START and all(caller.done() for caller in self.waiters)

    @property
    def resolved(self) -> "Batch":
        """The party that its callers are answered in."""
        return self if self.merged_into is None else self.merged_into.resolved

    def link(self, caller: asyncio.Future[Answer | Problem]) -> None:
        """Link the trace of a caller to the operation's, unless the operation is told in it anyway."""
        if not (self.is_leader and caller is self.waiters[0]):
            tracing.link(self.trace)

    def answer(self, answer: Answer | Problem) -> None:
        """Tell everybody who still waits."""
        for caller in self.waiters:
            if not caller.done():
                caller.set_result(answer)

    def answer_leading(self, answer: Answer, others: Outcome) -> None:
        """Tell the first who still waits that the operation was theirs, and the others that they joined it."""
        waiting = [caller for caller in self.waiters if not caller.done()]
        for position, caller in enumerate(waiting):
            caller.set_result(Answer(others, answer.recording) if position else answer)
