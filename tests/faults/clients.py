"""Clients that are cheap enough to be many: raw HTTP/1.1 over kept connections, every call written down."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import msgspec

from tests.faults.history import LOST, ClientCall, Op

__all__ = ["Caller", "Load", "Pace", "Place", "Recorder", "Track"]

_PATIENCE = 14.0
"""Seconds after which a client that got no answer leaves: longer than any deadline in these runs."""

_BURST: tuple[tuple[Op, float], ...] = (("start", 1.0), ("start", 0.3), ("stop", 0.3))
"""What a crowd asks for together, and how many of it."""
_KEPT = 3.0
"""Seconds for which an idle connection is used again."""


class Track(msgspec.Struct, frozen=True):
    """What the clients ask for: a track, or what is recorded as a whole."""

    room: str
    participant: str
    kind: str = "video"
    """Of a track; `participant` and `room` stand for those as a whole."""

    @classmethod
    def of(cls, mode: str, room: str, participant: str) -> Self:
        """Return a target of this mode."""
        return cls(room, "" if mode == "room" else participant, *([] if mode == "track" else [mode]))

    @property
    def name(self) -> str:
        """Its name in a history."""
        return f"{self.room}/{self.participant}/{self.kind}"

    @property
    def mode(self) -> str:
        """What VideoSDK is to record."""
        return self.kind if self.kind in {"participant", "room"} else "track"

    @property
    def body(self) -> dict[str, str]:
        """What a start and a stop take."""
        ids = {"roomId": self.room}
        if self.mode != "room":
            ids["participantId"] = self.participant
        return {**ids, "kind": self.kind} if self.mode == "track" else ids


class Pace(msgspec.Struct, frozen=True):
    """How a crowd behaves.

    Attributes:
        think: Seconds a client pauses between calls, on average.
        stops: Share of stops among what it asks for.
        hurried: Share of calls with a deadline of 50 ms.
        leaving: Share of calls whose client hangs up before it is answered, unless that is soon.
    """

    think: float = 0.12
    stops: float = 0.36
    hurried: float = 0.0
    leaving: float = 0.0


class Place(Protocol):
    """Where a gateway listens."""

    name: str
    port: int


class _Answer(msgspec.Struct, rename="camel"):
    outcome: str | None = None
    id: str | None = None
    status: str | int = ""
    type: str = ""


class _Line:
    """One kept connection to one gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._used = time.monotonic()

    @property
    def stale(self) -> bool:
        """Whether the gateway may be about to close it, having heard nothing for a while."""
        return self._reader.at_eof() or time.monotonic() - self._used > _KEPT

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
        body = await self._reader.readexactly(length) if length else b""
        self._used = time.monotonic()
        return status, body

    def close(self) -> None:
        self._writer.transport.abort()


class Recorder:
    """All calls of all clients."""

    def __init__(self) -> None:
        self.calls: list[ClientCall] = []
        self.under_way: dict[int, tuple[str, Op, str]] = {}
        """Process, operation and track of the calls without an answer so far."""


class Caller:
    """One client, with one connection to each gateway it has spoken to.

    Args:
        recorder: Where its calls are written down.
        key: Its API key.
        deadline: How long the gateway lets a caller wait.
    """

    def __init__(self, recorder: Recorder, key: str, deadline: float) -> None:
        self._recorder = recorder
        self._key = key
        self._deadline = deadline
        self._lines: dict[tuple[str, int], _Line] = {}

    async def call(
        self,
        place: Place,
        op: Op,
        track: Track,
        params: str = "",
        *,
        timeout_ms: int | None = None,
        leave_after: float | None = None,
        deadline: float = _PATIENCE,
        max_duration: int | None = None,
    ) -> ClientCall:
        """Make one call, and write it down with whatever comes of it.

        Args:
            place: Which gateway to ask.
            op: What to ask for.
            track: Of which track.
            params: `bucketDirPath` of a start; empty for none.
            timeout_ms: Goes along as `X-Request-Timeout-Ms`.
            leave_after: Hang up after so many seconds.
            deadline: Seconds after which it leaves in any case.
            max_duration: `maxDurationSeconds` of a start.
        """
        request = self._request(op, track, params, timeout_ms, max_duration)
        number = id(request)
        begun = time.monotonic()
        self._recorder.under_way[number] = (place.name, op, track.name)
        status, body, left = LOST, b"", False
        where = (place.name, place.port)
        try:
            async with asyncio.timeout(leave_after or deadline):
                line = await self._line(where)
                try:
                    status, body = await line.ask(request)
                except BaseException:
                    line.close()
                    raise
                self._lines[where] = line
        except TimeoutError:
            left = leave_after is not None
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._recorder.under_way[number]
        call = _read(
            status,
            body,
            op=op,
            track=track.name,
            params=params,
            begun=begun,
            ended=time.monotonic(),
            process=place.name,
            deadline=min(timeout_ms / 1000 if timeout_ms else self._deadline, self._deadline),
            left=left,
        )
        self._recorder.calls.append(call)
        return call

    async def connect(self, place: Place) -> None:
        """Make the connection before it is needed."""
        self._lines[place.name, place.port] = await self._line((place.name, place.port))

    def close(self) -> None:
        """Close every connection."""
        for line in self._lines.values():
            line.close()
        self._lines.clear()

    async def _line(self, where: tuple[str, int]) -> _Line:
        line = self._lines.pop(where, None)
        if line is not None:
            if not line.stale:
                return line
            line.close()
        return _Line(*await asyncio.open_connection("127.0.0.1", where[1]))

    def _request(self, op: Op, track: Track, params: str, timeout_ms: int | None, max_duration: int | None) -> bytes:
        head = f"Host: gateway\r\nAuthorization: Bearer {self._key}\r\n"
        if timeout_ms is not None:
            head += f"X-Request-Timeout-Ms: {timeout_ms}\r\n"
        if op == "get":
            path = "/".join((track.mode, *track.body.values()))
            return f"GET /v1/recordings/{path} HTTP/1.1\r\n{head}\r\n".encode()
        content: dict[str, Any] = {**track.body}
        if params:
            content["bucketDirPath"] = params
        if max_duration is not None:
            content["maxDurationSeconds"] = max_duration
        body = msgspec.json.encode(content)
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"POST /v1/recordings/{track.mode}/{op} HTTP/1.1\r\n{head}\r\n".encode() + body


def _read(status: int, body: bytes, **known: Any) -> ClientCall:
    answer = msgspec.json.decode(body, type=_Answer) if body else _Answer()
    ok = 200 <= status < 300
    return ClientCall(
        status=status,
        outcome=answer.outcome or "",
        id=answer.id or "",
        state=str(answer.status) if ok else "",
        problem="" if ok else answer.type.rpartition("/")[2],
        **known,
    )


class Load:
    """A crowd of clients on a few tracks: bursts of starts, mixed starts and stops, and starts that conflict.

    Args:
        recorder: Where calls are written down.
        key: The clients' API key.
        places: The gateways that take calls at the moment.
        deadline: How long the gateway lets a caller wait.
        seed: Makes the choices repeatable; not their interleaving.
    """

    def __init__(
        self, recorder: Recorder, key: str, places: Callable[[], Sequence[Place]], *, deadline: float, seed: int
    ) -> None:
        self._recorder = recorder
        self._key = key
        self._places = places
        self._deadline = deadline
        self._random = random.Random(seed)
        self._callers: list[Caller] = []
        self.running = True

    def caller(self) -> Caller:
        """Return a new client."""
        caller = Caller(self._recorder, self._key, self._deadline)
        self._callers.append(caller)
        return caller

    async def place(self) -> Place:
        """Choose a gateway, waiting where there is none."""
        places = self._places()
        while not places:
            await asyncio.sleep(0.02)
            places = self._places()
        return self._random.choice(places)

    async def mix(self, tracks: Sequence[Track], pace: Pace, params: Sequence[str] = ("",)) -> None:
        """Be one client that starts and stops whatever comes to its mind."""
        caller = self.caller()
        while self.running:
            op: Op = self._random.choices(("start", "stop", "get"), (0.92 - pace.stops, pace.stops, 0.08))[0]
            wanted = self._random.choice(params) if op == "start" else ""
            await caller.call(await self.place(), op, self._random.choice(tracks), wanted, **self._whims(pace))
            await self.pause(pace.think)

    async def burst(self, track: Track, crowd: int, pace: Pace) -> None:
        """Be a crowd that wants the same at the same moment: all start, some start again, a few stop."""
        callers = [self.caller() for _ in range(crowd)]
        while self.running:
            for op, share in _BURST if pace.stops > 0.1 else _BURST[:2]:
                some = callers[: max(2, int(len(callers) * share))]
                await asyncio.gather(
                    *[caller.call(await self.place(), op, track, **self._whims(pace)) for caller in some]
                )
                await self.pause(2 * pace.think)

    def _whims(self, pace: Pace) -> dict[str, Any]:
        """Decide whether this client is in a hurry, or hangs up."""
        draw = self._random.random()
        if draw < pace.hurried:
            return {"timeout_ms": 50}
        if draw < pace.hurried + pace.leaving:
            return {"leave_after": self._random.uniform(0.002, 0.3)}
        return {}

    async def pause(self, mean: float) -> None:
        """Pace a client: nobody asks all the time."""
        await asyncio.sleep(self._random.uniform(0.5, 1.5) * mean)

    def close(self) -> None:
        """Close every client's connections."""
        for caller in self._callers:
            caller.close()
