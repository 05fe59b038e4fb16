"""What runs before a handler: who asks, whether the route is for that caller, and whether the body can be read."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import InternalServerException
from litestar.handlers import BaseRouteHandler
from msgspec import Struct

from gateway.api import openapi_texts
from gateway.api.wire import read_body
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import RULES
from gateway.errors import Forbidden, InvalidRequest, MalformedRequest, UnsupportedMediaType

__all__ = ["BEARER", "DEADLINE_HEADER", "asked_seconds", "authenticate", "checked"]

DEADLINE_HEADER = "x-request-timeout-ms"
"""A caller's own limit on its waiting, in milliseconds."""

BEARER: list[dict[str, list[str]]] = [{name: []} for name in openapi_texts.IDENTITIES]


def authenticate(
    authenticator: Authenticator | None,
) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]:
    """Make the guard that knows who asks and whether the route is for that caller, before a body is read."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        assert authenticator is not None  # noqa: S101 - only the contract is drawn without
        caller = await authenticator.identify(connection.headers.get("authorization"))
        state = connection.scope["state"]
        state["identity"], state["caller"] = caller, caller.name
        # Litestar answers OPTIONS by itself, for which nobody needs a scope.
        if "scope" in handler.opt and handler.opt["scope"] not in caller.policy.scopes:
            raise Forbidden(RULES["scope"], extensions={"rule": "scope"})

    return guard


def checked(model: type[Struct]) -> Callable[[Request[Any, Any, Any]], Awaitable[None]]:
    """Make the hook that reads the body before Litestar does, since Litestar would name one wrong field at most."""

    async def check(request: Request[Any, Any, Any]) -> None:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType("The body must be `application/json`.")
        try:
            body = await request.body()
        except InternalServerException:
            # What Litestar makes of a caller that hangs up within its body: nobody's mistake here.
            raise MalformedRequest("The body ended early.") from None
        read_body(body, model)

    return check


def asked_seconds(request: Request[Any, Any, Any]) -> float | None:
    """Return how long the caller wants to wait, None where it does not say.

    Raises:
        InvalidRequest: It says something else.
    """
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return None
    if not given.isascii() or not given.isdecimal() or not int(given[:9]) > 0 or len(given) > 9:
        raise InvalidRequest.of([(DEADLINE_HEADER, "must be a whole number of milliseconds, above 0")])
    return int(given) / 1000
