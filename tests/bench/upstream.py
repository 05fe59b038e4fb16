"""An upstream that answers at once: what VideoSDK's recording endpoints say of tracks, and nothing else.

Not the simulator, which keeps all of VideoSDK's rules and would be the slowest part of a measurement. A process of its
own (`python -m tests.bench.upstream PORT`) that reads only what it needs of a request: the path and the body.
"""

import asyncio
import json
import re
import sys
import time
from typing import Any, Final, cast
from urllib.parse import unquote

import uvloop

__all__ = ["slow_room"]

_SLOW: Final = re.compile(r"slow-(\d+)-")
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ROOM: Final = re.compile(r"[?&]roomId=([^&]*)")
_STARTED: Final = b'"track recording started successfully."'
_STOPPED: Final = b'"track recording ended successfully."'


def slow_room(name: str, milliseconds: int = 50) -> str:
    """Return the name of a room whose starts take a while, so that others meet them under way."""
    return f"slow-{milliseconds}-{name}"


class _Account:
    """The recordings that run, by room, and how many calls there were."""

    def __init__(self) -> None:
        self.calls = 0
        self.answered_at = 0.0
        """When the last call was answered, by the clock that all processes of the machine share."""
        self._rooms: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}

    def start(self, body: bytes) -> str:
        track = json.loads(body)
        room, key = track["roomId"], (track["participantId"], track["kind"])
        row = {
            "id": f"{self.calls:024x}",
            "start": "2027-01-15T08:00:00.000Z",
            "end": None,
            "mode": "track",
            "files": [],
        }
        self._rooms.setdefault(room, {})[key] = {**track, **row}
        return room

    def stop(self, body: bytes) -> None:
        track = json.loads(body)
        self._rooms.get(track["roomId"], {}).pop((track["participantId"], track["kind"]), None)

    def rows(self, path: str) -> bytes:
        named = _ROOM.search(path)
        data = list(self._rooms.get(unquote(named[1]) if named else "", {}).values())
        info = {"currentPage": 1, "perPage": 100, "lastPage": 1, "total": len(data)}
        return json.dumps({"pageInfo": info, "data": data[:100]}).encode()


class _Connection(asyncio.Protocol):
    def __init__(self, account: _Account) -> None:
        self._account = account
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, head)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            path = self._received[: self._received.find(b"\r\n")].split(b" ")[1].decode()
            self._answer(path, self._received[head + 4 : end])
            self._received = self._received[end:]

    def _answer(self, path: str, body: bytes) -> None:
        account, delay = self._account, 0.0
        if path == "/calls":
            self._reply(json.dumps({"calls": account.calls, "answered_at": account.answered_at}).encode())
            return
        account.calls += 1
        if path.endswith("/start"):
            answer = _STARTED
            slow = _SLOW.match(account.start(body))
            delay = int(slow[1]) / 1000 if slow else 0.0
        elif path.endswith("/stop"):
            account.stop(body)
            answer = _STOPPED
        else:
            answer = account.rows(path)
        if delay:
            asyncio.get_running_loop().call_later(delay, self._answered, answer)
        else:
            self._answered(answer)

    def _answered(self, answer: bytes) -> None:
        self._account.answered_at = time.perf_counter()
        self._reply(answer)

    def _reply(self, answer: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
        self._transport.write(head + answer)


async def _serve(port: int) -> None:
    account = _Account()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(account), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
