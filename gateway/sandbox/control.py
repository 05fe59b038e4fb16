"""The simulator's own routes, beside the vendor's: put faults into force, make things happen, read the history.

| route | body | answers |
|---|---|---|
| GET, POST, DELETE /_control/faults | POST: a list of rules (`faults.Fault` in camelCase) | the rules now in force |
| POST /_control/join, /leave | roomId, participantId | sessionId; ended |
| POST /_control/session-end | roomId | ended |
| POST /_control/end, /fail | roomId, participantId, kind, webhook (true where absent) | ended |
| POST /_control/rotate-key | | publicKey, the new one |
| POST /_control/reset | | |
| GET /_control/calls, /recordings, /deliveries | | a list |

No token is asked for; only clients on this machine are let in.
"""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.sandbox.calls import call_json
from gateway.sandbox.faults import Fault, error_reply
from gateway.sandbox.shapes import RefusedError, describe
from gateway.sandbox.wire import Reply, Request

if TYPE_CHECKING:
    from gateway.sandbox.simulator import Simulator

PREFIX: Final = "/_control/"


class _Body(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class _Room(_Body):
    room_id: str


class _Participant(_Room):
    participant_id: str


class _Track(_Participant):
    kind: str
    webhook: bool = True


async def answer(simulator: "Simulator", request: Request) -> Reply:
    """Carry out one control request."""
    if not _is_local(request.peer):
        return error_reply(403, "control routes are for this machine only")
    action = _ACTIONS.get((request.method, request.path.removeprefix(PREFIX)))
    if action is None:
        return error_reply(404, "no such control route")
    try:
        content = await action(simulator, request.body)
    except msgspec.MsgspecError as problem:
        return error_reply(400, str(problem))
    except RefusedError as refusal:
        return error_reply(refusal.status, refusal.text)
    return Reply(200, msgspec.json.encode(content))


def _is_local(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False


async def _faults(simulator: "Simulator", body: bytes) -> Any:
    if body:
        simulator.inject(*msgspec.json.decode(body, type=list[Fault]))
    return simulator.faults


async def _no_faults(simulator: "Simulator", _body: bytes) -> Any:
    simulator.clear_faults()
    return simulator.faults


async def _join(simulator: "Simulator", body: bytes) -> Any:
    who = msgspec.json.decode(body, type=_Participant)
    return {"sessionId": simulator.join(who.room_id, who.participant_id)}


async def _leave(simulator: "Simulator", body: bytes) -> Any:
    who = msgspec.json.decode(body, type=_Participant)
    return {"ended": simulator.leave(who.room_id, who.participant_id)}


async def _session_end(simulator: "Simulator", body: bytes) -> Any:
    return {"ended": simulator.end_session(msgspec.json.decode(body, type=_Room).room_id)}


async def _end(simulator: "Simulator", body: bytes) -> Any:
    track = msgspec.json.decode(body, type=_Track)
    ended = simulator.end_recording(track.room_id, track.participant_id, track.kind, webhook=track.webhook)
    return {"ended": ended}


async def _fail(simulator: "Simulator", body: bytes) -> Any:
    track = msgspec.json.decode(body, type=_Track)
    ended = simulator.fail_recording(track.room_id, track.participant_id, track.kind, webhook=track.webhook)
    return {"ended": ended}


async def _reset(simulator: "Simulator", _body: bytes) -> Any:
    await simulator.reset()
    return {}


async def _rotate_key(simulator: "Simulator", _body: bytes) -> Any:
    await simulator.rotate_key()
    return {"publicKey": simulator.public_key}


async def _calls(simulator: "Simulator", _body: bytes) -> Any:
    return [call_json(call) for call in simulator.calls]


async def _recordings(simulator: "Simulator", _body: bytes) -> Any:
    return [{**msgspec.to_builtins(row), "row": describe(row)} for row in simulator.rows]


async def _deliveries(simulator: "Simulator", _body: bytes) -> Any:
    return simulator.deliveries


_ACTIONS: Final[dict[tuple[str, str], Callable[["Simulator", bytes], Awaitable[Any]]]] = {
    ("GET", "faults"): _faults,
    ("POST", "faults"): _faults,
    ("DELETE", "faults"): _no_faults,
    ("POST", "join"): _join,
    ("POST", "leave"): _leave,
    ("POST", "session-end"): _session_end,
    ("POST", "end"): _end,
    ("POST", "fail"): _fail,
    ("POST", "rotate-key"): _rotate_key,
    ("POST", "reset"): _reset,
    ("GET", "calls"): _calls,
    ("GET", "recordings"): _recordings,
    ("GET", "deliveries"): _deliveries,
}
