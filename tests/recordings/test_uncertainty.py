"""What becomes of an operation whose outcome VideoSDK did not tell, and of beliefs that grew old."""

import asyncio
from typing import Any

import httpx
import pytest
import redis

from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack, address

pytestmark = pytest.mark.anyio


def sent(simulator: Simulator, endpoint: str) -> int:
    """Count the calls of an endpoint."""
    return sum(call.endpoint == endpoint for call in simulator.calls)


async def status_becomes(gateway: ApiClient, track: dict[str, str], status: str) -> None:
    """Wait until the gateway itself has found out."""
    await harness.until(lambda: gateway.show(track), lambda seen: seen.json().get("status") == status)


@pytest.mark.parametrize("action", ["reset_after", "error_after_apply", "garbage"])
async def test_start_applied_without_an_answer_is_found(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, action: str
) -> None:
    """The short look finds it: the caller is told that it records, by the list's word."""
    simulator.inject(Fault(action=action, endpoint="start", applied=True))  # pyright: ignore[reportArgumentType]
    answer = await gateway.start(new_track())
    assert answer.status_code == 200
    assert answer.json()["outcome"] == "already_recording"
    assert answer.json()["confirmedBy"] == "list"
    assert sent(simulator, "start") == 1


async def test_start_that_never_landed_is_unknown_and_then_free(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """No answer, nothing in the list: 504, and after the quiet time the track is free without anybody asking."""
    track = new_track()
    simulator.inject(Fault(action="reset_before", endpoint="start"))
    unknown = await hasty.start(track)
    assert unknown.status_code == 504
    assert unknown.json()["type"] == "/problems/outcome-unknown"
    assert address(track) in unknown.headers["link"]
    assert int(unknown.headers["retry-after"]) > 0
    assert (await hasty.show(track)).json()["status"] in {"unknown", "failed"}
    await status_becomes(hasty, track, "failed")
    assert (await hasty.start(track)).status_code == 201
    assert sent(simulator, "start") == 2


async def test_start_while_an_earlier_one_may_land_sends_nothing(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A start lands after its caller was told `unknown`: the retry finds it and sends nothing."""
    track = new_track()
    simulator.inject(Fault(action="apply_late", endpoint="start", seconds=2, how="reset"))
    assert (await hasty.start(track)).status_code == 504
    again = await hasty.start(track)
    assert again.status_code == 200
    assert again.json()["outcome"] == "already_recording"
    assert sent(simulator, "start") == 1


async def test_stop_without_an_answer_is_repeated_until_known(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """202 `stop_requested`; then the settler stops it again, whether or not anybody asks."""
    track = new_track()
    await hasty.start(track)
    simulator.inject(Fault(action="reset_before", endpoint="stop", times=2, room_id=track["roomId"]))
    answer = await hasty.stop(track)
    assert answer.status_code == 202
    assert answer.json()["outcome"] == "stop_requested"
    assert answer.json()["status"] == "stopping"
    assert answer.headers["location"] == address(track)
    await status_becomes(hasty, track, "stopped")
    assert all(row.closed for row in simulator.rows)


async def test_stop_during_start_runs_after_it(gateway: ApiClient, simulator: Simulator, new_track: NewTrack) -> None:
    """The stop's caller leaves before the start is finished: whoever finishes the start stops it."""
    track = new_track()
    simulator.inject(harness.delay("start", 3))
    start = asyncio.create_task(gateway.start(track))
    await harness.eventually(lambda: sent(simulator, "start"))
    stop = await gateway.stop(track, headers={"x-request-timeout-ms": "200"})
    assert stop.status_code == 202
    assert (stop.json()["outcome"], stop.json()["status"]) == ("stop_requested", "stopping")
    assert (await start).status_code == 201
    await status_becomes(gateway, track, "stopped")
    assert [call.endpoint for call in simulator.calls if call.method == "POST"] == ["start", "stop"]


async def test_stop_during_start_with_time_enough_waits_for_it(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """With time enough, the stop waits for the start and then stops it; the two never overlap upstream."""
    track = new_track()
    simulator.inject(harness.delay("start", 1))
    start = asyncio.create_task(gateway.start(track))
    await harness.eventually(lambda: sent(simulator, "start"))
    stop = await gateway.stop(track)
    assert stop.json()["outcome"] in {"stopped", "joined"}
    assert (await start).status_code == 201
    first, second = (call for call in simulator.calls if call.method == "POST")
    assert first.answered
    assert first.answered <= second.received


async def test_start_after_a_stop_waits_while_videosdk_is_busy(
    valkey: EmbeddedValkey, signer: object, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK refuses for a while after a stop: retried for a patient caller, 409 with Retry-After for another."""
    async with harness.simulator(signer=signer, processing_seconds=5) as simulator:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            track = new_track()
            await gateway.start(track)
            await gateway.stop(track)
            hasty = await gateway.start(track, headers={"x-request-timeout-ms": "900"})
            assert hasty.status_code == 409
            assert hasty.json()["type"] == "/problems/still-stopping"
            assert int(hasty.headers["retry-after"]) > 0
            patient = await gateway.start(track)
            assert patient.status_code == 201, patient.text


async def test_start_past_the_trust_time_probes_and_starts_nothing(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Past the trust time a repeated start looks at the list, once for all who wait, and starts nothing."""
    settings = harness.environment(
        valkey.url, simulator.url, demo.file, **{**harness.FAST, "GATEWAY_TRUST_SECONDS": "0"}
    )
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        track = new_track()
        await gateway.start(track)
        looked = sent(simulator, "list")
        simulator.inject(harness.delay("list", 0.3))
        answers = await asyncio.gather(*(gateway.start(track) for _ in range(5)))
        assert {answer.json()["outcome"] for answer in answers} == {"already_recording"}
        assert sent(simulator, "start") == 1
        assert sent(simulator, "list") - looked <= 2


async def test_start_after_an_unnoticed_end_starts(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Nobody told us that it ended: a start past the trust time finds out, and starts."""
    settings = harness.environment(
        valkey.url, simulator.url, demo.file, **{**harness.FAST, "GATEWAY_TRUST_SECONDS": "0"}
    )
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        track = new_track()
        first = await gateway.start(track)
        simulator.end_recording(track["roomId"], track["participantId"], track["kind"], webhook=False)
        second = await gateway.start(track)
        assert second.status_code == 201
        assert second.json()["id"] != first.json()["id"]
        assert sent(simulator, "start") == 2


async def test_start_of_what_records_beside_the_gateway_adopts_it(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Somebody started it at VideoSDK directly: the refused start finds it and says that it records."""
    track = new_track()
    async with httpx.AsyncClient(base_url=simulator.url, trust_env=False) as outsider:
        token = harness.management_token()
        started = await outsider.post(
            "/v2/recordings/participant/track/start", json=track, headers={"authorization": token}
        )
        assert started.status_code == 200
    answer = await gateway.start(track)
    assert answer.status_code == 200
    assert answer.json()["outcome"] == "already_recording"
    assert answer.json()["confirmedBy"] == "list"


async def test_start_again_while_the_list_lags_starts_nothing(
    valkey: EmbeddedValkey, signer: object, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Asked right after the start, the list does not show it yet: that is no reason to start again."""
    async with harness.simulator(signer=signer, list_lag_seconds=0.6, duplicates="accept") as simulator:
        times = {**harness.FAST, "GATEWAY_TRUST_SECONDS": "0"}
        settings = harness.environment(valkey.url, simulator.url, demo.file, **times)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            track = new_track()
            await gateway.start(track)
            again = await gateway.start(track)
            assert again.json()["outcome"] == "already_recording"
            assert sent(simulator, "start") == 1


async def test_stop_refused_too_early_is_repeated(
    valkey: EmbeddedValkey, signer: object, demo: harness.Demo, new_track: NewTrack
) -> None:
    """VideoSDK refuses to stop what is only just starting, and does not list it yet: the stop is not forgotten."""
    async with harness.simulator(signer=signer, list_lag_seconds=0.3) as simulator:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            track = new_track()
            await gateway.start(track)
            simulator.inject(Fault(action="refuse", endpoint="stop", status=404, room_id=track["roomId"]))
            stop = await gateway.stop(track)
            assert stop.status_code == 202
            await status_becomes(gateway, track, "stopped")
            assert all(row.closed for row in simulator.rows)


@pytest.mark.parametrize(
    ("status", "answered", "problem"),
    [(401, 502, "upstream-credentials-refused"), (429, 503, "upstream-limited")],
)
async def test_start_whose_probe_is_refused_says_why(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    demo: harness.Demo,
    new_track: NewTrack,
    status: int,
    answered: int,
    problem: str,
) -> None:
    """Before the first start of a track the list is asked; nothing was sent, so what refused the look is the answer."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_VERIFY_ABSENT="always")
    async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
        simulator.inject(Fault(action="refuse", endpoint="list", status=status, times=None))
        refused = await gateway.start(new_track())
        assert refused.status_code == answered, refused.text
        assert refused.json()["type"] == f"/problems/{problem}"
        assert sent(simulator, "start") == 0


# --- answers that VideoSDK did not write ------------------------------------------------------------------------------

FOREIGN = [(200, "html"), (202, "empty"), (204, "empty"), (200, "message")]


@pytest.mark.parametrize(("status", "body"), FOREIGN)
async def test_start_with_a_foreign_success_is_what_the_list_says(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, status: int, body: Any
) -> None:
    """A page of a firewall, a proxy's 202: it records by the list's word, or it is not known; never `started`."""
    reached, blocked = new_track(), new_track()
    for track, action in ((reached, "error_after_apply"), (blocked, "error")):
        who = track["participantId"]
        simulator.inject(Fault(action=action, endpoint="start", status=status, body=body, participant_id=who))  # pyright: ignore[reportArgumentType]
    answer = await gateway.start(reached)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "already_recording")
    assert answer.json()["confirmedBy"] == "list"
    unknown = await gateway.start(blocked)
    assert (unknown.status_code, unknown.json()["type"]) == (504, "/problems/outcome-unknown")
    assert sent(simulator, "start") == 2


@pytest.mark.parametrize(("status", "body"), FOREIGN)
async def test_stop_with_a_foreign_success_is_repeated_until_known(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack, status: int, body: Any
) -> None:
    """The stop never reached VideoSDK: it is not called stopped, and stopped a moment later."""
    track = new_track()
    await hasty.start(track)
    simulator.inject(Fault(action="error", endpoint="stop", status=status, body=body, times=2, room_id=track["roomId"]))
    answer = await hasty.stop(track)
    assert (answer.status_code, answer.json()["outcome"]) == (202, "stop_requested")
    assert answer.json()["status"] == "stopping"
    await status_becomes(hasty, track, "stopped")
    assert all(row.closed for row in simulator.rows)


async def test_stop_of_which_every_answer_is_foreign_ends_by_the_list(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Each stop arrives and each answer is replaced on its way: the list shows that nothing runs any more."""
    track = new_track()
    await hasty.start(track)
    simulator.inject(
        Fault(action="error_after_apply", endpoint="stop", status=200, body="html", times=None, room_id=track["roomId"])
    )
    assert (await hasty.stop(track)).status_code == 202
    await status_becomes(hasty, track, "stopped")
    assert all(row.closed for row in simulator.rows)
    again = await hasty.start(track)
    assert again.status_code == 201, again.text


async def test_operation_at_the_end_of_the_process_is_finished(
    simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Its caller has left and the process ends: what VideoSDK answers a moment later is still written down."""
    simulator.inject(harness.delay("start", 0.7))
    with harness.PatientValkey() as valkey, redis.Redis.from_url(valkey.url, decode_responses=True) as admin:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as gateway:
            early = await gateway.start(new_track(), headers={"x-request-timeout-ms": "100"})
            assert early.json()["type"] == "/problems/deadline-exceeded"
            await harness.eventually(lambda: sent(simulator, "start"))
        (record,) = (key for key in admin.scan_iter("rec:*") if admin.type(key) == "hash")
        assert admin.hget(record, "state") == "recording"
