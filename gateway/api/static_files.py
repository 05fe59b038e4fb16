"""Files that never change while the process lives: compressed once, kept once, and not sent to those that have them.

All answers share the same bytes. A client that asks and does not read keeps only its connection.
"""

import gzip
import hashlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib import resources
from typing import Any, Final

from litestar import MediaType, Request, Response
from msgspec import Struct

from gateway.api.context import RequestContext
from gateway.errors import NotFound

__all__ = ["StaticFile", "StaticPage"]

_WORTH_BYTES: Final = 1024
"""Less is not worth it."""
_LEVEL: Final = 6
_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""What every page begins with: it loads nothing from anywhere, and is shown in no frame."""


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


class StaticPage:
    """A page and the files it loads, all in one folder of this package.

    Args:
        folder: Its name.
        page: The page's file.
        files: The types of the others, by their names: only these are served.
        policy: What the page may load, as its Content-Security-Policy says it.
        cache: How long a browser may keep the files; the page itself is always asked for.
    """

    def __init__(self, folder: str, page: str, files: Mapping[str, str], *, policy: str, cache: str) -> None:
        headers = {"content-security-policy": f"{_POLICY}; {policy}", "referrer-policy": "no-referrer"}
        self._page = StaticFile(partial(_read, folder, page), MediaType.HTML, headers)
        self._files = {
            name: StaticFile(partial(_read, folder, name), media_type, {"cache-control": cache})
            for name, media_type in files.items()
        }

    def page(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """Answer with the page, at the one address that the relative addresses in it are relative to."""
        # Litestar has taken the slashes off `path`.
        if not request.scope["raw_path"].endswith(b"/"):
            return self._page.answer(request)
        address = RequestContext.of(request.scope).prefix + request.scope["path"]
        query = request.scope["query_string"].decode("latin-1")
        return Response(b"", status_code=302, headers={"location": f"{address}?{query}" if query else address})

    def file(self, request: Request[Any, Any, Any], name: str) -> Response[bytes]:
        """Answer with one of its files.

        Raises:
            NotFound: The page has no such file.
        """
        if name not in self._files:
            raise NotFound("There is no such file.")
        return self._files[name].answer(request)


def _read(folder: str, name: str) -> bytes:
    return (resources.files("gateway.api") / folder / name).read_bytes()


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
