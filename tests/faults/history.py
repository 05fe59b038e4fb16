"""What was seen during a run, by the clients and by the simulated VideoSDK: values only.

All times are seconds of CLOCK_MONOTONIC, which every process on one machine shares.
"""

import math
from typing import Literal

from msgspec import Struct, field

Op = Literal["start", "stop", "get"]

LOST = 0
"""In place of a status: the client has no answer, because it left or because the process did."""


class ClientCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request of a client, with its answer."""

    op: Op
    track: str
    params: str = ""
    begun: float
    ended: float
    status: int = LOST
    outcome: str = ""
    id: str = ""
    state: str = ""
    problem: str = ""
    process: str = ""
    deadline: float = math.inf
    """Seconds this client was willing to wait, as far as it told the gateway."""
    left: bool = False
    """The client hung up by itself."""

    @property
    def ok(self) -> bool:
        """Whether it was answered with success."""
        return 200 <= self.status < 300

    @property
    def definite(self) -> bool:
        """Whether the answer says what is true of the track."""
        return self.status in {200, 201, 409, 422} or self.problem == "upstream-limited"


class UpstreamCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request as the simulated VideoSDK saw it."""

    seq: int = 0
    endpoint: str
    track: str
    """Of a list: the room and participant, without a kind."""
    params: str = ""
    received: float
    applied: float | None = None
    answered: float | None = None
    gone: float | None = None
    status: int | None = None
    fault: str | None = None
    attempt: str = ""
    """Which claim it was sent under; nothing where it went around Redis."""

    @property
    def ended(self) -> float:
        """When it was over, as far as the simulator knows; infinity where it never was."""
        return self.answered or self.gone or math.inf

    def ambiguous(self, longest: float) -> bool:
        """Whether the gateway may be in doubt about it: it was cut off, answered with a 5xx, or took too long."""
        if self.answered is None or self.ended - self.received > longest - 0.2:
            return True
        if self.fault in {None, "delay", "empty_once", "unfiltered"}:
            return False
        foreign = self.status is not None and self.status < 300  # a success that VideoSDK did not write
        return (
            foreign or self.status is None or self.status >= 500 or self.status == 408 or self.fault == "half_response"
        )


class Interval(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A time during which a track was really recorded."""

    track: str
    params: str = ""
    opened: float
    closed: float = math.inf
    unseen: bool = False
    """Ended without the protocol: by itself, or by a stop that went around Redis."""
    started_by: int | None = None
    """`seq` of the call that began it."""


class Trouble(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something a nemesis did, in `process` where it concerns one; or a stall, which is the machine's own doing."""

    what: Literal["kill", "pause", "term", "redis", "upstream", "clock", "stall"]
    begun: float
    ended: float
    process: str = ""
    detail: str = ""


class AtRest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the gateway says of one track when everything has come to rest."""

    track: str
    status: int
    state: str = ""
    at: float = 0.0


class End(Struct, frozen=True, kw_only=True):
    """When the recording of a track has to end, because it may last only so long."""

    track: str
    at: float


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The protocol's times in this run, and what a row allows."""

    upstream_timeout: float = 1.5
    quiet: float = 3.15
    lease: float = 2.0
    trust: float = 10.0
    duplicates: int | None = 0
    """How many this row allows; None where none are promised not to happen, so that they are only counted."""
    loses_data: bool = False
    """Redis forgets in this row: a recording may then be known by another id."""


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that was seen in one run."""

    calls: list[ClientCall] = field(default_factory=list[ClientCall])
    upstream: list[UpstreamCall] = field(default_factory=list[UpstreamCall])
    intervals: list[Interval] = field(default_factory=list[Interval])
    troubles: list[Trouble] = field(default_factory=list[Trouble])
    finals: list[AtRest] = field(default_factory=list[AtRest])
    ends: list[End] = field(default_factory=list[End])
    keys_without_ttl: list[str] = field(default_factory=list[str])
    limits: Limits = field(default_factory=Limits)

    @property
    def tracks(self) -> list[str]:
        """Every track anybody asked for."""
        return sorted({call.track for call in self.calls})
