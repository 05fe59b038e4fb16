"""The domain: tracks, their recordings, and how any number of wishes becomes one operation.

Knows neither HTTP nor Redis; speaks to VideoSDK through `gateway.videosdk` and to the other replicas through
`gateway.coordinator`.
"""

from gateway.recordings.leader import Leader
from gateway.recordings.listings import ListingCache
from gateway.recordings.model import (
    ENDED,
    Answer,
    EndReason,
    Kind,
    Origin,
    Outcome,
    Recording,
    StartParameters,
    Status,
    Track,
    recording_of,
    track_of,
)
from gateway.recordings.operator import Operator
from gateway.recordings.reconciler import Settler, Watcher
from gateway.recordings.recordings import Recordings
from gateway.recordings.room_feeds import FeedUpdate, Reader, RoomFeeds
from gateway.recordings.webhook_events import EventType, WebhookEvent
from gateway.recordings.without_redis import WithoutRedisMode

__all__ = [
    "ENDED",
    "Answer",
    "EndReason",
    "EventType",
    "FeedUpdate",
    "Kind",
    "Leader",
    "ListingCache",
    "Operator",
    "Origin",
    "Outcome",
    "Reader",
    "Recording",
    "Recordings",
    "RoomFeeds",
    "Settler",
    "StartParameters",
    "Status",
    "Track",
    "Watcher",
    "WebhookEvent",
    "WithoutRedisMode",
    "recording_of",
    "track_of",
]
