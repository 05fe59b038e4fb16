"""Token buckets that all replicas share.

Callers that take the same at the same time share one script: a thousand joiners must not become a thousand scripts.
"""

import asyncio

import msgspec
import structlog
from msgspec import Struct

from gateway.errors import CoordinationUnavailable
from gateway.store.connection import Connection
from gateway.store.scripts import Script, bucket_of

__all__ = ["Quota", "TokenBuckets"]

_log = structlog.get_logger("gateway.coordinator")


class Quota(Struct, frozen=True):
    """What a bucket answered.

    Attributes:
        allowed: Whether the cost was taken.
        remaining: Tokens left; negative where more was spent than there was.
        wait: Seconds until the cost would be there.
        full: Seconds until nothing is missing.
    """

    allowed: bool
    remaining: float
    wait: float
    full: float


class _Ask(Struct, frozen=True):
    """What is asked of a bucket; equal asks go together."""

    name: str
    rate: float
    burst: float
    cost: float
    force: bool


class _Reply(Struct, frozen=True):
    granted: int
    remaining: float
    wait: float
    full: float


class TokenBuckets:
    """Takes from token buckets in Redis.

    Args:
        connection: How Redis is reached.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._script = Script("gateway.store", "limit")
        self._waiting: dict[_Ask, list[asyncio.Future[Quota]]] = {}
        self._asking: dict[_Ask, asyncio.Task[None]] = {}

    async def take(self, name: str, *, per_minute: float, burst: float, cost: float, force: bool = False) -> Quota:
        """Take from the bucket of this name.

        Args:
            name: Whose bucket; safe in a key.
            per_minute: How much comes back in a minute.
            burst: The most it holds.
            cost: How much to take.
            force: Take it even where it is not there: it was spent already.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        ask = _Ask(name, per_minute / 60, burst, cost, force)
        answer: asyncio.Future[Quota] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(ask, []).append(answer)
        if ask not in self._asking:
            self._asking[ask] = asyncio.create_task(self._ask(ask), name="limit")
        return await answer

    async def _ask(self, ask: _Ask) -> None:
        """Ask for all waiting callers, until none is left: one that comes while a script runs waits for the next."""
        try:
            while waiting := self._waiting.pop(ask, None):
                try:
                    reply = await self._run(ask, len(waiting))
                except Exception as error:  # noqa: BLE001 - no caller may wait for an answer that never comes
                    if not isinstance(error, CoordinationUnavailable):
                        _log.exception("limits.failed")
                    for answer in waiting:
                        if not answer.done():
                            answer.set_exception(CoordinationUnavailable("The limits cannot be had."))
                    continue
                for number, answer in enumerate(waiting):
                    allowed = number < reply.granted
                    if not answer.done():
                        answer.set_result(Quota(allowed, reply.remaining, 0 if allowed else reply.wait, reply.full))
        finally:
            del self._asking[ask]

    async def _run(self, ask: _Ask, count: int) -> _Reply:
        argument = {"rate": ask.rate, "burst": ask.burst, "cost": ask.cost, "count": count, "force": ask.force}
        key = f"{bucket_of(ask.name)}:limit:{ask.name}"
        reply = await self._connection.evaluate(
            self._script.text, self._script.sha, (key,), msgspec.json.encode(argument)
        )
        return msgspec.json.decode(reply, type=_Reply)
