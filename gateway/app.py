"""The composition root: the one place that knows every part, and puts them together."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import jwt
import structlog
from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp

from gateway.api.callers import Callers
from gateway.api.docs import docs, docs_file, openapi_json
from gateway.api.entry import Entry
from gateway.api.health import livez, readyz
from gateway.api.problems import MOST_BODY, answer_problem, problem_page
from gateway.api.recordings import routes
from gateway.coordinator import Connection, Coordinator, Timing, Wakeups
from gateway.errors import CoordinationUnavailable
from gateway.recordings import Leader, Recordings, Settler, Uncoordinated
from gateway.settings import Settings
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.tokens import FixedToken, MintedTokens, Tokens

__all__ = ["create_app", "create_client", "create_connection"]

_log = structlog.get_logger("gateway")


def create_app(settings: Settings) -> ASGIApp:
    """Build the gateway.

    Raises:
        CallersFileError: The callers file cannot be used.
    """
    return Entry(_litestar(settings))


def create_connection(settings: Settings) -> Connection:
    """Build the way to Redis."""
    return Connection(settings.redis_url.reveal())


def create_client(settings: Settings) -> VideoSDK:
    """Build the way to VideoSDK."""
    return VideoSDK(settings.videosdk_url, _tokens(settings), timeout=settings.upstream_timeout.total_seconds())


def _litestar(settings: Settings) -> Litestar:
    callers = None if settings.callers_file is None or settings.auth == "none" else Callers.load(settings.callers_file)
    if settings.auth == "none":
        _log.warning("auth.none", meaning="everybody who reaches the gateway may use it")
    connection = create_connection(settings)
    coordinator = Coordinator(connection, _timing(settings), _tenant(settings))
    videosdk = create_client(settings)
    recordings = Recordings(
        coordinator,
        Leader(coordinator, videosdk),
        Wakeups(connection),
        Uncoordinated(coordinator, videosdk),
        degrade=settings.without_redis == "degrade",
    )
    settler = Settler(coordinator, recordings)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None]:
        await recordings.open()
        with suppress(CoordinationUnavailable):
            await coordinator.mark()
        await settler.start()
        yield
        await settler.stop()
        await recordings.close(grace=settings.quiet.total_seconds())
        await videosdk.aclose()
        await connection.aclose()

    return Litestar(
        route_handlers=[
            routes(callers, settings.request_deadline.total_seconds()),
            livez,
            readyz,
            problem_page,
            docs,
            docs_file,
            openapi_json,
        ],
        dependencies={"recordings": Provide(lambda: recordings, sync_to_thread=False)},
        exception_handlers={Exception: answer_problem},
        lifespan=[lifespan],
        request_max_body_size=MOST_BODY,
        logging_config=None,
        openapi_config=None,  # the contract is drawn and served by `gateway.api`, without pages of Litestar's
    )


def _timing(settings: Settings) -> Timing:
    return Timing(
        upstream_timeout=settings.upstream_timeout.total_seconds(),
        send_window=settings.send_window.total_seconds(),
        settle=settings.settle.total_seconds(),
        lease=settings.lease.total_seconds(),
        trust=settings.trust.total_seconds(),
        verify_absent=settings.verify_absent,
    )


def _tokens(settings: Settings) -> Tokens:
    if settings.videosdk_token is not None:
        return FixedToken(settings.videosdk_token)
    assert settings.videosdk_api_key is not None  # noqa: S101 - settings.load sees to both
    assert settings.videosdk_secret is not None  # noqa: S101
    return MintedTokens(settings.videosdk_api_key, settings.videosdk_secret)


def _tenant(settings: Settings) -> str:
    """Name the VideoSDK project in Redis's keys: rooms are per project, and a token may be renewed."""
    project = settings.videosdk_api_key
    if project is None and settings.videosdk_token is not None:
        with suppress(jwt.InvalidTokenError):
            claims = jwt.decode(settings.videosdk_token.reveal(), options={"verify_signature": False})
            project = str(claims.get("apikey", ""))
    return hashlib.blake2b((project or "").encode(), digest_size=4).hexdigest()
