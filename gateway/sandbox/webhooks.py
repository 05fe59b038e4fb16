"""Signs and delivers the simulator's webhooks, each in the background and never in the way of an answer.

The signature is the documented one: RSA PKCS#1 v1.5 with SHA-256 over the raw body, in base64, in the header
`videosdk-signature` (docs.videosdk.live, and the verifying code of the vendor's Node package 0.1.1).
"""

import asyncio
import base64
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

import httpx
import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway.sandbox.faults import Fault, Faults, Subject
from gateway.sandbox.shapes import Event

_KEY_BITS: Final = 2048
_MAX_CONCURRENT: Final = 64
_REORDER_SECONDS: Final = 2.0


class Signer:
    """Holds the RSA key of one simulator; a new key for each."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)

    @property
    def public_key(self) -> str:
        """The public half as the vendor serves it: PKCS#1 PEM behind a line break (docs.videosdk.live)."""
        pem = self._key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
        return "\n" + pem.decode("ascii")

    def sign(self, body: bytes) -> str:
        """Return the signature of a webhook body."""
        return base64.b64encode(self._key.sign(body, padding.PKCS1v15(), hashes.SHA256())).decode("ascii")


class Delivery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One attempt to deliver a webhook. `sent` and `ended` are seconds of the monotonic clock.

    `status` is None when the listener gave no answer, and when a fault kept the webhook from being sent at all.
    """

    webhook_type: str
    url: str
    room_id: str
    participant_id: str | None
    kind: str | None
    recording_id: str | None
    sent: float
    ended: float
    status: int | None
    success: bool
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Letter:
    """An event on its way to one address, with the rules that were in force when it happened."""

    event: Event
    url: str
    struck: dict[str, Fault]


@dataclass(slots=True)
class _Lane:
    """What waits to go to one address for one recording (or one room), in order."""

    waiting: deque[_Letter] = field(default_factory=deque[_Letter])
    more: asyncio.Event = field(default_factory=asyncio.Event)


class Courier:
    """Delivers webhooks: in order for each recording and address, otherwise all at once."""

    def __init__(
        self, signer: Signer, faults: Faults, *, timeout_seconds: float, count: Callable[[Delivery], None]
    ) -> None:
        self.signer = signer
        """Signs what is sent from now on."""
        self._faults = faults
        self._timeout = timeout_seconds
        self._count = count
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        self._client: httpx.AsyncClient | None = None

    def send(self, event: Event) -> None:
        """Hand over one event for delivery to each of its addresses."""
        subject = Subject("webhook", event.room_id, event.participant_id, event.kind, event.type)
        for url in event.destinations:
            lane = self._lanes.get((event.lane, url))
            if lane is None:
                lane = self._lanes[event.lane, url] = _Lane()
                self._spawn(self._run(lane, (event.lane, url)))
            lane.waiting.append(_Letter(event, url, self._faults.strike_webhook(subject)))
            lane.more.set()

    async def settle(self) -> None:
        """Wait until nothing is left to deliver."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def drop(self) -> None:
        """Give up everything not yet delivered."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lanes.clear()

    async def close(self) -> None:
        """Give up everything not yet delivered, and the connections."""
        await self.drop()
        if self._client is not None:
            await self._client.aclose()

    def _http(self) -> httpx.AsyncClient:
        # Made when first needed, as loading certificates takes a while. A fresh connection for each webhook: a
        # listener that closes idle ones must not look like a lost webhook.
        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._client = httpx.AsyncClient(limits=limits, timeout=None, trust_env=False)  # noqa: S113 - see _attempt
        return self._client

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, lane: _Lane, name: tuple[str, str]) -> None:
        while lane.waiting:
            await self._deliver(lane.waiting.popleft(), lane)
        self._lanes.pop(name, None)

    async def _deliver(self, letter: _Letter, lane: _Lane) -> None:
        """Deliver one event as the rules that struck it want it."""
        struck = letter.struck
        if "webhook_lost" in struck:
            self._note(letter, time.monotonic(), None)
        elif "webhook_late" in struck:
            # Late alone: what follows it on the same lane overtakes it.
            self._spawn(self._deliver_late(letter, struck["webhook_late"].seconds))
        else:
            if "webhook_reordered" in struck:
                await self._let_one_pass(lane, struck["webhook_reordered"].seconds or _REORDER_SECONDS)
            await self._post(letter)

    async def _deliver_late(self, letter: _Letter, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._post(letter)

    async def _let_one_pass(self, lane: _Lane, seconds: float) -> None:
        """Wait for the next event of this lane and deliver it first."""
        if not lane.waiting:
            lane.more.clear()
            try:
                async with asyncio.timeout(seconds):
                    await lane.more.wait()
            except TimeoutError:
                return
        await self._deliver(lane.waiting.popleft(), lane)

    async def _post(self, letter: _Letter) -> None:
        headers = {"content-type": "application/json"}
        if "webhook_unsigned" not in letter.struck:
            headers["videosdk-signature"] = self.signer.sign(letter.event.body)
        for _ in range(2 if "webhook_doubled" in letter.struck else 1):
            async with self._slots:
                sent = time.monotonic()
                self._note(letter, sent, await self._attempt(letter, headers))

    async def _attempt(self, letter: _Letter, headers: dict[str, str]) -> int | None:
        """Send once; return the listener's status, or None where there was no answer in time."""
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._http().post(letter.url, content=letter.event.body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError, ExceptionGroup):
            # The last three: callers' addresses may be such that connecting fails before HTTP begins (a port beyond
            # 65535, a label too long). What the vendor does then is not documented; the row's counters tell of it.
            return None
        return response.status_code

    def _note(self, letter: _Letter, sent: float, status: int | None) -> None:
        event = letter.event
        delivery = Delivery(
            webhook_type=event.type,
            url=letter.url,
            room_id=event.room_id,
            participant_id=event.participant_id,
            kind=event.kind,
            recording_id=event.recording_id,
            sent=sent,
            ended=time.monotonic(),
            status=status,
            success=status is not None and 200 <= status < 300,
            faults=tuple(letter.struck),
        )
        self._count(delivery)
