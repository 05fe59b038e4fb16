"""Callers who want the same, and are answered together."""

import asyncio
from contextvars import copy_context

import msgspec

from gateway import tracing
from gateway.coordinator import Claim, Wish
from gateway.recordings.model import Answer, Descriptor, Outcome, Problem, StartParameters, Track

__all__ = ["Party"]


class Party:
    """Callers of this process who want the same of one track, and are answered together."""

    def __init__(
        self,
        key: str,
        track: Track,
        wish: Wish,
        parameters: StartParameters | None,
        caller: str,
        came_at: float | None,
        asked_at: int | None,
    ) -> None:
        self.key = key
        self.track = track
        self.wish = wish
        self.caller = caller
        self.parameters = parameters
        self.fingerprint = parameters.fingerprint if parameters else ""
        self.descriptor = ""
        if parameters:
            described = Descriptor(requested_by=caller, file_format=parameters.file_format or "webm")
            self.descriptor = msgspec.json.encode(described).decode()
        self.came_at = came_at
        """When (`clock`) the earliest of its callers came, until Redis has answered for the first time."""
        self.callers: list[asyncio.Future[Answer | Problem]] = []
        self.patience = 0.0
        """Until when (`clock`) the most patient caller waits."""
        self.claim: Claim | None = None
        """What Redis said last."""
        self.target = "" if asked_at is None else str(asked_at)
        """What the wish is bound to (see `claim.lua`): the recording of a stop, the first asking of a start's retry."""
        self.committed = False
        """A stop that Redis knows of: it happens, whether or not its callers wait for it."""
        self.waited = False
        """Another operation was in flight when it came."""
        self.admitted = asyncio.Event()
        """Set when Redis has answered for the first time."""
        self.into: Party | None = None
        """The party that this one's callers went over to."""
        self.context = copy_context()
        """Of its first caller: what is done for the party is told in that caller's trace."""
        self.trace = ""
        """Where the operation's trace is that answered it."""
        self.led = False

    @property
    def deserted(self) -> bool:
        """Nobody waits, and nothing was promised."""
        return self.wish is Wish.START and all(caller.done() for caller in self.callers)

    @property
    def final(self) -> "Party":
        """The party that its callers are answered in."""
        return self if self.into is None else self.into.final

    def link(self, caller: asyncio.Future[Answer | Problem]) -> None:
        """Link the trace of a caller to the operation's, unless the operation is told in it anyway."""
        if not (self.led and caller is self.callers[0]):
            tracing.link(self.trace)

    def answer(self, answer: Answer | Problem) -> None:
        """Tell everybody who still waits."""
        for caller in self.callers:
            if not caller.done():
                caller.set_result(answer)

    def answer_leading(self, answer: Answer, others: Outcome) -> None:
        """Tell the first who still waits that the operation was theirs, and the others that they joined it."""
        waiting = [caller for caller in self.callers if not caller.done()]
        for position, caller in enumerate(waiting):
            caller.set_result(Answer(others, answer.recording) if position else answer)
