"""What the gateway counts (Prometheus). Traces are in `gateway.observability.tracing`, taken at the same places.

Every metric stands here, with what it means; the other packages call the few functions below, and every package may,
because this module imports nothing of theirs. A label takes its values from a small set that is known beforehand:
never a room, a participant, a caller or a path.

With one process the numbers lie in memory. With several workers they lie in files of one directory (see `workers`):
each worker writes its own, and the worker that answers `/metrics` adds all of them up. What only Redis or the token
knows is not counted but looked up at each scrape, so it is the same from every worker, and absent where not known.
"""

import gzip
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from functools import cache, wraps
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, Self, TypeVar, cast

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.observability import tracing
from gateway.observability.workers import SEAT

__all__ = [
    "BUILD_INFO",
    "DEAD_ROWS",
    "DESCRIPTIONS",
    "DUPLICATES_SUSPECTED",
    "EVENT_READERS",
    "IDEMPOTENCY_KEYS_FORGOTTEN",
    "LEASES_LOST",
    "REDIS_DURATION",
    "STARTS",
    "STOPS",
    "WEBHOOK_DELIVERIES_FAILED",
    "Description",
    "GaugeValues",
    "Label",
    "LedOperation",
    "UpstreamCall",
    "WaitingCaller",
    "answered",
    "fenced_write",
    "phase",
    "redis_failed",
    "refused",
    "render",
    "webhook_event",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# --- the metrics -----------------------------------------------------------------------------------------------------

disable_created_metrics()
_REGISTRY: Final = CollectorRegistry()
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)
_SHORT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_EVENTS: Final = frozenset(
    (
        *(f"participant-track-recording-{did}" for did in ("starting", "started", "stopping", "stopped", "failed")),
        *(f"participant-recording-{did}" for did in ("starting", "started", "stopping", "stopped", "failed")),
        *(f"recording-{did}" for did in ("starting", "started", "stopping", "stopped", "failed")),
        *("participant-joined", "participant-left", "session-started", "session-ended"),
    )
)
_VERDICTS: Final = ("accepted", "repeated", "postponed", "unsigned", "forged", "too_large", "malformed")
_MODES: Final = ("track", "participant", "room")
_STARTED: Final = ("started", "joined", "already_recording")
_STOPPED: Final = ("stopped", "stop_requested", "not_recording", "joined")
_PHASES: Final = ("claim", "upstream", "finish", "wait")
_CALLS: Final = ("start", "stop", "list", "sessions", "check", "key")
_COUNTED_SEPARATELY: Final = ("400", "401", "402", "403", "404", "409", "429")
_CALL_STATUSES: Final = ("2xx", *_COUNTED_SEPARATELY, "4xx", "5xx", "other")
_CALL_FAILURES: Final = ("timeout", "broken", "never_sent", "token", "foreign")
_REWRITES: Final = ("stale", "late", "restored")
_DEATHS: Final = ("session_over", "stop_refused", "released")

_BOUNDS: Final = (
    *("waiting", "waiting-per-caller", "waiting-per-room", "waiting-for-target", "waiting-for-target-per-caller"),
    *("stops-waiting-per-caller", "event-readers", "event-readers-per-caller", "event-readers-per-room"),
    *("tickets-per-caller", "webhooks", "webhooks-per-room", "webhooks-per-sender"),
    *("connections", "connections-per-address", "unfinished"),
    *("starts-per-caller", "starts-per-target", "questions-per-caller", "reader-calls"),
)


class Label(Struct, frozen=True):
    """What a label of a metric may hold."""

    values: tuple[str, ...] = ()
    """Values that are known beforehand."""

    others: str = ""
    """What else it may hold, in words."""


class Description(Struct, frozen=True):
    """A metric, as docs/metrics.md shows it."""

    name: str
    """As it is queried: a counter's ends with `_total`."""

    kind: str
    meaning: str
    labels: dict[str, Label]


DESCRIPTIONS: Final[list[Description]] = []
"""Of every metric below, in their order."""


def _described(name: str, kind: str, meaning: str, labels: dict[str, Label]) -> str:
    DESCRIPTIONS.append(Description(f"gateway_{name}", kind, meaning, labels))
    return f"gateway_{name}"


def _counter(name: str, meaning: str, **labels: Label) -> Counter:
    return Counter(_described(f"{name}_total", "counter", meaning, labels), meaning, tuple(labels), registry=_REGISTRY)


def _gauge(name: str, meaning: str, *, several: Any = "livesum", **labels: Label) -> Gauge:
    described = _described(name, "gauge", meaning, labels)
    return Gauge(described, meaning, tuple(labels), registry=_REGISTRY, multiprocess_mode=several)


def _histogram(name: str, meaning: str, *, buckets: tuple[float, ...] = _SECONDS, **labels: Label) -> Histogram:
    described = _described(name, "histogram", meaning, labels)
    return Histogram(described, meaning, tuple(labels), registry=_REGISTRY, buckets=buckets)


_MODE: Final = Label(_MODES, "empty where a request or an item of a batch names none")
_ROUTE: Final = Label(others="the route's `operationId` or its template, or `unmatched` where no route was met")
_CALL: Final = Label(_CALLS)

BUILD_INFO: Final = _gauge(
    "build_info",
    "Always 1; the label says which version serves.",
    several="livemax",
    version=Label(others="the version"),
)
_REQUESTS: Final = _counter(
    "http_requests",
    "HTTP requests that were answered, or whose connection ended before.",
    route=_ROUTE,
    method=Label((*sorted(_METHODS), "other")),
    status=Label(others="the answer's status, or `none` where there was no answer"),
)
_REQUEST_DURATION: Final = _histogram(
    "http_request_duration_seconds", "Time from an HTTP request's arrival to the headers of its answer.", route=_ROUTE
)
STARTS: Final = _counter(
    "starts",
    "Answers to starts, by outcome or problem; each item of a batch counts as one.",
    outcome=Label(_STARTED, "a problem's slug"),
    mode=_MODE,
)
STOPS: Final = _counter(
    "stops",
    "Answers to stops, by outcome or problem; each item of a batch, and each recording of a room that is stopped as a "
    "whole, counts as one.",
    outcome=Label(_STOPPED, "a problem's slug"),
    mode=_MODE,
)
_IN_FLIGHT: Final = _gauge(
    "operations_in_flight", "Operations (starts, stops and looks at VideoSDK) that this instance leads right now."
)
_PHASE_DURATION: Final = _histogram(
    "phase_duration_seconds",
    "Time of each phase of a start or stop: asking Redis for the claim, VideoSDK's answer, writing the result, and a "
    "caller's whole wait for its answer.",
    phase=Label(_PHASES),
)
_WAITING: Final = _gauge("waiting_callers", "Callers that wait for the result of a start or stop right now.")
_UPSTREAM: Final = _counter(
    "upstream_requests",
    "Requests to VideoSDK, by its status. Without an answer that is timeout, broken, or never_sent, which proves that "
    "nothing happened. It is token for a check that VideoSDK refused, which speaks against the token, and foreign for "
    "a success that VideoSDK did not write.",
    operation=_CALL,
    status=Label((*_CALL_STATUSES, *_CALL_FAILURES)),
)
_UPSTREAM_DURATION: Final = _histogram(
    "upstream_request_duration_seconds",
    "Time of one request to VideoSDK, with its wait for a free place and for its turn.",
    operation=_CALL,
)
_REDIS_ERRORS: Final = _counter(
    "redis_errors",
    "Commands that Redis did not answer or refused, by the reason.",
    kind=Label(others="a reason of `gateway.store.refusals`"),
)
REDIS_DURATION: Final = _histogram(
    "redis_duration_seconds",
    "Time of one script, from sending it to Redis to its answer.",
    buckets=_SHORT_SECONDS,
)
LEASES_LOST: Final = _counter(
    "leases_lost", "Operations whose leader found its claim taken from it: by another replica, or by an operator."
)
_FENCED_WRITES: Final = _counter(
    "fenced_writes",
    "Results that were not simply written: stale (the target had moved on: refused), late (a probe was already finding "
    "out) or restored (Redis had forgotten the operation).",
    how=Label(_REWRITES),
)
DUPLICATES_SUSPECTED: Final = _counter(
    "duplicates_suspected",
    "Looks at VideoSDK's list that found more than one open recording of one target, and starts that succeeded "
    "although another operation had taken the target over.",
)
TIMED_STOPS: Final = _counter(
    "timed_stops", "Recordings that the gateway stopped by itself, because they had recorded for as long as they may."
)
DEAD_ROWS: Final = _counter(
    "dead_rows",
    "Rows of VideoSDK's list that show an open recording although nothing records, once each: because their session "
    "is over, VideoSDK refused to stop them, or an operator released the target.",
    reason=Label(_DEATHS),
)
_WEBHOOK_EVENTS: Final = _counter(
    "webhook_events",
    "VideoSDK's webhooks by what became of them: accepted, repeated (an equal one that waits stands for it), postponed "
    "(VideoSDK is asked to send it again), or refused as unsigned, forged, too_large or malformed.",
    type=Label((*sorted(_EVENTS), "other")),
    verdict=Label(_VERDICTS),
)
WEBHOOK_DELIVERIES_FAILED: Final = _counter(
    "webhook_deliveries_failed", "Recordings of which VideoSDK itself says that a webhook could not be delivered."
)
EVENT_READERS: Final = _gauge("event_readers", "Streams of live events that are open right now.")
_REFUSED: Final = _counter(
    "refused",
    "Requests, webhooks and connections that a limit refused, by the limit's name, which the answer's member `bound` "
    "has too.",
    bound=Label(_BOUNDS),
)
IDEMPOTENCY_KEYS_FORGOTTEN: Final = _counter(
    "idempotency_keys_forgotten", "Idempotency keys forgotten before their time, for newer ones of their caller."
)

# A series that is there from the beginning can be seen to rise from 0; one that appears with its first event cannot.
for _mode in _MODES:
    for _child in _STARTED:
        STARTS.labels(_child, _mode)
    for _child in _STOPPED:
        STOPS.labels(_child, _mode)
for _child in _PHASES:
    _PHASE_DURATION.labels(_child)
_WAIT_DURATION: Final = _PHASE_DURATION.labels("wait")
for _child in _CALLS:
    _UPSTREAM_DURATION.labels(_child)
    for _status in ("2xx", "5xx", "timeout", "broken", "never_sent"):
        _UPSTREAM.labels(_child, _status)
for _child in _REWRITES:
    _FENCED_WRITES.labels(_child)
for _child in _DEATHS:
    DEAD_ROWS.labels(_child)
for _child in _BOUNDS:
    _REFUSED.labels(_child)
for _child in _VERDICTS:
    _WEBHOOK_EVENTS.labels("other", _child)


# To look a series up takes longer than to count in it.
_requests: Final = cache(_REQUESTS.labels)
_request_duration: Final = cache(_REQUEST_DURATION.labels)
_upstream: Final = cache(_UPSTREAM.labels)
_upstream_duration: Final = cache(_UPSTREAM_DURATION.labels)


# --- the seams -------------------------------------------------------------------------------------------------------


def answered(route: str, method: str, status: int, seconds: float) -> None:
    """Count an answered request.

    Args:
        route: The route's operationId or template, `unmatched` where no route was met. Never a path.
        method: What the request said.
        status: Of the answer; 0 where there was none.
        seconds: Until the answer's headers.
    """
    _requests(route, method if method in _METHODS else "other", str(status) if status else "none").inc()
    _request_duration(route).observe(seconds)


def phase(name: str) -> Callable[[Callable[_P, Awaitable[_T]]], Callable[_P, Awaitable[_T]]]:
    """Make the decorator that times a phase of an operation: claim, upstream or finish."""
    duration = _PHASE_DURATION.labels(name)

    def decorate(function: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
        @wraps(function)
        async def timed(*arguments: _P.args, **named: _P.kwargs) -> _T:
            begun = time.perf_counter()
            try:
                # The upstream call has a span for each request that it takes.
                with nullcontext() if name == "upstream" else tracing.span(name):
                    return await function(*arguments, **named)
            finally:
                duration.observe(time.perf_counter() - begun)

        return timed

    return decorate


class LedOperation:
    """Counts and traces an operation that this process leads, from the beginning of the block to its end."""

    def __init__(self, kind: str, action: str, attempt: str) -> None:
        self._span = tracing.span("operation", kind=kind, action=action, attempt=attempt)

    def __enter__(self) -> None:
        _IN_FLIGHT.inc()
        self._span.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._span.__exit__(kind, error, trace)
        _IN_FLIGHT.dec()


class WaitingCaller:
    """Counts and times a caller that waits for a result."""

    def __enter__(self) -> None:
        self._begun = time.perf_counter()
        _WAITING.inc()

    def __exit__(self, *_: object) -> None:
        _WAITING.dec()
        _WAIT_DURATION.observe(time.perf_counter() - self._begun)


class UpstreamCall:
    """Counts and traces one request to VideoSDK, of which it takes note.

    Args:
        operation: start, stop, list, sessions, check or key (its public key).
    """

    def __init__(self, operation: str) -> None:
        self.status = "broken"
        self._operation = operation
        self._span = tracing.span(f"upstream {operation}", client=True, operation=operation)

    def __enter__(self) -> Self:
        self._begun = time.perf_counter()
        self._span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tracing.note(status=self.status)
        self._span.__exit__(kind, error, trace)
        _upstream_duration(self._operation).observe(time.perf_counter() - self._begun)
        _upstream(self._operation, self.status).inc()

    def answered(self, status: int) -> None:
        """Say what VideoSDK answered."""
        family = f"{status // 100}xx"
        exact = str(status)
        self.status = exact if exact in _COUNTED_SEPARATELY else family if family in _CALL_STATUSES else "other"

    def failed(self, how: str) -> None:
        """Say why there was no answer that counts: timeout, broken, never_sent, token or foreign."""
        self.status = how


def redis_failed(kind: str, times: int = 1) -> None:
    """Count a command that Redis did not answer or refused, by a kind of `gateway.store.refusals`."""
    _REDIS_ERRORS.labels(kind).inc(times)


def refused(bound: str) -> None:
    """Count what a bound refused, by the name that the problem's member `bound` has."""
    _REFUSED.labels(bound).inc()


def fenced_write(how: str) -> None:
    """Count a result that was not simply written: stale, late or restored."""
    _FENCED_WRITES.labels(how).inc()


def webhook_event(type: str, verdict: str) -> None:  # noqa: A002 - VideoSDK's word
    """Count a webhook.

    Args:
        type: The event's name as it came; a name that VideoSDK does not document is counted as `other`.
        verdict: accepted, repeated (an equal one that waits stands for it), unsigned, forged, too_large or malformed;
            postponed for what VideoSDK is asked to send again.
    """
    _WEBHOOK_EVENTS.labels(type if type in _EVENTS else "other", verdict).inc()


# --- what is looked up at each scrape ---------------------------------------------------------------------------------


class GaugeValues(Struct, frozen=True, kw_only=True):
    """How things stand at this moment; None where that is not known: the metric is then absent."""

    redis_up: bool
    unknown_tracks: int | None = None
    unknown_oldest_seconds: float | None = None
    settler_lag_seconds: float | None = None
    token_age_seconds: float | None = None
    token_expires_seconds: float | None = None


_GAUGES: Final = {
    "redis_up": "1 where Redis answered and took a write when it was asked for this scrape, else 0.",
    "unknown_tracks": "Targets that are in an unknown state, or whose stop was not answered yet. The "
    "same from every instance: use max.",
    "unknown_oldest_seconds": "How long the target that gateway_unknown_tracks counts for longest has been so; 0 where "
    "there is none. The same from every instance: use max.",
    "settler_lag_seconds": "How late the reconciler is with the most overdue target. The same from every instance: use "
    "max.",
    "videosdk_token_age_seconds": "Age of the VideoSDK token in use.",
    "videosdk_token_expires_seconds": "Seconds until only the operator can replace the VideoSDK token; +Inf where the "
    "gateway mints its own, or where it does not expire.",
}
for _name, _meaning in _GAUGES.items():
    _described(_name, "gauge", _meaning, {})


def _families(gauge_values: GaugeValues) -> Iterator[Metric]:
    for name, meaning in _GAUGES.items():
        value = cast("float | None", getattr(gauge_values, name.removeprefix("videosdk_")))
        if value is not None:
            yield GaugeMetricFamily(f"gateway_{name}", meaning, float(value))


class _Collector(Protocol):
    def collect(self) -> Iterator[Metric]: ...


class _Everything:
    """What is counted, and how things stand."""

    def __init__(self, gauge_values: GaugeValues) -> None:
        self._gauge_values = gauge_values

    def collect(self) -> Iterator[Metric]:
        counted: _Collector = cast("Any", _REGISTRY)
        if SEAT is not None:
            SEAT.clear_dead_workers()
            counted = cast("Any", MultiProcessCollector(None, str(SEAT.folder)))
        yield from counted.collect()
        yield from _families(self._gauge_values)


_VERSIONED: Final = re.compile(r"version=(?!\d{1,3}(?:\.\d{1,3}){0,3}\s*(?:[;,]|$))")


def render(gauge_values: GaugeValues, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
    """Write all metrics in the format that the request asks for.

    Args:
        gauge_values: How things stand.
        accept: The request's header: OpenMetrics, or Prometheus's text where nothing better is asked for.
        accept_encoding: The request's header: gzip, or plain.

    Returns:
        The body, and the headers that say what it is.
    """
    # The library takes a version for numbers with dots between, and repeats it in its answer.
    encode, content_type = choose_encoder("" if _VERSIONED.search(accept) else accept)
    body = encode(cast("Any", _Everything(gauge_values)))
    headers = {"content-type": content_type, "vary": "Accept, Accept-Encoding"}
    if re.search(r"(?i)\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", accept_encoding):
        return gzip.compress(body, 5), headers | {"content-encoding": "gzip"}
    return body, headers
