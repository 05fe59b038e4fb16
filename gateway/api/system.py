"""The probes and the metrics: whether the process lives, whether it can keep its promises, and what it counts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from msgspec import Meta, Struct

from gateway.api.openapi_texts import problems
from gateway.auth.authenticator import Authenticator
from gateway.errors import CoordinationUnavailable, ShuttingDown
from gateway.lifecycle import Drain
from gateway.observability import metrics
from gateway.recordings import Recordings

__all__ = ["ReadGauges", "livez", "readyz", "serve_metrics"]


class Health(Struct, frozen=True, omit_defaults=True):
    """What a probe is told."""

    status: Literal["ok"]
    warnings: Annotated[
        list[str],
        Meta(description="`callers-file-broken`: it serves with the last good callers file; the log says why."),
    ] = []


_OK = ResponseSpec(
    Health, generate_examples=False, description="Yes.", examples=[Example(id="ok", value={"status": "ok"})]
)


@get(
    "/livez",
    operation_id="getLiveness",
    summary="Does the process live?",
    tags=["health"],
    responses={200: _OK, **problems("internal")},
    sync_to_thread=False,
)
def livez() -> Health:
    """Answer without any I/O."""
    return Health("ok")


@get(
    "/readyz",
    operation_id="getReadiness",
    summary="Can it serve?",
    tags=["health"],
    responses={200: _OK, **problems("coordination-unavailable", "shutting-down", "internal")},
)
async def readyz(
    recordings: NamedDependency[Recordings],
    authenticator: NamedDependency[Authenticator],
    drain: NamedDependency[Drain],
) -> Health:
    """Answer whether Redis does: without it nobody can promise exactly one start. A process about to end says so."""
    if drain.begun:
        raise ShuttingDown("This process was asked to end.", retry_after=1)
    if not await recordings.ready():
        raise CoordinationUnavailable("Redis does not answer.", retry_after=1)
    return Health("ok", authenticator.warnings)


ReadGauges = Callable[[], Awaitable[metrics.GaugeValues]]
"""Looks how things stand where that is not counted."""


# No part of the contract: it is for who runs the gateway, not for who calls it.
@get("/metrics", operation_id="getMetrics", include_in_schema=False)
async def serve_metrics(request: Request[Any, Any, Any], read_gauges: NamedDependency[ReadGauges]) -> Response[bytes]:
    """Answer with all metrics. Nobody has to say who they are: it tells of no caller, room or participant."""
    gauge_values, headers = await read_gauges(), request.headers
    accept, accept_encoding = headers.get("accept", ""), headers.get("accept-encoding", "")
    # In a thread: with several workers it reads files.
    body, described = await asyncio.to_thread(metrics.render, gauge_values, accept, accept_encoding)
    return Response(body, headers=described, media_type=described["content-type"])
