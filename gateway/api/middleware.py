"""The outermost layer: a request id in and out, one log line a request, headers every answer carries."""

import re
import secrets
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Final, cast

import structlog
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from gateway.api.context import RequestContext
from gateway.auth import policy
from gateway.lifecycle import Drain
from gateway.observability import metrics, tracing

__all__ = ["Cors", "RequestMiddleware"]

_ACCEPTABLE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TEXT: Final = re.compile(rb"text/|application/(?:problem\+)?json")
_QUIET_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics"})

_COUNTERS: Final = {policy.Scope.START: cache(metrics.STARTS.labels), policy.Scope.STOP: cache(metrics.STOPS.labels)}

_log = structlog.get_logger("gateway.access")


class RequestMiddleware:
    """Wraps the whole application, so that a 404 is logged and answered with an id like everything else.

    Args:
        app: What it wraps.
        drain: Says when connections are to be closed after their answer.
        prefix: The path under which an ingress shows the gateway, and which it strips; requests that still have it are
            served too. Of a setting, and not of a header, which any client could send.
    """

    def __init__(self, app: ASGIApp, drain: Drain, prefix: str = "") -> None:
        self._app = app
        self._drain = drain
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        context = RequestContext.begin(scope, request_id, self._prefix)
        # A copy: the server leaves out the body where the method is HEAD.
        inner = cast("HTTPScope", {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"]})
        if self._prefix and scope["path"].startswith(f"{self._prefix}/"):
            inner["path"] = scope["path"].removeprefix(self._prefix)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        begun = time.perf_counter()
        status, seconds, ended = 0, 0.0, False

        async def tagged_send(message: Message) -> None:
            nonlocal status, seconds, ended
            if ended:
                return
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - begun
                status = message["status"]
                more: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id.encode())]
                more.append((b"x-content-type-options", b"nosniff"))
                if not any(name == b"cache-control" for name, _ in message["headers"]):
                    # The state of a recording is true for the moment only: no cache may keep it.
                    more.append((b"cache-control", b"no-store"))
                more += [(name.encode(), value.encode()) for name, value in context.headers.items()]
                if self._drain.begun:
                    # The client opens its next connection to another replica.
                    more.append((b"connection", b"close"))
                message["headers"] = [*map(_with_charset, message["headers"]), *more]
            elif scope["method"] == "HEAD" and message["type"] == "http.response.body":
                # The first part ends it: a stream would go on.
                ended = True
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        quiet = inner["path"] in _QUIET_PATHS
        try:
            with nullcontext() if quiet else tracing.serving("request") as context.span:
                try:
                    await self._app(inner, receive, tagged_send)
                finally:
                    _observe(inner, scope["method"], context, status, seconds or time.perf_counter() - begun)
        finally:
            level = "debug" if quiet else "error" if status >= 500 else "info"
            getattr(_log, level)(
                "request.answered",
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(time.perf_counter() - begun, 4),
                **context.logged(),
            )


def _with_charset(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Say that a text is UTF-8: some clients take what does not say so for Latin-1."""
    name, value = header
    if name == b"content-type" and _TEXT.match(value) and b"charset" not in value:
        return name, value + b"; charset=utf-8"
    return header


def _observe(scope: HTTPScope, method: str, context: RequestContext, status: int, seconds: float) -> None:
    """Count and trace the answer, by the route and never by the path."""
    route = _route(scope)
    metrics.answered(route, method, status, seconds)
    said = context.outcome or context.problem or ""
    opt = getattr(scope.get("route_handler"), "opt", {})
    counter = _COUNTERS.get(opt.get("scope", ""))
    if said and counter is not None:
        counter(said, opt.get("mode", "")).inc()
    for command, mode, _, said_of_it in context.commands:
        if said_of_it:
            _COUNTERS[policy.Scope(command)](said_of_it, mode).inc()
    if context.span is not None:
        context.span.begin()
    tracing.note(name=route, http__route=route, http__response__status_code=status, outcome=said)


def _route(scope: Scope) -> str:
    """Name the route that Litestar found, the same whatever its path held."""
    named = getattr(scope.get("route_handler"), "operation_id", None)
    return named if isinstance(named, str) else scope.get("path_template", "unmatched")


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _ACCEPTABLE_ID.fullmatch(given):
                return given
    return secrets.token_hex(8)


_METHODS: Final = b"GET, HEAD, POST"
_EXPOSED: Final = (
    b"Date, Location, Retry-After, Link, X-Request-Id, Idempotency-Replayed, RateLimit, RateLimit-Policy, "
    b"WWW-Authenticate"
)
_MAX_AGE: Final = b"7200"
"""Seconds; Chromium keeps an answer no longer."""


class Cors:
    """Lets pages of these origins ask, with whatever headers their libraries add.

    A page may ask with `credentials: "include"` where its origin is listed by itself and not by a pattern: who shares a
    domain is not always one's own. The gateway knows callers by their tokens alone, and reads no cookie.

    Args:
        app: What it wraps.
        origins: `https://app.example.com`, or `https://*.example.com` for all below it and not itself.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._allowed = re.compile("|".join(map(_pattern, origins)))
        self._listed = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None:
            await self._app(scope, receive, send)
            return
        allowed = self._allowed.fullmatch(origin.decode("latin-1")) is not None
        if allowed and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await _answer_preflight(self._permission(origin), headers.get(b"access-control-request-headers"), send)
            return

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Also where it is not allowed: a cache must not keep that answer for those who are.
                more = [(b"vary", b"Origin")]
                if allowed:
                    more += [*self._permission(origin), (b"access-control-expose-headers", _EXPOSED)]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self._app(scope, receive, marked_send)

    def _permission(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        permission = [(b"access-control-allow-origin", origin)]
        if origin in self._listed:
            permission.append((b"access-control-allow-credentials", b"true"))
        return permission


async def _answer_preflight(permission: list[tuple[bytes, bytes]], asked: bytes | None, send: Send) -> None:
    """Say what a page may send. The same for every address, known or not: the browser asks before it says who asks."""
    headers = [
        *permission,
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", _MAX_AGE),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
    ]
    if asked:
        # By name: `*` is none for a page that asks with credentials, and never stands for Authorization.
        headers.append((b"access-control-allow-headers", asked))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _pattern(origin: str) -> str:
    scheme, _, host = origin.partition("://")
    if host.startswith("*."):
        return rf"{scheme}://(?:[a-z0-9_-]+\.)+{re.escape(host[2:])}"
    return re.escape(origin)
