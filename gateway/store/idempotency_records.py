"""What was answered under idempotency keys, for retries that arrive when the target has long moved on.

A caller's keys lie together, so that they can be bounded together: whatever one caller sends, it takes no more room
than its share, and what makes room is its own oldest key.
"""

import hashlib
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import Struct

from gateway.observability import metrics
from gateway.store.connection import Connection
from gateway.store.scripts import Script, bucket_of

__all__ = ["IdempotencyKey", "IdempotencyRecord", "IdempotencyRecords"]

_MAX_KEYS: Final = 2_000
_MAX_BYTES: Final = 1024 * 1024


class IdempotencyKey(Struct, frozen=True):
    """A key, and what it was sent with. Only hashes of the first two are stored.

    Attributes:
        account: Whose it is, within its project.
        name: For what: the route, and the key itself.
        fingerprint: What the request's body hashes to.
    """

    account: tuple[str, ...]
    name: tuple[str, ...]
    fingerprint: str


class IdempotencyRecord(Struct, frozen=True):
    """What is known under an idempotency key.

    Attributes:
        verdict: new, running, replay or differs (see `idempotency.lua`).
        begun: When it was first asked, in ms by Redis's clock.
        answer: What was kept, empty where nothing was.
        forgotten: How many of the caller's oldest keys went to make room.
    """

    verdict: str
    begun: int
    answer: str
    forgotten: int


class IdempotencyRecords:
    """Remembers answers in Redis.

    Args:
        connection: How Redis is reached.
        keep: For how long.
        max_keys: Keys of one caller that are remembered; the oldest go.
        max_bytes: How much may be remembered of one caller.
    """

    def __init__(
        self, connection: Connection, keep: timedelta, *, max_keys: int = _MAX_KEYS, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._connection = connection
        self._bounds = {"ttl": round(keep.total_seconds() * 1000), "most": max_keys, "most_bytes": max_bytes}
        self._script = Script("gateway.store", "idempotency")

    async def begin(self, key: IdempotencyKey, *, remember: bool) -> IdempotencyRecord:
        """Look whether this was asked before.

        Args:
            key: Under which it is asked.
            remember: Write down when it was first asked.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return await self._run(key, "", remember=remember)

    async def keep(self, key: IdempotencyKey, answer: str) -> None:
        """Keep the answer; the first one wins.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        await self._run(key, answer, remember=True)

    async def _run(self, key: IdempotencyKey, answer: str, *, remember: bool) -> IdempotencyRecord:
        account = _hash(key.account)
        bucket = bucket_of(account)
        argument = {
            "name": _hash(key.name), "fingerprint": key.fingerprint, "answer": answer, "remember": remember,
            **self._bounds,
        }  # fmt: skip
        reply = await self._connection.evaluate(
            self._script.text,
            self._script.sha,
            (f"{bucket}:answers:{account}", f"{bucket}:answered:{account}"),
            msgspec.json.encode(argument),
        )
        record = msgspec.json.decode(reply, type=IdempotencyRecord)
        if record.forgotten:
            metrics.IDEMPOTENCY_KEYS_FORGOTTEN.inc(record.forgotten)
        return record


def _hash(parts: tuple[str, ...]) -> str:
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()
