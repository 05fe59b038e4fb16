"""What a Prometheus is told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency

from gateway.observability import metrics

__all__ = ["ReadGauges", "metrics"]

ReadGauges = Callable[[], Awaitable[metrics.GaugeValues]]
"""Looks how things stand where that is not counted."""


# No part of the contract: it is for who runs the gateway, not for who calls it.
@get("/metrics", operation_id="getMetrics", include_in_schema=False)
async def metrics(request: Request[Any, Any, Any], read_gauges: NamedDependency[ReadGauges]) -> Response[bytes]:
    """Answer with all metrics. Nobody has to say who they are: it tells of no caller, room or participant."""
    gauge_values, headers = await read_gauges(), request.headers
    accept, accept_encoding = headers.get("accept", ""), headers.get("accept-encoding", "")
    # In a thread: with several workers it reads files.
    body, described = await asyncio.to_thread(metrics.render, gauge_values, accept, accept_encoding)
    return Response(body, headers=described, media_type=described["content-type"])
