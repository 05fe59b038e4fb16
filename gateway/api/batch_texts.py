"""What the contract says of the routes for several recordings at once, in words and examples."""

from collections.abc import Mapping
from typing import Any, Final

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

from gateway.api.openapi_texts import IDS, problem, recording
from gateway.auth.policy import RULES
from gateway.recordings import Mode, Outcome

__all__ = ["BATCH", "BATCH_EXAMPLES", "STOP_ROOM", "STOP_ROOM_EXAMPLES", "batch_results", "room_stop_results"]

BATCH = """\
Up to 100 starts and stops at the same time. Each item is what a single call of its `action` and `mode` takes, and its
result is what that call would have answered: the batch itself is answered 200 whatever became of its items, and an item
that is refused or not valid harms no other. A track item with `kinds` in the place of `kind` stands for one item for
each, and gets one result for each; `item` says where in `items` a result belongs.

Items run at the same time, and equal ones join. A start and a stop of one recording in one batch are both refused.

With an `Idempotency-Key` a retry of the whole batch repeats only those items of which no final answer is known.
"""

STOP_ROOM = """\
Stops every recording that the gateway started in the room, of every mode, also one that is only just starting; with
`includeForeign` every recording. The room is looked up anew, at VideoSDK as well. What you may not see is left out;
what you may see and not stop is answered 403. Each result is what a single stop would have answered. Safe to repeat: it
then stops what records by then.

`complete` is false where the gateway cannot be sure that this was all, mostly because VideoSDK's list could not be had:
what it knew of is stopped, and something else may record. Ask again then.
"""

STOP_ROOM_EXAMPLES: Final[dict[str, Any]] = {
    "own": {"summary": "What the gateway started", "value": {}},
    "all": {"summary": "Everything", "value": {"includeForeign": True}},
}


def _batch_examples() -> dict[str, Any]:
    whole = {"roomId": IDS["roomId"], "participantId": IDS["participantId"]}
    both = {"action": "start", "mode": "track", **whole, "kinds": ["audio", "video"]}
    other = {"action": "stop", "mode": "participant", **whole, "participantId": "participant-2"}
    return {
        "kinds": {"summary": "Audio and video of a participant", "value": {"items": [both]}},
        "several": {"summary": "A start and a stop", "value": {"items": [both, other]}},
    }


BATCH_EXAMPLES: Final = _batch_examples()


def batch_results(model: type) -> ResponseSpec:
    """Describe the response to a batch."""
    started, joined = ({**IDS, "kind": kind} for kind in ("audio", "video"))
    invalid = problem("invalid-request") | {
        "detail": "Not valid: items[1].kind.",
        "errors": [{"field": "items[1].kind", "message": "is missing"}],
    }
    results = [
        {"item": 0, "location": _location(started), **_result(Outcome.STARTED, 201, started)},
        {"item": 0, **_result(Outcome.JOINED, 200, joined)},
        {"item": 1, "status": 422, "problem": invalid},
    ]
    return ResponseSpec(
        model,
        generate_examples=False,
        description="What became of each item.",
        examples=[Example(id="results", value={"results": results})],
    )


def room_stop_results(model: type) -> ResponseSpec:
    """Describe the response to the stop of a whole room."""
    refused = {"status": 403, "target": {"mode": Mode.TRACK, **IDS, "kind": "audio"}}
    refused["problem"] = problem("forbidden") | {"detail": RULES["starter"], "rule": "starter"}
    results = [refused, _result(Outcome.STOPPED, 200, IDS)]
    return ResponseSpec(
        model,
        generate_examples=False,
        description="What became of each recording.",
        examples=[Example(id="results", value={"results": results, "complete": True, "foreignLeft": 0})],
    )


def _result(outcome: Outcome, status: int, ids: Mapping[str, str]) -> dict[str, Any]:
    target = {"mode": Mode.TRACK, **ids}
    return {"status": status, "target": target, "recording": {**recording(outcome), **ids}}


def _location(ids: Mapping[str, str]) -> str:
    return f"/v1/recordings/track/{'/'.join(ids.values())}"
