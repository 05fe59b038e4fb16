"""A collector of traces: a real HTTP server that takes OTLP over protobuf and keeps what it was sent."""

import gzip
from typing import Any, Final, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan

from gateway.sandbox.wire import Exchange, Reply, Request, Server
from tests.leaks import EVIDENCE


class Span:
    """One span, in the words that tests use."""

    def __init__(self, span: SentSpan, resource: dict[str, Any]) -> None:
        self.name: Final = span.name
        self.trace: Final = span.trace_id.hex()
        self.id: Final = span.span_id.hex()
        self.parent: Final = span.parent_span_id.hex()
        self.kind: Final = SentSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.links: Final = [link.span_id.hex() for link in span.links]
        self.begun: Final = span.start_time_unix_nano
        self.ended: Final = span.end_time_unix_nano
        self.attributes: Final = _plain(span.attributes)
        self.process: Final[str] = resource["service.instance.id"]
        self.resource: Final = resource
        self.events: Final = len(span.events)


class Collector:
    """Takes what gateways export."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.texts: list[str] = []
        self.spans: list[Span] = []
        self._server = Server(self._take, host="127.0.0.1", port=0)

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop()

    @property
    def settings(self) -> dict[str, str]:
        """Return what makes a gateway export to it, soon."""
        return {
            "GATEWAY_TRACING": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._server.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }

    def named(self, name: str) -> list[Span]:
        """Return the spans of this name, in the order in which they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.begun)

    async def _take(self, exchange: Exchange) -> None:
        request = exchange.request
        self.requests.append(request)
        packed = request.headers.get("content-encoding") == "gzip"
        sent = ExportTraceServiceRequest.FromString(gzip.decompress(request.body) if packed else request.body)
        self.texts.append(str(sent))
        EVIDENCE.tell(str(sent))
        for of in sent.resource_spans:
            resource = _plain(of.resource.attributes)
            self.spans += [Span(span, resource) for scope in of.scope_spans for span in scope.spans]
        exchange.reply(Reply(200, ExportTraceServiceResponse().SerializeToString(), "application/x-protobuf"))


def _plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
