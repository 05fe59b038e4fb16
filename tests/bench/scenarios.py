"""What is asked of the programs: each scenario makes the requests of one turn, one list for each connection."""

import itertools
import json
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from tests.api_client import START, STOP, Track, address
from tests.bench.upstream import slow_room

__all__ = ["CONNECTIONS", "SCENARIOS", "Asking", "Scenario"]

CONNECTIONS: Final = 32
_LISTED: Final = 10
"""Recordings of the room that is listed."""


class Asking:
    """Makes the requests of one caller to one program.

    Args:
        key: Of the caller.
        connections: That it asks over.
    """

    def __init__(self, key: str, connections: int) -> None:
        self._key = key
        self.connections = connections
        self._room = f"bench-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count()
        self._running = [self._track(f"running-{number}") for number in range(connections)]
        self._listed = [self._track(f"p{number}", f"{self._room}-listed") for number in range(_LISTED)]
        self._started: list[Track] = []

    def running(self) -> list[bytes]:
        """Make the starts of what runs all the time: for repeats, and for those who only look."""
        return [self.post(START, track) for track in (*self._running, *self._listed)]

    def livez(self, count: int) -> list[bytes]:
        """Make requests that cost no more than HTTP does."""
        return [b"GET /livez HTTP/1.1\r\nhost: bench\r\n\r\n"] * count

    def starts(self, count: int) -> list[bytes]:
        """Make starts of distinct tracks, which the next stops are of."""
        self._started = [self._track(f"p{next(self._numbers)}") for _ in range(count)]
        return [self.post(START, track) for track in self._started]

    def stops(self, count: int) -> list[bytes]:
        """Make stops of what was started last."""
        return [self.post(STOP, track) for track in self._started[:count]]

    def repeats(self, count: int) -> list[bytes]:
        """Make starts of tracks that run."""
        return [self.post(START, self._running[number % self.connections]) for number in range(count)]

    def joins(self, count: int) -> list[bytes]:
        """Make as many equal starts as there are connections, of one slow track after the other."""
        tracks = [
            self._track(f"p{next(self._numbers)}", slow_room(self._room)) for _ in range(-(-count // self.connections))
        ]
        return [self.post(START, track) for track in tracks for _ in range(self.connections)][:count]

    def shows(self, count: int) -> list[bytes]:
        """Make requests for the recordings of tracks that run."""
        return [self._get(address(self._running[number % self.connections])) for number in range(count)]

    def lists(self, count: int) -> list[bytes]:
        """Make requests for the recordings of a room."""
        return [self._get(f"/v1/recordings?roomId={self._room}-listed")] * count

    def refused(self, count: int) -> list[bytes]:
        """Make starts with a field too many."""
        return [self.post(START, {**self._running[0], "colour": "blue"})] * count

    def strangers(self, count: int) -> list[bytes]:
        """Make starts by a caller that is not known."""
        stranger = f"{self._key[:-4]}none"
        return [self.post(START, self._running[0], stranger)] * count

    def post(self, path: str, body: Track, key: str | None = None) -> bytes:
        """Make one request with a body."""
        text = json.dumps(body).encode()
        more = f"content-type: application/json\r\ncontent-length: {len(text)}\r\n"
        return self._request("POST", path, more, key) + text

    def _get(self, path: str) -> bytes:
        return self._request("GET", path)

    def _request(self, method: str, path: str, more: str = "", key: str | None = None) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key or self._key}\r\n{more}\r\n"
        return head.encode()

    def _track(self, participant: str, room: str | None = None) -> Track:
        return {"roomId": room or self._room, "participantId": participant, "kind": "video"}


class Scenario(Struct, frozen=True):
    """One thing that is asked, many times.

    Attributes:
        name: In the table.
        make: Makes so many requests.
        expected: The statuses of their answers.
        together: The connections wait for each other before each request.
        plain: A program without the gateway's promises can do it too.
    """

    name: str
    make: Callable[[Asking, int], list[bytes]]
    expected: frozenset[int]
    together: bool = False
    plain: bool = False

    def requests(self, asking: Asking, count: int) -> Sequence[Sequence[bytes]]:
        """Return what each connection sends."""
        made = self.make(asking, count)
        return [made[number :: asking.connections] for number in range(asking.connections)]


SCENARIOS: Final = (
    Scenario("livez", Asking.livez, frozenset({200}), plain=True),
    Scenario("start", Asking.starts, frozenset({201}), plain=True),
    Scenario("stop", Asking.stops, frozenset({200}), plain=True),
    Scenario("repeated start", Asking.repeats, frozenset({200}), plain=True),
    Scenario("join", Asking.joins, frozenset({200, 201}), together=True),
    Scenario("get", Asking.shows, frozenset({200})),
    Scenario("list", Asking.lists, frozenset({200})),
    Scenario("refused body", Asking.refused, frozenset({400, 422}), plain=True),
    Scenario("unknown caller", Asking.strangers, frozenset({401}), plain=True),
)
