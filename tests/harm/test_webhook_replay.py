"""A captured webhook, sent again and again by anybody: it is acted on now and then, and delays no other room's."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import pytest

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.observability.numbers import Numbers

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

WEBHOOKS: Final = "/v1/webhooks/videosdk"
PARTICIPANTS: Final = 30
REPLAYS: Final = 20
PER_PARTICIPANT: Final = "participant-track-recording-stopped"


@pytest.fixture
async def gateway(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> AsyncGenerator[ApiClient]:
    """A gateway process that VideoSDK knows, which looks at nothing by itself."""
    quiet = {"GATEWAY_TRUST_SECONDS": "3600", "GATEWAY_VERIFY_ABSENT": "never"}
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, **quiet)
    process = await harness.GatewayProcess(settings, tmp_path / "log", public=True).ready()
    async with harness.client(process.url, demo.key) as client:
        await harness.until_ready(client)
        yield client
    assert await asyncio.to_thread(process.stop) == 0


def captured(room: str, participant: str) -> bytes:
    """Return the body of an event that its room's participants may have read: VideoSDK sent it to their webhookUrl."""
    data = {"meetingId": room, "sessionId": "s", "participantId": participant, "kind": "video"}
    return json.dumps({"webhookType": PER_PARTICIPANT, "data": data}).encode()


async def test_replayed_webhooks_do_not_delay_another_rooms_end(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Hundreds of replays of one room's events; another room's recording ends, and its webhook is acted on at once.

    Of the replays' room a list every half second is asked for meanwhile, and one answers for 16 replays: where the end
    has to wait for all of them, for some 35 lists, and else for those of the two or three seconds that an end takes.
    Bounded by: equal events are acted on once while one waits, and rooms take turns.
    """
    track, room = new_track(), new_track()["roomId"]
    assert (await gateway.start(track)).status_code == 201
    simulator.inject(harness.delay("list", 0.3, room_id=room))
    bodies = [captured(room, f"p{number}") for number in range(PARTICIPANTS)]
    signed = [(body, simulator.sign(body)) for body in bodies]

    async def replay(body: bytes, signature: str) -> int:
        headers = {"videosdk-signature": signature, "authorization": ""}
        return (await gateway.post(WEBHOOKS, content=body, headers=headers)).status_code

    for _ in range(REPLAYS):
        answers = await asyncio.gather(*(replay(*one) for one in signed))
        assert set(answers) == {204}
    begun = len(harness.calls_for(simulator, room))
    simulator.end_recording(track["roomId"], track["participantId"], track["kind"])
    await harness.until(lambda: gateway.show(track), lambda answer: answer.json()["status"] == "stopped")

    assert len(harness.calls_for(simulator, room)) - begun < 15, "it had to wait for the replays"
    events = Numbers((await gateway.get("/metrics")).text)
    # Of each event one is acted on, and one more that stands for those that came meanwhile, at most once a second.
    assert events.total("webhook_events_total", type=PER_PARTICIPANT, verdict="repeated") >= PARTICIPANTS * REPLAYS / 3
