"""Traces of what the gateway does (OpenTelemetry), where `GATEWAY_TRACING=otlp`. Imports nothing of ours.

A trace tells one request's story: request, claim, operation, upstream call, finish; or `reconcile`, without a caller.
An operation belongs to the request that began it. A request that joined it, on any replica, has a link to the
operation's span; its place travels with the operation's result. The `traceparent` of a request counts once its caller
is known: all others choose neither their trace nor whether it is sampled. What concerns OpenTelemetry itself (endpoint,
headers, sampler, service name) its SDK reads from the `OTEL_*` variables that operators know.

Off, which is the default, nothing of OpenTelemetry is imported here, and every call ends at its first line. An
attribute never holds what a caller sent: no room, participant, address or path, and no text of an exception.
"""

import asyncio
import importlib.util
import os
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = [
    "NotInstalledError",
    "RequestSpan",
    "check_installed",
    "headers",
    "here",
    "link",
    "note",
    "serving",
    "span",
    "start",
    "stop",
]

_SERVICE: Final = "recording-gateway"
_PREFIX: Final = "gateway."
_STANDARD: Final = ("http.", "url.", "error.")
"""Beginnings of attributes that have a name all over the world."""
_LAST_EXPORT_SECONDS: Final = 3.0


class NotInstalledError(Exception):
    """Traces are asked for, and the extra that makes them is not there."""


def check_installed() -> None:
    """See whether traces can be made.

    Raises:
        NotInstalledError: They cannot.
    """
    try:
        spec = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise NotInstalledError("GATEWAY_TRACING=otlp needs the extra `tracing`: recording-gateway[tracing]")


class _Tracing:
    """OpenTelemetry at work: everything that imports it stands here."""

    def __init__(self, version: str) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415 - an extra, and off costs nothing
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        described = {"service.version": version, "service.instance.id": str(uuid.uuid4())}
        if not os.environ.get("OTEL_SERVICE_NAME") and "service.name" not in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            described["service.name"] = _SERVICE
        self.api: Final = trace
        self.contexts: Final = context
        self.provider: Final = TracerProvider(resource=Resource.create(described), shutdown_on_exit=False)
        self.exporter: Final = OTLPSpanExporter()
        self.provider.add_span_processor(BatchSpanProcessor(self.exporter))
        self.tracer: Final = self.provider.get_tracer(_SERVICE, version)
        self.propagator: Final = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, kind: str, attributes: Mapping[str, str]) -> "Generator[Span]":
        with self.tracer.start_as_current_span(
            name,
            kind=self.api.SpanKind[kind],
            attributes=_named(attributes),
            # An exception's text may hold anything.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                self.note_error(span, error)
                raise

    def note_error(self, span: "Span", error: BaseException) -> None:
        span.set_attribute("error.type", type(error).__name__)
        if not isinstance(error, asyncio.CancelledError):
            span.set_status(self.api.StatusCode.ERROR)


class RequestSpan:
    """The span of a request, from its arrival on; made once it is known whether its headers may place it in a trace.

    Args:
        working: OpenTelemetry.
        name: What it is called until it is known better.
    """

    def __init__(self, working: _Tracing, name: str) -> None:
        self._working = working
        self._name = name
        self._arrived = time.time_ns()
        self._span: Span | None = None
        self._token: Any = None

    def begin(self, given: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Make it, unless it is there: within the trace that these headers of an authenticated caller name, if any."""
        if self._span is not None:
            return
        carrier = {
            name: value.decode("latin-1")
            for name, value in ((name.decode("latin-1"), value) for name, value in given)
            if name in {"traceparent", "tracestate"}
        }
        self._span = self._working.tracer.start_span(
            self._name,
            context=self._working.propagator.extract(carrier) if carrier else None,
            kind=self._working.api.SpanKind.SERVER,
            start_time=self._arrived,
        )
        self._token = self._working.contexts.attach(self._working.api.set_span_in_context(self._span))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.begin()
        assert self._span is not None  # noqa: S101 - it has just begun
        if error is not None:
            self._working.note_error(self._span, error)
        self._span.end()
        self._working.contexts.detach(self._token)


_tracing: _Tracing | None = None


def start(version: str) -> None:
    """Begin to trace in this process, and to export to where `OTEL_EXPORTER_OTLP_ENDPOINT` says."""
    global _tracing  # noqa: PLW0603 - one per process, as OpenTelemetry's own
    if _tracing is None:
        _tracing = _Tracing(version)


async def stop() -> None:
    """End tracing; what is not exported yet is, if the collector answers soon."""
    global _tracing
    ended, _tracing = _tracing, None
    if ended is not None:
        # A thread that may be left behind: the SDK itself takes no limit, and tries again for as long as it is let.
        last = threading.Thread(target=ended.provider.shutdown, name="last-export", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, _LAST_EXPORT_SECONDS)
        ended.exporter.shutdown()


def span(
    name: str, *, client: bool = False, root: bool = False, **attributes: str
) -> "AbstractContextManager[Span | None]":
    """Make a span of what is done within the block.

    Args:
        name: What it is called.
        client: Whether the span waits for another system.
        root: Whether it may begin a trace; otherwise there is no span where no trace is under way.
        attributes: What is known of it, from small sets of values.
    """
    if _tracing is None or not (root or _tracing.api.get_current_span().is_recording()):
        return nullcontext()
    return _tracing.span(name, "CLIENT" if client else "INTERNAL", attributes)


def serving(name: str) -> AbstractContextManager[RequestSpan | None]:
    """Make the span of a request; None where there are no traces.

    Args:
        name: What it is called until it is known better.
    """
    return nullcontext() if _tracing is None else RequestSpan(_tracing, name)


def note(*, name: str = "", **attributes: str | int) -> None:
    """Add to the span of what is done now; with a name, call it so from now on."""
    if _tracing is None:
        return
    current = _tracing.api.get_current_span()
    current.set_attributes(_named(attributes))
    if name:
        current.update_name(name)


def here() -> str:
    """Return the place of the span of what is done now, as a `traceparent`; empty where there is none."""
    return headers().get("traceparent", "")


def headers() -> dict[str, str]:
    """Return the header that carries this trace: W3C's `traceparent`, and nothing that a caller put beside it."""
    if _tracing is None:
        return {}
    carrier: dict[str, str] = {}
    _tracing.propagator.inject(carrier)
    carrier.pop("tracestate", None)
    return carrier


def link(place: str) -> None:
    """Link the span of what is done now to the one at this place, if there is one."""
    if _tracing is None:
        return
    other = _tracing.api.get_current_span(_tracing.propagator.extract({"traceparent": place})).get_span_context()
    if other.is_valid:
        _tracing.api.get_current_span().add_link(other)


def _named(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {
        dotted if (dotted := name.replace("__", ".")).startswith(_STANDARD) else f"{_PREFIX}{name}": value
        for name, value in attributes.items()
        if value != ""
    }
