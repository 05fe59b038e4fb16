"""`gateway watch`: a room's live events, followed through broken connections and gateways that are replaced."""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote

import httpx
import msgspec

from gateway.terminal.access import Access, FailedError, refusal
from gateway.terminal.answers import RecordingAnswer, SnapshotAnswer, misfit
from gateway.terminal.exit_codes import ExitCode
from gateway.terminal.screen import coloured, moment, note, printable, show

__all__ = ["Event", "Watch", "backoff", "events"]

_SILENT_SECONDS: Final = 45.0
"""A gateway sends something every 15 s: one that has been silent for so long is not there any more."""
_AT_ONCE_SECONDS: Final = (0.1, 0.5)
"""Before the first try to come back: not all watchers of a gateway that ends at the same moment."""
_STEADY_SECONDS: Final = 5.0
"""After a connection that lasted for so long the first try comes soon again."""
_MAX_SECONDS: Final = 30.0
_MAX_BYTES: Final = 64 * 1024 * 1024
"""A longer event is none of a gateway's."""
_SHAPES: Final = {"snapshot": SnapshotAnswer, "recording": RecordingAnswer}


class Event(NamedTuple):
    """One event of a stream (HTML Living Standard, 9.2)."""

    name: str
    id: str
    data: str


class Watch:
    """Follows one room and prints what happens there, from the last event on after each break.

    Args:
        access: The gateway.
        room: The room's id.
        as_json: Whether a machine reads it: an object a line.
    """

    def __init__(self, access: Access, room: str, *, as_json: bool) -> None:
        self._access = access
        self._url = f"{access.address}/v1/rooms/{quote(room, safe='')}/events"
        self._room = printable(room)
        self._as_json = as_json
        self._last = ""
        self._retry = 2.0
        self._failures = 0
        self._connected = False

    async def run(self) -> int:
        """Follow until the process is interrupted, or the gateway lets this caller in no more.

        Raises:
            FailedError: No gateway answers at the beginning, or it refuses.
        """
        now = asyncio.get_running_loop().time
        async with self._access.client() as client:
            while True:
                begun, seconds = now(), None
                try:
                    why = await self._follow(client)
                except FailedError as failed:
                    if not self._connected or failed.code == ExitCode.REFUSED:
                        raise
                    why, seconds = str(failed), failed.retry_after
                if now() - begun > _STEADY_SECONDS:
                    self._failures = 0
                await self._pause(why, seconds)

    async def _follow(self, client: httpx.AsyncClient) -> str:
        """Tell the events of one connection; return why it ended."""
        headers = {"accept": "text/event-stream"} | ({"last-event-id": self._last} if self._last else {})
        timeout = httpx.Timeout(_SILENT_SECONDS, connect=10)
        try:
            async with client.stream("GET", self._url, headers=headers, timeout=timeout) as response:
                if response.status_code != 200 or not _is_stream(response):
                    await response.aread()
                    raise refusal(response, commands=False)
                self._began()
                async for event in events(response):
                    if event.name == "reconnect":
                        return _reason(event.data)
                    self._tell(event)
        except httpx.RequestError as error:
            if not self._connected:
                raise self._access.unanswered(error, commands=False) from None
            return printable(str(error) or type(error).__name__)
        return "the gateway ended it"

    def _began(self) -> None:
        if not self._connected:
            note(f"Following {self._room} at {self._access.address}; Ctrl-C ends.")
        elif self._last:
            note(f"Connected again, from event {printable(self._last)} on.")
        else:
            note("Connected again.")
        self._connected = True

    async def _pause(self, why: str, asked: float | None) -> None:
        seconds = backoff(self._failures, self._retry) if asked is None else asked
        self._failures += 1
        note(f"Connection lost ({why}); again in {seconds:.1f} s.")
        await asyncio.sleep(seconds)

    def _tell(self, event: Event) -> None:
        if event.name == "retry":
            with suppress(ValueError):
                self._retry = min(max(int(event.data) / 1000, 0.1), _MAX_SECONDS)
            return
        self._last = event.id or self._last
        if not event.name:
            return
        try:
            data: Any = msgspec.json.decode(event.data)
        except msgspec.DecodeError:
            note("An event that is no JSON was left out.")
            return
        shape = _SHAPES.get(event.name)
        if shape is not None and (lacks := misfit(data, shape)):
            note(f"An event that is not the gateway's was left out: {lacks}.")
        elif self._as_json:
            show(msgspec.json.encode({"event": event.name, "id": event.id, "data": data}).decode())
        elif event.name == "snapshot":
            recordings = data["recordings"]
            note(f"{self._room} now:" if recordings else "No recordings yet.")
            for recording in recordings:
                show(_line(recording))
        elif event.name == "recording":
            show(_line(data))


def backoff(failures: int, pace: float) -> float:
    """Return the seconds before the next try, after so many that failed, at the pace that the gateway asks for."""
    if failures == 0:
        return random.uniform(*_AT_ONCE_SECONDS)  # noqa: S311
    return min(pace * 2.0 ** min(failures - 1, 9), _MAX_SECONDS)


async def events(response: httpx.Response) -> AsyncGenerator[Event]:
    """Yield the events of a stream.

    A `retry` field comes as an event of that name, and an `id` without data as an event without a name.
    Lines end with a line feed alone: the gateway's do, and JSON may hold what else Python takes for an end.
    """
    rest, name, last, yielded, data = b"", "", "", "", list[str]()
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(":")
            value = value.removeprefix(" ")
            match field:
                case "":
                    if data or last != yielded:
                        yield Event((name or "message") if data else "", last, "\n".join(data))
                    name, yielded, data = "", last, []
                case "event":
                    name = value
                case "id":
                    last = value
                case "data":
                    data.append(value)
                case "retry":
                    yield Event("retry", last, value)
                case _:
                    pass
        if len(rest) > _MAX_BYTES:
            raise httpx.ReadError("an event without an end")


def _line(recording: Mapping[str, Any]) -> str:
    status = printable(recording.get("status", ""))
    target = "  ".join(printable(recording[name]) for name in ("participantId", "kind") if recording.get(name))
    if not recording.get("kind"):
        target = f"{target}  ({printable(recording.get('mode', ''))})".strip()
    until = "" if recording.get("endedAt") else moment(recording.get("stopsAt"))
    parts = [
        datetime.now().astimezone().strftime("%H:%M:%S"),
        target,
        coloured(status, status),
        f"by {printable(recording['requestedBy'])}" if recording.get("requestedBy") else "",
        f"until {until}" if until else "",
        f"because {printable(recording['endedBecause'])}" if recording.get("endedBecause") else "",
        *(printable(file["fileUrl"]) for file in recording.get("files") or () if file.get("fileUrl")),
    ]
    return "  ".join(part for part in parts if part)


def _is_stream(response: httpx.Response) -> bool:
    return response.headers.get("content-type", "").startswith("text/event-stream")


def _reason(data: str) -> str:
    try:
        reason: object = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return "the gateway ended it"
    words = {
        "restart": "this gateway is about to end",
        "slow": "too slow for what happens here",
        "age": "its hour is over",
        "expired": "the key or token is not in force any more",
    }
    named = str(cast("dict[str, Any]", reason).get("reason", "")) if isinstance(reason, dict) else ""
    return words.get(named, printable(named) or "the gateway ended it")
