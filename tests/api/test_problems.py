"""Every way to fail has its own problem: one form, one address with advice, and no word that is not the caller's."""

import inspect
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, get_args

import httpx
import jwt
import msgspec
import pytest
from litestar import Litestar, get

from gateway import errors
from gateway.api.middleware import RequestMiddleware
from gateway.api.problems import answer_problem, problem_page
from gateway.api.wire import ProblemDocument
from gateway.auth.policy import RULES
from gateway.errors import PROBLEMS, GatewayError, OutcomeUnknown
from gateway.lifecycle import Drain
from gateway.sandbox.faults import BodyShape, Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, STOP, ApiClient, NewTrack

pytestmark = pytest.mark.anyio


CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]


def starts(simulator: Simulator) -> int:
    """Count the starts that VideoSDK got."""
    return sum(call.endpoint == "start" for call in simulator.calls)


# --- the form ----------------------------------------------------------------------------------------------------


def test_problem_slugs_are_unique() -> None:
    """No class is forgotten, and none hides another."""
    leaves = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, GatewayError)} - {
        GatewayError
    }
    assert set(PROBLEMS.values()) == leaves
    assert set(errors.__all__) >= {cls.__name__ for cls in leaves}


@asynccontextmanager
async def raising(error: Exception) -> AsyncGenerator[ApiClient]:
    """Serve the gateway's own error handling around a route that raises."""

    @get("/v1/raise", sync_to_thread=False)
    def route() -> None:
        raise error

    app = Litestar(
        [route, problem_page],
        exception_handlers={Exception: answer_problem},
        logging_config=None,
        openapi_config=None,
    )
    async with harness.serve_app(RequestMiddleware(app, Drain())) as url, harness.client(url) as client:
        yield client


@pytest.mark.parametrize("slug", sorted(PROBLEMS))
async def test_problem_of_every_type_has_its_members_and_a_page(slug: str, check_problem: CheckProblem) -> None:
    """A problem of each type: its members, its Retry-After in whole seconds, and the page that its type names."""
    problem = PROBLEMS[slug]("Said this time.", retry_after=1.2, extensions={"upstreamStatus": 404})
    async with raising(problem) as client:
        answer = await client.get("/v1/raise", headers={"x-request-id": "caller-chose.this_1"})
        page = await client.get(answer.json()["type"])
    document = check_problem(answer, slug)
    assert document["detail"] == "Said this time."
    assert document["requestId"] == "caller-chose.this_1"
    assert document["upstreamStatus"] == 404
    assert msgspec.convert(document, ProblemDocument).request_id == "caller-chose.this_1"
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in answer.headers) == (slug == "unauthenticated")

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'none';")
    assert page.headers["referrer-policy"] == "no-referrer"
    assert f"/problems/{slug}" in page.text
    assert str(problem.status) in page.text
    assert len(problem.advice) > 20


async def test_problem_page_of_forbidden_explains_every_rule(gateway: ApiClient) -> None:
    """A caller refused by a rule can look up what the rule asks for."""
    page = await gateway.get("/problems/forbidden")
    assert all(f"<code>{rule}</code>" in page.text for rule in RULES)
    assert "`" not in page.text


async def test_problem_page_of_an_unknown_type_is_not_found(gateway: ApiClient, check_problem: CheckProblem) -> None:
    """There are no pages but those of problems."""
    check_problem(await gateway.get("/problems/of-mine"), "not-found")


@pytest.mark.parametrize(
    "error", [ValueError("hunter2"), KeyError("hunter2"), RuntimeError("hunter2 at redis://u:hunter2@h")]
)
async def test_unexpected_exception_is_answered_500_and_logged(error: Exception, check_problem: CheckProblem) -> None:
    """Any other exception is 500 `internal`, and what it says stays in the log."""
    async with raising(error) as client:
        answer = await client.get("/v1/raise")
    check_problem(answer, "internal")
    assert "hunter2" not in answer.text
    assert type(error).__name__ not in answer.text


async def test_unreadable_record_is_answered_500_and_the_gateway_continues(
    gateway: ApiClient, valkey: EmbeddedValkey, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """Rubbish where a record should be: 500 without a word of it, and the gateway goes on."""
    from redis.asyncio import Redis

    track = new_track()
    started = await gateway.start(track)
    async with Redis.from_url(valkey.url) as redis:
        (key,) = [
            key async for key in redis.scan_iter(match=f"*{track['roomId']}*") if await redis.type(key) == b"hash"
        ]
        await redis.hset(key, "evidence", "hunter2")
        answer = await gateway.get(started.headers["location"])
        await redis.delete(key)
    check_problem(answer, "internal")
    assert "hunter2" not in answer.text
    assert (await gateway.get("/readyz")).is_success


@pytest.mark.parametrize("given", ["", "a b", "ä", "x" * 129, "a\tb", "{}"])
async def test_request_id_that_is_not_harmless_is_replaced(gateway: ApiClient, given: str) -> None:
    """Only a harmless id is taken over from the caller."""
    answer = await gateway.get("/livez", headers={b"x-request-id": given.encode()})
    assert answer.headers["x-request-id"] not in {"", given}
    assert len(answer.headers.get_list("x-request-id")) == 1


# --- what VideoSDK refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 402, 404, 409, 410, 422])
async def test_start_that_videosdk_refuses_is_answered_422_with_its_words(
    gateway: ApiClient,
    simulator: Simulator,
    new_track: NewTrack,
    check_problem: CheckProblem,
    status: int,
) -> None:
    """Whatever VideoSDK refuses and in whichever shape: 422 with its status and its words, and one start each."""
    shapes = get_args(BodyShape)
    for shape in shapes:
        simulator.inject(Fault(action="refuse", endpoint="start", status=status, body=shape, text="no such session"))
        document = check_problem(await gateway.start(new_track()), "upstream-refused")
        assert document["upstreamStatus"] == status
        assert document["upstreamMessage"] == ("" if shape in {"empty", "html"} else "no such session")
    assert starts(simulator) == len(shapes)


async def test_start_that_videosdk_refuses_is_answered_in_bounded_scrubbed_words(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """A token, a query and control characters do not come through; a whole page does not either."""
    token = jwt.encode({"apikey": harness.API_KEY}, harness.SECRET, "HS256")
    said = f"bad token {token} for https://a.example/hook?key=hunter2&x=1 \x1b[31m" + "long " * 500
    simulator.inject(Fault(action="refuse", endpoint="start", status=400, text=said))
    document = check_problem(await gateway.start(new_track()), "upstream-refused")
    words = document["upstreamMessage"]
    assert words.startswith("bad token … for https://a.example/hook?")
    assert "hunter2" not in words
    assert "\x1b" not in words
    assert len(words) <= 300


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("route", [START, STOP])
async def test_start_with_refused_credentials_is_answered_502(
    gateway: ApiClient,
    simulator: Simulator,
    new_track: NewTrack,
    check_problem: CheckProblem,
    status: int,
    route: str,
) -> None:
    """Refused like a harmless call, it is tried once more with a fresh token; then 502, which invites no retry."""
    endpoint = "start" if route == START else "stop"
    track = new_track()
    if route == STOP:
        assert (await gateway.start(track)).status_code == 201
    else:
        # What it looks up before the first start is not refused: the next one has nothing to look up.
        assert (await gateway.start(track)).status_code == 201
        assert (await gateway.stop(track)).status_code == 200
    told = len(simulator.calls)
    simulator.inject(Fault(action="refuse", status=status, times=None, text="key hunter2 expired"))
    answer = await gateway.post(route, json=track)
    document = check_problem(answer, "upstream-credentials-refused")
    assert "hunter2" not in answer.text
    assert "upstreamMessage" not in document
    assert "retry-after" not in answer.headers
    assert sum(call.endpoint == endpoint for call in simulator.calls[told:]) == 2
    assert not any(call.took_effect for call in simulator.calls[told:])


@pytest.mark.parametrize(("status", "after", "named"), [(429, None, None), (429, "7", "7"), (503, "9", "9")])
async def test_start_that_videosdk_limits_is_answered_503_with_retry_after(
    gateway: ApiClient,
    simulator: Simulator,
    new_track: NewTrack,
    check_problem: CheckProblem,
    status: int,
    after: str | None,
    named: str | None,
) -> None:
    """429, and 503 that says when to come back: 503 with Retry-After, VideoSDK's own where it named one."""
    headers = {"Retry-After": after} if after else {}
    simulator.inject(Fault(action="refuse", endpoint="start", status=status, headers=headers, text="hunter2"))
    track = new_track()
    answer = await gateway.start(track)
    document = check_problem(answer, "upstream-limited")
    assert document["upstreamStatus"] == status
    assert int(answer.headers["retry-after"]) >= 1
    assert named in {None, answer.headers["retry-after"]}
    assert "hunter2" not in answer.text
    assert (await gateway.start(track)).status_code == 201


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_start_answered_5xx_is_found_by_the_list(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, status: int
) -> None:
    """A 5xx, or 408, after which the track records: the list says so, the start was sent once, and it is no refusal."""
    simulator.inject(Fault(action="error_after_apply", endpoint="start", status=status))
    answer = await gateway.start(new_track())
    assert answer.status_code == 200
    assert answer.json()["outcome"] == "already_recording"
    assert starts(simulator) == 1


# --- what is not there -------------------------------------------------------------------------------------------


def closed_port() -> str:
    """Return an address at which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def test_start_while_videosdk_is_unreachable_is_answered_unavailable(
    valkey: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """Where VideoSDK cannot be connected to, nothing was done and a retry makes sense."""
    more = {**harness.FAST, "GATEWAY_VERIFY_ABSENT": "never"}
    settings = harness.environment(valkey.url, closed_port(), demo.file, **more)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        answer = await client.start(new_track())
    check_problem(answer, "upstream-unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("way", ["killed", "paused"])
async def test_start_and_show_without_redis_are_answered_503(
    simulator: Simulator, demo: harness.Demo, new_track: NewTrack, check_problem: CheckProblem, way: str
) -> None:
    """Redis gone or silent: 503 within three seconds for start and read; nothing reaches VideoSDK."""
    with harness.AgedValkey() as valkey:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
            track = new_track()
            assert (await client.get("/readyz")).status_code == 200
            if way == "killed":
                valkey.kill()
            else:
                valkey.pause()
            try:
                address = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
                answers = [
                    await client.start(track),
                    await client.get(address),
                    await client.get("/readyz"),
                ]
                live = await client.get("/livez")
            finally:
                if way == "paused":
                    valkey.resume()
    for answer in answers:
        check_problem(answer, "coordination-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert "valkey" not in answer.text
    assert live.status_code == 200
    assert simulator.calls == []


async def test_start_with_a_short_timeout_ends_the_wait_and_not_the_operation(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """A caller's own limit ends its wait and not the operation: the same request then learns the result."""
    simulator.inject(harness.delay("start", 2))
    track = new_track()
    early = await gateway.start(track, headers={"x-request-timeout-ms": "100"})
    check_problem(early, "deadline-exceeded")
    again = await gateway.start(track)
    assert again.status_code == 200
    assert starts(simulator) == 1


def test_start_of_unknown_outcome_says_that_a_retry_is_safe() -> None:
    """The one error after which something may record tells a person what to do."""
    assert "safe" in OutcomeUnknown.advice
