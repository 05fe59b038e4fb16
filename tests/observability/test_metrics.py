"""The numbers: every promised name is there, moves when it should, and grows no series with the number of rooms."""

import asyncio
import gzip
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from gateway.api.middleware import RequestMiddleware
from gateway.lifecycle import Drain
from gateway.observability import metrics, workers
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.refusals import KINDS
from tests import harness
from tests.api_client import START, ApiClient, NewTrack
from tests.metrics_page import LABELS
from tests.observability.numbers import Numbers, scrape
from tests.recordings.parts import Log

pytestmark = pytest.mark.anyio


PROMISED: dict[str, tuple[str, set[str]]] = {
    "build_info": ("gauge", {"version"}),
    "http_requests": ("counter", {"route", "method", "status"}),
    "http_request_duration_seconds": ("histogram", {"route"}),
    "starts": ("counter", {"mode", "outcome"}),
    "stops": ("counter", {"mode", "outcome"}),
    "operations_in_flight": ("gauge", set()),
    "phase_duration_seconds": ("histogram", {"phase"}),
    "waiting_callers": ("gauge", set()),
    "unknown_tracks": ("gauge", set()),
    "unknown_oldest_seconds": ("gauge", set()),
    "settler_lag_seconds": ("gauge", set()),
    "upstream_requests": ("counter", {"operation", "status"}),
    "upstream_request_duration_seconds": ("histogram", {"operation"}),
    "redis_errors": ("counter", {"kind"}),
    "redis_duration_seconds": ("histogram", set()),
    "redis_up": ("gauge", set()),
    "leases_lost": ("counter", set()),
    "fenced_writes": ("counter", {"how"}),
    "timed_stops": ("counter", set()),
    "dead_rows": ("counter", {"reason"}),
    "duplicates_suspected": ("counter", set()),
    "webhook_events": ("counter", {"type", "verdict"}),
    "webhook_deliveries_failed": ("counter", set()),
    "videosdk_token_age_seconds": ("gauge", set()),
    "videosdk_token_expires_seconds": ("gauge", set()),
    "event_readers": ("gauge", set()),
    "refused": ("counter", {"bound"}),
    "idempotency_keys_forgotten": ("counter", set()),
}
"""Alerts, dashboard and runbook rely on these names; what has gone or changed its labels breaks them silently."""


@pytest.fixture
def valkey() -> Generator[EmbeddedValkey]:
    """A server of the test's own: what another left there would be looked after here, and counted."""
    with harness.PatientValkey() as server:
        yield server


@pytest.fixture
def fragile() -> Generator[EmbeddedValkey]:
    """A server of the test's own, where no other test's tracks are unknown, and which may be harmed."""
    with harness.AgedValkey() as server:
        yield server


@asynccontextmanager
async def serving(
    server: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, **more: str
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway on a server of its own."""
    settings = harness.environment(server.url, simulator.url, demo.file, **harness.FAST, **more)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        yield gateway


def labels(family: object) -> set[str]:
    """Return the labels that a family's samples have."""
    return {label for sample in family.samples for label in sample.labels} - {"le"}  # pyright: ignore


async def test_metrics_have_every_promised_name(gateway: ApiClient, new_track: NewTrack) -> None:
    """Names, types and labels are those that alerts and dashboard use, after one start: it takes a token."""
    await gateway.start(new_track())
    await scrape(gateway)
    told = {
        family.name.removeprefix("gateway_"): (family.type, labels(family))
        for family in (await scrape(gateway)).families
    }
    assert told == PROMISED


async def test_metrics_of_any_answer_are_those_that_their_page_lists(gateway: ApiClient, new_track: NewTrack) -> None:
    """docs/metrics.md names every metric, and every value of a label that it calls all of them."""
    await gateway.start(new_track())
    for status in range(100, 600):
        with metrics.UpstreamCall("start") as call:
            call.answered(status)
    families = (await scrape(gateway)).families
    names = {family.name + "_total" * (family.type == "counter"): family for family in families}
    assert list(names.keys()) == [metric.name for metric in metrics.DESCRIPTIONS]
    for name, family in names.items():
        for label, value in (pair for sample in family.samples for pair in sample.labels.items() if pair[0] != "le"):
            listed = LABELS[name, label]
            assert listed.others or value in listed.values, (name, label, value)


BEGUN: dict[tuple[str, str], set[str]] = {
    ("starts_total", "outcome"): {"started", "joined", "already_recording"},
    ("stops_total", "outcome"): {"stopped", "stop_requested", "not_recording", "joined"},
    ("phase_duration_seconds_count", "phase"): {"claim", "upstream", "finish", "wait"},
    ("upstream_request_duration_seconds_count", "operation"): {"start", "stop", "list", "sessions", "check", "key"},
    ("upstream_requests_total", "operation"): {"start", "stop", "list", "sessions", "check", "key"},
    ("upstream_requests_total", "status"): {"2xx", "5xx", "timeout", "broken", "never_sent"},
    ("redis_errors_total", "kind"): set(KINDS),
    ("fenced_writes_total", "how"): {"stale", "late", "restored"},
    ("webhook_events_total", "type"): {"other"},
    ("webhook_events_total", "verdict"): {
        *("accepted", "repeated", "postponed", "unsigned", "forged", "too_large", "malformed")
    },
    ("refused_total", "bound"): {
        "connections",
        "connections-per-address",
        "questions-per-caller",
        "reader-calls",
        "starts-per-caller",
        "starts-per-target",
        "event-readers",
        "event-readers-per-caller",
        "event-readers-per-room",
        "stops-waiting-per-caller",
        "tickets-per-caller",
        "unfinished",
        "waiting",
        "waiting-for-target",
        "waiting-for-target-per-caller",
        "waiting-per-caller",
        "waiting-per-room",
        "webhooks",
        "webhooks-per-room",
        "webhooks-per-sender",
    },
}
"""Series of a process that has done nothing yet, by name and label."""


def test_metrics_of_a_new_process_begin_at_0() -> None:
    """A series that is there from the beginning can be seen to rise; no other is."""
    show = "import gateway.store.connection; from gateway.observability import metrics; import prometheus_client; "
    show += "print(prometheus_client.generate_latest(metrics._REGISTRY).decode())"
    printed = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout
    numbers = Numbers(printed)
    for (name, label), values in BEGUN.items():
        series = [dict(labels) for of, labels in numbers.series if of == f"gateway_{name}"]
        assert {labels[label] for labels in series} == values, (name, label)
        assert numbers.total(name) == 0


async def test_metrics_count_a_start_two_repeats_and_a_stop(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Outcomes, phases, upstream calls and requests grow by what was done, and by nothing else."""
    track = new_track()
    await gateway.get("/livez")
    before = await scrape(gateway)
    simulator.inject(harness.delay("start", 2))
    answers = await asyncio.gather(*(gateway.start(track) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 201]
    await gateway.start(track)
    await gateway.stop(track)
    after = await scrape(gateway)

    def grown(name: str, **of: str) -> float:
        return after.total(name, **of) - before.total(name, **of)

    assert {word: grown("starts_total", outcome=word) for word in ("started", "joined", "already_recording")} == {
        "started": 1,
        "joined": 2,
        "already_recording": 1,
    }
    assert grown("starts_total") == 4
    assert grown("stops_total", outcome="stopped") == grown("stops_total", mode="track") == grown("stops_total") == 1
    assert grown("upstream_requests_total", operation="start", status="2xx") == 1
    assert grown("upstream_requests_total", operation="stop", status="2xx") == 1
    assert grown("upstream_request_duration_seconds_count", operation="start") == 1
    assert grown("upstream_request_duration_seconds_sum", operation="start") >= 0.3
    assert grown("phase_duration_seconds_count", phase="upstream") == 2
    assert grown("phase_duration_seconds_count", phase="finish") >= 2
    assert grown("phase_duration_seconds_count", phase="claim") >= 3
    assert grown("phase_duration_seconds_count", phase="wait") == 5
    assert grown("phase_duration_seconds_sum", phase="wait") >= 0.9
    assert grown("http_requests_total", route="startTrackRecording", method="POST", status="201") == 1
    assert grown("http_requests_total", route="startTrackRecording", method="POST", status="200") == 3
    assert grown("http_requests_total", route="stopTrackRecording", status="200") == 1
    assert grown("http_request_duration_seconds_count", route="startTrackRecording") == 4
    assert grown("redis_duration_seconds_count") >= 5


async def test_metrics_tell_starts_and_stops_of_modes_apart(gateway: ApiClient, new_track: NewTrack) -> None:
    """What is done of a participant and of its room grows the series of that mode alone."""
    track = new_track()
    before = await scrape(gateway)
    for mode, ids in (("participant", ("roomId", "participantId")), ("room", ("roomId",))):
        body = {name: track[name] for name in ids}
        for verb in ("start", "start", "stop"):
            assert (await gateway.post(f"/v1/recordings/{mode}/{verb}", json=body)).is_success
    after = await scrape(gateway)
    for mode, starts, stops in (("track", 0, 0), ("participant", 2, 1), ("room", 2, 1)):
        assert after.total("starts_total", mode=mode) - before.total("starts_total", mode=mode) == starts
        assert after.total("stops_total", mode=mode) - before.total("stops_total", mode=mode) == stops


async def test_metrics_during_an_operation_show_its_waiters(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Three callers wait for one operation; afterwards none does."""
    simulator.inject(harness.delay("start", 4))
    track = new_track()
    before = await scrape(gateway)
    callers = [asyncio.create_task(gateway.start(track)) for _ in range(3)]

    def more(seen: Numbers, name: str) -> float:
        return seen.total(name) - before.total(name)

    await harness.until(lambda: scrape(gateway), lambda seen: more(seen, "waiting_callers") == 3)
    await harness.until(lambda: scrape(gateway), lambda seen: more(seen, "operations_in_flight") == 1)
    await asyncio.gather(*callers)
    await harness.until(
        lambda: scrape(gateway),
        lambda seen: more(seen, "waiting_callers") == 0 == more(seen, "operations_in_flight"),
    )


async def test_metrics_count_refusals_by_their_slugs(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A start that is answered with a problem counts as that problem, and so does VideoSDK's status."""
    before = await scrape(gateway)
    simulator.inject(Fault(action="refuse", endpoint="start", status=402))
    assert (await gateway.start(new_track())).status_code == 422
    simulator.inject(Fault(action="refuse", endpoint="start", status=418))
    await gateway.start(new_track())
    await gateway.start({"roomId": 1})
    await gateway.start(new_track(), headers={"authorization": "Bearer wrong"})
    after = await scrape(gateway)
    grown = {dict(series[1])["outcome"]: more for series, more in after.since(before).items() if "starts" in series[0]}
    assert grown == {"upstream-refused": 2, "invalid-request": 1, "unauthenticated": 1}
    for status in ("402", "4xx"):
        asked = {"operation": "start", "status": status}
        assert after.total("upstream_requests_total", **asked) - before.total("upstream_requests_total", **asked) == 1


@pytest.mark.parametrize(
    ("action", "status"),
    [("error", "5xx"), ("reset_before", "broken"), ("hang_before", "timeout"), ("nowhere", "never_sent")],
)
async def test_metrics_distinguish_videosdks_failures(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, action: str, status: str
) -> None:
    """An error, a broken connection, no answer in time, and nothing sent: each has a status of its own."""
    if action == "nowhere":
        await simulator.stop()
    else:
        simulator.inject(Fault(action=action, endpoint="stop", times=None))  # pyright: ignore[reportArgumentType]
    async with serving(valkey, simulator, demo, GATEWAY_VERIFY_ABSENT="never") as gateway:
        asked = {"operation": "stop", "status": status}
        before = (await scrape(gateway)).total("upstream_requests_total", **asked)

        async def counted() -> bool:
            # On a busy machine a stop may meet a Redis, or a send window, that has run out.
            await gateway.stop(new_track())
            return (await scrape(gateway)).total("upstream_requests_total", **asked) > before

        await harness.until(counted)


async def test_metrics_series_do_not_grow_with_requests(gateway: ApiClient, new_track: NewTrack) -> None:
    """Rooms, paths, methods, problem pages and webhook types that were never seen before make not one series more."""

    async def wander(mark: str) -> None:
        track = {"roomId": f"room-{mark}", "participantId": f"person-{mark}", "kind": "audio"}
        await gateway.start(track | {"webhookUrl": f"http://127.0.0.1:9/{mark}?key={mark}"})
        await gateway.get(f"/v1/recordings/track/room-{mark}/person-{mark}/audio")
        await gateway.stop(track)
        await gateway.get(f"/{mark}")
        await gateway.get(f"/v1/{mark}/{mark}")
        await gateway.get(f"/problems/{mark}")
        await gateway.get(f"/docs/{mark}")
        await gateway.request(mark.upper()[:8], "/livez")
        metrics.webhook_event(f"event-{mark}", "accepted")

    first = f"A{uuid.uuid4().hex}"
    await wander(first)
    await scrape(gateway)
    before = await scrape(gateway)
    marks = [f"B{uuid.uuid4().hex}" for _ in range(8)]
    for mark in marks:
        await wander(mark)
    after = await scrape(gateway)
    # Which statuses VideoSDK answered by now depends on the moment, and there are only so many of them.
    assert {name for name, _ in after.series - before.series} <= {"gateway_upstream_requests_total"}
    assert len(after.series - before.series) <= 2
    assert not any(mark.lower() in after.text.lower() for mark in (first, *marks))


async def test_metrics_name_documented_webhook_events(gateway: ApiClient) -> None:
    """The known names are labels; whatever else comes is `other`."""
    before = await scrape(gateway)
    metrics.webhook_event("participant-track-recording-stopped", "accepted")
    metrics.webhook_event("participant-track-recording-stopped\n", "forged")
    metrics.WEBHOOK_DELIVERIES_FAILED.inc()
    after = await scrape(gateway)
    grown = {(series[0], *sorted(dict(series[1]).values())): more for series, more in after.since(before).items()}
    assert grown["gateway_webhook_events_total", "accepted", "participant-track-recording-stopped"] == 1
    assert grown["gateway_webhook_events_total", "forged", "other"] == 1
    assert grown["gateway_webhook_deliveries_failed_total",] == 1


async def test_metrics_show_unknown_tracks_until_they_are_known(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """A start and a stop without an answer and a list that fails: two tracks, ever older; then none."""
    async with serving(fragile, simulator, demo) as gateway:
        stopped, started = new_track(), new_track()
        assert (await gateway.start(stopped)).status_code == 201
        assert (await scrape(gateway)).get("unknown_tracks") == 0
        for endpoint in ("start", "stop", "list"):
            simulator.inject(Fault(action="error", endpoint=endpoint, times=None))  # pyright: ignore[reportArgumentType]
        assert (await gateway.stop(stopped)).status_code == 202
        assert (await gateway.start(started)).status_code == 504
        seen = await harness.until(lambda: scrape(gateway), lambda seen: seen.get("unknown_tracks") == 2)
        young = seen.get("unknown_oldest_seconds") or 0
        # Tried again meanwhile, several times, without success: that makes nothing younger.
        await harness.until(lambda: scrape(gateway), lambda seen: (seen.get("unknown_oldest_seconds") or 0) > young + 2)
        simulator.clear_faults()
        seen = await harness.until(lambda: scrape(gateway), lambda seen: seen.get("unknown_tracks") == 0)
        assert seen.get("unknown_oldest_seconds") == 0


async def test_metrics_without_redis_omit_what_only_redis_knows(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Redis is away: `redis_up` is 0, and what only Redis knows is absent rather than 0. It is back: all is there."""
    looked_up = ("unknown_tracks", "unknown_oldest_seconds", "settler_lag_seconds")
    async with serving(fragile, simulator, demo) as gateway:
        before = await harness.until(lambda: scrape(gateway), lambda seen: seen.get("redis_up") == 1)
        assert all(before.get(name) is not None for name in looked_up)
        fragile.kill()
        seen = await harness.until(lambda: scrape(gateway), lambda seen: seen.get("redis_up") == 0)
        assert [seen.get(name) for name in looked_up] == [None, None, None]
        assert seen.total("redis_errors_total") > before.total("redis_errors_total")
        assert seen.total("redis_errors_total", kind="connection") > before.total(
            "redis_errors_total", kind="connection"
        )
        fragile.restart()
        seen = await harness.until(lambda: scrape(gateway), lambda seen: seen.get("redis_up") == 1)
        assert all(seen.get(name) is not None for name in looked_up)


async def test_metrics_count_a_stopped_redis_as_a_timeout(
    fragile: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """A Redis that takes connections and says nothing is counted apart from one that is not there."""
    async with serving(fragile, simulator, demo) as gateway:
        before = await harness.until(lambda: scrape(gateway), lambda seen: seen.get("redis_up") == 1)
        fragile.pause()
        try:
            seen = await harness.until(lambda: scrape(gateway), lambda seen: seen.get("redis_up") == 0)
        finally:
            fragile.resume()
        assert seen.total("redis_errors_total", kind="timeout") > before.total("redis_errors_total", kind="timeout")


async def test_metrics_format_is_negotiated(gateway: ApiClient) -> None:
    """OpenMetrics for those who ask, Prometheus's text for all others, packed for those who can unpack it."""
    asked = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = await gateway.get("/metrics", headers={"accept": asked, "accept-encoding": "identity"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "content-encoding" not in answer.headers
    assert "gateway_starts" in {family.name for family in read_openmetrics(answer.text)}
    async with gateway.stream("GET", "/metrics", headers={"accept-encoding": "br, gzip;q=0.8"}) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert b"gateway_starts_total" in gzip.decompress(b"".join([part async for part in packed.aiter_raw()]))
    refused = await gateway.get("/metrics", headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers
    assert "accept" in refused.headers["vary"].lower()


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x",
        "application/openmetrics-text;version=" + "9" * 5000,
        "application/openmetrics-text;version=1.0.0 <script>",
        "text/plain;version=-1",
        "application/openmetrics-text; version=1.0.0; escaping=%00",
        ";;;,=,version",
    ],
)
async def test_metrics_with_a_strange_accept_header_are_answered(gateway: ApiClient, accept: str) -> None:
    """Nothing that is asked for is a mistake of ours, and nothing of it is repeated."""
    answer = await gateway.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert "script" not in answer.headers["content-type"]
    assert len(answer.headers["content-type"]) < 120


def rendered() -> Numbers:
    """Return what is counted in this process."""
    return Numbers(metrics.render(metrics.GaugeValues(redis_up=True), "", "")[0].decode())


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_metrics_count_each_method_under_its_name(method: str) -> None:
    """A method that HTTP knows has a series of its own; all others share one."""
    before = rendered()
    metrics.answered("unmatched", method, 404, 0.01)
    metrics.answered("unmatched", f"{method}X", 404, 0.01)
    after = rendered()
    for name in (method, "other"):
        asked = {"route": "unmatched", "method": name, "status": "404"}
        assert after.total("http_requests_total", **asked) - before.total("http_requests_total", **asked) == 1


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        (200, "2xx"), (204, "2xx"), (302, "other"), (400, "400"), (401, "401"), (402, "402"), (403, "403"),
        (404, "404"), (409, "409"), (418, "4xx"), (429, "429"), (500, "5xx"), (503, "5xx"),
    ],
)  # fmt: skip
def test_metrics_count_an_upstream_status_by_itself_or_its_family(status: int, counted: str) -> None:
    """A status that means something of its own is counted by itself, and with the duration; others by their family."""
    before = rendered()
    with metrics.UpstreamCall("start") as call:
        call.answered(status)
    after = rendered()
    grown = {
        dict(series[1]).get("status"): more for series, more in after.since(before).items() if "_total" in series[0]
    }
    assert grown == {counted: 1}
    name = "upstream_request_duration_seconds_count"
    assert after.total(name, operation="start") - before.total(name, operation="start") == 1


async def test_metrics_hold_no_secret(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Secrets in settings, headers, bodies, paths and queries: none comes out, in any format."""
    secret = f"hunter2{uuid.uuid4().hex}"
    track = new_track(webhookUrl=f"http://127.0.0.1:9/{secret}?key={secret}", bucketDirPath=secret)
    async with serving(valkey, simulator, demo) as gateway:
        await gateway.start(track, headers={"idempotency-key": secret, "x-request-id": "fine"})
        await gateway.start(track | {"fileFormat": secret})
        await gateway.post(f"{START}?key={secret}", json=track, headers={"authorization": f"Bearer {secret}"})
        await gateway.get(f"/{secret}?{secret}")
        for accept in ("", "application/openmetrics-text;version=1.0.0"):
            answer = await gateway.get("/metrics", headers={"accept": accept})
            told = answer.text + str(answer.headers)
            for hidden in (secret, harness.SECRET, harness.API_KEY, demo.key, demo.name, track["roomId"], "127.0.0.1"):
                assert hidden not in told


async def through_middleware(app: Any, path: str = "/x") -> Numbers:
    """Serve one GET, and return what the process counted of it."""
    before, _ = metrics.render(metrics.GaugeValues(redis_up=True), "", "")
    scope: Any = {"type": "http", "method": "GET", "path": path, "headers": [], "state": {}, "path_template": "/timed"}

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None: ...

    with suppress(ConnectionResetError):
        await RequestMiddleware(app, Drain())(scope, receive, send)
    after, _ = metrics.render(metrics.GaugeValues(redis_up=True), "", "")
    grown = Numbers(after.decode()).since(Numbers(before.decode()))
    return Numbers("".join(f"{name}{_shown(labels)} {value}\n" for (name, labels), value in grown.items()))


def _shown(labels: frozenset[tuple[str, str]]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}"


async def test_metrics_time_a_request_until_its_headers() -> None:
    """How long a body takes, a stream's above all, is not the gateway's to be measured by."""
    moments: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        headers = time.perf_counter()
        # For twice as long as all before it.
        await harness.eventually(lambda: time.perf_counter() - headers > 2 * (headers - begun))
        moments.append(headers - begun)

    begun = time.perf_counter()
    counted = await through_middleware(app)
    assert 0 < counted.total("http_request_duration_seconds_sum", route="/timed") <= moments[0]
    assert counted.total("http_requests_total", route="/timed", status="200") == 1


async def test_metrics_count_a_request_without_an_answer() -> None:
    """Its client left before there was one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError

    counted = await through_middleware(app)
    assert counted.total("http_requests_total", route="/timed", status="none") == 1


def test_seat_of_a_dead_worker_is_cleared_and_can_be_taken(tmp_path: Path) -> None:
    """The gauges of one that died go, those of one that lives stay, and the next worker takes the free seat."""
    seats = [workers.Seat(tmp_path) for _ in range(2)]
    gauges = [tmp_path / f"gauge_livesum_{seat.number}.db" for seat in seats]
    for gauge in gauges:
        gauge.touch()
    os.close(seats[1]._taken)

    seats[0].clear_dead_workers()

    assert [gauge.exists() for gauge in gauges] == [True, False]
    assert workers.Seat(tmp_path).number == 1


@pytest.mark.parametrize(
    ("path", "status", "level"),
    [("/x", 200, "info"), ("/x", 499, "info"), ("/x", 500, "error"), ("/x", 503, "error"), ("/livez", 200, "debug")],
)
async def test_request_is_logged_once_by_its_status(path: str, status: int, level: str) -> None:
    """Ours are errors, those of callers are not, and what is asked all the time is no news."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})

    begun = time.perf_counter()
    log = Log()
    await through_middleware(app, path)
    (line,) = (line for line in log.entries() if line["event"] == "request.answered")
    assert (line["level"], line["status"], line["path"]) == (level, status, path)
    assert 0 <= line["seconds"] <= time.perf_counter() - begun
