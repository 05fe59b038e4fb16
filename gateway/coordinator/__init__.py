"""Coordination between replicas over Redis: who leads an operation on a target, who waits, and what is known of it.

Knows nothing of HTTP or VideoSDK: what a payload means is its caller's affair.
"""

from gateway.coordinator.backlog import Backlog, PendingTarget
from gateway.coordinator.coordinator import Coordinator
from gateway.coordinator.protocol import (
    UNBOUNDED,
    Claim,
    Command,
    Completion,
    Event,
    Finished,
    Lease,
    MaxDuration,
    Record,
    Room,
    Timing,
    Verdict,
)

__all__ = [
    "UNBOUNDED",
    "Backlog",
    "Claim",
    "Command",
    "Completion",
    "Coordinator",
    "Event",
    "Finished",
    "Lease",
    "MaxDuration",
    "PendingTarget",
    "Record",
    "Room",
    "Timing",
    "Verdict",
]
