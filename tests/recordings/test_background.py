"""Whatever works in the background survives an unexpected error, and says so in the log."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from tempfile import TemporaryDirectory

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from redis.asyncio import Redis

from gateway.api.webhooks import WebhookReceiver
from gateway.auth.api_keys import CallersFile, new_key
from gateway.auth.oidc_tokens import ClaimNames, OidcTokens
from gateway.coordinator import Backlog, Command, Completion, Record
from gateway.errors import CoordinationUnavailable, IdentityUnavailable, InternalError
from gateway.recordings import Kind, Mode, StartParameters, Target, WebhookEvent, WebhookQueue
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.secrets import Secret, SecretFile
from gateway.store.clock import clock
from gateway.store.notifications import CHANNEL
from gateway.store.token_buckets import TokenBuckets
from gateway.videosdk.signatures import Signatures
from gateway.videosdk.webhook_keys import FetchedKeys, PinnedKeys
from tests import harness
from tests.recordings.parts import Log, Parts, UnexpectedError, settled_valkey

pytestmark = pytest.mark.anyio

TRACK = Target(Mode.TRACK, "room", "ada", Kind.VIDEO)
NOTHING = StartParameters()
Steps = AsyncGenerator[None]
"""Provokes the error up to its `yield`; when it was logged, goes on to see that the work goes on too."""


@pytest.fixture
def valkey() -> Generator[EmbeddedValkey]:
    """A server of the test's own: the background of others would meet the errors."""
    with settled_valkey() as server:
        yield server


@pytest.fixture
async def parts(valkey: EmbeddedValkey, simulator: Simulator) -> AsyncGenerator[Parts]:
    """A process's parts, running."""
    async with Parts(valkey, simulator.url).running() as running:
        yield running


def key_of(parts: Parts, track: Target = TRACK) -> str:
    """Return the name of a track's record."""
    return parts.coordinator.key(track.room_id, *track.parts)


async def made_again(parts: Parts, name: str) -> None:
    """Wait until a command of this name is made after the error."""
    await harness.eventually(lambda: parts.connection.made[name])


async def settler_round(parts: Parts, simulator: Simulator) -> Steps:
    """A round in which Redis answers nonsense."""
    parts.connection.err("due")
    yield
    await made_again(parts, "due")


async def settler_check(parts: Parts, simulator: Simulator) -> Steps:
    """A room that is due and cannot be read."""
    parts.connection.err("read")
    await parts.coordinator.records.invalidate(key_of(parts))
    yield
    await made_again(parts, "read")


async def settler_track(parts: Parts, simulator: Simulator) -> Steps:
    """A track that is due and cannot be claimed."""
    parts.connection.err("claim")
    await parts.coordinator.records.invalidate(key_of(parts))
    yield
    await made_again(parts, "claim")


async def renewals(parts: Parts, simulator: Simulator) -> Steps:
    """A lease whose renewal goes wrong."""
    parts.connection.err("renew")
    _, lease = await parts.coordinator.claim(key_of(parts), Command.START)
    assert lease is not None
    yield
    await made_again(parts, "renew")
    await parts.coordinator.release(lease, Completion())


async def last_writes(parts: Parts, simulator: Simulator) -> Steps:
    """A write that is repeated while a start may still land."""
    _, lease = await parts.coordinator.claim(key_of(parts), Command.START)
    assert lease is not None
    await parts.coordinator.finish(lease, Completion(record=Record(state="unknown")), due_in=60)
    parts.connection.err("finish")
    yield
    await made_again(parts, "finish")


async def late_result(parts: Parts, simulator: Simulator) -> Steps:
    """A result that could not be written at once, and then meets an error."""
    _, lease = await parts.coordinator.claim(key_of(parts), Command.START)
    assert lease is not None
    parts.connection.err("finish", CoordinationUnavailable("not now"), UnexpectedError())
    await parts.coordinator.finish(lease, Completion(record=Record(state="recording", confirmed_by="reply")))
    yield
    record = await harness.until(
        lambda: parts.coordinator.records.read(key_of(parts)), lambda record: record is not None and not record.holder
    )
    assert record is not None
    assert record.state == "recording"


async def claim_given_back(parts: Parts, simulator: Simulator) -> Steps:
    """A claim whose reply was lost, and that is then given back."""
    parts.connection.err("claim", *[CoordinationUnavailable("not now")] * 2)
    parts.connection.err("release")
    with pytest.raises(CoordinationUnavailable):
        await parts.coordinator.claim(key_of(parts), Command.START, since=clock() - 60)
    yield
    await made_again(parts, "release")


async def pending_stop(parts: Parts, simulator: Simulator) -> Steps:
    """A stop that is left to do when its start has finished."""
    simulator.inject(harness.delay("start", 0.5))
    start = asyncio.create_task(parts.recordings.start(TRACK, NOTHING, caller="demo", timeout=10))
    await harness.eventually(lambda: simulator.calls)
    await parts.recordings.stop(TRACK, caller="demo", timeout=0.2)
    # The stop itself asks again as soon as the start is done, and so does what looks after stops that are left to do.
    parts.connection.err("claim", UnexpectedError(), UnexpectedError())
    assert (await start).outcome == "started"
    yield
    await harness.eventually(lambda: all(row.closed for row in simulator.rows))


async def waiting_callers(parts: Parts, simulator: Simulator) -> Steps:
    """A start whose claim goes wrong: its callers are answered."""
    parts.connection.err("claim")
    with pytest.raises(InternalError):
        await parts.recordings.start(TRACK, NOTHING, caller="demo", timeout=10)
    yield
    assert (await parts.recordings.start(TRACK, NOTHING, caller="demo", timeout=10)).outcome == "started"


async def report_of_uncoordinated_stops(parts: Parts, simulator: Simulator) -> Steps:
    """A stop without Redis, of which Redis is told later."""
    parts.connection.err("invalidate")
    await parts.without_redis.stop(key_of(parts), TRACK)
    yield
    await made_again(parts, "invalidate")


async def limits(parts: Parts, simulator: Simulator) -> Steps:
    """A bucket whose script goes wrong."""
    buckets = TokenBuckets(parts.connection)
    # The first is let in without asking.
    assert (await buckets.take("t:caller:a", per_minute=10, burst=10, cost=1)).allowed
    parts.connection.err("limit")
    with pytest.raises(CoordinationUnavailable):
        await buckets.take("t:caller:a", per_minute=10, burst=10, cost=1)
    yield
    assert (await buckets.take("t:caller:a", per_minute=10, burst=10, cost=1)).allowed


async def listings(parts: Parts, simulator: Simulator) -> Steps:
    """A list for which no token can be made."""
    parts.tokens.errors.append(UnexpectedError())
    with pytest.raises(UnexpectedError):
        await parts.listings.ask("room")
    yield
    assert (await parts.listings.ask("room")).rows == []


async def webhooks(parts: Parts, simulator: Simulator) -> Steps:
    """An event on which acting goes wrong."""
    errors: list[Exception] = [UnexpectedError()]
    heard: list[WebhookEvent] = []

    async def handle(hint: WebhookEvent) -> None:
        if errors:
            raise errors.pop()
        heard.append(hint)

    webhook_receiver = WebhookReceiver(
        Signatures(FetchedKeys(parts.videosdk.public_key)), WebhookQueue(handle, max_waiting=10, rest=0.01)
    )
    data = {"meetingId": "room", "participantId": "ada"}
    body = json.dumps({"webhookType": "participant-left", "data": data}).encode()
    await webhook_receiver.take(body, [simulator.sign(body).encode()])
    yield
    await webhook_receiver.take(body, [simulator.sign(body).encode()])
    await harness.eventually(lambda: heard)
    await webhook_receiver.close(5)


async def subscriber(parts: Parts, simulator: Simulator) -> Steps:
    """A message that cannot be read, as a later version might send one."""
    async with Redis.from_url(parts.connection._url()) as server:
        await server.publish(CHANNEL, "not what is expected")
        yield
        await harness.eventually(lambda: parts.notifications.listening)
        # Heard, or this would have to poll.
        update = asyncio.Event()
        parts.notifications.watch("any-channel", update.set)

        async def told() -> bool:
            await server.publish("any-channel", "x")
            return update.is_set()

        await harness.until(told)
        parts.notifications.unwatch("any-channel")


async def room_feeds(parts: Parts, simulator: Simulator) -> Steps:
    """A room whose events cannot be read: its readers are to come again."""
    reader = await parts.room_feeds.open(TRACK.room_id)
    parts.connection.err("entries")
    await parts.coordinator.claim(key_of(parts), Command.START)
    yield
    await harness.eventually(lambda: reader.closed == "restart")
    reader.leave()
    again = await parts.room_feeds.open(TRACK.room_id)
    assert [update.whole for update in await again.read(5)] == [True]
    again.leave()


async def metrics(parts: Parts, simulator: Simulator) -> Steps:
    """A look at what is uncertain that goes wrong: metrics tell nothing of it."""
    backlog = Backlog(parts.connection, "t")
    await parts.coordinator.claim(key_of(parts), Command.START)
    parts.connection.err("backlog")
    assert await backlog.uncertainty() is None
    yield
    assert await Backlog(parts.connection, "t").uncertainty() is not None


class Hours:
    """A clock that is an hour later whenever it is asked."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        self._now += 3600
        return self._now


async def callers_file(parts: Parts, simulator: Simulator) -> Steps:
    """A file of callers in whose place something else lies for a while, and one of endless brackets."""
    (first, entry), (second, other) = new_key("first"), new_key("second")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "callers.toml"
        file.write_text(entry)
        callers = CallersFile(file, Hours())

        def looked() -> CallersFile:
            # What has just been written is read once it has rested from one look to the next.
            callers.refresh()
            return callers

        for broken in (b"\xff", b"a = " + b"[" * 100_000):
            file.write_bytes(broken)
            assert looked().identify(first).name == "first"
        file.unlink()
        file.mkdir()
        assert looked().identify(first).name == "first"
        yield
        file.rmdir()
        file.write_text(other)
        assert looked().identify(second).name == "second"


async def mounted_secret(parts: Parts, simulator: Simulator) -> Steps:
    """A secret's file in whose place a folder lies for a while."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "secret"
        file.write_text("the first")
        secret = SecretFile(file, Secret("the first"), Hours())
        file.unlink()
        file.mkdir()
        assert secret().reveal() == "the first"
        yield
        file.rmdir()
        file.write_text("another-one")
        assert secret().reveal() == "another-one"


async def pinned_webhook_key(parts: Parts, simulator: Simulator) -> Steps:
    """The same of the file with the key of webhooks."""
    pem = await parts.videosdk.public_key()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "key.pem"
        file.write_text(pem)
        keys = PinnedKeys(file, Hours())
        file.unlink()
        file.mkdir()
        assert await keys.current()
        yield
        file.rmdir()
        file.write_text(pem * 2)
        assert len(await keys.current()) == 2


async def fetched_webhook_key(parts: Parts, simulator: Simulator) -> Steps:
    """A fetch of VideoSDK's key for which no token can be made."""
    parts.tokens.errors.append(UnexpectedError())
    keys = FetchedKeys(parts.videosdk.public_key, Hours())
    assert not await keys.current()
    yield
    assert await keys.renewed()


async def identity_providers_keys(parts: Parts, simulator: Simulator) -> Steps:
    """The provider cannot be asked at all: our own mistake."""
    private = rsa.generate_private_key(65537, 2048)
    token = jwt.encode({"sub": "ada", "iss": "i", "aud": "a", "exp": 2**40}, private, "RS256", headers={"kid": "k"})
    key = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    mistakes = [ZeroDivisionError()]

    async def fetch() -> bytes:
        if mistakes:
            raise mistakes.pop()
        return json.dumps({"keys": [{**key, "kid": "k"}]}).encode()

    tokens = OidcTokens(fetch, "i", "a", ClaimNames(), Hours())
    with pytest.raises(IdentityUnavailable):
        await tokens.identify(token)
    yield
    assert (await tokens.identify(token)).name == "jwt:ada"


TASKS: list[tuple[Callable[[Parts, Simulator], Steps], str]] = [
    (settler_round, "look.failed"),
    (settler_check, "check.failed"),
    (settler_track, "settle.failed"),
    (renewals, "renewal.failed"),
    (last_writes, "telling.failed"),
    (late_result, "write.failed"),
    (claim_given_back, "write.failed"),
    (pending_stop, "settle.failed"),
    (waiting_callers, "party.failed"),
    (report_of_uncoordinated_stops, "uncoordinated.report_failed"),
    (limits, "limits.failed"),
    (listings, "list.failed"),
    (webhooks, "webhook.failed"),
    (subscriber, "wakeups.failed"),
    (room_feeds, "events.failed"),
    (metrics, "survey.failed"),
    (callers_file, "callers.broken"),
    (mounted_secret, "mounted.unusable"),
    (pinned_webhook_key, "webhook_key.unusable"),
    (fetched_webhook_key, "webhook_key.failed"),
    (identity_providers_keys, "jwks.failed"),
]


@pytest.mark.parametrize(("steps", "event"), TASKS, ids=[steps.__name__ for steps, _ in TASKS])
async def test_background_work_after_an_unexpected_error_goes_on(
    parts: Parts, simulator: Simulator, steps: Callable[[Parts, Simulator], Steps], event: str
) -> None:
    """The error is logged under a name of its own, and what comes next is done all the same."""
    log = Log()
    running = steps(parts, simulator)
    await anext(running)
    await log.shows(event)
    with pytest.raises(StopAsyncIteration):
        await anext(running)


async def test_reconciler_while_redis_is_away_begins_round_after_round(parts: Parts, simulator: Simulator) -> None:
    """Rounds that Redis does not answer are no news, and end nothing."""
    parts.connection.err("due", *(CoordinationUnavailable("away") for _ in range(3)))
    await made_again(parts, "due")


async def test_events_while_redis_is_away_go_on_when_it_is_back(parts: Parts, simulator: Simulator) -> None:
    """No reader is sent away: the next update shows what happened meanwhile."""
    reader = await parts.room_feeds.open(TRACK.room_id)
    await reader.read(5)
    parts.connection.err("entries", CoordinationUnavailable("away"))
    for target in (TRACK, Target(Mode.TRACK, TRACK.room_id, "bob", Kind.VIDEO)):
        await parts.recordings.start(target, NOTHING, caller="demo", timeout=60)
        await harness.eventually(lambda: not parts.connection.errors["entries"])
    async with asyncio.timeout(harness.BOUND):
        assert await reader.read(60)
    assert not reader.closed
    reader.leave()
