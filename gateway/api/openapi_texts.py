"""What the contract says in words and examples, apart from the code that keeps it."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from msgspec import Struct

from gateway.api.pagination import RecordingsPage
from gateway.api.problems import PROBLEM_JSON
from gateway.api.wire import BODIES, ProblemDocument, RecordingBody
from gateway.auth.policy import RULES
from gateway.errors import PROBLEMS
from gateway.recordings import MODES, Mode, Outcome, Status

__all__ = [
    "A_TICKET",
    "BY_TICKET",
    "DESCRIPTION",
    "EVENTS",
    "GET",
    "IDENTITIES",
    "IDS",
    "LIST",
    "OPERATION_IDS",
    "PENDING",
    "RELEASE",
    "RELEASE_EXAMPLES",
    "SETTLE",
    "START",
    "STOP",
    "STREAM",
    "TAGS",
    "TICKET",
    "WEBHOOK",
    "WEBHOOK_BODY",
    "WEBHOOK_SIGNATURE",
    "OperationIds",
    "answers",
    "listed",
    "page",
    "pending",
    "problem",
    "problems",
    "released",
    "start_examples",
    "stop_examples",
]

DESCRIPTION = """\
Starts and stops VideoSDK recordings for callers who do not hold the VideoSDK token.

Any number of equal starts, on any replica, become exactly one start at VideoSDK; every caller gets its result. An
answer never guesses: what the gateway does not know it reports as `unknown`, and finds out.
"""


class OperationIds(Struct, frozen=True, kw_only=True):
    """What the contract calls the routes of one mode."""

    start: str
    stop: str
    get: str
    reconcile: str
    release: str


OPERATION_IDS: Final[Mapping[Mode, OperationIds]] = {
    Mode.TRACK: OperationIds(
        start="startTrackRecording",
        stop="stopTrackRecording",
        get="getTrackRecording",
        reconcile="reconcileRecording",
        release="releaseClaim",
    ),
    Mode.PARTICIPANT: OperationIds(
        start="startParticipantRecording",
        stop="stopParticipantRecording",
        get="getParticipantRecording",
        reconcile="reconcileParticipantRecording",
        release="releaseParticipantClaim",
    ),
    Mode.ROOM: OperationIds(
        start="startRoomRecording",
        stop="stopRoomRecording",
        get="getRoomRecording",
        reconcile="reconcileRoomRecording",
        release="releaseRoomClaim",
    ),
}

# `{mode}` is the mode's own word for what it records.
START = """\
Send it as often as you like: it starts at most one recording. The fields are VideoSDK's own and reach it exactly as
sent, and absent fields stay absent; `maxDurationSeconds` is the gateway's, which stops the recording then.

With an `Idempotency-Key` a retry that comes late, after another caller stopped the recording, does not start another.

After `504 outcome-unknown` the {mode} may be recorded. Send the same request again: that is safe and gets the truth.
"""

STOP = """\
Stops whatever records the {mode}. During a start it waits for the start first. If your wait ends before, the answer is
202 `stop_requested` and the stop happens all the same. With a join token, it stops what a join token of the same
participant or a moderator started; anything else is 403 `forbidden` with the rule `starter`.
"""

GET = """\
Answers from what the gateway knows, and asks VideoSDK first where that was confirmed longer ago than it is trusted.
`confirmedAt` says when it was last seen to be true: where VideoSDK does not answer in time, that may be long ago.
"""

WEBHOOK = """\
Where VideoSDK sends its events: of the recordings whose start named no `webhookUrl`, and of rooms made with this
address as their `webhook.endPoint`. An event is a hint, since it carries no id and no time, so it is safe to send it
twice, late or out of order. Events that are not known, or not of recordings, are accepted and change nothing.

The signature alone decides, over the bytes as they arrive: the content type makes no difference.
"""

WEBHOOK_SIGNATURE = (
    "For VideoSDK: base64 of its RSA signature (PKCS#1 v1.5, SHA-256) over the body's bytes, in one header. Checked "
    "with the public key that VideoSDK publishes, or with the one in the file that the operator named."
)

LIST = """\
The latest recording of the room, of each participant and of each track, those that run first, then by mode, participant
and kind; recordings started outside the gateway too, with `origin: videosdk`. Compared with VideoSDK first, as for a
single one, with one call of each mode for the whole room.
"""

PENDING = """\
What has a claim, an uncertain state, or a recording that the reconciler checks again and again: who holds the claim,
its age, the number of tries and VideoSDK's last answer. The soonest due comes first.
"""

SETTLE = """\
The reconciler asks VideoSDK now, however fresh the record is. Where that takes longer than a moment, the answer shows
the record as it is, and the reconciler goes on.
"""

RELEASE = """\
For a claim whose holder hangs. Asks VideoSDK first, and takes nothing away where it does not answer. The {mode} is then
as if the claim had expired: the next caller finds out what became of it, and nothing is sent again while what
was sent can still land. What VideoSDK lists as open for ever, although it refuses to stop it or the gateway did not
begin it, counts as nothing from then on, so the next start is really sent. The reason goes to the audit log with your
name.
"""

EVENTS = """\
Server-Sent Events. The first is `snapshot`: `{"recordings": […]}`, all that is known of the room. Then each change is a
`recording`, whole. An `id` stands with each; show the last one, as `Last-Event-ID` or `lastEventId`, to go on after it.
The stream then sends what you missed, each change once. After ten minutes, or several hundred changes, it is a
`snapshot` again.

After 15 s without a byte a comment comes, and with it the `id` to go on after, which changes that you may not see move
on. After `reconnect` the stream ends, and you should come again: you read too slowly (`slow`), the gateway restarts
(`restart`), what you showed expires or is revoked (`expired`), or an hour is over (`age`).

An `EventSource` cannot send an `Authorization` header: make a ticket first, and a new one for each new connection.
"""

TICKET = """\
For `EventSource`: the ticket opens the room's events once, within 30 s, on any replica, and shows what you may see. The
stream ends when what you show now expires. How many you may have in a minute is limited.
"""

IDENTITIES = {
    "apiKey": (
        "gw_…",
        "For services: an API key, as made by `gateway keys new`. The callers file says what it may do.",
    ),
    "joinToken": (
        "JWT",
        (
            "For frontends: the VideoSDK token a participant joins with. It may act in its room, on its own "
            "participant, and name neither `webhookUrl` nor `bucketDirPath`, unless the callers file says otherwise. "
            "Recordings other than of tracks need its permission `allow_mod`."
        ),
    ),
    "jwt": (
        "JWT",
        (
            "For people and services: a JWT of the company's identity provider, with scopes in it. It may name neither "
            "`webhookUrl` nor `bucketDirPath`, unless the callers file says otherwise."
        ),
    ),
}
"""What each identity is: its form, and who has it."""

BY_TICKET = "For `EventSource`: a ticket of `createRoomEventsTicket`, which opens the room's events once."

TAGS = {
    "recordings": "Start, stop and look at the recording of a room, of a participant, or of one of its tracks.",
    "webhooks": "VideoSDK's webhooks. Only VideoSDK can call these.",
    "operations": "For those who look after the gateway.",
    "callers": "What you are to the gateway, and what you may ask for.",
    "events": "Follow what changes in a room, as it happens.",
    "health": "For probes: no key is needed.",
}

IDS: Final = {"roomId": "abcd-efgh-ijkl", "participantId": "participant-1", "kind": "video"}
_PARAMETERS: Final = {
    "fileFormat": "webm",
    "webhookUrl": "https://app.example.com/hooks/videosdk?key=1",
    "bucketDirPath": "recordings/2026/lesson 1",
    "config": {"layout": {"type": "GRID", "priority": "SPEAKER", "gridSize": 4}, "theme": "DARK"},
    "transcription": {"enabled": True, "summary": {"enabled": True, "prompt": "Decisions and tasks"}},
    "templateUrl": "https://app.example.com/recorder?meetingId=abcd-efgh-ijkl",
    "maxDurationSeconds": 5400,
}
RELEASE_EXAMPLES: Final = {"reason": {"summary": "Why", "value": {"reason": "its process hangs, incident 4711"}}}


def example_ids(mode: Mode) -> dict[str, str]:
    """Return the ids of an example of this mode."""
    return {name: IDS[name] for name in MODES[mode].ids}


def start_examples(mode: Mode) -> dict[str, Any]:
    """Return example bodies of a start."""
    fields = {field.encode_name for field in msgspec.structs.fields(BODIES[mode].start)}
    everything = {**example_ids(mode), **{name: value for name, value in _PARAMETERS.items() if name in fields}}
    return {
        "least": {"summary": "Into VideoSDK's own storage", "value": example_ids(mode)},
        "all": {"summary": "Everything that can be said", "value": everything},
    }


def stop_examples(mode: Mode) -> dict[str, Any]:
    """Return an example body of a stop."""
    return {mode.value: {"summary": f"Whatever records this {mode}", "value": example_ids(mode)}}


WEBHOOK_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "title": "VideosdkEvent",
                "description": "As VideoSDK documents it; members that are not known are ignored.",
                "properties": {
                    "webhookType": {"type": "string", "description": "What happened."},
                    "data": {"type": "object", "description": "To what.", "additionalProperties": True},
                },
                "additionalProperties": True,
            },
            "examples": {
                "stopped": {
                    "summary": "A recording ended",
                    "value": {
                        "webhookType": "participant-track-recording-stopped",
                        "data": {
                            "meetingId": IDS["roomId"],
                            "sessionId": "613731342f27f56e4fc4b6d0",
                            "participantId": IDS["participantId"],
                            "kind": IDS["kind"],
                            "fileDetails": [{"filePath": "recordings/track.webm", "fileUrl": None}],
                        },
                    },
                },
                "left": {
                    "summary": "A participant left",
                    "value": {
                        "webhookType": "participant-left",
                        "data": {
                            "meetingId": IDS["roomId"],
                            "sessionId": "613731342f27f56e4fc4b6d0",
                            "participantId": IDS["participantId"],
                            "participantName": "Ada",
                        },
                    },
                },
            },
        }
    },
}
"""What the route takes, which Litestar does not know: it reads the bytes itself."""

_IS = "is_"
_STATUS = {
    Outcome.STARTED: Status.RECORDING,
    Outcome.JOINED: Status.RECORDING,
    Outcome.ALREADY_RECORDING: Status.RECORDING,
    Outcome.STOPPED: Status.STOPPED,
    Outcome.NOT_RECORDING: Status.STOPPED,
    Outcome.STOP_REQUESTED: Status.STOPPING,
}
_DETAILS = {
    "malformed-request": "The body is not valid JSON.",
    "invalid-request": "Not valid: kind.",
    "unauthenticated": "The key is not known.",
    "forbidden": RULES["room"],
    "not-found": "The gateway knows of no recording of this {mode}.",
    "payload-too-large": "The body may have at most {bytes} bytes.",
    "unsupported-media-type": "Send the body as `application/json`.",
    "parameters-differ": "It is recorded with another webhookUrl.",
    "still-stopping": "VideoSDK still works on the recording that was stopped just now.",
    "idempotency-key-reused": "This key was sent with another body before.",
    "too-many-requests": "You have sent more requests in a minute than the gateway allows you.",
    "upstream-refused": "VideoSDK refused with status 404.",
    "upstream-credentials-refused": "VideoSDK did not accept the gateway's token; nothing was done.",
    "upstream-limited": "VideoSDK accepts no more requests at the moment; nothing was done.",
    "upstream-unavailable": "VideoSDK could not be reached; nothing was sent.",
    "coordination-unavailable": "Redis does not answer, so exactly one start cannot be promised.",
    "newer-record": "A later version of the gateway has written what is known of this recording.",
    "shutting-down": "This process was asked to end.",
    "headers-too-large": "The address and the headers may have at most 32768 bytes together.",
    "too-many-waiting": "Too many callers wait for this gateway at the moment.",
    "identity-unavailable": "The identity provider's keys cannot be had.",
    "outcome-unknown": "VideoSDK was asked, and did not say what happened.",
    "deadline-exceeded": "The operation goes on; ask again to learn its result.",
    "internal": "The gateway failed; its log has the details under this requestId.",
}
"""What a problem's `detail` says, for example."""
_EXTENSIONS: dict[str, dict[str, Any]] = {
    "invalid-request": {
        "errors": [{"field": "kind", "message": "must be one of audio, video, screen_audio, screen_video"}]
    },
    "parameters-differ": {"fields": ["webhookUrl"]},
    "forbidden": {"rule": "room"},
    "upstream-refused": {"upstreamStatus": 404, "upstreamMessage": "no live session"},
    "upstream-limited": {"upstreamStatus": 429},
    "too-many-waiting": {"bound": "waiting"},
}


def recording(example: str, mode: Mode = Mode.TRACK) -> dict[str, Any]:
    """Return the example of an answer, by its outcome, or as `is_<status>` where nothing was done."""
    outcome = None if example.startswith(_IS) else Outcome(example)
    status = _STATUS[outcome] if outcome else Status(example.removeprefix(_IS))
    sure = status in {Status.RECORDING, Status.STOPPED, Status.FAILED}
    return {
        "id": "rec_c4xq5n2vjm7kd3hz6ty5wa2b",
        "mode": mode,
        **example_ids(mode),
        "fileFormat": MODES[mode].file_format,
        "status": status,
        "outcome": outcome,
        "origin": "gateway",
        "requestedBy": "lesson-service",
        "requestedAt": "2026-01-01T12:00:00Z",
        "confirmedAt": "2026-01-01T12:00:01Z" if sure else None,
        "confirmedBy": ("list" if status is Status.FAILED else "reply") if sure else None,
        "endedAt": "2026-01-01T12:30:00Z" if status is Status.STOPPED else None,
        "stopsAt": None,
        "endedBecause": "stopped" if status is Status.STOPPED else None,
        "videosdkRecordingId": None,
        "files": [],
        "webhookDeliveries": None,
        "coordinated": True,
    }


A_TICKET = {"ticket": "gwt_5vX0cNwPq3mJb1ZkT8rY2hGfLd7sUaEo9iCxKtWnMzQ", "expiresAt": "2026-01-01T12:00:30Z"}
STREAM = f"""\
retry: 1500

id: 1767268800000-0
event: snapshot
data: {{"recordings":[]}}

id: 1767268801000-0
event: recording
data: {json.dumps({**recording(Outcome.STARTED), "outcome": None})}

event: reconnect
data: {{"reason":"restart"}}

"""


def problem(slug: str) -> dict[str, Any]:
    """Return an example of this problem."""
    known = PROBLEMS[slug]
    return {
        "type": f"/problems/{slug}",
        "title": known.title,
        "status": known.status,
        "detail": _DETAILS[slug],
        "instance": "",
        "requestId": "7f3c2a9b1d4e5f60",
        **_EXTENSIONS.get(slug, {}),
    }


def problems(*slugs: str) -> dict[int, ResponseSpec]:
    """Describe the error responses of a route: one per status, an example for each problem."""
    by_status: dict[int, list[str]] = {}
    for slug in slugs:
        by_status.setdefault(PROBLEMS[slug].status, []).append(slug)
    return {
        status: ResponseSpec(
            ProblemDocument,
            generate_examples=False,
            description=". Or: ".join(PROBLEMS[slug].title for slug in found) + ".",
            media_type=PROBLEM_JSON,
            examples=[Example(id=slug, summary=PROBLEMS[slug].title, value=problem(slug)) for slug in found],
        )
        for status, found in sorted(by_status.items())
    }


def pending(model: type) -> ResponseSpec:
    """Describe the response that lists what is attended to."""
    return ResponseSpec(
        model,
        generate_examples=False,
        description="What is held or due.",
        examples=[Example(id="unknown", value=pending_example())],
    )


def pending_example() -> dict[str, Any]:
    """Return an example of it."""
    claim = {"action": "probe", "attempt": "8c1f03ab.17", "owner": "8c1f03ab", "ageSeconds": 2.5, "leaseSeconds": 3.2}
    return {
        "tracks": [
            {
                "mode": Mode.TRACK,
                **example_ids(Mode.TRACK),
                "status": "unknown",
                "claim": claim,
                "dueInSeconds": 3.2,
                "tries": 3,
                "lastUpstreamAnswer": "list 503",
                "uncertainForSeconds": 12.8,
                "stopWanted": False,
                "doubted": False,
            }
        ]
    }


def released(mode: Mode, model: type) -> ResponseSpec:
    """Describe the response to taking a claim away."""
    return ResponseSpec(
        model,
        generate_examples=False,
        description="What became of it.",
        examples=[Example(id="taken", value={"released": True, "recording": recording(_IS + Status.UNKNOWN, mode)})],
    )


def listed(description: str) -> ResponseSpec:
    """Describe a response that carries recordings, with an example."""
    return ResponseSpec(
        RecordingsPage,
        generate_examples=False,
        description=description,
        examples=[Example(id="page", value=page())],
    )


def page() -> dict[str, Any]:
    """Return an example of a page."""
    return {"recordings": [recording(_IS + Status.RECORDING)], "nextCursor": None}


def answers(mode: Mode, description: str, *shown: Outcome | Status) -> ResponseSpec:
    """Describe a response that carries a recording, with an example for each outcome, or status without one."""
    return ResponseSpec(
        RecordingBody,
        generate_examples=False,
        description=description,
        examples=[
            Example(id=name, value=recording(name, mode))
            for name in (_IS + example if isinstance(example, Status) else example.value for example in shown)
        ],
    )
