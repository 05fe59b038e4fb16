"""An answer that is ready to be sent."""

from collections.abc import Mapping
from typing import Any, Final, Self

from litestar.types import HTTPResponseStartEvent, Receive, Scope, Send

__all__ = ["ReadyResponse"]

_JSON: Final = "application/json"


class ReadyResponse:
    """An answer as it is sent (ASGI). Litestar's own takes four times as long: each header is looked for in the others.

    Args:
        body: All of it.
        status: The HTTP status.
        headers: Beside `content-type` and `content-length`; their names in small letters.
        media_type: Of the body.
    """

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str], media_type: str = _JSON) -> None:
        self.body = body
        self.status = status
        self.headers: dict[str, str] = {"content-type": media_type, "content-length": str(len(body)), **headers}

    def to_asgi_response(self, **_: Any) -> Self:
        """Return it as it is; Litestar calls this on what an exception handler returns."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Send it (ASGI)."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        start: HTTPResponseStartEvent = {"type": "http.response.start", "status": self.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
