"""Where the public keys come from that VideoSDK's webhooks are checked with: pinned in a file, or had from VideoSDK.

A signature that does not fit may mean a new key, so the key is fetched again then. But any sender can make
one up, so that happens once a minute at most.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

from gateway.errors import UpstreamError
from gateway.secrets import WatchedFile, WrongTextError, read_value
from gateway.settings.pem import Keys, WrongKeyError, read_keys

__all__ = ["REFETCH_SECONDS", "FetchedKeys", "KeySource", "PinnedKeys"]

REFETCH_SECONDS: Final = 60.0
_STALE_SECONDS: Final = 3600.0
"""A key that VideoSDK withdrew is good for an hour more at most, unless VideoSDK does not answer."""
_FETCH_SECONDS: Final = 5.0
"""VideoSDK waits for the webhook's answer meanwhile, for an unknown time."""

_log = structlog.get_logger("gateway.videosdk")


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
        """Fetch once for all callers that need newer keys at the same time, and once a minute at most."""
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
