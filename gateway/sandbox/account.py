"""One VideoSDK account in memory: who is live, what records, and the events all this gives rise to.

No sockets and no waiting here: each method is one step, so a call takes effect at one instant.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import msgspec

from gateway.sandbox import invented
from gateway.sandbox.shapes import (
    FAMILIES,
    FILE_FORMATS,
    Event,
    Json,
    Mode,
    Participant,
    Reason,
    Recording,
    RefusedError,
    Room,
    Session,
    Target,
    describe,
    describe_room,
    describe_session,
    iso,
    new_id,
    new_room_id,
    optional_text,
    page,
    passes,
    registration,
    utc_now,
)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """Choices where the vendor's behaviour is unknown or where a test needs another one."""

    duplicates: Literal["refuse", "accept"] = "refuse"
    strict_live: bool = False
    joining_seconds: float = 0.0
    stops: Literal["all", "one"] = "all"
    processing_seconds: float = 0.0
    list_lag_seconds: float = 0.0
    most_per_page: int = invented.MAX_PER_PAGE
    bare_room_rows: bool = False


class Account:
    """Rooms, sessions and recordings of the one account a simulator plays."""

    def __init__(self, behaviour: Behaviour, emit: Callable[[Event], None]) -> None:
        self._behaviour = behaviour
        self._emit = emit
        self._rooms: dict[str, Room] = {}
        self._sessions: dict[str, Session] = {}
        self._recordings: dict[str, Recording] = {}
        self._by_room: dict[str, list[str]] = {}
        self._open: dict[Target, list[str]] = {}
        self._stopped: dict[Target, float] = {}
        self._foreign: dict[Mode, list[Json]] = {}

    @property
    def recordings(self) -> list[Recording]:
        """Every recording ever made, deleted ones too, oldest first."""
        return list(self._recordings.values())

    def clear(self) -> None:
        """Forget everything."""
        kept = (self._rooms, self._sessions, self._recordings, self._by_room, self._open, self._stopped, self._foreign)
        for held in kept:
            cast("dict[Any, Any]", held).clear()

    # Rooms and who is in them.

    def create_room(self, body: Mapping[str, Any]) -> Json:
        """Make a room, or find the one of the same customRoomId."""
        custom = optional_text(body, "customRoomId")
        room = self._rooms.get(custom) if custom else None
        if room is None:
            room = self._add_room(new_room_id(), custom)
        webhook = body.get("webhook")
        if webhook is not None:
            endpoint, events = registration(webhook)
            room.endpoint, room.events = endpoint, events
        return describe_room(room)

    def get_room(self, room_id: str) -> Json:
        """Return one room by its id or customRoomId."""
        if room_id not in self._rooms:
            raise RefusedError(invented.NO_SUCH_ROOM)
        return describe_room(self._rooms[room_id])

    def join(self, room_id: str, participant_id: str, name: str = invented.AUTO_LIVE_NAME) -> str:
        """Let a participant join, opening the room and its session where needed; return the session's id."""
        room = self._rooms.get(room_id) or self._add_room(room_id, None)
        session = self._open_session(room)
        known = session.participants.get(participant_id)
        if known is None or known.left is not None:
            session.participants[participant_id] = Participant(participant_id, name, utc_now())
            self._tell_room(room, "participant-joined", {"participantId": participant_id, "participantName": name})
        return session.id

    def leave(self, room_id: str, participant_id: str, *, rows_stay_open: bool = False) -> int:
        """Let a participant leave, which ends its recordings; return how many there were."""
        room, participant = self._live(room_id, participant_id)
        participant.left = utc_now()
        words = {"participantId": participant_id, "participantName": participant.name}
        self._tell_room(room, "participant-left", words)
        return self._close_all(
            [row for row in self._live_rows(room_id) if row.participant_id == participant_id],
            "left",
            stays_open=rows_stay_open,
        )

    def end_session(self, room_id: str, *, rows_stay_open: bool = False) -> int:
        """End a room's session, which ends its recordings; return how many there were."""
        room = self._rooms.get(room_id)
        if room is None or room.session is None:
            raise RefusedError(invented.NO_LIVE_SESSION)
        session, ended = room.session, utc_now()
        session.end = ended
        for participant in session.participants.values():
            participant.left = participant.left or ended
        self._tell_room(room, "session-ended", {"start": iso(session.start), "end": iso(ended)})
        count = self._close_all(self._live_rows(room_id), "session-ended", stays_open=rows_stay_open)
        room.session = None
        return count

    def sessions(self, query: Mapping[str, str]) -> Json:
        """List sessions; filters `roomId` and `status`, unknown ones ignored."""
        chosen = [
            describe_session(session)
            for session in reversed(self._sessions.values())
            if passes(query, "roomId", session.room_id) and passes(query, "status", session.status)
        ]
        return page(chosen, query)

    def active_participants(self, session_id: str, query: Mapping[str, str]) -> Json:
        """List who is in a session now: one session, carrying a page of its participants."""
        session = self._sessions.get(session_id)
        if session is None:
            raise RefusedError(invented.NO_SUCH_SESSION)
        described = describe_session(session)
        active = [entry for entry in described["participants"] if entry["timelog"][0]["end"] is None]
        paged = page(active, query)
        return {"pageInfo": paged["pageInfo"], "data": [{**described, "participants": paged["data"]}]}

    # Recordings.

    def start(self, target: Target, body: Mapping[str, Any], call: int | None) -> None:
        """Start recording a target."""
        family = FAMILIES[target.mode]
        file_format = optional_text(body, "fileFormat") or ("mp4" if target.mode == "room" else "webm")
        if file_format not in FILE_FORMATS:
            raise RefusedError(invented.INVALID, "fileFormat")
        webhook_url, directory = optional_text(body, "webhookUrl"), optional_text(body, family.directory)
        session_id = self._session_for(target)
        self._check_startable(target)
        row = Recording(
            id=new_id(),
            mode=target.mode,
            room_id=target.room_id,
            participant_id=target.participant_id,
            kind=target.kind,
            session_id=session_id,
            file_format=file_format,
            webhook_url=webhook_url,
            directory=directory,
            opened=time.monotonic(),
            start=utc_now(),
            started_by=call,
        )
        self._recordings[row.id] = row
        self._by_room.setdefault(row.room_id, []).append(row.id)
        self._open.setdefault(target, []).append(row.id)
        self._tell(row, "starting")
        self._tell(row, "started")

    def stop(self, target: Target, call: int | None) -> None:
        """Stop every recording of a target, or the latest one alone."""
        rows = self._rows_of(target)[-1 if self._behaviour.stops == "one" else 0 :]
        if not rows:
            raise RefusedError(invented.NOT_RECORDING)
        for row in rows:
            self._tell(row, "stopping")
        self._close_all(rows, "stop", call=call)

    def end(self, target: Target, *, reason: Reason, webhook: bool = True, rows_stay_open: bool = False) -> int:
        """End a target's recordings from within the service; return how many there were."""
        return self._close_all(self._rows_of(target), reason, webhook=webhook, stays_open=rows_stay_open)

    def delete_recording(self, mode: Mode, recording_id: str) -> None:
        """Delete a finished recording."""
        row = self._find(mode, recording_id)
        if row.closed is None:
            raise RefusedError(invented.STILL_OPEN)
        self._change(row.id, deleted=True)

    def get_recording(self, mode: Mode, recording_id: str) -> Json:
        """Return one recording as the vendor shows it."""
        return describe(self._find(mode, recording_id), bare=self._behaviour.bare_room_rows)

    def list_recordings(self, mode: Mode, query: Mapping[str, str]) -> Json:
        """List recordings as they were `list_lag_seconds` ago, newest first.

        Unknown query names are ignored, so a call without a filter the service knows answers the whole account
        (seen by third parties on the live service; not documented).
        """
        now = time.monotonic() - self._behaviour.list_lag_seconds
        bare = self._behaviour.bare_room_rows
        rows = [row for row in self._foreign.get(mode, ()) if passes(query, "roomId", row.get("roomId"))]
        rows += [describe(row, now, bare=bare) for row in self._matching(mode, query, now)]
        return page(rows, query, self._behaviour.most_per_page)

    def add_row(self, mode: Mode, row: Json) -> None:
        """Have the list of this mode show one more row as it is, whatever it says: what VideoSDK makes by itself."""
        self._foreign.setdefault(mode, []).append(row)

    def count_delivery(self, recording_id: str, event: str, *, success: bool) -> None:
        """Note one attempt to deliver a recording's webhook."""
        row = self._recordings.get(recording_id)
        if row is not None:
            self._change(row.id, deliveries=(*row.deliveries, (event, success)))

    def _matching(self, mode: Mode, query: Mapping[str, str], now: float) -> Iterator[Recording]:
        room_id = query.get("roomId")
        ids = self._by_room.get(room_id, []) if room_id else self._recordings
        for recording_id in reversed(ids):
            row = self._recordings[recording_id]
            if row.mode != mode or row.deleted or row.opened > now:
                continue
            if passes(query, "sessionId", row.session_id) and passes(query, "participantId", row.participant_id):
                yield row

    def _find(self, mode: Mode, recording_id: str) -> Recording:
        row = self._recordings.get(recording_id)
        if row is None or row.mode != mode or row.deleted:
            raise RefusedError(invented.NO_SUCH_RECORDING)
        return row

    def _check_startable(self, target: Target) -> None:
        if self._open.get(target) and self._behaviour.duplicates == "refuse":
            raise RefusedError(invented.ALREADY_RECORDING)
        stopped = self._stopped.get(target)
        if stopped is not None and time.monotonic() < stopped + self._behaviour.processing_seconds:
            raise RefusedError(invented.STILL_PROCESSING)

    def _session_for(self, target: Target) -> str:
        if self._behaviour.strict_live:
            room = self._rooms.get(target.room_id)
            if room is None:
                raise RefusedError(invented.NO_SUCH_ROOM)
            if target.participant_id is not None:
                room, participant = self._live(target.room_id, target.participant_id)
                self._check_joined(participant)
            if room.session is None:
                raise RefusedError(invented.NO_LIVE_SESSION)
            return room.session.id
        if target.participant_id is not None:
            return self.join(target.room_id, target.participant_id)
        return self._open_session(self._rooms.get(target.room_id) or self._add_room(target.room_id, None)).id

    def _live(self, room_id: str, participant_id: str) -> tuple[Room, Participant]:
        room = self._rooms.get(room_id)
        if room is None or room.session is None:
            raise RefusedError(invented.NO_LIVE_SESSION)
        participant = room.session.participants.get(participant_id)
        if participant is None or participant.left is not None:
            raise RefusedError(invented.PARTICIPANT_ABSENT)
        return room, participant

    def _check_joined(self, participant: Participant) -> None:
        if (utc_now() - participant.joined).total_seconds() < self._behaviour.joining_seconds:
            raise RefusedError(invented.PARTICIPANT_ABSENT)

    def _add_room(self, room_id: str, custom: str | None) -> Room:
        room = Room(new_id(), room_id, utc_now(), custom)
        self._rooms[room_id] = room
        if custom:
            self._rooms[custom] = room
        return room

    def _open_session(self, room: Room) -> Session:
        if room.session is None:
            room.session = Session(new_id(), room.room_id, utc_now())
            self._sessions[room.session.id] = room.session
            self._tell_room(room, "session-started", {"start": iso(room.session.start)})
        return room.session

    def _rows_of(self, target: Target) -> list[Recording]:
        return [self._recordings[recording_id] for recording_id in self._open.get(target, ())]

    def _live_rows(self, room_id: str) -> list[Recording]:
        rows = (self._recordings[recording_id] for recording_id in self._by_room.get(room_id, ()))
        return [row for row in rows if row.closed is None]

    def _close_all(
        self,
        rows: list[Recording],
        reason: Reason,
        *,
        webhook: bool = True,
        call: int | None = None,
        stays_open: bool = False,
    ) -> int:
        for row in rows:
            closed = self._change(
                row.id,
                closed=time.monotonic(),
                end=utc_now(),
                reason=reason,
                stopped_by=call,
                stays_open=stays_open,
            )
            left = [one for one in self._open.pop(row.target, []) if one != row.id]
            if left:
                self._open[row.target] = left
            self._stopped[row.target] = time.monotonic()
            if webhook:
                self._tell(closed, "failed" if reason == "failed" else "stopped")
        return len(rows)

    def _change(self, recording_id: str, **changes: Any) -> Recording:
        row = msgspec.structs.replace(self._recordings[recording_id], **changes)
        self._recordings[recording_id] = row
        return row

    # Webhooks.

    def _tell(self, row: Recording, stage: str) -> None:
        """Send a recording's event to the address the call gave and to the one its room registered."""
        name = f"{FAMILIES[row.mode].events}-{stage}"
        data: Json = {"meetingId": row.room_id, "sessionId": row.session_id}
        if row.participant_id is not None:
            data["participantId"] = row.participant_id
        if row.kind is not None:
            data["kind"] = row.kind
        file = {"filePath": row.file_path, "fileUrl": row.file_url}
        if stage == "stopped":
            data |= file if row.mode == "room" else {"fileDetails": [file]}
        elif row.mode == "participant" and stage != "failed":
            data["fileFormat"] = row.file_format
        destinations = [row.webhook_url] if row.webhook_url else []
        destinations += self._registered(row.room_id, name)
        self._send(name, data, destinations, lane=row.id, target=row.target, recording_id=row.id)

    def _tell_room(self, room: Room, name: str, words: Json) -> None:
        session_id = room.session.id if room.session else ""
        data = {"meetingId": room.room_id, "sessionId": session_id, **words}
        target = Target("room", room.room_id, words.get("participantId"))
        self._send(name, data, self._registered(room.room_id, name), lane=room.id, target=target)

    def _registered(self, room_id: str, name: str) -> list[str]:
        room = self._rooms[room_id]
        wanted = room.endpoint is not None and any(fnmatchcase(name, pattern) for pattern in room.events)
        return [room.endpoint] if wanted and room.endpoint else []

    def _send(
        self,
        name: str,
        data: Json,
        destinations: list[str],
        *,
        lane: str,
        target: Target,
        recording_id: str | None = None,
    ) -> None:
        event = Event(
            type=name,
            body=msgspec.json.encode({"webhookType": name, "data": data}),
            destinations=tuple(dict.fromkeys(destinations)),
            lane=lane,
            room_id=target.room_id,
            participant_id=target.participant_id,
            kind=target.kind,
            recording_id=recording_id,
        )
        if event.destinations:
            self._emit(event)
