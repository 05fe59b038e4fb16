"""Commands of concurrent requests, sent to Redis together.

A command by itself costs a process more than it costs Redis: a connection taken and given back, a write, a wake-up and
a time-out each. What is asked in the same moment goes out in one write, and what is asked while that is under way goes
out in the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from gateway.errors import CoordinationUnavailable

__all__ = ["Command", "Pipelines"]

_MAX_PIPELINES: Final = 4
_MAX_COMMANDS: Final = 16
"""Redis runs one script at a time: a reply waits for all of its write, and is waited for no longer than a second."""

Command = tuple[str | int | bytes, ...]


class Pipelines:
    """Sends commands, and hands each caller the reply of its own.

    Args:
        send: Sends commands in one write, and returns the reply of each.
        max_pipelines: Writes under way at the same time, each on a connection of its own.
        max_commands: Commands of one write.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Command]], Awaitable[Sequence[object]]],
        *,
        max_pipelines: int = _MAX_PIPELINES,
        max_commands: int = _MAX_COMMANDS,
    ) -> None:
        self._send = send
        self._max_pipelines = max_pipelines
        self._max_commands = max_commands
        self._waiting: list[tuple[Command, asyncio.Future[object]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, command: Command) -> object:
        """Send a command, and return its reply.

        A caller that is cancelled leaves the others alone: what was sent stays sent, and what was not is not sent.

        Raises:
            Exception: What `send` raised: all commands of the write have failed.
        """
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if len(self._tasks) < self._max_pipelines:
            task = asyncio.create_task(self._send_waiting(), name="redis-pipeline")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await reply

    async def aclose(self) -> None:
        """Send nothing more; callers that still wait get an error."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        _fail(self._waiting, _closed())
        self._waiting.clear()

    async def _send_waiting(self) -> None:
        """Send what waits until nothing does."""
        while self._waiting:
            together = [one for one in self._waiting[: self._max_commands] if not one[1].done()]
            del self._waiting[: self._max_commands]
            if not together:
                continue
            try:
                replies = await self._send([command for command, _ in together])
            except Exception as error:  # noqa: BLE001 - each caller gets it
                _fail(together, error)
            except asyncio.CancelledError:
                _fail(together, _closed())
                raise
            else:
                for (_, reply), value in zip(together, replies, strict=True):
                    if not reply.done():
                        reply.set_result(value)


def _fail(asked: Iterable[tuple[Command, asyncio.Future[object]]], error: Exception) -> None:
    for _, reply in asked:
        if not reply.done():
            reply.set_exception(error)


def _closed() -> CoordinationUnavailable:
    return CoordinationUnavailable("The connection to Redis was closed.")
