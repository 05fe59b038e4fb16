"""A real browser: a frontend with the join token it already holds, and a person in the docs."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest

from gateway.sandbox.simulator import Simulator
from tests import harness
from tests.api_client import NewTrack
from tests.browser.conftest import Outside
from tests.ingress import PREFIX, behind_an_ingress

pytestmark = pytest.mark.anyio

ARTEFACTS = Path(__file__).parents[1] / "artefacts"

Drive = Callable[..., Awaitable[dict[str, Any]]]


def token(track: dict[str, str], *, secret: str = harness.SECRET, lasts: int = 600, moderates: bool = False) -> str:
    """Make the join token of a track's participant, as a project's backend makes them."""
    claims = {
        "apikey": harness.API_KEY,
        "permissions": ["allow_join", *(["allow_mod"] if moderates else [])],
        "roomId": track["roomId"],
        "participantId": track["participantId"],
        "exp": int(time.time()) + lasts,
    }
    return jwt.encode(claims, secret, algorithm="HS256")


def ask(action: str, shown: str, track: dict[str, str], **added: object) -> dict[str, object]:
    """Name one request of the page, and what its libraries add to it."""
    return {"action": action, "token": shown, "track": track, "added": added}


@pytest.fixture
async def url(simulator: Simulator, demo: harness.Demo, page: str) -> AsyncGenerator[str]:
    """A gateway that lets join tokens in and lists the page's origin, with a Redis of its own."""
    with harness.AgedValkey() as valkey:
        settings = harness.environment(
            valkey.url,
            simulator.url,
            demo.file,
            **harness.CALM,
            GATEWAY_JOIN_TOKENS="on",
            GATEWAY_CORS_ORIGINS=page,
        )
        async with harness.serve(settings) as address:
            yield address


async def test_page_with_a_join_token_starts_and_stops(
    drive: Drive, url: str, page: str, simulator: Simulator, new_track: NewTrack, outside: Outside
) -> None:
    """A page of another origin starts; two at once join or find it recording; then it stops."""
    track, twice = new_track(), new_track()
    steps = [
        ask("start", token(track), track),
        [ask("start", token(twice), twice), ask("start", token(twice), twice)],
        ask("start", token(track), track),
        ask("stop", token(track), track),
        ask("stop", token(twice), twice),
        ask("stop", token(track), track),
    ]

    seen = await drive("frontend", address=page, gateway=url, steps=steps)

    started, both, again, stopped, _, idle = seen["answers"]
    assert (started["status"], started["body"]["outcome"]) == (201, "started")
    assert started["body"]["requestedBy"] == f"participant:{track['participantId']}"
    assert started["location"].endswith(f"/{track['roomId']}/{track['participantId']}/video")
    assert started["requestId"]
    assert sorted(answer["status"] for answer in both) == [200, 201]
    assert len({answer["body"]["id"] for answer in both}) == 1
    assert (again["status"], again["body"]["outcome"]) == (200, "already_recording")
    assert (stopped["status"], stopped["body"]["outcome"]) == (200, "stopped")
    assert (idle["status"], idle["body"]["outcome"]) == (200, "not_recording")
    starts = [call for call in simulator.calls if call.path.endswith("/track/start")]
    assert len(starts) == 2
    assert {urlsplit(request).netloc for request in seen["requests"]} == {urlsplit(url).netloc, urlsplit(page).netloc}
    assert outside.asked == []


async def test_page_whose_libraries_add_headers_and_credentials_starts(
    drive: Drive, url: str, page: str, new_track: NewTrack
) -> None:
    """Headers of usual monitoring libraries, `X-Requested-With`, and `credentials: "include"`."""
    track = new_track(participantId="zoë@example.com")
    headers = {
        "X-Requested-With": "XMLHttpRequest",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "sentry-trace": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        "baggage": "sentry-environment=production",
        "x-datadog-trace-id": "1",
        "x-anything-else": "1",
    }
    steps = [
        ask("start", token(track), track, headers=headers),
        ask("stop", token(track), track, headers=headers, credentials="include"),
    ]

    seen = await drive("frontend", address=page, gateway=url, steps=steps)

    assert [answer.get("status") for answer in seen["answers"]] == [201, 200], seen["messages"]
    assert seen["answers"][0]["location"].endswith("/zo%C3%AB%40example.com/video")


async def test_page_follows_a_room_across_a_gateways_death(
    drive: Drive, page: str, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """It sees each change within a second; from the next gateway, what happened meanwhile, and nothing twice."""
    first, second = new_track(), new_track()
    with harness.AgedValkey() as valkey:
        settings = harness.environment(
            valkey.url,
            simulator.url,
            demo.file,
            **harness.FAST,
            GATEWAY_JOIN_TOKENS="on",
            GATEWAY_CORS_ORIGINS=page,
        )
        dying, other = (harness.GatewayProcess(settings, tmp_path / name) for name in ("dying", "other"))
        await asyncio.gather(dying.ready(), other.ready())
        shown = token(first, moderates=True)
        # While the second start takes its time, the gateway that the page follows the room on is killed.
        late = second["participantId"]
        simulator.inject(harness.delay("start", 0.4, participant_id=late))
        driving = asyncio.ensure_future(
            drive("live", address=page, gateways=[dying.url, other.url], token=shown, first=first, second=second)
        )

        def second_is_under_way() -> bool:
            return any(call.participant_id == late for call in simulator.calls)

        await harness.eventually(lambda: driving.done() or second_is_under_way(), 60)
        dying.kill()
        seen = await driving
        assert other.stop() == 0
    heard = seen["heard"]
    changes = [event for event in heard if event["type"] == "recording"]
    for track in (first, second):
        mine = [event for event in changes if event["data"]["participantId"] == track["participantId"]]
        assert [event["data"]["status"] for event in mine] == ["starting", "recording", "stopping", "stopped"]
    assert len({event["id"] for event in heard}) == len(heard) == 9, heard
    # An event's id begins with the moment of the change. What changed while the page was between two gateways is not
    # among these.
    delays = {
        event["data"]["status"]: event["at"] - int(event["id"].partition("-")[0])
        for event in changes
        if event["data"]["participantId"] == first["participantId"]
    }
    assert all(delay < 15_000 for delay in delays.values()), delays
    tickets = [request for request in seen["requests"] if "ticket=" in request]
    assert {urlsplit(request).netloc for request in tickets} == {urlsplit(url).netloc for url in (dying.url, other.url)}
    for log in (dying.log, other.log):
        assert "ticket=" not in log.read_text()


async def test_page_that_is_refused_can_read_why(
    drive: Drive, url: str, page: str, simulator: Simulator, new_track: NewTrack
) -> None:
    """A foreign room, another participant, an expired and a forged token: refused, and the page can read how."""
    track = new_track()
    foreign, other = {**track, "roomId": "somebody-elses"}, new_track()
    steps = [
        ask("start", token(track), foreign),
        ask("start", token(track), other),
        ask("stop", token(track), other),
        ask("start", token(track, lasts=-600), track),
        ask("start", token(track, secret="forged-" + harness.SECRET[::-1]), track),
    ]

    seen = await drive("frontend", address=page, gateway=url, steps=steps)

    assert [answer["status"] for answer in seen["answers"]] == [403, 403, 403, 401, 401]
    slugs = [answer["body"]["type"].rpartition("/")[2] for answer in seen["answers"]]
    assert slugs == ["forbidden"] * 3 + ["unauthenticated"] * 2
    assert [answer["body"].get("rule") for answer in seen["answers"][:3]] == ["room", "participant", "participant"]
    assert all(answer["requestId"] for answer in seen["answers"])
    assert all(answer["authenticate"].startswith("Bearer") for answer in seen["answers"][3:])
    assert simulator.calls == []


async def test_page_that_is_not_listed_is_blocked_by_the_browser(
    drive: Drive, url: str, strange_page: str, simulator: Simulator, new_track: NewTrack
) -> None:
    """The browser asks first (preflight), gets no permission, and sends nothing, though the token is good."""
    track = new_track()

    seen = await drive("frontend", address=strange_page, gateway=url, steps=[ask("start", token(track), track)])

    assert seen["answers"] == [{"blocked": "TypeError"}]
    assert any("blocked by CORS policy" in message for message in seen["messages"]), seen["messages"]
    assert simulator.calls == []


async def test_docs_page_executes_a_start_without_outside_requests(
    drive: Drive, url: str, demo: harness.Demo, simulator: Simulator, outside: Outside
) -> None:
    """Authorize with a key, Execute the start as it stands: 201, and not one request leaves this machine."""
    ARTEFACTS.mkdir(exist_ok=True)
    screenshot = ARTEFACTS / "docs.png"
    screenshot.unlink(missing_ok=True)

    seen = await drive("docs", gateway=url, key=demo.key, screenshot=str(screenshot))

    assert seen["status"].split()[0] == "201", seen
    assert json.loads(seen["body"])["outcome"] == "started"
    assert [call.path for call in simulator.calls].count("/v2/recordings/participant/track/start") == 1
    # A key that is there already would be sent with every try: the second start would get the answer of the first.
    assert seen["idempotencyKey"] == ""
    hosts = {urlsplit(request).hostname for request in seen["requests"] if not request.startswith("data:")}
    assert hosts == {"127.0.0.1"}
    assert outside.asked == []
    assert [message for message in seen["messages"] if message.startswith(("error", "pageerror"))] == []
    assert screenshot.read_bytes().startswith(b"\x89PNG")


async def test_docs_page_behind_a_stripped_prefix_executes_a_start(
    drive: Drive, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """The page's files, the contract and *Try it out* keep to the prefix."""
    with harness.AgedValkey() as valkey:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
        async with behind_an_ingress(settings, tmp_path) as address:
            seen = await drive("docs", gateway=address, key=demo.key, screenshot=str(tmp_path / "docs.png"))
            await harness.eventually(lambda: simulator.calls)
    assert seen["status"].split()[0] == "201", seen
    paths = {urlsplit(request).path for request in seen["requests"] if not request.startswith("data:")}
    assert {path.startswith(f"{PREFIX}/") for path in paths} == {True}, paths


async def test_browser_watch_notices_a_request_to_another_host(drive: Drive, page: str, outside: Outside) -> None:
    """The search for requests that leave the machine finds a planted one, both ways."""
    seen = await drive("stray", address=page, outside="http://elsewhere.example/script.js")

    assert "http://elsewhere.example/script.js" in seen["requests"]
    assert outside.asked == ["GET elsewhere.example"]
