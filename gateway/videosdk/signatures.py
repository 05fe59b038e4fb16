"""Tells VideoSDK's webhooks from whatever else reaches the same address.

VideoSDK signs the raw bytes of a webhook's body: RSA, PKCS#1 v1.5, SHA-256, in base64, in the header
`videosdk-signature` (docs.videosdk.live, and the source of its Node package 0.1.1). The public key is pinned in a file,
or had from VideoSDK. A signature that does not fit may mean a new key, so the key is fetched again then; but anybody
can send such a signature, so that happens once a minute at most, whatever comes in.
"""

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway.errors import UpstreamError
from gateway.secrets import WatchedFile, WrongTextError, read_value
from gateway.videosdk.keys import Keys, WrongKeyError, read_keys

__all__ = ["SIGNATURE_HEADER", "FetchedKeys", "KeySource", "PinnedKeys", "Signatures", "Verdict"]

SIGNATURE_HEADER: Final = "videosdk-signature"
REFETCH_SECONDS: Final = 60.0
_STALE_SECONDS: Final = 3600.0
"""A key that VideoSDK withdrew is good for an hour more at most, unless VideoSDK does not answer."""
_FETCH_SECONDS: Final = 5.0
"""VideoSDK waits for the webhook's answer meanwhile, nobody knows for how long."""
_SIGNATURE_BYTES: Final = range(256, 1025)

_log = structlog.get_logger("gateway.videosdk")


class Verdict(StrEnum):
    """What a signature says of a body."""

    GENUINE = "genuine"
    UNSIGNED = "unsigned"
    FORGED = "forged"
    UNDECIDED = "undecided"
    """No known key fits, and whether there is a newer one cannot be found out at the moment."""


class KeySource(Protocol):
    """Where keys come from."""

    @property
    def certain(self) -> bool:
        """Whether these are known to be the keys in use."""
        ...

    async def current(self) -> Keys:
        """Return the keys; none where none could be had."""
        ...

    async def renewed(self) -> Keys:
        """Return the keys after the current ones did not fit: the same where there are no others."""
        ...


class Signatures:
    """Checks webhooks.

    Args:
        keys: Where the keys come from.
    """

    def __init__(self, keys: KeySource) -> None:
        self._keys = keys

    async def judge(self, body: bytes, signatures: Sequence[bytes]) -> Verdict:
        """Say whether VideoSDK signed a body.

        Args:
            body: The bytes as they came.
            signatures: The value of every signature header there was. Of two, each reader could pick another: refused.
        """
        if not any(signatures):
            return Verdict.UNSIGNED
        signature = _decoded(signatures[0]) if len(signatures) == 1 else None
        if signature is None:
            return Verdict.FORGED
        keys = await self._keys.current()
        if _signed(keys, body, signature):
            return Verdict.GENUINE
        renewed = await self._keys.renewed()
        if renewed is not keys and _signed(renewed, body, signature):
            return Verdict.GENUINE
        return Verdict.FORGED if self._keys.certain else Verdict.UNDECIDED


class PinnedKeys:
    """The keys in a file, as they are now; the last good ones while the file holds none.

    Args:
        path: The file.
        clock: Seconds that never step.

    Raises:
        WrongKeyError: It holds none that can be used.
        WrongTextError: It cannot be read.
    """

    certain = True

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._watched = WatchedFile(path, clock)
        self._keys = read_keys(read_value(str(path)))

    async def current(self) -> Keys:
        """Return the keys."""
        if self._watched.changed():
            try:
                self._keys = read_keys(read_value(str(self._watched.path)))
            except (WrongKeyError, WrongTextError) as wrong:
                _log.warning("webhook_key.unusable", file=self._watched.path.name, reason=str(wrong))
            else:
                _log.info("webhook_key.replaced", file=self._watched.path.name)
        return self._keys

    async def renewed(self) -> Keys:
        """Return the keys; the file is looked at again by itself."""
        return await self.current()


class FetchedKeys:
    """The keys that VideoSDK publishes, fetched when first needed and kept.

    Args:
        fetch: Gets them in PEM; raises `UpstreamError` where it cannot.
        clock: Seconds that never step.
        timeout: How many of them one fetch may take.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[str]],
        clock: Callable[[], float] = time.monotonic,
        *,
        timeout: float = _FETCH_SECONDS,
    ) -> None:
        self._timeout = timeout
        self._fetch = fetch
        self._clock = clock
        self._keys: Keys = ()
        self._fetched = self._tried = float("-inf")
        self._certain = False
        self._fetching = asyncio.Lock()

    @property
    def certain(self) -> bool:
        """Whether the last fetch brought these."""
        return self._certain

    async def current(self) -> Keys:
        """Return the keys; none where none could be had."""
        if self._clock() - self._fetched >= _STALE_SECONDS:
            await self._refresh()
        return self._keys

    async def renewed(self) -> Keys:
        """Return the keys after the current ones did not fit, fetched anew where that may be done."""
        await self._refresh()
        return self._keys

    async def _refresh(self) -> None:
        """Fetch once for all who find the keys wanting at the same time, and once a minute at most."""
        async with self._fetching:
            if self._clock() - self._tried < REFETCH_SECONDS:
                return
            self._tried = self._clock()
            # Not before it is known: a fetch that is cancelled has brought nothing.
            self._certain = False
            try:
                async with asyncio.timeout(self._timeout):
                    keys = read_keys(await self._fetch())
            except (UpstreamError, WrongKeyError, TimeoutError) as error:
                reason = str(error) if isinstance(error, WrongKeyError) else type(error).__name__
                _log.warning("webhook_key.unavailable", reason=reason)
                return
            except Exception:  # noqa: BLE001 - the keys there are stay in use, and are fetched again in a minute
                _log.exception("webhook_key.failed")
                return
            self._certain, self._fetched = True, self._clock()
            if keys != self._keys:
                self._keys = keys
                _log.info("webhook_key.fetched", keys=len(keys))


def _decoded(header: bytes) -> bytes | None:
    """Read base64 as VideoSDK writes it: one text for one signature, and of a length that signatures have."""
    try:
        signature = base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        return None
    return signature if len(signature) in _SIGNATURE_BYTES and base64.b64encode(signature) == header else None


def _signed(keys: Keys, body: bytes, signature: bytes) -> bool:
    return any(_fits(key, body, signature) for key in keys)


def _fits(key: RSAPublicKey, body: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, body, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True
