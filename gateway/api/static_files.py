"""Files that never change while the process lives: compressed once, kept once, and not sent to those that have them.

All answers share the same bytes. A client that asks and does not read keeps only its connection.
"""

import gzip
import hashlib
import threading
from collections.abc import Callable
from typing import Any, Final

from litestar import Request, Response
from msgspec import Struct

__all__ = ["StaticFile"]

_WORTH_BYTES: Final = 1024
"""Less is not worth it."""
_LEVEL: Final = 6


class _Form(Struct, frozen=True):
    """What is sent: the file as it is, or compressed."""

    body: bytes
    etag: str
    encoding: str = ""


class StaticFile:
    """One file.

    Args:
        read: Reads it, once, when it is first asked for.
        media_type: Its type.
        headers: Further headers of the answer.
    """

    def __init__(self, read: Callable[[], bytes], media_type: str, headers: dict[str, str] | None = None) -> None:
        self._read = read
        self._media_type = media_type
        self._headers = headers or {}
        self._lock = threading.Lock()
        self._forms: tuple[_Form, _Form] | None = None

    def answer(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """Answer with the file, compressed where the client takes that, or say that the client has it."""
        plain, packed = self._both()
        form = packed if _takes_gzip(request.headers.get("accept-encoding", "")) else plain
        headers = {**self._headers, "etag": form.etag, "vary": "Accept-Encoding"}
        if _is_known(form.etag, request.headers.get("if-none-match", "")):
            return Response(b"", status_code=304, media_type=self._media_type, headers=headers)
        if form.encoding:
            headers["content-encoding"] = form.encoding
        return Response(form.body, media_type=self._media_type, headers=headers)

    def _both(self) -> tuple[_Form, _Form]:
        with self._lock:
            if self._forms is None:
                body = self._read()
                name = hashlib.sha256(body).hexdigest()[:32]
                plain = _Form(body, f'"{name}"')
                small = gzip.compress(body, _LEVEL, mtime=0) if len(body) >= _WORTH_BYTES else body
                # Another form is another representation, with a name of its own.
                packed = _Form(small, f'"{name}-gzip"', "gzip") if len(small) < len(body) else plain
                self._forms = plain, packed
            return self._forms


def _takes_gzip(accepted: str) -> bool:
    """Tell whether a client takes gzip (RFC 9110, 12.5.3): by that name, or by `*` where gzip is not named."""
    weights: dict[str, bool] = {}
    for part in accepted.lower().split(","):
        coding, *parameters = (word.strip() for word in part.split(";"))
        weights[coding] = not any(one.replace(" ", "").rstrip("0.") in {"q=", "q"} for one in parameters)
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", False)))


def _is_known(etag: str, known: str) -> bool:
    """Tell whether the client names this form (RFC 9110, 13.1.2); a proxy may have marked the name as weak."""
    names = [name.strip().removeprefix("W/") for name in known.split(",")]
    return etag in names or names == ["*"]
