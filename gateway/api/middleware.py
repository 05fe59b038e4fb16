"""The outermost layer: a request id in and out, one log line a request, headers every answer carries."""

import re
import secrets
import time
from contextlib import nullcontext
from typing import Any, Final, cast

import structlog
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from gateway.lifecycle import Drain
from gateway.observability import metrics, tracing

__all__ = ["RequestMiddleware"]

_ACCEPTABLE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LOGGED: Final = ("caller", "outcome", "problem", "rule", "recording", "replayed", "webhook")
_QUIET_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics"})

_DECISIONS: Final = {"startTrackRecording": metrics.STARTS, "stopTrackRecording": metrics.STOPS}

_log = structlog.get_logger("gateway.access")


class RequestMiddleware:
    """Wraps the whole application, so that a 404 is logged and answered with an id like everything else.

    Args:
        app: What it wraps.
        drain: Says when connections are to be closed after their answer.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        begun = time.perf_counter()
        status, seconds = 0, 0.0

        async def tagged_send(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - begun
                status = message["status"]
                more: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id.encode())]
                more.append((b"x-content-type-options", b"nosniff"))
                if not any(name == b"cache-control" for name, _ in message["headers"]):
                    # How a recording stands is true for the moment, and nobody else's to keep.
                    more.append((b"cache-control", b"no-store"))
                told = cast("dict[str, str]", state.get("headers") or {})
                more += [(name.encode(), value.encode()) for name, value in told.items()]
                if self._drain.begun:
                    # So that whoever keeps the connection opens the next one elsewhere.
                    more.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *more]
            await send(message)

        quiet = scope["path"] in _QUIET_PATHS
        try:
            with nullcontext() if quiet else tracing.serving(scope["headers"], "request"):
                try:
                    await self._app(scope, receive, tagged_send)
                finally:
                    _tell(scope, status, seconds or time.perf_counter() - begun)
        finally:
            known = {name: state[name] for name in _LOGGED if name in state}
            level = "debug" if quiet else "error" if status >= 500 else "info"
            getattr(_log, level)(
                "request.answered",
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(time.perf_counter() - begun, 4),
                **known,
            )


def _tell(scope: HTTPScope, status: int, seconds: float) -> None:
    """Count and trace what became of the request, by the route and never by the path."""
    route, state = _route(scope), cast("dict[str, str]", scope["state"])
    metrics.answered(route, scope["method"], status, seconds)
    said = state.get("outcome") or state.get("problem") or ""
    if said and route in _DECISIONS:
        _DECISIONS[route].labels(said).inc()
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
