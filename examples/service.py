"""A service that records lessons: begins when the lesson does, ends with it.

    GATEWAY_ADDRESS=http://127.0.0.1:8080 GATEWAY_KEY=… python examples/service.py

    POST   /lessons/ROOM  {"participants": ["ada", "ben"]}    record the camera of each
    DELETE /lessons/ROOM                                      stop what records in the room

It needs httpx and an API key that may start, stop and read. It keeps nothing: the gateway knows what records.
"""

import json
import os
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import unquote

import httpx

TRIES: Final = 5
RUNS: Final = {"starting", "recording", "stopping", "unknown"}
"""What records, or may: `unknown` is not over until the gateway says so."""


class Gateway:
    """The gateway, as one caller of it."""

    def __init__(self, address: str, key: str) -> None:
        # Longer than the gateway's own longest wait (30 s): a shorter one would miss what became of a start.
        self._client = httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=40)

    def command(self, action: str, track: dict[str, str]) -> dict[str, Any]:
        """Start or stop, and return the recording, or the gateway's problem. Both may be repeated at will."""
        # One key for all tries: a late one does not start again what another caller has stopped meanwhile.
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer: dict[str, Any] = {}
        for attempt in range(TRIES):
            try:
                response = self._client.post(f"/v1/recordings/track/{action}", json=track, headers=headers)
            except httpx.TransportError as error:
                # It may have been carried out all the same; the next try gets the truth.
                answer, wait = {"title": "No answer", "detail": str(error)}, 1.0
            else:
                answer = response.json()
                # 429, 503 and 504 may pass. For anything else from 400 on, something has to change first.
                if response.status_code not in {429, 503, 504}:
                    break
                wait = float(response.headers.get("Retry-After", "1"))
            if attempt < TRIES - 1:
                time.sleep(wait)
        return answer

    def running(self, room: str) -> list[dict[str, Any]]:
        """Return what records in a room, or may."""
        query, found = {"roomId": room, "mode": "track", "limit": "200"}, list[dict[str, Any]]()
        while True:
            page = self._client.get("/v1/recordings", params=query).raise_for_status().json()
            found += [recording for recording in page["recordings"] if recording["status"] in RUNS]
            if not page["nextCursor"]:
                return found
            query["cursor"] = page["nextCursor"]


class Lessons(BaseHTTPRequestHandler):
    """The service's two routes."""

    gateway: Gateway

    def do_POST(self) -> None:
        """Begin: record the camera of every participant."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._all(
            "start", [{"roomId": self._room, "participantId": name, "kind": "video"} for name in body["participants"]]
        )

    def do_DELETE(self) -> None:
        """End: stop whatever records in the room."""
        names = ("roomId", "participantId", "kind")
        self._all("stop", [{name: found[name] for name in names} for found in self.gateway.running(self._room)])

    @property
    def _room(self) -> str:
        return unquote(self.path.removeprefix("/lessons/"))

    def _all(self, action: str, tracks: list[dict[str, str]]) -> None:
        answers = {track["participantId"]: self.gateway.command(action, track) for track in tracks}
        # A problem has a requestId: with it the gateway's operator finds what happened.
        failed = {name: answer for name, answer in answers.items() if "title" in answer}
        states = {name: answer["status"] for name, answer in answers.items() if name not in failed}
        content = json.dumps({"states": states, "problems": failed}).encode()
        self.send_response(502 if failed else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    Lessons.gateway = Gateway(os.environ.get("GATEWAY_ADDRESS", "http://127.0.0.1:8080"), os.environ["GATEWAY_KEY"])
    with ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Lessons) as server:
        server.serve_forever()
