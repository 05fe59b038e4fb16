"""Coordination between replicas over Redis: who leads an operation on a track, who waits, what is known.

The only package that knows Redis. It knows nothing of HTTP or VideoSDK: what a payload means is its caller's affair.
"""

from gateway.coordinator.answers import Answers, Remembered
from gateway.coordinator.claims import Claim, Event, Finished, Lease, Record, Room, Timing, Verdict, Wish, clock
from gateway.coordinator.connection import Connection
from gateway.coordinator.coordinator import BUCKETS, Coordinator
from gateway.coordinator.limits import Limits, Quota
from gateway.coordinator.overview import Attended, Overview
from gateway.coordinator.survey import Survey, Uncertainty
from gateway.coordinator.tickets import Tickets
from gateway.coordinator.wakeups import Wakeup, Wakeups

__all__ = [
    "BUCKETS",
    "Answers",
    "Attended",
    "Claim",
    "Connection",
    "Coordinator",
    "Event",
    "Finished",
    "Lease",
    "Limits",
    "Overview",
    "Quota",
    "Record",
    "Remembered",
    "Room",
    "Survey",
    "Tickets",
    "Timing",
    "Uncertainty",
    "Verdict",
    "Wakeup",
    "Wakeups",
    "Wish",
    "clock",
]
