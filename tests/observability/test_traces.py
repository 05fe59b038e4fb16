"""Traces: one tells the whole story of a start, on all replicas; off costs nothing; no secret is in any."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.observability import tracing
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.wire import Exchange, Reply, Server
from tests import harness
from tests.api_client import START, NewTrack
from tests.observability.collector import Collector, Span
from tests.observability.numbers import scrape
from tests.test_main import gateway_command

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

Started = Callable[[dict[str, str], Path], harness.GatewayProcess]
ROUTE = "startTrackRecording"
ATTRIBUTES = {
    *("gateway.kind", "gateway.operation", "gateway.outcome", "gateway.verdict", "gateway.attempt", "gateway.action"),
    *("gateway.how", "gateway.state", "gateway.status", "http.route", "http.response.status_code", "error.type"),
}
"""All that a span may say."""


class Parent:
    """A caller's own span, and the header that tells of it."""

    def __init__(self) -> None:
        self.trace, self.id = secrets.token_hex(16), secrets.token_hex(8)
        self.headers = {"traceparent": f"00-{self.trace}-{self.id}-01", "tracestate": "vendor=private"}


@pytest.fixture
def started() -> Generator[Started]:
    """Start gateways that end with the test, whatever becomes of it."""
    with ExitStack() as stack:

        def start(settings: dict[str, str], log: Path) -> harness.GatewayProcess:
            process = harness.GatewayProcess(settings, log)
            stack.callback(process.kill)
            return process

        yield start


async def test_trace_of_a_start_links_its_joiners_on_two_processes(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    new_track: NewTrack,
    started: Started,
    tmp_path: Path,
) -> None:
    """The leader's request, claim, operation, upstream call and finish; and two who joined, linked to the operation."""
    simulator.inject(harness.delay("start", 4))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    settings |= {"GATEWAY_VERIFY_ABSENT": "never"}
    parent, track = Parent(), new_track()
    async with Collector() as collector:
        first = started(settings | collector.settings, tmp_path / "first")
        second = started(settings | collector.settings, tmp_path / "second")
        await first.ready()
        await second.ready()
        async with harness.client(first.url, demo.key) as one, harness.client(second.url, demo.key) as other:
            lead = asyncio.create_task(one.start(track, headers=parent.headers))
            await harness.eventually(lambda: any(call.endpoint == "start" for call in simulator.calls))
            near = asyncio.create_task(one.start(track, headers=parent.headers))
            far = asyncio.create_task(other.start(track, headers=parent.headers))
            outcomes = [answer.json()["outcome"] for answer in await asyncio.gather(lead, near, far)]
            assert outcomes == ["started", "joined", "joined"]
        assert await asyncio.gather(ended(first), ended(second)) == [0, 0]

        mine = [span for span in collector.spans if span.trace == parent.trace]
        requests = sorted((span for span in mine if span.kind == "SERVER"), key=lambda span: span.begun)
        assert [(span.name, span.parent) for span in requests] == [(ROUTE, parent.id)] * 3
        (leader,) = (span for span in requests if span.attributes["gateway.outcome"] == "started")
        joiners = [span for span in requests if span.attributes["gateway.outcome"] == "joined"]
        (operation,) = (span for span in mine if span.name == "operation")
        (upstream,) = (span for span in mine if span.name == "upstream start")
        (finish,) = (span for span in mine if span.name == "finish")
        claims = {span.parent: span for span in mine if span.name == "claim"}

        assert operation.parent == leader.id
        assert claims[leader.id].attributes["gateway.verdict"] == "lead"
        assert claims[leader.id].ended <= operation.begun
        assert (upstream.parent, upstream.kind) == (operation.id, "CLIENT")
        assert finish.parent == operation.id
        assert {span.kind for span in (finish, operation, *claims.values())} == {"INTERNAL"}
        assert upstream.ended <= finish.begun <= finish.ended <= operation.ended
        assert operation.attributes["gateway.kind"] == "video"
        assert operation.attributes["gateway.action"] == "start"
        assert leader.links == []
        assert [span.links for span in joiners] == [[operation.id]] * 2
        assert {span.process for span in joiners} == {span.process for span in mine}
        assert len({span.process for span in mine}) == 2
        assert all(span.resource["service.name"] == "recording-gateway" for span in mine)
        check_attributes(collector.spans)


async def test_trace_header_of_an_unknown_caller_decides_nothing(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    new_track: NewTrack,
    started: Started,
    tmp_path: Path,
) -> None:
    """Neither which trace a request is part of, nor whether it is sampled; of a caller who is known it decides both."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    stranger, known = Parent(), Parent()
    async with Collector() as collector:
        sampled = {**collector.settings, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
        always, asked = (
            started(settings | collector.settings, tmp_path / "always"),
            started(settings | sampled, tmp_path / "asked"),
        )
        for process in (always, asked):
            await process.ready()
            async with harness.client(process.url) as client:
                for authorization in ("", "Bearer gw_00000000_wrong", "Bearer eyJhbGciOiJIUzI1NiJ9.e30."):
                    headers = stranger.headers | {"authorization": authorization}
                    assert (await client.start(new_track(), headers=headers)).status_code == 401
                for path in ("/docs", "/nowhere", "/v1/rooms/a/events?ticket=x"):
                    await client.get(path, headers=stranger.headers)
            async with harness.client(process.url, demo.key) as client:
                assert (await client.start(new_track(), headers=known.headers)).status_code == 201
            assert await ended(process) == 0
        servers = [span for span in collector.spans if span.kind == "SERVER"]
        assert stranger.trace not in {span.trace for span in collector.spans}
        refused = [span for span in servers if span.attributes.get("gateway.outcome") == "unauthenticated"]
        assert len(refused) == 4
        assert {span.parent for span in refused} == {""}
        mine = [span for span in servers if span.trace == known.trace]
        assert [(span.name, span.parent) for span in mine] == [(ROUTE, known.id)] * 2
        assert len({span.process for span in servers if span.trace != known.trace}) == 1


async def test_trace_header_to_videosdk_holds_only_the_span(
    valkey: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The upstream call's own span is its `traceparent`; what a caller wrote beside it stays here."""
    seen: list[dict[str, str]] = []

    async def take(exchange: Exchange) -> None:
        seen.append(dict(exchange.request.headers))
        exchange.reply(Reply(200, b'"track recording started successfully."'))

    server = Server(take, host="127.0.0.1", port=0)
    await server.start()
    parent = Parent()
    settings = harness.environment(valkey.url, server.url, demo.file, **harness.CALM, GATEWAY_VERIFY_ABSENT="never")
    async with Collector() as collector:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in collector.settings.items():
                if name.startswith("OTEL_"):
                    patch.setenv(name, value)
            async with (
                harness.serve(settings | {"GATEWAY_TRACING": "otlp"}) as url,
                harness.client(url, demo.key) as gateway,
            ):
                headers = parent.headers | {"baggage": "secret=1"}
                assert (await gateway.start(new_track(), headers=headers)).status_code == 201
        (upstream,) = collector.named("upstream start")
        assert seen[0]["traceparent"] == f"00-{parent.trace}-{upstream.id}-01"
        assert not {"tracestate", "baggage"} & set(seen[0])
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        await gateway.start(new_track(), headers=parent.headers)
        assert "traceparent" not in seen[-1]
    await server.stop()


async def test_trace_of_a_start_in_one_process_links_its_joiner(
    valkey: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Of the phases each has a span, and of VideoSDK's answer the call has one; a joiner is linked to the operation."""
    answers = asyncio.Event()

    async def take(exchange: Exchange) -> None:
        await answers.wait()
        exchange.reply(Reply(200, b'"track recording started successfully."'))

    server = Server(take, host="127.0.0.1", port=0)
    await server.start()
    settings = harness.environment(valkey.url, server.url, demo.file, **harness.CALM, GATEWAY_VERIFY_ABSENT="never")
    async with Collector() as collector:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in collector.settings.items():
                if name.startswith("OTEL_"):
                    patch.setenv(name, value)
            async with (
                harness.serve(settings | {"GATEWAY_TRACING": "otlp"}) as url,
                harness.client(url, demo.key) as gateway,
            ):
                track, waiting = new_track(), (await scrape(gateway)).total("waiting_callers")
                starts = [asyncio.create_task(gateway.start(track)) for _ in range(2)]
                await harness.until(
                    lambda: scrape(gateway), lambda seen: seen.total("waiting_callers") == waiting + len(starts)
                )
                answers.set()
                outcomes = {(await start).json()["outcome"] for start in starts}
                assert outcomes == {"started", "joined"}
        names = {span.name for span in collector.spans}
        assert names == {ROUTE, "claim", "operation", "upstream start", "finish"}
        (operation,) = collector.named("operation")
        links = {span.attributes["gateway.outcome"]: span.links for span in collector.named(ROUTE)}
        assert links == {"started": [], "joined": [operation.id]}
    await server.stop()


async def test_span_begins_a_trace_only_where_it_may() -> None:
    """Without a trace there is no span, unless it may begin one; two traces know of each other by links alone."""
    async with Collector() as collector:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in collector.settings.items():
                patch.setenv(name, value)
            tracing.start("1")
            try:
                with tracing.span("alone") as alone:
                    assert alone is None
                with tracing.span("first", root=True), tracing.span("inner"):
                    place = tracing.here()
                with tracing.span("second", root=True):
                    tracing.link("")
                    tracing.link(place)
                await harness.eventually(lambda: len(collector.spans) >= 3)
            finally:
                await tracing.stop()
        assert sorted(span.name for span in collector.spans) == ["first", "inner", "second"]
        first, inner, second = (collector.named(name)[0] for name in ("first", "inner", "second"))
        assert (first.parent, inner.parent, second.parent) == ("", first.id, "")
        assert (first.trace == inner.trace, inner.trace == second.trace) == (True, False)
        assert (first.links, inner.links, second.links) == ([], [], [inner.id])


async def test_trace_of_background_work_is_its_own_and_holds_no_secret(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    new_track: NewTrack,
    started: Started,
    tmp_path: Path,
) -> None:
    """An unknown start is settled in the background, within `settle`; no span holds what callers or settings said."""
    secret = f"hunter2{uuid.uuid4().hex}"
    simulator.inject(Fault(action="reset_before", endpoint="start"))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.BRIEF)
    track = new_track(webhookUrl=f"http://127.0.0.1:9/{secret}?key={secret}", bucketDirPath=secret)
    async with Collector() as collector:
        process = started(settings | collector.settings, tmp_path / "log")
        await process.ready()
        async with harness.client(process.url, demo.key) as gateway:
            assert (await gateway.start(track)).status_code == 504
            await gateway.post(
                f"{START}?key={secret}", json=track | {"roomId": "a/b"}, headers={"x-request-id": secret}
            )
            await gateway.get(f"/{secret}", headers={"authorization": f"Bearer {secret}", "tracestate": f"a={secret}"})
            await gateway.get("/livez")
            # Not by asking for the track: that would reconcile it, in the trace of the caller.
            await harness.eventually(lambda: "failed" in states(collector))
        assert await ended(process) == 0

        told = {span.id: span for span in collector.spans}
        finished = [span for span in collector.named("finish") if span.attributes["gateway.state"] == "failed"]
        roots = {story(span, told)[-1].name for span in finished}
        assert roots == {"reconcile"}
        (failed,) = collector.named("upstream start")
        assert (failed.attributes["gateway.status"], failed.events) == ("broken", 0)
        assert "getLiveness" not in {span.name for span in collector.spans}
        check_attributes(collector.spans)
        everything = "\n".join(collector.texts)
        hidden = (secret, harness.SECRET, harness.API_KEY, demo.key, track["roomId"], "127.0.0.1", "Traceback")
        assert not [what for what in hidden if what in everything]


async def test_tracing_off_imports_nothing(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    new_track: NewTrack,
    started: Started,
    tmp_path: Path,
) -> None:
    """Where OpenTelemetry is not installed the gateway serves; asked for traces, it names the extra that is missing."""
    absent = tmp_path / "opentelemetry"
    absent.mkdir()
    (absent / "__init__.py").write_text('raise ModuleNotFoundError("as if it were not installed", name=__name__)\n')
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM) | {"PYTHONPATH": str(tmp_path)}
    process = started(settings, tmp_path / "log")
    await process.ready()
    async with harness.client(process.url, demo.key) as gateway:
        assert (await gateway.start(new_track(), headers=Parent().headers)).status_code == 201
    assert process.stop() == 0
    code, printed = await gateway_command("serve", **settings, GATEWAY_TRACING="otlp")
    assert code == 2
    assert "recording-gateway[tracing]" in printed
    assert "Traceback" not in printed


async def test_tracing_without_its_collector_delays_nothing(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    new_track: NewTrack,
    started: Started,
    tmp_path: Path,
) -> None:
    """Callers are served, and the process ends soon although its last spans cannot be delivered."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    settings |= {"GATEWAY_TRACING": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    process = started(settings, tmp_path / "log")
    await process.ready()
    async with harness.client(process.url, demo.key) as gateway:
        assert (await gateway.start(new_track())).status_code == 201
    begun = time.monotonic()
    assert await ended(process) == 0
    # Without a bound of its own the exporter would go on trying for a minute.
    assert time.monotonic() - begun < 30


def states(collector: Collector) -> set[str]:
    """Return what was written of tracks."""
    return {span.attributes["gateway.state"] for span in collector.named("finish")}


async def ended(process: harness.GatewayProcess) -> int:
    """End a process while servers of this one answer: it exports what is left."""
    return await asyncio.to_thread(process.stop)


def story(span: Span, told: dict[str, Span]) -> list[Span]:
    """Return a span and what it is part of."""
    return [span] if span.parent not in told else [span, *story(told[span.parent], told)]


def check_attributes(spans: list[Span]) -> None:
    """Check that spans say what they may say, in few words, and nothing else."""
    assert spans
    assert {name for span in spans for name in span.attributes} <= ATTRIBUTES
    assert all(len(str(value)) <= 40 for span in spans for value in span.attributes.values())
    assert not any(span.events for span in spans)
