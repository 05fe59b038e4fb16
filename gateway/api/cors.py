"""Which web pages may ask (CORS): those of the configured origins, and no others.

It wraps everything, so that a page can also read a 401 or a 404. Credentials mode is not needed, since callers send
their token themselves. Requests without an Origin are not touched.
"""

import re
from collections.abc import Sequence
from typing import Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Cors"]

_METHODS: Final = b"GET, POST"
_ALLOWED: Final = b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, X-Request-Timeout-Ms"
_EXPOSED: Final = (
    b"Location, Retry-After, Link, X-Request-Id, Idempotency-Replayed, RateLimit, RateLimit-Policy, WWW-Authenticate"
)
_MAX_AGE: Final = b"7200"
"""Seconds; Chromium keeps an answer no longer."""


class Cors:
    """Lets pages of these origins ask.

    Args:
        app: What it wraps.
        origins: `https://app.example.com`, or `https://*.example.com` for all below it and not itself.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._allowed = re.compile("|".join(map(_pattern, origins)))

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
            await _answer_preflight(origin, send)
            return

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Also where it is not allowed: a cache must not keep that answer for those who are.
                more = [(b"vary", b"Origin")]
                if allowed:
                    more += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self._app(scope, receive, marked_send)


async def _answer_preflight(origin: bytes, send: Send) -> None:
    """Say what a page may send. The same for every address, known or not: the browser asks before it says who asks."""
    headers = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _ALLOWED),
        (b"access-control-max-age", _MAX_AGE),
        (b"vary", b"Origin"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _pattern(origin: str) -> str:
    scheme, _, host = origin.partition("://")
    if host.startswith("*."):
        return rf"{scheme}://(?:[a-z0-9_-]+\.)+{re.escape(host[2:])}"
    return re.escape(origin)
