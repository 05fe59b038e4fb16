"""The contract and its pages: `/openapi.json`, and Swagger UI at `/docs` from files of our own."""

from importlib import resources
from typing import Any

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.params import FromPath

from gateway.api.context import RequestContext
from gateway.api.openapi import contract
from gateway.errors import NotFound

__all__ = ["docs", "docs_file", "openapi_json", "root"]

_FILES = {
    "docs.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
# Swagger UI sets styles and draws its icons as data: inline; scripts come from here alone.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _read(name: str) -> bytes:
    return (resources.files("gateway.api") / "swagger" / name).read_bytes()


@get("/", include_in_schema=False, sync_to_thread=False)
def root(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Lead a person to the docs; a program that asks has the wrong address."""
    if "text/html" not in request.headers.get("accept", ""):
        raise NotFound("The gateway has no such route; `/docs` lists its routes.")
    return Response(b"", status_code=302, headers={"location": f"{RequestContext.of(request.scope).prefix}/docs"})


@get("/docs", include_in_schema=False, sync_to_thread=False)
def docs() -> Response[bytes]:
    """Show the API to a person, with everything tried out from the page."""
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    return Response(_read("docs.html"), media_type=MediaType.HTML, headers=headers)


@get("/docs/{name:str}", include_in_schema=False, sync_to_thread=True)
def docs_file(name: FromPath[str]) -> Response[bytes]:
    """Serve one of the page's files."""
    if name not in _FILES:
        raise NotFound("There is no such file.")
    return Response(_read(name), media_type=_FILES[name], headers={"cache-control": "public, max-age=3600"})


@get("/openapi.json", include_in_schema=False, sync_to_thread=True)
def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Serve the contract, which says where its paths begin if that is not at the root."""
    prefix = RequestContext.of(request.scope).prefix
    servers = {"servers": [{"url": prefix}]} if prefix else {}
    return Response(msgspec.json.encode({**contract(), **servers}), media_type=MediaType.JSON)
