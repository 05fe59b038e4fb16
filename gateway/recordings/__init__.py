"""The domain: tracks, their recordings, and how any number of wishes becomes one operation.

Knows neither HTTP nor Redis; speaks to VideoSDK through `gateway.videosdk` and to the other replicas through
`gateway.coordinator`.
"""

from gateway.recordings.leader import Leader
from gateway.recordings.model import Answer, Kind, Outcome, Recording, StartParameters, Status, Track
from gateway.recordings.recordings import Recordings
from gateway.recordings.settler import Settler
from gateway.recordings.uncoordinated import Uncoordinated

__all__ = [
    "Answer",
    "Kind",
    "Leader",
    "Outcome",
    "Recording",
    "Recordings",
    "Settler",
    "StartParameters",
    "Status",
    "Track",
    "Uncoordinated",
]
