"""What runs before a handler: who asks, whether the route is for that caller, and whether the body can be read."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar, cast

from litestar import Request, Router
from litestar.exceptions import InternalServerException
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Struct

from gateway.api import openapi_texts
from gateway.api.context import RequestContext
from gateway.api.wire import read_body
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import RULES, Scope
from gateway.errors import Forbidden, InvalidRequest, MalformedRequest, UnsupportedMediaType

__all__ = [
    "BEARER",
    "DEADLINE_HEADER",
    "Guard",
    "GuardedRoutes",
    "JsonRequest",
    "asked_seconds",
    "authenticate",
    "takes",
]

Guard = Callable[[Request[Any, Any, Any]], Awaitable[None]]
"""Lets a request pass, or raises. Litestar runs it before all else of a route, as `before_request`; its own guards get
a copy of the route each time, which costs more than to look a key up."""

DEADLINE_HEADER = "x-request-timeout-ms"
"""A caller's own limit on its waiting, in milliseconds."""

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

BEARER: list[dict[str, list[str]]] = [{name: []} for name in openapi_texts.IDENTITIES]


def authenticate(authenticator: Authenticator) -> Guard:
    """Make the guard that knows who asks and whether the route is for that caller, before a body is read."""

    async def guard(request: Request[Any, Any, Any]) -> None:
        caller = await authenticator.identify(request.headers.get("authorization"))
        RequestContext.of(request.scope).let_in(caller, request.scope)
        opt = request.route_handler.opt
        # Litestar answers OPTIONS by itself, which needs no scope. A route for several commands needs that of one.
        needed: frozenset[Scope] = opt.get("any_scope") or frozenset(opt.get("scope", ()) and [opt["scope"]])
        if needed and not needed & caller.policy.scopes:
            raise Forbidden(RULES["scope"], extensions={"rule": "scope"})

    return guard


class JsonRequest(Request[Any, Any, Any]):
    """A request whose body becomes the handler's `data` in one step.

    Litestar would name at most one wrong field, so it gets the finished struct in place of plain JSON and passes it on
    as it is. It asks only after the guards have let the request pass.
    """

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            UnsupportedMediaType: The request does not say that it is JSON, or it is compressed.
            MalformedRequest: The body ended early, or is empty.
        """
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType("Send the body as `application/json`.")
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("Send the body as it is, without compression (`Content-Encoding`).")
        try:
            body = await super().body()
        except InternalServerException:
            # Litestar raises this where the client closes the connection within the body: no mistake of ours.
            raise MalformedRequest("The body ended early.") from None
        if not body:
            raise MalformedRequest("The body is not valid JSON.")
        return body

    async def json(self) -> Struct:
        """Decode the body into the model that the handler takes as `data`.

        Raises:
            MalformedRequest: The body is not one JSON object.
            InvalidRequest: Names every field that is missing, unknown or wrong.
        """
        data = self.route_handler.parsed_data_field
        assert data is not None  # noqa: S101 - Litestar asks for handlers with `data` only
        decoded = read_body(await self.body(), cast("type[Struct]", data.annotation))
        # Litestar would keep it for as long as the caller waits: of many, each with 64 KiB, that is much.
        self._body = self._connection_state.body = b""
        return decoded


class GuardedRoutes(Router):
    """Routes that know who asks.

    Args:
        path: That of all of them begins so.
        handlers: Of the routes.
        authenticator: Identifies the caller.
    """

    def __init__(self, path: str, handlers: Sequence[HTTPRouteHandler], authenticator: Authenticator) -> None:
        super().__init__(
            path, route_handlers=handlers, before_request=authenticate(authenticator), request_class=JsonRequest
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Litestar copies routes with all that they hold, so that they can be registered twice: these are not, and the
        # copy takes longer than all else that the application is made of.
        return self


def takes(body: type[Struct], handler: _Handler) -> _Handler:
    """Have a handler take a body of this type as `data`: Litestar reads it from the annotation, as does `json`."""
    handler.__annotations__["data"] = JSONBody[body]  # pyright: ignore[reportInvalidTypeForm]
    return handler


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
