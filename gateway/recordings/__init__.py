"""The domain: tracks, their recordings, and how any number of wishes becomes one operation.

Knows neither HTTP nor Redis; speaks to VideoSDK through `gateway.videosdk` and to the other replicas through
`gateway.coordinator`.
"""

from gateway.recordings.feeds import Feeds, News, Reader
from gateway.recordings.hints import Happened, Hint
from gateway.recordings.leader import Leader
from gateway.recordings.lists import Lists
from gateway.recordings.model import (
    ENDED,
    Answer,
    Because,
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
from gateway.recordings.recordings import Recordings
from gateway.recordings.settler import Settler
from gateway.recordings.uncoordinated import Uncoordinated
from gateway.recordings.watcher import Watcher

__all__ = [
    "ENDED",
    "Answer",
    "Because",
    "Feeds",
    "Happened",
    "Hint",
    "Kind",
    "Leader",
    "Lists",
    "News",
    "Operator",
    "Origin",
    "Outcome",
    "Reader",
    "Recording",
    "Recordings",
    "Settler",
    "StartParameters",
    "Status",
    "Track",
    "Uncoordinated",
    "Watcher",
    "recording_of",
    "track_of",
]
