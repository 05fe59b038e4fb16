"""What was answered under an idempotency key, for a retry that arrives when the target has long moved on."""

import hashlib
from datetime import timedelta

import msgspec
from msgspec import Struct

from gateway.store.connection import Connection
from gateway.store.scripts import Script, bucket_of

__all__ = ["IdempotencyRecord", "IdempotencyRecords"]


class IdempotencyRecord(Struct, frozen=True):
    """What is known under an idempotency key.

    Attributes:
        verdict: new, running, replay or differs (see `idempotency.lua`).
        begun: When it was first asked, in ms by Redis's clock.
        answer: What was kept, empty where nothing was.
    """

    verdict: str
    begun: int
    answer: str


class IdempotencyRecords:
    """Remembers answers in Redis.

    Args:
        connection: How Redis is reached.
        keep: For how long.
    """

    def __init__(self, connection: Connection, keep: timedelta) -> None:
        self._connection = connection
        self._ttl = round(keep.total_seconds() * 1000)
        self._script = Script("gateway.store", "idempotency")

    async def begin(self, scope: tuple[str, ...], fingerprint: str) -> IdempotencyRecord:
        """Record that this request began, unless it did before.

        Args:
            scope: Whose key, for what: caller, route and the key itself. Only their hash is stored.
            fingerprint: What the request's body hashes to.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return await self._run(scope, fingerprint, "")

    async def keep(self, scope: tuple[str, ...], fingerprint: str, answer: str) -> None:
        """Keep the answer; the first one wins.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        await self._run(scope, fingerprint, answer)

    async def _run(self, scope: tuple[str, ...], fingerprint: str, answer: str) -> IdempotencyRecord:
        name = hashlib.blake2b(msgspec.json.encode(scope), digest_size=20).hexdigest()
        argument = {"fingerprint": fingerprint, "ttl": self._ttl, "answer": answer}
        reply = await self._connection.evaluate(
            self._script.text, self._script.sha, (f"{bucket_of(name)}:answer:{name}",), msgspec.json.encode(argument)
        )
        return msgspec.json.decode(reply, type=IdempotencyRecord)
