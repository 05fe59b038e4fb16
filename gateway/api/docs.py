"""The pages for people, from files of our own: Swagger UI at `/docs`, a room at `/watch`; and `/openapi.json`."""

from functools import cache
from typing import Any, Final

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.params import FromPath

from gateway.api.context import RequestContext
from gateway.api.openapi import contract
from gateway.api.static_files import StaticFile, StaticPage
from gateway.errors import NotFound

__all__ = ["docs", "docs_file", "openapi_json", "root", "watch", "watch_file"]

# Swagger UI sets styles and draws its icons as data: inline; scripts come from here alone.
_DOCS: Final = StaticPage(
    "swagger",
    "docs.html",
    {
        "docs.js": "text/javascript",
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon-32x32.png": "image/png",
    },
    policy="script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'",
    cache="public, max-age=3600",
)
# Nothing inline, and no text becomes markup: what the page shows of a room was written by others.
_WATCH: Final = StaticPage(
    "watch",
    "index.html",
    {
        "watch.js": "text/javascript",
        "client.js": "text/javascript",
        "words.js": "text/javascript",
        "watch.css": "text/css",
        "icon.svg": "image/svg+xml",
    },
    policy="script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    # They change together: a new page must not meet an old script.
    cache="no-cache",
)


@get("/", sync_to_thread=False)
def root(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Lead a person to the docs; a program that asks has the wrong address."""
    if "text/html" not in request.headers.get("accept", ""):
        raise NotFound("The gateway has no such route; `/docs` lists its routes.")
    return Response(b"", status_code=302, headers={"location": f"{RequestContext.of(request.scope).prefix}/docs"})


@get("/docs", sync_to_thread=True)
def docs(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show the API to a person, with everything tried out from the page."""
    return _DOCS.page(request)


@get("/docs/{name:str}", sync_to_thread=True)
def docs_file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """Serve one of the page's files."""
    return _DOCS.file(request, name)


@get("/watch", sync_to_thread=True)
def watch(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show a room's recordings to a person, live, and start and stop them from the page."""
    return _WATCH.page(request)


@get("/watch/{name:str}", sync_to_thread=True)
def watch_file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """Serve one of the page's files."""
    return _WATCH.file(request, name)


@get("/openapi.json", sync_to_thread=True)
def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Serve the contract, which says where its paths begin if that is not at the root."""
    return _contract(RequestContext.of(request.scope).prefix).answer(request)


@cache
def _contract(prefix: str) -> StaticFile:
    """Return the contract below a prefix: a setting's, and so one for each process."""
    servers = {"servers": [{"url": prefix}]} if prefix else {}
    return StaticFile(lambda: msgspec.json.encode({**contract(), **servers}), MediaType.JSON)
