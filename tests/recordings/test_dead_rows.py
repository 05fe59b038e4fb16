"""Rows that VideoSDK lists as open for ever although nothing records, and recordings of one track side by side."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.sandbox.faults import Fault
from gateway.sandbox.shapes import Target
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.api_client import ApiClient, NewTrack, Track
from tests.recordings.parts import Log

pytestmark = pytest.mark.anyio

TIMES = {**harness.FAST, "GATEWAY_TRUST_SECONDS": "0"}
"""What is believed is always looked up."""
WATCHED = {**TIMES, "GATEWAY_CHECK_SECONDS": "1"}


@asynccontextmanager
async def serving(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, times: dict[str, str] = TIMES
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway that looks often, to a caller who may do everything."""
    demo.file.write_text(harness.scoped(demo.file.read_text()))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **times)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        yield gateway


def sent(simulator: Simulator, endpoint: str) -> int:
    """Count the calls of an endpoint."""
    return sum(call.endpoint == endpoint for call in simulator.calls)


def key_of(track: Track) -> tuple[str, str, str]:
    """Return what the simulator calls it."""
    return track["roomId"], track["participantId"], track["kind"]


def start_outside(simulator: Simulator, track: Track) -> None:
    """Have another client of VideoSDK start a track."""
    simulator.account.start(Target("track", *key_of(track)), {}, None)


def running(simulator: Simulator, track: Track) -> int:
    """Count what really records."""
    return sum(row.closed is None and row.participant_id == track["participantId"] for row in simulator.rows)


async def counted(gateway: ApiClient, name: str) -> float:
    """Return a counter of the gateway, over all its labels."""
    lines = (await gateway.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


async def status_becomes(gateway: ApiClient, track: Track, status: str) -> httpx.Response:
    """Wait until the gateway itself has found out."""
    return await harness.until(lambda: gateway.show(track), lambda seen: seen.json().get("status") == status)


# --- dead rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun_here", [True, False])
async def test_start_over_a_row_of_an_ended_session_starts(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, begun_here: bool
) -> None:
    """The row stays open when its session is over: a start is really sent, and the row is counted once."""
    track = new_track()
    async with serving(valkey, simulator, demo) as gateway:
        if begun_here:
            assert (await gateway.start(track)).status_code == 201
        else:
            start_outside(simulator, track)
        simulator.end_session(track["roomId"], rows_stay_open=True)
        before = await counted(gateway, "gateway_dead_rows_total")
        answer = await gateway.start(track)
        assert (answer.status_code, answer.json()["outcome"]) == (201, "started")
        assert running(simulator, track) == 1
        assert await counted(gateway, "gateway_dead_rows_total") == before + 1
        # It is remembered: the next look finds the recording that runs, and nothing to alert on.
        log = Log()
        again = await gateway.start(track)
        assert (again.json()["outcome"], again.json()["id"]) == ("already_recording", answer.json()["id"])
        assert not {"row.dead", "duplicate.suspected"} & set(log.events())
        assert (await gateway.stop(track)).json()["outcome"] == "stopped"
        assert (await gateway.start(track)).status_code == 201


async def test_stop_of_a_row_of_an_ended_session_ends(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK refuses the stop and lists the row all the same: nothing records, and no stop is repeated."""
    track = new_track()
    async with serving(valkey, simulator, demo, WATCHED) as gateway:
        start_outside(simulator, track)
        assert (await gateway.start(track)).json()["outcome"] == "already_recording"
        simulator.end_session(track["roomId"], rows_stay_open=True)
        stopped = await gateway.stop(track)
        assert (stopped.status_code, stopped.json()["outcome"]) == (200, "not_recording")
        stops, looked = sent(simulator, "stop"), sent(simulator, "list")
        page = await gateway.list(track["roomId"])
        await harness.eventually(lambda: sent(simulator, "list") > looked)
        assert [recording["status"] for recording in page.json()["recordings"]] == ["stopped"]
        assert (await gateway.show(track)).json()["status"] == "stopped"
        assert sent(simulator, "stop") == stops


async def test_row_of_an_earlier_session_is_dead_by_the_list_alone(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The participant's next session records already, so the earlier one is over, whatever cannot be asked."""
    track = new_track()
    simulator.inject(Fault(action="error", endpoint="sessions", times=None))
    async with serving(valkey, simulator, demo) as gateway:
        start_outside(simulator, track)
        simulator.end_session(track["roomId"], rows_stay_open=True)
        unsure = await gateway.start(track)
        assert unsure.json()["outcome"] == "already_recording"
        start_outside(simulator, {**track, "kind": "audio"})
        answer = await gateway.start(track)
        assert (answer.status_code, answer.json()["outcome"]) == (201, "started")


async def test_stop_that_is_refused_again_and_again_ends(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The session goes on and the row is open for ever: some stops later it is dead, and a start is really sent."""
    track = new_track()
    async with serving(valkey, simulator, demo) as gateway:
        start_outside(simulator, track)
        assert (await gateway.start(track)).json()["outcome"] == "already_recording"
        simulator.end_recording(*key_of(track), rows_stay_open=True, webhook=False)
        assert (await gateway.stop(track)).status_code == 202
        waits = await gateway.start(track, headers={"x-request-timeout-ms": "500"})
        assert waits.status_code == 504
        assert "nothing was sent" in waits.json()["detail"]
        await status_becomes(gateway, track, "stopped")
        assert 3 <= sent(simulator, "stop") <= 8
        answer = await gateway.start(track)
        assert (answer.status_code, answer.json()["outcome"]) == (201, "started")
        assert running(simulator, track) == 1


async def test_stop_of_its_own_recording_is_repeated_however_often_it_is_refused(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """What the gateway started really records: refusals alone never make it dead."""
    track = new_track()
    async with serving(valkey, simulator, demo) as gateway:
        assert (await gateway.start(track)).status_code == 201
        simulator.inject(Fault(action="refuse", endpoint="stop", status=400, times=5, room_id=track["roomId"]))
        assert (await gateway.stop(track)).status_code == 202
        await status_becomes(gateway, track, "stopped")
        assert running(simulator, track) == 0
        # Five refused ones, and one that was not; on a busy machine that one may have been late, and sent again.
        assert sent(simulator, "stop") >= 6


async def test_start_that_is_refused_over_a_dead_row_says_so(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The start was sent, and VideoSDK's refusal is the answer; the dead row is not taken for a recording."""
    track = new_track()
    async with serving(valkey, simulator, demo) as gateway:
        start_outside(simulator, track)
        simulator.end_session(track["roomId"], rows_stay_open=True)
        simulator.inject(Fault(action="refuse", endpoint="start", status=403))
        refused = await gateway.start(track)
        assert (refused.status_code, refused.json()["upstreamStatus"]) == (422, 403)


@pytest.mark.parametrize("begun_here", [True, False])
async def test_release_by_an_operator_leads_to_a_start(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, begun_here: bool
) -> None:
    """An operator's word has a start sent over a row that is open for ever; not over what the gateway began itself."""
    track = new_track()
    simulator.inject(Fault(action="error", endpoint="sessions", times=None))
    async with serving(valkey, simulator, demo) as gateway:
        if begun_here:
            assert (await gateway.start(track)).status_code == 201
        else:
            start_outside(simulator, track)
        assert (await gateway.start(track)).json()["outcome"] == "already_recording"
        if not begun_here:
            simulator.end_recording(*key_of(track), rows_stay_open=True, webhook=False)
        path, log = f"/v1/admin/tracks/{'/'.join(key_of(track))}/release", Log()
        released = await gateway.post(path, json={"reason": "it is over"})
        assert released.status_code == 200, released.text
        dead = [entry["reason"] for entry in log.entries() if entry["event"] == "row.dead"]
        assert dead == ([] if begun_here else ["released"])
        answer = await gateway.start(track)
        assert answer.json()["outcome"] == ("already_recording" if begun_here else "started"), answer.text
        assert running(simulator, track) == 1


# --- two at once ------------------------------------------------------------------------------------------------------


async def test_second_open_row_is_reported_by_the_reconciler(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack
) -> None:
    """No caller asks: the comparison finds two open rows of one track, logs and counts them."""
    async with harness.simulator(signer=signer, duplicates="accept") as simulator:
        track = new_track()
        async with serving(valkey, simulator, demo, WATCHED) as gateway:
            assert (await gateway.start(track)).status_code == 201
            before, log = await counted(gateway, "gateway_duplicates_suspected_total"), Log()
            start_outside(simulator, track)
            await log.shows("duplicate.suspected")
            assert await counted(gateway, "gateway_duplicates_suspected_total") > before


async def test_stop_that_ends_one_of_two_recordings_is_repeated(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK confirms the stop of a recording, and another goes on that was not known of: stopped as well."""
    async with harness.simulator(signer=signer, duplicates="accept", stops="one") as simulator:
        track = new_track()
        async with serving(valkey, simulator, demo, {**WATCHED, "GATEWAY_CHECK_SECONDS": "60"}) as gateway:
            started = await gateway.start(track)
            start_outside(simulator, track)
            assert (await gateway.stop(track)).json()["outcome"] == "stopped"
            assert running(simulator, track) == 1
            await harness.eventually(lambda: running(simulator, track) == 0)
            ended = (await status_becomes(gateway, track, "stopped")).json()
            assert (ended["id"], ended["endedBecause"]) == (started.json()["id"], "stopped")


async def test_stop_of_two_known_recordings_is_not_called_stopped_before_both_are(
    valkey: EmbeddedValkey, signer: Signer, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Two were seen side by side: a confirmed stop is looked after, repeated, and then a start begins a new one."""
    async with harness.simulator(signer=signer, duplicates="accept", stops="one") as simulator:
        track = new_track()
        async with serving(valkey, simulator, demo) as gateway:
            await gateway.start(track)
            start_outside(simulator, track)
            assert (await gateway.start(track)).json()["outcome"] == "already_recording"
            assert (await gateway.stop(track)).json()["outcome"] == "stop_requested"
            again = await gateway.start(track)
            assert (again.status_code, again.json()["outcome"]) == (201, "started"), again.text
            assert running(simulator, track) == 1
