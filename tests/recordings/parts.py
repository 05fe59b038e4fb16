"""A gateway's parts as the composition root puts them together: with small bounds, and errors where wanted."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.coordinator import Coordinator, Timing
from gateway.coordinator.scripts import SCRIPTS, load_script
from gateway.errors import CoordinationUnavailable
from gateway.recordings import (
    Coalescer,
    Leader,
    ListingCache,
    Reconciler,
    Recordings,
    RoomFeeds,
    WebhookEvents,
    WithoutRedisMode,
)
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.secrets import Secret
from gateway.store.connection import Connection
from gateway.store.notifications import Notifications
from gateway.store.scripts import Script
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.tokens import Lifetime, MintedTokens
from tests import harness
from tests.leaks import EVIDENCE

NAMES: Final = {
    **{load_script(name).sha: name for name in SCRIPTS},
    Script("gateway.store", "limit").sha: "limit",
    Script("gateway.coordinator", "backlog").sha: "backlog",
}
TIMING: Final = Timing(
    upstream_timeout=1.5, send_window=0.95, settle=0.7, lease=1, trust=60, check=60, verify_absent="never"
)


CALM: Final = msgspec.structs.replace(TIMING, upstream_timeout=12, send_window=5, lease=8)
"""Times that a busy machine does not miss: for tests in which nothing has to run out."""


class UnexpectedError(Exception):
    """Of no class that anybody prepared for."""


class ErringConnection(Connection):
    """The way to a real Redis, on which the next commands of a name end in an error."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.errors: dict[str, list[Exception]] = {}
        """What the next commands end in, by their names: a script's, or the method's."""
        self.made: Counter[str] = Counter()
        """How many commands were made since the last such error."""

    def err(self, name: str, *errors: Exception) -> None:
        """Have the next command of this name end in an error, and so on; an unexpected one unless given."""
        self.errors[name] = list(errors or (UnexpectedError(),))

    def away(self, name: str) -> None:
        """Have commands of this name fail as without Redis."""
        self.errors[name] = [CoordinationUnavailable("not now")] * 1000

    def _pass(self, name: str) -> None:
        if errors := self.errors.get(name):
            self.made[name] = 0
            raise errors.pop(0)
        self.made[name] += 1

    async def evaluate(self, script: str, sha: str, keys: Sequence[str], argument: bytes) -> bytes:
        """Run a script."""
        self._pass(NAMES.get(sha, ""))
        return await super().evaluate(script, sha, keys, argument)

    async def read(self, key: str) -> dict[str, str]:
        """Return a hash."""
        self._pass("read")
        return await super().read(key)

    async def due(self, key: str, until_ms: int, limit: int) -> list[str]:
        """Return what is due."""
        self._pass("due")
        return await super().due(key, until_ms, limit)

    async def entries(self, key: str, first_id: str, limit: int) -> list[tuple[str, dict[str, str]]]:
        """Return events."""
        self._pass("entries")
        return await super().entries(key, first_id, limit)


class ErringTokens:
    """Real tokens, of which the next may be an unexpected error."""

    def __init__(self) -> None:
        self._tokens = MintedTokens(harness.API_KEY, Secret(harness.SECRET))
        self.errors: list[Exception] = []

    @property
    def lifetime(self) -> Lifetime:
        """Of the token in use."""
        return self._tokens.lifetime

    def current(self) -> str:
        """Return a token."""
        if self.errors:
            raise self.errors.pop(0)
        return self._tokens.current()

    def renew(self) -> bool:
        """Make another."""
        return self._tokens.renew()


class Parts:
    """The parts of one process, against a real Redis and a simulated VideoSDK.

    Args:
        valkey: The server.
        videosdk_url: Where VideoSDK is.
        timing: The protocol's times.
        bounds: Arguments of the constructors by the part's name, where not as usual.
    """

    def __init__(
        self, valkey: EmbeddedValkey, videosdk_url: str, timing: Timing = TIMING, **bounds: dict[str, Any]
    ) -> None:
        self.connection = ErringConnection(valkey.url)
        self.tokens = ErringTokens()
        self.videosdk = VideoSDK(
            videosdk_url, self.tokens, timeout=timing.upstream_timeout, **bounds.get("videosdk", {})
        )
        self.coordinator = Coordinator(self.connection, timing, "t", **bounds.get("coordinator", {}))
        self.listings = ListingCache(self.videosdk, **bounds.get("listings", {}))
        self.notifications = Notifications(self.connection)
        self.without_redis = WithoutRedisMode(self.coordinator, self.videosdk, report_every=0.02)
        self.leader = Leader(self.coordinator, self.videosdk, self.listings, retry_refused=3)
        often: dict[str, Any] = {"every": 0.05}
        self.reconciler = Reconciler(
            self.coordinator, self.listings, self.leader, **(often | bounds.get("reconciler", {}))
        )
        self.webhook_events = WebhookEvents(self.coordinator, self.reconciler)
        self.coalescer = Coalescer(
            self.coordinator,
            self.leader,
            self.notifications,
            self.without_redis,
            self.reconciler,
            degrade=True,
            **{"max_waiting": 20_000, **bounds.get("coalescer", {})},
        )
        self.recordings = Recordings(
            self.coordinator, self.coalescer, self.reconciler, self.without_redis, **bounds.get("recordings", {})
        )
        self.room_feeds = RoomFeeds(
            self.coordinator,
            self.notifications,
            lambda recording: msgspec.json.encode(recording.status),
            **{"max_readers": 100, **bounds.get("room_feeds", {})},
        )

    @property
    def all(self) -> dict[str, object]:
        """Every part, by its name."""
        return dict(vars(self))

    async def _open_without_loop(self) -> None:
        await self.coordinator.start()
        await self.coalescer.open()

    @asynccontextmanager
    async def running(self, *, settling: bool = True) -> AsyncGenerator["Parts"]:
        """Run what a process runs in the background."""
        await (self.recordings.open() if settling else self._open_without_loop())
        try:
            await harness.eventually(lambda: self.notifications.listening)
            yield self
        finally:
            self.connection.errors.clear()
            await self.room_feeds.close()
            await self.recordings.close(grace=5)
            await self.listings.close()
            await self.videosdk.aclose()
            await self.connection.aclose()


@contextmanager
def settled_valkey() -> Generator[EmbeddedValkey]:
    """A server of a test's own that has been up for so long that its memory is believed."""
    with EmbeddedValkey() as server:
        harness.age(server)
        yield server


class Log:
    """What was logged since this was made."""

    def __init__(self) -> None:
        EVIDENCE.log.flush()
        self._file = Path(EVIDENCE.log.name)
        self._begin = self._file.stat().st_size

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries in order."""
        EVIDENCE.log.flush()
        lines = harness.log_lines(self._file, self._begin)
        return [json.loads(line) for line in lines if line.startswith("{")]

    def events(self) -> list[str]:
        """Return the events in order."""
        return [str(entry["event"]) for entry in self.entries()]

    async def shows(self, event: str) -> None:
        """Wait until something is logged."""

        async def logged() -> bool:
            return event in await asyncio.to_thread(self.events)

        await harness.until(logged)
