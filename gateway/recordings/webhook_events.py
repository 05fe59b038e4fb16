"""What VideoSDK's webhooks say of tracks: hints, since they carry no id, no time and no order, and may be replays."""

from enum import StrEnum

from msgspec import Struct

from gateway.recordings.model import Kind, Track

__all__ = ["EventType", "WebhookEvent"]


class EventType(StrEnum):
    """What is said to have happened."""

    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    """While it started or while it stopped: VideoSDK does not say which."""
    LEFT = "left"
    """The participant left, and with it all of its tracks."""
    ENDED = "ended"
    """The session ended, and with it all tracks of the room."""


class WebhookEvent(Struct, frozen=True):
    """One event. Nothing in it tells two recordings of one track apart."""

    room_id: str
    participant_id: str | None
    """None where the whole room is meant."""
    kind: Kind | None
    """None where all tracks of the participant, or of the room, are meant."""
    happened: EventType

    def concerns(self, track: Track) -> bool:
        """Tell whether a track is among those it is about."""
        return (
            track.room_id == self.room_id
            and self.participant_id in {None, track.participant_id}
            and self.kind in {None, track.kind}
        )
