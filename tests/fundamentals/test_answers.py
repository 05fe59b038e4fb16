"""What a caller is answered when another caller was first, when VideoSDK refuses, and when it does not answer."""

import asyncio

import pytest

from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from tests import harness
from tests.api_client import ApiClient, NewTrack, address

pytestmark = pytest.mark.anyio


def endpoints(simulator: Simulator) -> list[str]:
    """Return the starts and stops that VideoSDK got."""
    return [call.endpoint for call in simulator.calls if call.method == "POST"]


async def test_start_during_a_start_joins_it(gateway: ApiClient, simulator: Simulator, new_track: NewTrack) -> None:
    """A second start while the first is under way waits for it and shares its recording."""
    simulator.inject(Fault(action="delay", endpoint="start", seconds=2))
    track = new_track()

    first = asyncio.create_task(gateway.start(track))
    await harness.eventually(lambda: endpoints(simulator))
    second = await gateway.start(track)

    assert (await first).status_code == 201
    assert second.status_code == 200
    assert second.json()["outcome"] == "joined"
    assert second.json()["id"] == (await first).json()["id"]
    assert endpoints(simulator) == ["start"]


async def test_start_with_other_parameters_is_a_conflict(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A running recording is not changed by a start with other parameters: 409 names the fields, not their values."""
    track = new_track(bucketDirPath="lessons/1", webhookUrl="https://app.example.com/hook?key=hunter2")
    assert (await gateway.start(track)).status_code == 201

    refused = await gateway.start({**track, "bucketDirPath": "lessons/2", "webhookUrl": "https://b.example"})

    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json; charset=utf-8"
    assert refused.json()["type"] == "/problems/parameters-differ"
    assert sorted(refused.json()["fields"]) == ["bucketDirPath", "webhookUrl"]
    assert "hunter2" not in refused.text
    assert "lessons" not in refused.text
    assert endpoints(simulator) == ["start"]


async def test_start_that_videosdk_refuses_is_answered_422(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """What VideoSDK refuses is the caller's to change: 422 with VideoSDK's status and words; a later start works."""
    simulator.inject(Fault(action="refuse", endpoint="start", status=404, text="no live session"))
    track = new_track()

    refused = await gateway.start(track)
    assert refused.status_code == 422
    assert refused.json()["type"] == "/problems/upstream-refused"
    assert refused.json()["upstreamStatus"] == 404
    assert refused.json()["upstreamMessage"] == "no live session"

    seen = await gateway.show(track)
    assert seen.json()["status"] == "failed"
    assert (await gateway.start(track)).status_code == 201


async def test_start_without_an_answer_is_unknown_and_then_found(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A start that is carried out late and never answered: 504 with a Link; soon the truth, and no second start."""
    simulator.inject(Fault(action="apply_late", endpoint="start", seconds=1.0))
    track = new_track()

    asked = asyncio.create_task(gateway.start(track))
    await harness.eventually(lambda: endpoints(simulator))
    # The list is of no help either, or the gateway would know before it answers.
    simulator.inject(Fault(action="error", endpoint="list", times=None))
    unknown = await asked
    assert unknown.status_code == 504
    assert unknown.json()["type"] == "/problems/outcome-unknown"
    assert int(unknown.headers["retry-after"]) >= 1
    assert unknown.headers["link"] == f'<{address(track)}>; rel="describedby"'

    assert (await gateway.show(track)).json()["status"] == "unknown"

    simulator.clear_faults()
    found = await harness.until(lambda: gateway.show(track), lambda seen: seen.json()["status"] != "unknown")
    assert found.json()["status"] == "recording"

    again = await gateway.start(track)
    assert again.status_code == 200
    assert again.json()["outcome"] == "already_recording"
    assert endpoints(simulator) == ["start"]


async def test_stop_of_what_does_not_record_succeeds(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A caller stops a track that nothing records: 200 says so, since the caller has what it asked for."""
    track = new_track()

    stopped = await gateway.stop(track)

    assert stopped.status_code == 200
    assert stopped.json()["outcome"] == "not_recording"
    assert stopped.json()["status"] == "stopped"
    assert stopped.json()["id"] is None
    assert simulator.rows == []


async def test_show_of_an_unrecorded_track_is_not_found(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """The gateway asks VideoSDK once what records in the room, in each mode, however often callers ask."""
    track = new_track()
    for _ in range(3):
        unknown = await gateway.show(track)
        assert unknown.status_code == 404
        assert unknown.json()["type"] == "/problems/not-found"
    assert [call.endpoint for call in simulator.calls] == ["participant-list", "room-list", "list"]
