"""What a refusal of VideoSDK is about: the token, the room, or a participant who has only just joined."""

import pytest

from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.api_client import NewTrack

pytestmark = pytest.mark.anyio

CERTAIN = {**harness.CALM, "GATEWAY_VERIFY_ABSENT": "never"}
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
