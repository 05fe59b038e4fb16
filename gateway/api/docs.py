"""The contract and its pages: `/openapi.json`, and Swagger UI at `/docs` from files of our own."""

from functools import cache, partial
from importlib import resources
from typing import Any, Final

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.params import FromPath

from gateway.api.context import RequestContext
from gateway.api.openapi import contract
from gateway.api.static_files import StaticFile
from gateway.errors import NotFound

__all__ = ["docs", "docs_file", "openapi_json", "root"]

# Swagger UI sets styles and draws its icons as data: inline; scripts come from here alone.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


_PAGE_HEADERS: Final = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
_FILE_HEADERS: Final = {"cache-control": "public, max-age=3600"}


def _read(name: str) -> bytes:
    return (resources.files("gateway.api") / "swagger" / name).read_bytes()


_FILES: Final = {
    name: StaticFile(partial(_read, name), media_type, _FILE_HEADERS)
    for name, media_type in {
        "docs.js": "text/javascript",
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon-32x32.png": "image/png",
    }.items()
}
_PAGE: Final = StaticFile(partial(_read, "docs.html"), MediaType.HTML, _PAGE_HEADERS)


@get("/", include_in_schema=False, sync_to_thread=False)
def root(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Lead a person to the docs; a program that asks has the wrong address."""
    if "text/html" not in request.headers.get("accept", ""):
        raise NotFound("The gateway has no such route; `/docs` lists its routes.")
    return Response(b"", status_code=302, headers={"location": f"{RequestContext.of(request.scope).prefix}/docs"})


@get("/docs", include_in_schema=False, sync_to_thread=True)
def docs(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show the API to a person, with everything tried out from the page."""
    return _PAGE.answer(request)


@get("/docs/{name:str}", include_in_schema=False, sync_to_thread=True)
def docs_file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """Serve one of the page's files."""
    if name not in _FILES:
        raise NotFound("There is no such file.")
    return _FILES[name].answer(request)


@get("/openapi.json", include_in_schema=False, sync_to_thread=True)
def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Serve the contract, which says where its paths begin if that is not at the root."""
    return _contract(RequestContext.of(request.scope).prefix).answer(request)


@cache
def _contract(prefix: str) -> StaticFile:
    """Return the contract below a prefix: a setting's, and so one for each process."""
    servers = {"servers": [{"url": prefix}]} if prefix else {}
    return StaticFile(lambda: msgspec.json.encode({**contract(), **servers}), MediaType.JSON)
