"""What becomes of a body once it was decoded."""

import json
from typing import Any

import pytest
from litestar import Litestar, Request, post

from gateway.api.guards import JsonRequest, takes
from gateway.api.wire import BODIES
from gateway.recordings import Mode
from tests import harness
from tests.api_client import NewTrack

pytestmark = pytest.mark.anyio


async def read_it(request: Request[Any, Any, Any], data: Any) -> dict[str, object]:
    """Answer what was said, and how much is kept of how it was said."""
    return {"room": data.room_id, "kept": len(await Request.body(request))}


async def test_body_that_was_decoded_is_not_kept(new_track: NewTrack) -> None:
    """Callers wait for VideoSDK with what they asked for, and not with the 64 KiB in which they may have said it."""
    route = post("/", request_class=JsonRequest, status_code=200)(takes(BODIES[Mode.TRACK].start, read_it))
    app = Litestar(route_handlers=[route], logging_config=None, openapi_config=None)
    track = new_track()
    async with harness.serve_app(app) as url, harness.client(url) as client:
        padded = json.dumps(track) + " " * 60_000
        answer = await client.post("/", content=padded, headers={"content-type": "application/json"})
        assert answer.json() == {"room": track["roomId"], "kept": 0}
