"""What a refusal of VideoSDK is about: the token, the room, or a participant who has only just joined."""

import asyncio

import pytest

from gateway.sandbox.faults import Fault
from gateway.sandbox.shapes import Target
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio

CERTAIN = {**harness.CALM, "GATEWAY_VERIFY_ABSENT": "never", "GATEWAY_RETRY_REFUSED_SECONDS": "3"}
"""Nothing is looked up before a start."""


def starts(simulator: Simulator) -> int:
    """Count the starts that were sent."""
    return sum(call.endpoint == "start" for call in simulator.calls)


# --- the token --------------------------------------------------------------------------------------------------------


async def test_start_in_an_empty_room_says_what_videosdk_said(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK answers 403 where no session is live: the caller gets its words, and the token is not doubted."""
    async with harness.simulator(signer=signer, strict_live=True) as simulator:
        track = new_track()
        simulator.join(track["roomId"], track["participantId"])
        simulator.end_session(track["roomId"])
        settings = harness.environment(valkey.url, simulator.url, demo.file, **CERTAIN)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            refused = await gateway.start(track)
            assert refused.status_code == 422, refused.text
            assert refused.json()["type"] == "/problems/upstream-refused"
            assert refused.json()["upstreamStatus"] == 403
            assert refused.json()["upstreamMessage"] == "No active session found"
            assert starts(simulator) == 1


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_start_with_a_refused_token_is_repeated_with_a_fresh_one(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, status: int
) -> None:
    """A harmless call is refused as well, so it was the token: the start is sent once more with another."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **CERTAIN)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        simulator.inject(
            Fault(action="refuse", endpoint="start", status=status),
            Fault(action="refuse", endpoint="list", status=status),
        )
        assert (await gateway.start(new_track())).status_code == 201
        assert starts(simulator) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_start_with_a_bad_token_blames_the_gateway(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, status: int
) -> None:
    """Every call is refused, whichever status VideoSDK chooses for it: 502, and never the caller's mistake."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **CERTAIN)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        simulator.inject(Fault(action="refuse", status=status, body="code", times=None))
        refused = await gateway.start(new_track())
        assert refused.status_code == 502, refused.text
        assert refused.json()["type"] == "/problems/upstream-credentials-refused"
        counted = (await gateway.get("/metrics")).text
        assert 'gateway_upstream_requests_total{operation="check",status="token"}' in counted


# --- a participant who has only just joined ---------------------------------------------------------------------------


async def test_start_right_after_joining_waits_until_videosdk_is_ready(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK refuses for a moment: the start is tried again, another caller joins it, and there is one recording."""
    async with harness.simulator(signer=signer, strict_live=True, joining_seconds=0.5) as simulator:
        track = new_track()
        settings = harness.environment(valkey.url, simulator.url, demo.file, **CERTAIN)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            simulator.join(track["roomId"], track["participantId"])
            first = asyncio.create_task(gateway.start(track))
            await harness.eventually(lambda: starts(simulator))
            joined, started = await asyncio.gather(gateway.start(track), first)
            assert (started.status_code, started.json()["outcome"]) == (201, "started")
            assert (joined.status_code, joined.json()["outcome"]) == (200, "joined")
            assert len(simulator.rows) == 1


@pytest.mark.parametrize(("seconds", "sent"), [("1.5", 2), ("0", 1)])
async def test_start_that_is_refused_for_longer_says_so(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, seconds: str, sent: int
) -> None:
    """After so many seconds the caller gets 422 with Retry-After, and so does who joined; 0 sends it once."""
    track = new_track()
    times = {**CERTAIN, "GATEWAY_RETRY_REFUSED_SECONDS": seconds}
    settings = harness.environment(valkey.url, simulator.url, demo.file, **times)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        simulator.inject(Fault(action="refuse", endpoint="start", status=400, text="not yet", times=None))
        refused = await gateway.start(track)
        assert (refused.status_code, refused.json()["upstreamMessage"]) == (422, "not yet")
        assert int(refused.headers["retry-after"]) > 0
        assert starts(simulator) == sent


async def test_start_that_is_refused_ends_before_its_caller_leaves(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """A caller that waits for a second gets the refusal, and no time-out."""
    times = {**CERTAIN, "GATEWAY_RETRY_REFUSED_SECONDS": "60"}
    settings = harness.environment(valkey.url, simulator.url, demo.file, **times)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        simulator.inject(Fault(action="refuse", endpoint="start", status=400, times=None))
        hurried = {"x-request-timeout-ms": "1900"}
        refused = await gateway.start(new_track(), headers=hurried)
        assert refused.status_code == 422
        assert refused.headers["retry-after"]


async def test_start_that_is_tried_again_finds_what_was_started_beside_the_gateway(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Between two tries another client starts it: the list shows it, and there is one recording."""
    track = new_track()
    settings = harness.environment(valkey.url, simulator.url, demo.file, **CERTAIN)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        simulator.inject(Fault(action="refuse", endpoint="start", status=400))
        asked = asyncio.create_task(gateway.start(track))
        await harness.eventually(lambda: starts(simulator))
        simulator.account.start(Target("track", track["roomId"], track["participantId"], "video"), {}, None)
        answer = await asked
        assert (answer.status_code, answer.json()["outcome"]) == (200, "already_recording")
        assert len(simulator.rows) == 1


async def test_stop_while_a_refused_start_is_tried_again_ends_it(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The later command wins: the start is not sent again, and nothing is left to stop."""
    track = new_track()
    times = {**CERTAIN, "GATEWAY_RETRY_REFUSED_SECONDS": "60"}
    settings = harness.environment(valkey.url, simulator.url, demo.file, **times)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        simulator.inject(Fault(action="refuse", endpoint="start", status=400, times=None))
        asked = asyncio.create_task(gateway.start(track))
        await harness.eventually(lambda: starts(simulator))
        stopped = await gateway.stop(track)
        assert (await asked).status_code == 422
        assert (stopped.status_code, stopped.json()["outcome"]) == (200, "not_recording")
        assert simulator.rows == []


# --- nothing was done ---------------------------------------------------------------------------------------------


async def test_start_that_videosdk_limits_leaves_nothing_to_show(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Nothing was begun and nothing refused for good: the room lists no recording, and the track has none."""
    track = new_track()
    simulator.inject(Fault(action="refuse", endpoint="start", status=429, headers={"Retry-After": "1"}))
    assert (await gateway.start(track)).status_code == 503
    assert (await gateway.list(track["roomId"])).json()["recordings"] == []
    assert (await gateway.show(track)).status_code == 404
