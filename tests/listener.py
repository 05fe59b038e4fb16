"""A reader of live events, as simple as one can be: keeps what it receives, event by event."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import httpx

from tests import harness

__all__ = ["Listener", "ReceivedEvent", "listening", "parse"]


class ReceivedEvent(NamedTuple):
    """One event."""

    id: str
    event: str
    data: Any


def parse(block: str) -> ReceivedEvent | None:
    """Read one event, None where it is a comment or says something else."""
    fields = {name: value.removeprefix(" ") for name, _, value in (line.partition(":") for line in block.split("\n"))}
    return (
        ReceivedEvent(fields.get("id", ""), fields["event"], json.loads(fields["data"])) if "data" in fields else None
    )


class Listener:
    """What was received so far."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.received: list[ReceivedEvent] = []
        self.text = ""
        """All of it, as it came."""
        self.ended = False
        """The stream came to an orderly end."""
        self.failed = ""

    async def listen(self) -> None:
        """Listen until the stream ends."""
        rest = ""
        try:
            async for text in self.response.aiter_text():
                self.text += text
                *blocks, rest = (rest + text).split("\n\n")
                self.received += [received for block in blocks if (received := parse(block))]
        except httpx.HTTPError as error:
            self.failed = type(error).__name__
        else:
            self.ended = True

    @property
    def changes(self) -> list[ReceivedEvent]:
        """Every change of one recording."""
        return [update for update in self.received if update.event == "recording"]

    @property
    def statuses(self) -> list[str]:
        """What the changes were, in order."""
        return [update.data["status"] for update in self.changes]

    @property
    def last(self) -> str:
        """The id a client would resume after."""
        return next((update.id for update in reversed(self.received) if update.id), "")

    async def until(self, condition: Callable[["Listener"], object], timeout: float = harness.BOUND) -> None:
        """Wait until a condition holds."""
        try:
            await harness.eventually(lambda: condition(self), timeout)
        except AssertionError:
            raise AssertionError(f"received only {self.received[-20:]}, ended: {self.ended or self.failed}") from None

    async def until_statuses(self, *statuses: str) -> None:
        """Wait until so many changes were received, and no more."""
        await self.until(lambda listener: len(listener.changes) >= len(statuses))
        assert self.statuses == list(statuses)


class NotOpenedError(AssertionError):
    """The gateway refused to open a stream of events."""


@asynccontextmanager
async def listening(
    gateway: httpx.AsyncClient, room: str, *, headers: dict[str, str] | None = None, **query: str
) -> AsyncGenerator[Listener]:
    """Listen to a room's events, from the moment the first of them is there."""
    async with gateway.stream("GET", f"/v1/rooms/{room}/events", headers=headers, params=query) as response:
        if response.status_code != 200:
            await response.aread()
            raise NotOpenedError(f"{response.status_code}: {response.text}")
        listener = Listener(response)
        task = asyncio.create_task(listener.listen())
        try:
            await listener.until(lambda listener: listener.text or listener.ended or listener.failed)
            yield listener
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
