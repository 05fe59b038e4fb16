"""Every error becomes one RFC 9457 document, here and nowhere else; and every type of problem has a page."""

import html
import math
import re
from typing import Any, Final, cast
from urllib.parse import quote

import msgspec
import structlog
from litestar import MediaType, Request, Response, get
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
)
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE

from gateway.api.context import RequestContext
from gateway.api.response import ReadyResponse
from gateway.auth.policy import RULES
from gateway.errors import (
    PROBLEMS,
    Forbidden,
    GatewayError,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    Unauthenticated,
)

__all__ = [
    "MAX_BODY_BYTES",
    "PROBLEM_JSON",
    "answer_problem",
    "problem_document",
    "problem_of",
    "problem_page",
    "retry_seconds",
]

PROBLEM_JSON = "application/problem+json"
MAX_BODY_BYTES = 64 * 1024
"""Bytes. No honest request comes near."""
_PAGE_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""A page of words: it loads nothing and runs nothing."""
_PATH: Final = "/:@!$&'()*+,;=~"
"""What may stand in a path as it is."""
_CODE: Final = re.compile(r"`([^`]+)`")

_log = structlog.get_logger("gateway.api")


def answer_problem(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Turn whatever was raised into a problem document. The only exception handler there is."""
    problem, context = problem_of(error, _max_body(request)), RequestContext.of(request.scope)
    headers: dict[str, str] = {}
    if (seconds := retry_seconds(problem)) is not None:
        headers["retry-after"] = str(seconds)
    if isinstance(problem, Unauthenticated):
        headers["www-authenticate"] = f'{context.challenge} realm="recording-gateway"'
    if isinstance(error, MethodNotAllowedException) and error.headers:
        # Litestar knows of no HEAD; the middleware answers it wherever GET is answered.
        headers |= {name.lower(): value.replace("GET", "GET, HEAD") for name, value in error.headers.items()}
    if isinstance(problem, OutcomeUnknown) and context.status_path:
        headers["link"] = f'<{context.status_path}>; rel="describedby"'
    context.problem, context.rule = problem.slug, problem.extensions.get("rule")
    body = problem_document(problem, request.scope["path"], context.request_id, context.prefix)
    # Litestar asks no more of it than `to_asgi_response`.
    return cast("Response[bytes]", ReadyResponse(body, problem.status, headers, PROBLEM_JSON))


def problem_document(problem: GatewayError, instance: str, request_id: str, prefix: str = "") -> bytes:
    """Return a problem the way it is sent."""
    return msgspec.json.encode(
        {
            "type": f"{prefix}/problems/{problem.slug}",
            "title": problem.title,
            "status": problem.status,
            "detail": problem.detail,
            "instance": quote(f"{prefix}{instance}" if instance else "", safe=_PATH),
            "requestId": request_id,
            **problem.extensions,
        }
    )


def retry_seconds(problem: GatewayError) -> int | None:
    """Return after how many whole seconds a retry makes sense, None where that is not known."""
    return None if problem.retry_after is None else max(1, math.ceil(problem.retry_after))


def problem_of(error: Exception, max_body: int = MAX_BODY_BYTES) -> GatewayError:
    """Return the problem that anything raised is to a caller; a mistake of ours is logged."""
    problem = _problem(error, max_body)
    if isinstance(problem, InternalError):
        _log.error("request.failed", exc_info=error)
    return problem


def _max_body(request: Request[Any, Any, Any]) -> int:
    """Return how many bytes a body of this route may have."""
    handler = request.scope.get("route_handler")
    own = handler.resolve_request_max_body_size() if isinstance(handler, HTTPRouteHandler) else None
    return own or MAX_BODY_BYTES


def _problem(error: Exception, max_body: int) -> GatewayError:
    match error:
        case GatewayError():
            return error
        case NotFoundException():
            return NotFound("The gateway has no such route; `/docs` lists its routes.")
        case MethodNotAllowedException():
            return MethodNotAllowed("The route does not take this method.")
        case HTTPException(status_code=status) if status == HTTP_413_REQUEST_ENTITY_TOO_LARGE:
            return PayloadTooLarge(f"The body may have at most {max_body} bytes.")
        case HTTPException(status_code=status) if 400 <= status < 500:
            return MalformedRequest("The gateway cannot read this request.")
        case _:
            return InternalError("The gateway failed; its log has the details under this requestId.")


@get("/problems/{slug:str}", media_type=MediaType.HTML, sync_to_thread=False)
def problem_page(slug: FromPath[str]) -> Response[str]:
    """Explain a type of problem to a person."""
    problem = PROBLEMS.get(slug)
    if problem is None:
        raise NotFound("There is no such problem.")
    title, advice = html.escape(problem.title), _marked_up(problem.advice)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>Type <code>/problems/{slug}</code>, status {problem.status}.</p>"
        f"<h2>What to do</h2><p>{advice}</p>{_rules() if problem is Forbidden else ''}</html>"
    )
    headers = {"content-security-policy": _PAGE_POLICY, "referrer-policy": "no-referrer"}
    return Response(page, media_type=MediaType.HTML, headers=headers)


def _rules() -> str:
    rows = (f"<dt><code>{rule}</code></dt><dd>{_marked_up(meaning)}</dd>" for rule, meaning in RULES.items())
    return f"<h2>The rules</h2><dl>{''.join(rows)}</dl>"


def _marked_up(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", html.escape(text))
