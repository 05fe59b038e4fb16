"""A service that records lessons: begins when the lesson does, ends with it.

    GATEWAY_ADDRESS=http://127.0.0.1:8080 GATEWAY_KEY=… python examples/service.py

    POST   /lessons/ROOM  {"participants": ["ada", "ben"]}    record the camera of each
    DELETE /lessons/ROOM                                      stop what the gateway started in the room

It needs httpx and an API key that may start, stop and read. It keeps nothing: the gateway knows what records.
"""

import json
import os
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import quote, unquote

import httpx

TRIES: Final = 5
LONGEST_LESSON: Final = 3 * 3600
"""Seconds after which the gateway stops a recording, should this service not live to do so."""


class Gateway:
    """The gateway, as one caller of it."""

    def __init__(self, address: str, key: str) -> None:
        # Longer than the gateway's own longest wait (30 s): a shorter one would miss what became of a start.
        self._client = httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=40)

    def start(self, track: dict[str, str]) -> dict[str, Any]:
        """Start, and return the recording, or the gateway's problem. It may be repeated at will."""
        # One key for all tries: a late one does not start again what another caller has stopped meanwhile.
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._post("/v1/recordings/track/start", {**track, "maxDurationSeconds": LONGEST_LESSON}, headers)

    def stop_all(self, room: str) -> dict[str, dict[str, Any]]:
        """Stop all that the gateway started in a room; return each recording, or the problem, by what was recorded."""
        answers: dict[str, dict[str, Any]] = {}
        complete = False
        for attempt in range(TRIES):
            ended = self._post(f"/v1/rooms/{quote(room, safe='')}/recordings/stop", {}, {})
            if "title" in ended:
                return {**answers, "room": ended}
            for result in ended["results"]:
                target = result["target"]
                name = " ".join(target[part] for part in ("mode", "participantId", "kind") if part in target)
                answers[name] = result["recording"] if "recording" in result else result["problem"]
            complete = ended["complete"]
            waits = [result["retryAfter"] for result in ended["results"] if "retryAfter" in result]
            if complete and not waits:
                return answers
            if attempt < TRIES - 1:
                time.sleep(max(waits, default=1))
        if not complete:
            answers["?"] = {"title": "Not known", "detail": "VideoSDK did not say what else records in this room."}
        return answers

    def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for attempt in range(TRIES):
            try:
                response = self._client.post(path, json=body, headers=headers)
            except httpx.TransportError as error:
                # It may have been carried out all the same; the next try gets the truth.
                answer, wait = {"title": "No answer", "detail": str(error)}, 1.0
            else:
                answer = response.json()
                # With `Retry-After` it may pass. For anything else from 400 on, something has to change first.
                if "Retry-After" not in response.headers:
                    break
                wait = float(response.headers["Retry-After"])
            if attempt < TRIES - 1:
                time.sleep(wait)
        return answer


class Lessons(BaseHTTPRequestHandler):
    """The service's two routes."""

    gateway: Gateway

    def do_POST(self) -> None:
        """Begin: record the camera of every participant."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tracks = {name: {"roomId": self._room, "participantId": name, "kind": "video"} for name in body["participants"]}
        self._answer({name: self.gateway.start(track) for name, track in tracks.items()})

    def do_DELETE(self) -> None:
        """End: stop what the gateway started in the room."""
        self._answer(self.gateway.stop_all(self._room))

    @property
    def _room(self) -> str:
        return unquote(self.path.removeprefix("/lessons/"))

    def _answer(self, answers: dict[str, dict[str, Any]]) -> None:
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
