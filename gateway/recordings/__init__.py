"""The domain: targets, their recordings, and how any number of commands becomes one operation.

Knows neither HTTP nor Redis; speaks to VideoSDK through `gateway.videosdk` and to the other replicas through
`gateway.coordinator`.
"""

from gateway.coordinator import MaxDuration
from gateway.recordings.coalescer import Coalescer
from gateway.recordings.decoding import recording_of
from gateway.recordings.leader import Leader
from gateway.recordings.listings import ListingCache, ReadBudget
from gateway.recordings.model import ENDED, Answer, EndReason, Origin, Outcome, RecordedFile, Recording, Status
from gateway.recordings.operator import Operator
from gateway.recordings.reconciler import Reconciler
from gateway.recordings.recordings import Recordings
from gateway.recordings.room_feeds import FeedUpdate, Reader, RoomFeeds
from gateway.recordings.running import RoomSearch
from gateway.recordings.targets import MODES, Kind, Mode, StartParameters, Target, target_of
from gateway.recordings.webhook_events import EventType, WebhookEvent, WebhookEvents
from gateway.recordings.webhook_queue import WebhookQueue
from gateway.recordings.without_redis import WithoutRedisMode

__all__ = [
    "ENDED",
    "MODES",
    "Answer",
    "Coalescer",
    "EndReason",
    "EventType",
    "FeedUpdate",
    "Kind",
    "Leader",
    "ListingCache",
    "MaxDuration",
    "Mode",
    "Operator",
    "Origin",
    "Outcome",
    "ReadBudget",
    "Reader",
    "Reconciler",
    "RecordedFile",
    "Recording",
    "Recordings",
    "RoomFeeds",
    "RoomSearch",
    "StartParameters",
    "Status",
    "Target",
    "WebhookEvent",
    "WebhookEvents",
    "WebhookQueue",
    "WithoutRedisMode",
    "recording_of",
    "target_of",
]
