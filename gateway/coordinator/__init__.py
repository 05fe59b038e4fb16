"""Coordination between replicas over Redis: who leads an operation on a track, who waits, what is known.

The only package that knows Redis. It knows nothing of HTTP or VideoSDK: what a payload means is its caller's affair.
"""

from gateway.coordinator.backlog import Backlog, BacklogGauge, PendingTrack, UncertainTracks
from gateway.coordinator.coordinator import Coordinator
from gateway.coordinator.protocol import Claim, Command, Event, Finished, Lease, Record, Room, Timing, Verdict
from gateway.store.clock import clock
from gateway.store.connection import Connection
from gateway.store.idempotency_records import IdempotencyRecord, IdempotencyRecords
from gateway.store.notifications import Notifications, OperationFinished
from gateway.store.scripts import BUCKETS
from gateway.store.tickets import Tickets
from gateway.store.token_buckets import Quota, TokenBuckets

__all__ = [
    "BUCKETS",
    "Backlog",
    "BacklogGauge",
    "Claim",
    "Command",
    "Connection",
    "Coordinator",
    "Event",
    "Finished",
    "IdempotencyRecord",
    "IdempotencyRecords",
    "Lease",
    "Notifications",
    "OperationFinished",
    "PendingTrack",
    "Quota",
    "Record",
    "Room",
    "Tickets",
    "Timing",
    "TokenBuckets",
    "UncertainTracks",
    "Verdict",
    "clock",
]
