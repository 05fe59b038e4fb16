"""The composition root: the one place that knows every part, and puts them together."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Final, cast

import httpx
import msgspec
import structlog
from litestar import Litestar
from litestar.types import ASGIApp

from gateway import __version__
from gateway.api.admin import admin_routes
from gateway.api.batch import batch_routes
from gateway.api.docs import docs, docs_file, openapi_json, root, watch, watch_file
from gateway.api.events import EventStreams, event_routes
from gateway.api.idempotency import Idempotency
from gateway.api.me import me_routes
from gateway.api.middleware import Cors, RequestMiddleware
from gateway.api.pipeline import RequestPipeline
from gateway.api.problems import MAX_BODY_BYTES, answer_problem, problem_page
from gateway.api.rate_limits import RateLimiter
from gateway.api.recordings import recording_routes
from gateway.api.system import ReadGauges, livez, metrics_route, readiness_route
from gateway.api.webhooks import WEBHOOK_PATH, WebhookReceiver, webhook_route
from gateway.api.wire import RecordingBody
from gateway.auth.api_keys import Callers, CallersFile, Sort, TokenTable
from gateway.auth.authenticator import Authenticator
from gateway.auth.join_tokens import JoinTokens
from gateway.auth.oidc_tokens import ClaimNames, OidcTokens
from gateway.coordinator import Backlog, Coordinator, Timing
from gateway.lifecycle import Drain
from gateway.observability import metrics, tracing
from gateway.recordings import (
    Coalescer,
    Leader,
    ListingCache,
    Operator,
    Reconciler,
    Recording,
    Recordings,
    RoomFeeds,
    RoomSearch,
    WebhookEvents,
    WebhookQueue,
    WithoutRedisMode,
)
from gateway.secrets import Secret, SecretFile
from gateway.settings.load import named_project, warnings
from gateway.settings.model import Settings
from gateway.settings.values import PROXY_URL, REDIS_URL, SECRET, ValueType
from gateway.store.connection import Connection
from gateway.store.idempotency_records import IdempotencyRecords
from gateway.store.notifications import Notifications
from gateway.store.tickets import Tickets
from gateway.store.token_buckets import TokenBuckets
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.signatures import Signatures
from gateway.videosdk.tokens import FixedToken, MintedTokens, Tokens
from gateway.videosdk.webhook_keys import FetchedKeys, KeySource, PinnedKeys

__all__ = [
    "create_app",
    "create_authenticator",
    "create_client",
    "create_connection",
    "create_webhook_keys",
    "fetch_jwks",
]

_JWKS_SECONDS: Final = 5.0
_TICKET_LIFETIME: Final = timedelta(seconds=30)
_LIMITS_SECONDS: Final = 1.0
"""How long what callers have spent may take to reach Redis at the end."""
_MAX_JWKS: Final = 256 * 1024

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
    return RequestMiddleware(Cors(app, settings.cors_origins) if settings.cors_origins else app, drain, settings.prefix)


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
        max_for_reads=settings.reader_concurrency,
        calls_per_second=settings.upstream_calls_per_second,
        webhook_url=None if settings.public_url is None else settings.public_url + WEBHOOK_PATH,
        proxy=_proxy(settings),
    )


def _proxy(settings: Settings) -> Callable[[], str]:
    if settings.upstream_proxy is None:
        return lambda: ""
    url = _current(settings, "upstream_proxy", settings.upstream_proxy, PROXY_URL)
    return lambda: url().reveal()


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
                if len(document) > _MAX_JWKS:
                    raise OSError("the document is too long")
            return document
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(type(error).__name__) from None


def _litestar(settings: Settings, drain: Drain) -> Litestar:
    authenticator = create_authenticator(settings)
    for warning in warnings(settings):
        _log.warning("settings.warning", meaning=warning)
    connection = create_connection(settings)
    coordinator = Coordinator(connection, _timing(settings), _project_name(settings))
    tokens = _tokens(settings)
    videosdk = create_client(settings, tokens)
    listings = ListingCache(videosdk)
    notifications = Notifications(connection)
    leader = Leader(coordinator, videosdk, listings, retry_refused=settings.retry_refused.total_seconds())
    reconciler = Reconciler(coordinator, listings, leader, checks_per_second=settings.checks_per_second)
    without_redis = WithoutRedisMode(coordinator, videosdk)
    coalescer = Coalescer(
        coordinator,
        leader,
        notifications,
        without_redis,
        reconciler,
        degrade=settings.without_redis == "degrade",
        max_waiting=settings.most_waiting,
    )
    recordings = Recordings(coordinator, coalescer, reconciler, without_redis)
    backlog = Backlog(connection, _project_name(settings))
    operator = Operator(coordinator, backlog, listings, reconciler, recordings)
    token_buckets = TokenBuckets(connection)
    rate_limiter = _rate_limiter(settings, token_buckets)
    search_room = partial(RoomSearch, coordinator, listings)
    pipeline = _pipeline(settings, recordings, search_room, connection, rate_limiter)
    room_feeds = RoomFeeds(coordinator, notifications, _text, max_readers=settings.most_event_readers)
    event_streams = EventStreams(
        room_feeds, Tickets(connection, _TICKET_LIFETIME), rate_limiter, _project_name(settings), authenticator.vouches
    )
    signatures = Signatures(create_webhook_keys(settings, videosdk))
    webhook_queue = WebhookQueue(WebhookEvents(coordinator, reconciler).handle, max_waiting=settings.most_webhooks)
    webhook_receiver = WebhookReceiver(signatures, webhook_queue, metrics.webhook_event)
    read_gauges = _read_gauges(backlog, tokens)
    metrics.BUILD_INFO.labels(__version__).set(1)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None]:
        if settings.tracing != "off":
            tracing.start(__version__)
        await recordings.open()
        token_buckets.open()
        drain.watch()
        yield
        await room_feeds.close()
        ends = time.monotonic() + settings.quiet.total_seconds()
        # First, since what it has accepted may begin operations.
        await webhook_receiver.close(grace=ends - time.monotonic())
        await recordings.close(grace=max(ends - time.monotonic(), 0))
        await listings.close()
        # After all requests, and what became of them.
        await token_buckets.close(grace=_LIMITS_SECONDS)
        await videosdk.aclose()
        await connection.aclose()
        await tracing.stop()

    return Litestar(
        route_handlers=[
            recording_routes(authenticator, pipeline, settings.request_deadline.total_seconds()),
            batch_routes(authenticator, pipeline, settings.request_deadline.total_seconds()),
            *event_routes(authenticator, event_streams),
            me_routes(authenticator, rate_limiter, settings.max_duration.total_seconds()),
            admin_routes(authenticator, operator),
            webhook_route(webhook_receiver),
            livez,
            readiness_route(recordings, authenticator, drain),
            metrics_route(read_gauges),
            problem_page,
            root,
            docs,
            docs_file,
            watch,
            watch_file,
            openapi_json,
        ],
        exception_handlers={Exception: answer_problem},
        lifespan=[lifespan],
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        openapi_config=None,  # the contract is drawn and served by `gateway.api`, without pages of Litestar's
    )


def _text(recording: Recording) -> bytes:
    return msgspec.json.encode(RecordingBody.of(recording))


def _read_gauges(backlog: Backlog, tokens: Tokens) -> ReadGauges:
    async def read_gauges() -> metrics.GaugeValues:
        seen, token = await backlog.uncertainty(), tokens.lifetime
        return metrics.GaugeValues(
            redis_up=seen is not None,
            unknown_tracks=seen.count if seen else None,
            unknown_oldest_seconds=seen.oldest if seen else None,
            settler_lag_seconds=seen.lag if seen else None,
            token_age_seconds=token.age,
            token_expires_seconds=token.left,
        )

    return read_gauges


def _pipeline(
    settings: Settings,
    recordings: Recordings,
    search_room: Callable[[str], RoomSearch],
    connection: Connection,
    rate_limiter: RateLimiter,
) -> RequestPipeline:
    records = IdempotencyRecords(
        connection,
        settings.idempotency,
        max_keys=settings.most_idempotency_keys,
        max_bytes=settings.most_idempotency_bytes,
    )
    return RequestPipeline(
        recordings,
        search_room,
        rate_limiter,
        Idempotency(records, _project_name(settings)),
        file_formats=settings.file_formats,
    )


def _rate_limiter(settings: Settings, token_buckets: TokenBuckets) -> RateLimiter:
    return RateLimiter(
        token_buckets,
        _project_name(settings),
        caller_per_minute=settings.caller_starts_per_minute,
        target_per_minute=settings.track_starts_per_minute,
        questions_per_minute=settings.caller_questions_per_minute,
        tickets_per_minute=settings.caller_tickets_per_minute,
    )


def _timing(settings: Settings) -> Timing:
    return Timing(
        upstream_timeout=settings.upstream_timeout.total_seconds(),
        send_window=settings.send_window.total_seconds(),
        settle=settings.settle.total_seconds(),
        lease=settings.lease.total_seconds(),
        trust=settings.trust.total_seconds(),
        check=settings.check.total_seconds(),
        keep=settings.keep_ended.total_seconds(),
        longest=settings.max_duration.total_seconds(),
        verify_absent=settings.verify_absent,
    )


def create_authenticator(settings: Settings) -> Authenticator:
    """Build what tells who asks.

    Raises:
        CallersFileError: The callers file cannot be used.
    """
    if settings.auth == "none":
        return Authenticator(anyone=True)
    file = CallersFile(settings.callers_file) if settings.callers_file is not None else None
    no_keys = Callers({})

    def table(sort: Sort) -> TokenTable:
        return (no_keys if file is None else file.current).tables[sort]

    join_tokens = oidc_tokens = None
    if settings.join_tokens != "off":
        api_key, secret = _key_and_secret(settings)
        join_tokens = JoinTokens(api_key, secret, settings.join_tokens, partial(table, Sort.JOIN_TOKEN))
    if settings.jwt_jwks_url is not None:
        claims = ClaimNames(settings.jwt_name_claim, settings.jwt_scopes_claim, settings.jwt_rooms_claim or "")
        oidc_tokens = OidcTokens(
            partial(fetch_jwks, settings.jwt_jwks_url),
            settings.jwt_issuer or "",
            settings.jwt_audience or "",
            claims,
            table=partial(table, Sort.JWT),
        )
    return Authenticator(file, join_tokens, oidc_tokens)


def _tokens(settings: Settings) -> Tokens:
    if settings.videosdk_token is not None:
        return FixedToken(_current(settings, "videosdk_token", settings.videosdk_token))
    api_key, secret = _key_and_secret(settings)
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


def _key_and_secret(settings: Settings) -> tuple[Callable[[], str], Callable[[], Secret]]:
    """Return what gives the project's key and secret as they are now."""
    assert settings.videosdk_api_key is not None  # noqa: S101 - settings.load sees to both
    assert settings.videosdk_secret is not None  # noqa: S101
    api_key = _current(settings, "videosdk_api_key", Secret(settings.videosdk_api_key))
    return lambda: api_key().reveal(), _current(settings, "videosdk_secret", settings.videosdk_secret)


def _current(settings: Settings, field: str, secret: Secret, value_type: ValueType = SECRET) -> Callable[[], Secret]:
    """Return what gives a secret as it is now: from its file, where it was read from one."""
    path = settings.mounted.get(field)
    return (
        (lambda: secret)
        if path is None
        else SecretFile(path, secret, parse=cast("Callable[[str], Secret]", value_type.parse))
    )


def _project_name(settings: Settings) -> str:
    """Name the VideoSDK project in Redis's keys: rooms are per project, and a token may be renewed.

    By the API key at the start, for as long as the process lives: replicas that each took over a new one at another
    moment would not know of each other's claims meanwhile.
    """
    project = named_project(settings)
    if project is None and settings.videosdk_token is not None:
        # It may be of any project, so no other token shares its keys.
        project = f"token:{settings.videosdk_token.reveal()}"
    return hashlib.blake2b((project or "").encode(), digest_size=4).hexdigest()
