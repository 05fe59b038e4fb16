"""The probes and the metrics: whether the process lives, whether it can keep its promises, and what it counts."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from msgspec import Meta, Struct

from gateway.api.openapi_texts import problems
from gateway.auth.authenticator import Authenticator
from gateway.errors import CoordinationUnavailable, ShuttingDown
from gateway.lifecycle import Drain
from gateway.observability import metrics
from gateway.recordings import Recordings

__all__ = ["ReadGauges", "livez", "metrics_route", "readiness_route"]


class Health(Struct, frozen=True, omit_defaults=True):
    """What a probe gets."""

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


def readiness_route(recordings: Recordings, authenticator: Authenticator, drain: Drain) -> HTTPRouteHandler:
    """Build the route.

    Args:
        recordings: Knows whether starts can be promised.
        authenticator: Knows whether the callers file is broken.
        drain: Whether the process is about to end.
    """

    @get(
        "/readyz",
        operation_id="getReadiness",
        summary="Can it serve?",
        tags=["health"],
        responses={200: _OK, **problems("coordination-unavailable", "shutting-down", "internal")},
    )
    async def readyz() -> Health:
        """Answer whether exactly one start can be promised. A process about to end says so.

        Not without Redis; and not before what an earlier gateway may have sent has landed, where Redis does not know.
        """
        if drain.begun:
            raise ShuttingDown("This process was asked to end.", retry_after=1)
        try:
            left = await recordings.ready_in()
        except CoordinationUnavailable:
            raise CoordinationUnavailable("Redis does not answer.", retry_after=1) from None
        if left:
            raise CoordinationUnavailable(
                "Redis does not know what came before it: starts wait until all that was sent has landed.",
                retry_after=math.ceil(left),
            )
        return Health("ok", authenticator.warnings)

    return readyz


ReadGauges = Callable[[], Awaitable[metrics.GaugeValues]]
"""Looks how things stand where that is not counted."""


def metrics_route(read_gauges: ReadGauges) -> HTTPRouteHandler:
    """Build the route.

    Args:
        read_gauges: Looks how things stand where that is not counted.
    """

    # No part of the contract (`openapi.py` leaves it out): it is for who runs the gateway, not for who calls it.
    @get("/metrics", operation_id="getMetrics")
    async def serve_metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Answer with all metrics. It needs no credentials: no metric names a caller, room or participant."""
        gauge_values, headers = await read_gauges(), request.headers
        accept, accept_encoding = headers.get("accept", ""), headers.get("accept-encoding", "")
        # In a thread: with several workers it reads files.
        body, described = await asyncio.to_thread(metrics.render, gauge_values, accept, accept_encoding)
        return Response(body, headers=described, media_type=described["content-type"])

    return serve_metrics
