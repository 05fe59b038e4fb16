"""What the simulator was asked: which endpoint a request means, and the history of all calls for a checker."""

import time
from typing import Any, Final, NamedTuple, cast

import msgspec

from gateway.sandbox.faults import Endpoint
from gateway.sandbox.shapes import Json, Mode
from gateway.sandbox.wire import Request

_ROOTS: Final[tuple[tuple[str, Mode, str], ...]] = (
    # The longest first: each root is the beginning of the one before.
    ("/v2/recordings/participant/track", "track", "stop"),
    ("/v2/recordings/participant", "participant", "stop"),
    ("/v2/recordings", "room", "end"),
)


class Route(NamedTuple):
    """What a request asks for. `subject` is the id in its path, where it has one."""

    endpoint: Endpoint
    verb: str
    mode: Mode = "track"
    subject: str = ""


def route(method: str, path: str) -> Route:
    """Find the endpoint of docs.videosdk.live that a request means."""
    fixed: dict[tuple[str, str], Route] = {
        ("GET", "/v2/public/rsa-public-key"): Route("key", "key"),
        ("POST", "/v2/rooms"): Route("create-room", "create-room"),
        ("GET", "/v2/sessions"): Route("sessions", "sessions"),
    }
    if (method, path) in fixed:
        return fixed[method, path]
    for root, mode, stop in _ROOTS:
        if path == root or path.startswith(f"{root}/"):
            return _recording_route(method, path[len(root) + 1 :], mode, stop)
    match (method, path.split("/")[2:]):
        case ("GET", ["rooms", room_id]):
            return Route("fetch-room", "fetch-room", subject=room_id)
        case ("GET", ["sessions", session_id, "participants", "active"]):
            return Route("active-participants", "active-participants", subject=session_id)
        case _:
            return Route("unknown", "unknown")


def _recording_route(method: str, rest: str, mode: Mode, stop: str) -> Route:
    verb = {("POST", "start"): "start", ("POST", stop): "stop", ("GET", ""): "list"}.get((method, rest))
    if verb is None and rest and "/" not in rest:
        verb = {"GET": "get", "DELETE": "delete"}.get(method)
    if verb is None:
        return Route("unknown", "unknown")
    name = verb if mode == "track" else f"{mode}-{verb}"
    return Route(cast("Endpoint", name), verb, mode, rest if verb in {"get", "delete"} else "")


class Call(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One call as the simulator saw it. Times are seconds of the monotonic clock, which all processes here share.

    `applied` is when the call took effect (for a read: when it was carried out), None as long as it has not.
    `answered` is when the exchange was ended from this side: by an answer, a reset or whatever a fault put in its
    place; None while it is under way and where the client left first. `gone` is when the client was seen to have hung
    up before that. No record holds the Authorization header.
    """

    seq: int
    endpoint: Endpoint
    method: str
    path: str
    query: dict[str, str]
    room_id: str | None
    participant_id: str | None
    kind: str | None
    raw: bytes
    body: Any
    attempt: str | None
    received: float
    applied: float | None = None
    answered: float | None = None
    gone: float | None = None
    status: int | None = None
    fault: str | None = None
    took_effect: bool = False


def call_json(call: Call) -> Json:
    """Return a call for JSON, with its raw body as text."""
    return {**msgspec.to_builtins(call), "raw": call.raw.decode("utf-8", "replace")}


def log_line(call: Call) -> str:
    """Return one line of JSON on a finished call: no bodies, no addresses, no tokens."""
    ended = call.answered or call.gone or time.monotonic()
    known = {
        "seq": call.seq,
        "endpoint": call.endpoint,
        "roomId": call.room_id,
        "participantId": call.participant_id,
        "kind": call.kind,
        "attempt": call.attempt,
        "status": call.status,
        "tookEffect": call.took_effect,
        "fault": call.fault,
        "ms": round((ended - call.received) * 1000),
    }
    return msgspec.json.encode({name: value for name, value in known.items() if value is not None}).decode()


class Journal:
    """All calls, in the order they came in. A record is replaced, never changed, as its call goes on."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._last = 0

    @property
    def calls(self) -> list[Call]:
        """Every call so far, those under way too."""
        return list(self._calls.values())

    def clear(self) -> None:
        """Forget all calls; their numbers go on counting."""
        self._calls.clear()

    def open(self, request: Request, endpoint: Endpoint, received: float) -> Call:
        """Note a call that came in."""
        self._last += 1
        body = _parsed(request.body)
        fields = {**request.query, **cast("Json", body)} if isinstance(body, dict) else dict(request.query)
        call = Call(
            seq=self._last,
            endpoint=endpoint,
            method=request.method,
            path=request.path,
            query=dict(request.query),
            room_id=_text(fields, "roomId"),
            participant_id=_text(fields, "participantId"),
            kind=_text(fields, "kind"),
            raw=request.body,
            body=body,
            attempt=request.headers.get("x-rec-attempt"),
            received=received,
        )
        self._calls[call.seq] = call
        return call

    def note(self, seq: int, **changes: Any) -> Call | None:
        """Note how a call went on; None where it has been forgotten meanwhile."""
        call = self._calls.get(seq)
        if call is None:
            return None
        call = self._calls[seq] = msgspec.structs.replace(call, **changes)
        return call


def _parsed(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError:
        return None


def _text(fields: Json, name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None
