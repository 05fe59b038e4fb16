"""The gateway's API as tests speak it, and the tracks that they speak of."""

import itertools
import uuid
from typing import Any

import httpx

from tests.leaks import EVIDENCE

START, STOP = "/v1/recordings/track/start", "/v1/recordings/track/stop"
"""For tests that need the address itself: another method, a raw request, a schema."""

Track = dict[str, str]
"""What a start or a stop takes as its body."""


def address(track: Track) -> str:
    """Return where a track's recording is shown."""
    return f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"


class ApiClient(httpx.AsyncClient):
    """An HTTP client of one gateway, with a method for each command; every answer is httpx's own.

    It keeps its answers, so that they are searched for secrets after the last test.
    """

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request and keep its answer."""
        response = await super().send(request, stream=stream, **options)
        if not stream:
            EVIDENCE.note(response)
        return response

    async def start(self, track: object, **options: Any) -> httpx.Response:
        """Start recording a track; the options are httpx's, such as headers."""
        return await self.post(START, json=track, **options)

    async def stop(self, track: object, **options: Any) -> httpx.Response:
        """Stop recording a track."""
        return await self.post(STOP, json=track, **options)

    async def show(self, track: Track, **options: Any) -> httpx.Response:
        """Ask for a track's recording."""
        return await self.get(address(track), **options)

    async def list(self, room: str, **query: str) -> httpx.Response:
        """Ask for the recordings of a room."""
        return await self.get("/v1/recordings", params={"roomId": room, **query})


class NewTrack:
    """Makes bodies for tracks that no other test uses, all in one room.

    Tests look for an id in texts that hold random ids: no id is part of another one, nor of what looks like base64.
    """

    def __init__(self) -> None:
        self._room = f"room-{uuid.uuid4().hex[:12]}"
        self._numbers = itertools.count(1)

    def __call__(self, kind: str = "video", **more: str) -> Track:
        """Return the body of a new participant's track, with whatever other fields it shall have."""
        return {"roomId": self._room, "participantId": f"person-{next(self._numbers):04}", "kind": kind, **more}
