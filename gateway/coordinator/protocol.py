r"""What the coordinator is asked and what it answers: commands, verdicts, claims, leases, and the protocol's times.

What lies in Redis (every key has a TTL; TTLs are housekeeping, no rule depends on a key expiring)::

    rec:{07}:<project>:<room>:<mode>:<participant>:<kind>   hash, one per target. Ids percent-encoded.
                                     Fields that are empty or 0 are left out. TTL: 24 h; GATEWAY_KEEP_ENDED_HOURS of an
                                     ended one, S + 60 s where a stop found nothing
        v                            version of this format
        state                        starting, recording, stopping, stopped, failed, unknown
        op done finished_by          number of the current operation; of the last finished one, and the attempt that did
        result                       what those who wait for the last finished operation receive (JSON); only where
                                     another process waited for it
        holder action lease          attempt that leads (it begins with its process), start/stop/probe, until when (ms)
        granted epoch                ms of the last grant; the epoch (ms) in which that claim was granted
        before                       what a release puts back (JSON)
        generation fingerprint       operation that began the recording; what its parameters hash to
        recording                    what callers may read of it (JSON)
        started_at ended_at written  ms of the last send grant, of the last end, of the last finish
        confirmed confirmed_by       when (ms) and by what the state was last seen to be true; 0: it has to be looked at
        suspect_since                ms since when something beside the protocol may have changed it; 0: nothing has
        start_may_land_until stop_may_land_until   until when (ms) one already sent may still land; 0: none can
        uncoordinated_until          until when (ms) what was sent without Redis may land, or be missing from the list
        stop_requested_at            number, as of operations, of the last request for a stop which was not idle
        started_op                   number of the operation that started what records; of the last stop where that is
                                     carried out. A stop is due while it was requested later
        stops_at                     when (ms) it has to end: the gateway then stops it; 0: never
        timed_stop                   number of the stop that was requested because that moment had come
        waiting                      another process waits
        hint                         when (ms) a webhook reported its end, and as what
        evidence because             what VideoSDK's list says of the recording (JSON); why it ended
        tries upstream               how often it was taken up since it was certain; what VideoSDK answered last
        uncertain_since              since when (ms) it is unknown, or stopping without an answer; 0: it is known
    rec:{07}:<project>:due   sorted set, record -> when (ms) it must be looked at though no caller may come
    rec:{07}:<project>:ends   sorted set, record -> `stops_at` of what runs, or may run, and is not being stopped
    rec:{07}:epoch   string, "<server run id>:<ms>": from when on this server's memory can be believed
    rec:{07}:<project>:<room>:targets   sorted set, record -> when (ms) it changed last, and 10^14 more while it has not
                                       ended. TTL: twice a record's
    rec:{07}:<project>:<room>:events   stream of changes: `key` of the record, `record` as its readers see it (JSON).
                                      TTL: 10 min. Also the channel on which each event's id is published
    rec:{07}:ticket:<hash>   string, what the bearer of the ticket may read (JSON). TTL: 30 s
    rec:{07}:limit… rec:{07}:answer…   token buckets and idempotency keys, see `gateway/store/`
    rec:wake         channel: "<record>\n<operation>\n<payload>" for every finished operation that has waiters

`07` is one of 16 buckets, chosen by room: all keys of a room share a slot, so that a record, its due time and the
epoch change in one script on a Cluster too. An operation number is Redis's clock in microseconds, or one more than
the last: it grows for ever, also across a Redis that forgot the last one.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct, field

__all__ = [
    "UNBOUNDED",
    "VERSION",
    "Claim",
    "Command",
    "Completion",
    "Event",
    "Finished",
    "Lease",
    "MaxDuration",
    "Record",
    "Room",
    "Timing",
    "Verdict",
]


VERSION = 1
"""The newest format of records that is understood here, as in `prelude.lua`."""


class Command(StrEnum):
    """What a caller group, or the reconciler, wants of a target."""

    START = "start"
    STOP = "stop"
    RECONCILE = "reconcile"


class MaxDuration(Struct, frozen=True):
    """For how long a start has its target recorded at most, counted from when it is granted, or answered as joined."""

    seconds: float = 0.0
    """0 is for ever."""
    lengthens: bool = False
    """Whether what it joins may end later for it, and not only earlier."""
    only_of: str = ""
    """The caller's name, where it may change the end only of what it started itself."""


UNBOUNDED: Final = MaxDuration()
"""Of every command that is no start."""


class Verdict(StrEnum):
    """What a claim was answered; `claim.lua` explains each."""

    LEAD = "lead"
    WAIT = "wait"
    DONE = "done"
    RUNNING = "running"
    IDLE = "idle"
    GONE = "gone"
    CONFLICT = "conflict"
    LATE = "late"
    NEWER = "newer"
    BUSY = "busy"
    NOOP = "noop"


class Timing(Struct, frozen=True, kw_only=True):
    """The protocol's times, in seconds. `GATEWAY_*_SECONDS` set the first six, and `longest`."""

    upstream_timeout: float = 10.0
    """D: one whole upstream call."""
    send_window: float = 2.0
    """W: longest time from a claim to the first byte of its call."""
    settle: float = 5.0
    """S: how long after we gave up on it a call may still land and be listed, both together; and how late the list may
    show what was answered."""
    lease: float = 4.0
    trust: float = 10.0
    """How long a confirmation is believed."""
    check: float = 30.0
    """How often a recording that runs is compared with VideoSDK's list; 0 is never."""
    memory: float = 24 * 3600.0
    """Longest recording: how long a record older than the server's epoch is doubted, and kept."""
    keep: float = 24 * 3600.0
    """How long an ended recording can be read."""
    replay: float = 600.0
    """How long a room's events can be read again."""
    longest: float = 0.0
    """How long after its start, or after the first start that joined a found one, a recording may last; 0: for ever."""
    verify_absent: str = "auto"
    """Whether a target without a trustworthy record is looked up before it is started: auto, always or never."""

    @property
    def quiet(self) -> float:
        """Q: after this long nothing that was sent can still land."""
        return self.send_window + self.upstream_timeout + self.settle

    @property
    def renewal(self) -> float:
        """How often a held claim is renewed."""
        return self.lease / 4

    @property
    def grace(self) -> float:
        """How long after an epoch live leaders have to claim again what Redis forgot."""
        return 2 * self.renewal + 1.5 + 0.5


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a target: what `prelude.lua` shows of its record. Times in ms by Redis's clock, 0 for none."""

    state: str = ""
    """Empty where nothing was ever recorded."""
    operation: str = field(name="op", default="0")
    generation: str = "0"
    fingerprint: str = ""
    recording: str = ""
    evidence: str = ""
    because: str = ""
    confirmed: int = 0
    confirmed_by: str = ""
    started_at: int = 0
    ended_at: int = 0
    holder: str = ""
    action: str = ""
    stop_requested_at: int = 0
    started_op: int = 0
    stops_at: int = 0
    timed_stop: int = 0

    @property
    def is_timed(self) -> bool:
        """Whether the stop that was requested last was requested because its time is over."""
        return 0 < self.timed_stop == self.stop_requested_at

    @property
    def is_probed(self) -> bool:
        """Whether a probe holds the target, which may be the beginning of a start."""
        return bool(self.holder) and self.action == "probe"

    @property
    def stop_due(self) -> bool:
        """Whether a stop was requested of what records, or may land."""
        return self.stop_requested_at > self.started_op


class Claim(Struct, frozen=True):
    """The answer to a claim. Times in ms by Redis's clock."""

    verdict: Verdict
    action: str
    now: int
    before: str
    """The state in which the claim found the target."""
    record: Record
    """The record as the claim made it."""
    lease_left: int
    result: str
    start_may_land_ms: int
    stop_may_land_ms: int
    epoch: int
    asked_at: str
    """The number of the stop that was claimed for, "0" where none was."""
    written: int
    moved_from: str = ""
    """When the recording had to end before the claim moved that; empty where it did not."""


class Room(Struct, frozen=True):
    """A room as it was at one moment.

    Attributes:
        last: The id of the last event that is part of it.
        records: What is known of each target, by the record's key.
    """

    last: str
    records: dict[str, Record]


class Event(Struct, frozen=True):
    """A change of one target.

    Attributes:
        id: Where it stands among the room's events; grows.
        key: The target's record.
        record: What it had become.
    """

    id: str
    key: str
    record: Record


class Finished(Struct, frozen=True):
    """What became of a finish, renewal or release.

    Attributes:
        how: ok, repeated, restored, late or stale (see `finish.lua`); lost; or pending, where Redis did not answer and
            the write is repeated in the background.
        stop: A stop was asked for meanwhile.
        now: Redis's clock in ms; 0 where it did not answer.
        generation: Of the recording, in the answer to a renewal.
        stops_at: When (ms) it has to end, in the same; 0 is never.
        start_may_land_ms: For how many ms more a start that was sent may land, in the answer to a finish.
        stop_may_land_ms: The same of a stop.
    """

    how: str
    stop: bool = False
    now: int = 0
    generation: str = ""
    stops_at: int = 0
    start_may_land_ms: int = 0
    stop_may_land_ms: int = 0


class Completion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an operation, for the record and for those who wait."""

    record: Record | None = None
    """What is known now. Nothing was decided where there is none: those who wait claim again."""


class Lease(Struct, frozen=True, kw_only=True):
    """A claim on a target that this process holds, renewed until it is finished or released."""

    key: str
    attempt: str
    operation: str
    action: str
    epoch: int
    asked_at: str
    granted_at: float
    """By `clock`, taken before the claim was sent: whatever Redis counts from, it is later than this."""
    record: Record
    """As the claim made it: what a Redis that forgot it is given back."""
