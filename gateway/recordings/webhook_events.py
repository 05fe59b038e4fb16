"""What VideoSDK's webhooks say, and what the gateway makes of it.

A webhook carries no id, no time and no order, and may be a replay or an echo of an earlier recording. So an event
proves nothing: it says where to look, and the list decides. Only where no list has ever shown a recording, the files in
a report of its end prove that it was, if their names say that they began with it.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from gateway.coordinator import Coordinator, Record
from gateway.recordings.decoding import key_of
from gateway.recordings.evidence import proof_of_end
from gateway.recordings.model import ENDED, EndReason, RecordedFile, Status
from gateway.recordings.operation import is_foreign
from gateway.recordings.reconciler import Reconciler
from gateway.recordings.targets import Mode, Target, target_of

__all__ = ["EventType", "WebhookEvent", "WebhookEvents"]


class EventType(StrEnum):
    """What is said to have happened."""

    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    """While it started or while it stopped: VideoSDK does not say which."""
    LEFT = "left"
    """The participant left, and with it all that was recorded of it."""
    ENDED = "ended"
    """The session ended, and with it all recordings of the room."""


class WebhookEvent(Struct, frozen=True):
    """One event. Nothing in it tells two recordings of one target apart."""

    room_id: str
    participant_id: str | None
    """None where the whole room is meant."""
    kind: str | None
    """None where all recordings of the participant, or of the room, are meant."""
    type: EventType
    mode: Mode | None = None
    """None where the recordings of every mode are meant."""
    files: tuple[RecordedFile, ...] = ()
    """What is said to be finished."""

    @property
    def target(self) -> Target | None:
        """The one target it is about, if it is about one."""
        return Target.named(self.mode, self.room_id, self.participant_id, self.kind) if self.mode else None

    def concerns(self, target: Target) -> bool:
        """Tell whether a target is among those it is about."""
        return (
            target.room_id == self.room_id
            and self.participant_id in {None, target.participant_id}
            and self.kind in {None, target.kind}
            and self.mode in {None, target.mode}
        )


_REASONS: Final = {
    EventType.STOPPED: "ended",
    EventType.FAILED: "failed",
    EventType.LEFT: "participant_left",
    EventType.ENDED: "session_ended",
}
"""Why a recording ended, if the list shows that it did."""


class WebhookEvents:
    """Acts on webhooks, for one process.

    Args:
        coordinator: Where records are.
        reconciler: Finds out what is true.
    """

    def __init__(self, coordinator: Coordinator, reconciler: Reconciler) -> None:
        self._coordinator = coordinator
        self._reconciler = reconciler

    async def handle(self, event: WebhookEvent) -> None:
        """Look where VideoSDK says that something happened.

        When this returns it will be looked at: if not here, then by the replica that takes up what is due.

        Raises:
            CoordinationUnavailable: Redis does not answer.
        """
        if event.type in {EventType.STARTING, EventType.STOPPING}:
            return  # what is about to happen is not so yet
        target = event.target
        concerned = await self._concerned(event, target)
        if reason := _REASONS.get(event.type):
            running = [key for key, record in concerned.items() if record.state not in ENDED]
            suspect = [
                key
                for key in running
                if await self._coordinator.records.invalidate(
                    key, hint=reason, evidence=self._proof(event, concerned[key])
                )
            ]
            for key, record in concerned.items():
                if record.state in ENDED and (proof := self._proof(event, record)):
                    await self._coordinator.records.invalidate(key, evidence=proof)
                    suspect.append(key)
        else:
            suspect = [key for key, record in concerned.items() if record.state == Status.UNKNOWN]
        for key in suspect:
            self._reconciler.reconcile_if_idle(key)
        # An end that is known may have files now; a beginning may be one that no record shows.
        if target is not None and all(record.state in ENDED for record in concerned.values()):
            await self._reconciler.refresh(event.room_id, concerned, target)

    def _proof(self, event: WebhookEvent, record: Record) -> str:
        if record.because == EndReason.REFUSED or is_foreign(record):
            return ""
        proof = proof_of_end(record.evidence, record.generation, event.files, record.started_at, record.ended_at)
        return proof.encode() if proof is not None else ""

    async def _concerned(self, event: WebhookEvent, target: Target | None) -> dict[str, Record]:
        if target is not None:
            key = key_of(self._coordinator, target)
            record = await self._coordinator.records.read(key)
            return {} if record is None else {key: record}
        records = (await self._coordinator.records.room(event.room_id)).records
        return {key: record for key, record in records.items() if event.concerns(target_of(key))}
