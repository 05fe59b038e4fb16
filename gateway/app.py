"""The composition root: the one place that knows every part, and puts them together."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Final

import httpx
import jwt
import msgspec
import structlog
from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp

from gateway import __version__, telemetry, tracing
from gateway.api.admin import admin
from gateway.api.callers import CallersFile
from gateway.api.company_tokens import ClaimNames, CompanyTokens
from gateway.api.cors import Cors
from gateway.api.desk import Desk
from gateway.api.docs import docs, docs_file, openapi_json
from gateway.api.entry import Entry
from gateway.api.events import Usher, event_routes
from gateway.api.health import livez, readyz
from gateway.api.identities import Identities
from gateway.api.join_tokens import JoinTokens
from gateway.api.limiter import Limiter
from gateway.api.metrics import LookAround, metrics
from gateway.api.problems import MOST_BODY, answer_problem, problem_page
from gateway.api.recordings import routes
from gateway.api.replays import Replays
from gateway.api.webhooks import INTAKE_PATH, Intake, receive_videosdk_webhook
from gateway.api.wire import TrackRecording
from gateway.coordinator import Answers, Connection, Coordinator, Limits, Overview, Survey, Tickets, Timing, Wakeups
from gateway.drain import Drain
from gateway.environment import warnings
from gateway.errors import CoordinationUnavailable
from gateway.kinds import REDIS_URL, SECRET, Kind
from gateway.mounted import MountedSecret
from gateway.recordings import Feeds, Leader, Lists, Operator, Recording, Recordings, Settler, Uncoordinated, Watcher
from gateway.secret import Secret
from gateway.settings import Settings
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.signatures import FetchedKeys, KeySource, PinnedKeys, Signatures
from gateway.videosdk.tokens import FixedToken, MintedTokens, Tokens

__all__ = [
    "create_app",
    "create_client",
    "create_connection",
    "create_identities",
    "create_webhook_keys",
    "fetch_jwks",
]

_JWKS_SECONDS: Final = 5.0
_TICKET_LIFETIME: Final = timedelta(seconds=30)
_MOST_JWKS: Final = 256 * 1024

_log = structlog.get_logger("gateway")


def create_app(settings: Settings, drain: Drain | None = None) -> ASGIApp:
    """Build the gateway.

    Args:
        settings: What the operator decided.
        drain: What SIGTERM begins; unless given, nothing.

    Raises:
        CallersFileError: The callers file cannot be used.
        NotInstalledError: Traces are asked for, and the extra that makes them is not there.
    """
    if settings.tracing != "off":
        tracing.check_installed()
    drain = drain or Drain()
    app: ASGIApp = _litestar(settings, drain)
    return Entry(Cors(app, settings.cors_origins) if settings.cors_origins else app, drain)


def create_connection(settings: Settings) -> Connection:
    """Build the way to Redis."""
    url = _current(settings, "redis_url", settings.redis_url, REDIS_URL)
    return Connection(lambda: url().reveal(), str(settings.redis_ca_file or ""))


def create_client(settings: Settings, tokens: Tokens | None = None) -> VideoSDK:
    """Build the way to VideoSDK, with the tokens that the settings say unless others are given."""
    return VideoSDK(
        settings.videosdk_url,
        tokens or _tokens(settings),
        timeout=settings.upstream_timeout.total_seconds(),
        max_connections=settings.upstream_concurrency,
        calls_per_second=settings.upstream_calls_per_second,
        webhook_url=None if settings.public_url is None else settings.public_url + INTAKE_PATH,
    )


def create_webhook_keys(settings: Settings, videosdk: VideoSDK) -> KeySource:
    """Build what gives the key of VideoSDK's webhooks."""
    pinned = settings.videosdk_webhook_key_file
    return FetchedKeys(videosdk.public_key) if pinned is None else PinnedKeys(pinned)


async def fetch_jwks(url: str, *, timeout: float = _JWKS_SECONDS) -> bytes:
    """Get the identity provider's keys from the configured address and no other, in so many seconds.

    Raises:
        OSError: It does not answer with a document of a size that keys have.
    """
    try:
        async with (
            httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False) as client,
            asyncio.timeout(timeout),
            client.stream("GET", url, headers={"accept": "application/json"}) as response,
        ):
            response.raise_for_status()
            document = b""
            async for part in response.aiter_bytes():
                document += part
                if len(document) > _MOST_JWKS:
                    raise OSError("the document is too long")
            return document
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(type(error).__name__) from None


def _litestar(settings: Settings, drain: Drain) -> Litestar:
    identities = create_identities(settings)
    for warning in warnings(settings):
        _log.warning("settings.warning", meaning=warning)
    connection = create_connection(settings)
    coordinator = Coordinator(connection, _timing(settings), _tenant(settings))
    tokens = _tokens(settings)
    videosdk = create_client(settings, tokens)
    lists = Lists(videosdk)
    subscription = Wakeups(connection)
    recordings = Recordings(
        coordinator,
        Leader(coordinator, videosdk, lists),
        subscription,
        Uncoordinated(coordinator, videosdk),
        degrade=settings.without_redis == "degrade",
    )
    watcher = Watcher(coordinator, lists, recordings.settle, checks_per_second=settings.checks_per_second)
    settler = Settler(coordinator, watcher)
    operator = Operator(coordinator, Overview(connection, _tenant(settings)), lists, watcher)
    desk = _desk(settings, recordings, watcher, connection)
    feeds = Feeds(coordinator, subscription, _text, most_readers=settings.most_event_readers)
    usher = Usher(feeds, Tickets(connection, _TICKET_LIFETIME), _tenant(settings))
    signatures = Signatures(create_webhook_keys(settings, videosdk))
    intake = Intake(signatures, watcher.hear, telemetry.webhook_event)
    look_around = _look_around(Survey(connection, _tenant(settings)), tokens)
    telemetry.BUILD_INFO.labels(__version__).set(1)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None]:
        if settings.tracing != "off":
            tracing.start(__version__)
        await recordings.open()
        with suppress(CoordinationUnavailable):
            await coordinator.mark()
        await settler.start()
        drain.watch()
        yield
        await feeds.close()
        await settler.stop()
        ends = time.monotonic() + settings.quiet.total_seconds()
        # First, since what it has accepted may begin operations.
        await intake.close(grace=ends - time.monotonic())
        await watcher.close()
        await recordings.close(grace=max(ends - time.monotonic(), 0))
        await videosdk.aclose()
        await connection.aclose()
        await tracing.stop()

    return Litestar(
        route_handlers=[
            routes(identities, settings.request_deadline.total_seconds()),
            event_routes(identities, usher),
            admin(identities),
            receive_videosdk_webhook,
            livez,
            readyz,
            metrics,
            problem_page,
            docs,
            docs_file,
            openapi_json,
        ],
        dependencies={
            "recordings": Provide(lambda: recordings, sync_to_thread=False),
            "desk": Provide(lambda: desk, sync_to_thread=False),
            "identities": Provide(lambda: identities, sync_to_thread=False),
            "operator": Provide(lambda: operator, sync_to_thread=False),
            "intake": Provide(lambda: intake, sync_to_thread=False),
            "look_around": Provide(lambda: look_around, sync_to_thread=False),
            "drain": Provide(lambda: drain, sync_to_thread=False),
            "usher": Provide(lambda: usher, sync_to_thread=False),
        },
        exception_handlers={Exception: answer_problem},
        lifespan=[lifespan],
        request_max_body_size=MOST_BODY,
        logging_config=None,
        openapi_config=None,  # the contract is drawn and served by `gateway.api`, without pages of Litestar's
    )


def _text(recording: Recording) -> bytes:
    return msgspec.json.encode(TrackRecording.of(recording))


def _look_around(survey: Survey, tokens: Tokens) -> LookAround:
    async def look_around() -> telemetry.Vitals:
        seen, token = await survey.look(), tokens.lifetime
        return telemetry.Vitals(
            redis_up=seen is not None,
            unknown_tracks=seen.tracks if seen else None,
            unknown_oldest_seconds=seen.oldest if seen else None,
            settler_lag_seconds=seen.lag if seen else None,
            token_age_seconds=token.age,
            token_expires_seconds=token.left,
        )

    return look_around


def _desk(settings: Settings, recordings: Recordings, watcher: Watcher, connection: Connection) -> Desk:
    tenant = _tenant(settings)
    limiter = Limiter(
        Limits(connection),
        tenant,
        caller_per_minute=settings.caller_starts_per_minute,
        track_per_minute=settings.track_starts_per_minute,
    )
    return Desk(recordings, watcher, limiter, Replays(Answers(connection, settings.idempotency), tenant))


def _timing(settings: Settings) -> Timing:
    return Timing(
        upstream_timeout=settings.upstream_timeout.total_seconds(),
        send_window=settings.send_window.total_seconds(),
        settle=settings.settle.total_seconds(),
        lease=settings.lease.total_seconds(),
        trust=settings.trust.total_seconds(),
        check=settings.check.total_seconds(),
        keep=settings.keep_ended.total_seconds(),
        verify_absent=settings.verify_absent,
    )


def create_identities(settings: Settings) -> Identities:
    """Build what tells who asks.

    Raises:
        CallersFileError: The callers file cannot be used.
    """
    if settings.auth == "none":
        return Identities(anyone=True)
    join_tokens = company_tokens = None
    if settings.join_tokens != "off":
        api_key, secret = _project(settings)
        join_tokens = JoinTokens(api_key, secret, settings.join_tokens)
    if settings.jwt_jwks_url is not None:
        claims = ClaimNames(settings.jwt_name_claim, settings.jwt_scopes_claim, settings.jwt_rooms_claim or "")
        company_tokens = CompanyTokens(
            partial(fetch_jwks, settings.jwt_jwks_url), settings.jwt_issuer or "", settings.jwt_audience or "", claims
        )
    callers = CallersFile(settings.callers_file) if settings.callers_file is not None else None
    return Identities(callers, join_tokens, company_tokens)


def _tokens(settings: Settings) -> Tokens:
    if settings.videosdk_token is not None:
        return FixedToken(_current(settings, "videosdk_token", settings.videosdk_token))
    api_key, secret = _project(settings)
    return MintedTokens(_watched(api_key), secret)


def _watched(api_key: Callable[[], str]) -> Callable[[], str]:
    """Say so where the API key becomes another: what the gateway remembers stays under the one it started with."""
    known = {api_key()}

    def current() -> str:
        now = api_key()
        if now not in known:
            known.add(now)
            _log.warning(
                "project.changed",
                meaning="the API key is another: what is remembered stays under the first one until all replicas are "
                "restarted together, and an API key of another VideoSDK project needs that at once",
            )
        return now

    return current


def _project(settings: Settings) -> tuple[Callable[[], str], Callable[[], Secret]]:
    """Return what gives the project's key and secret as they are now."""
    assert settings.videosdk_api_key is not None  # noqa: S101 - settings.load sees to both
    assert settings.videosdk_secret is not None  # noqa: S101
    api_key = _current(settings, "videosdk_api_key", Secret(settings.videosdk_api_key))
    return lambda: api_key().reveal(), _current(settings, "videosdk_secret", settings.videosdk_secret)


def _current(settings: Settings, field: str, secret: Secret, kind: Kind = SECRET) -> Callable[[], Secret]:
    """Return what gives a secret as it is now: from its file, where it was read from one."""
    path = settings.mounted.get(field)
    return (lambda: secret) if path is None else MountedSecret(path, secret, kind=kind)


def _tenant(settings: Settings) -> str:
    """Name the VideoSDK project in Redis's keys: rooms are per project, and a token may be renewed.

    By the API key at the start, for as long as the process lives: replicas that each took over a new one at another
    moment would not know of each other's claims meanwhile.
    """
    project = settings.videosdk_api_key
    if project is None and settings.videosdk_token is not None:
        with suppress(jwt.InvalidTokenError):
            claims = jwt.decode(settings.videosdk_token.reveal(), options={"verify_signature": False})
            project = str(claims.get("apikey", ""))
    return hashlib.blake2b((project or "").encode(), digest_size=4).hexdigest()
