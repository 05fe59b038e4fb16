"""For operators: what is held, asking VideoSDK now, and revoking the claim of a leader that hangs."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from gateway.api.admin import HeldClaim, PendingRecording
from gateway.coordinator import Coordinator, PendingTarget, Timing
from gateway.recordings import Kind, Mode, Target
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from tests import harness
from tests.api_client import ApiClient, NewTrack, Track

pytestmark = pytest.mark.anyio

TIMES = {**harness.FAST, "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "6", "GATEWAY_REQUEST_DEADLINE_SECONDS": "30"}


def path(track: dict[str, str], action: str) -> str:
    """Return where something is done to a track."""
    return f"/v1/admin/tracks/{track['roomId']}/{track['participantId']}/{track['kind']}/{action}"


@pytest.fixture
def settings(valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path) -> dict[str, str]:
    """Settings with an operator, one of few participants, and a caller who is none."""
    operator, few, other = (harness.Demo(tmp_path / name, name) for name in ("operator", "few", "user"))
    all_of_them = tmp_path / "all.toml"
    own = f'{harness.scoped(few.file.read_text())}participants = ["own-*"]\n'
    all_of_them.write_text(harness.scoped(operator.file.read_text()) + own + other.file.read_text())
    return {
        **harness.environment(valkey.url, simulator.url, all_of_them, **TIMES),
        "operator": operator.key,
        "few": few.key,
        "user": other.key,
    }


@pytest.fixture
async def operator(settings: dict[str, str]) -> AsyncGenerator[ApiClient]:
    """A client that speaks as the operator."""
    given = {name: value for name, value in settings.items() if name.startswith("GATEWAY_")}
    async with harness.serve(given) as url, harness.client(url, settings["operator"]) as client:
        yield client


async def pending_targets(operator: ApiClient, track: dict[str, str]) -> dict[str, Any]:
    """Return what an operator sees of a track, nothing where it is not listed."""
    listed = (await operator.get("/v1/admin/tracks", params={"limit": "1000"})).json()["tracks"]
    return next((one for one in listed if track.items() <= one.items()), {})


NOW = 1_800_000_000_000
ADA = Target(Mode.TRACK, "room", "ada", Kind.VIDEO)
KEY = Coordinator(Connection("redis://nowhere"), Timing(), "t").key(ADA.room_id, *ADA.parts)
SHOWN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"status": None, "claim": None, "uncertain_for_seconds": None, "stop_wanted": False, "doubted": False}),
    ({"state": "unknown", "uncertain_since": NOW - 4000}, {"status": "unknown", "uncertain_for_seconds": 4.0}),
    ({"due": NOW + 2500, "tries": 3, "upstream": "list 503"},
     {"due_in_seconds": 2.5, "tries": 3, "last_upstream_answer": "list 503"}),
    ({"due": NOW - 1500}, {"due_in_seconds": -1.5, "last_upstream_answer": None}),
    ({"suspect_since": 1}, {"doubted": True}),
    ({"stop_requested_at": 2, "started_op": 1}, {"stop_wanted": True}),
    ({"stop_requested_at": 1, "started_op": 1}, {"stop_wanted": False}),
    ({"holder": "boot.7", "action": "stop", "granted": NOW - 1500, "lease": NOW + 2500},
     {"claim": HeldClaim(action="stop", attempt="boot.7", owner="boot", age_seconds=1.5, lease_seconds=2.5)}),
]  # fmt: skip


@pytest.mark.parametrize(("record", "shown"), SHOWN)
def test_admin_shows_a_record_in_seconds_from_now(record: dict[str, Any], shown: dict[str, Any]) -> None:
    """What is held, due, uncertain, doubted, or left to stop; and whose it is."""
    body = PendingRecording.of(PendingTarget(key=KEY, **record), NOW)
    assert (body.room_id, body.participant_id, body.kind) == ("room", "ada", "video")
    assert {name: getattr(body, name) for name in shown} == shown


async def test_admin_list_during_an_operation_names_its_holder(
    operator: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """The list shows the holder, since when and for how long; once the operation is over the list is empty."""
    simulator.inject(harness.delay("start", 4))
    track = new_track()
    start = asyncio.create_task(operator.start(track))
    seen = await harness.until(lambda: pending_targets(operator, track), lambda one: one.get("claim"))
    assert seen["status"] == "starting"
    assert seen["claim"]["action"] in {"start", "probe"}
    assert 0 <= seen["claim"]["ageSeconds"] < 60
    assert 0 < seen["claim"]["leaseSeconds"] <= 2
    assert (await start).status_code == 201
    assert not (await pending_targets(operator, track)).get("claim")


async def test_admin_list_of_an_unknown_track_shows_videosdks_last_answer(
    operator: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """How long it has been uncertain, how often it was tried, and the last answer."""
    simulator.inject(Fault(action="error", endpoint="start", status=504))
    simulator.inject(Fault(action="error", endpoint="list", status=503, times=None))
    track = new_track()
    started = asyncio.create_task(operator.start(track))
    seen = await harness.until(lambda: pending_targets(operator, track), lambda one: one.get("uncertainForSeconds"))
    assert seen["status"] == "unknown"
    assert seen["lastUpstreamAnswer"] == "list 503"
    assert seen["tries"] >= 1
    simulator.clear_faults()
    assert (await started).status_code == 504
    await harness.until(lambda: pending_targets(operator, track), lambda one: not one.get("uncertainForSeconds"))


async def test_admin_settle_of_a_fresh_record_asks_videosdk_at_once(
    operator: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A record that is believed is asked about all the same; the end is found."""
    track = new_track()
    await operator.start(track)
    simulator.end_recording(track["roomId"], track["participantId"], track["kind"], webhook=False)
    settled = await operator.post(path(track, "settle"))
    assert settled.status_code == 200
    where = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/{track['kind']}"
    await harness.until(lambda: operator.get(where), lambda answer: answer.json()["status"] in {"stopped", "failed"})
    assert (await operator.post(path(new_track(), "settle"))).status_code == 404


async def test_admin_list_of_an_operator_of_few_is_not_cut_before_it_is_filtered(
    settings: dict[str, str], new_track: NewTrack
) -> None:
    """The bound counts what the operator's policy covers: however many others are due sooner, its own are listed."""
    others, (first, second) = [new_track() for _ in range(5)], (new_track(), new_track())
    own = [{**track, "participantId": f"own-{track['participantId']}"} for track in (first, second)]
    given = {name: value for name, value in settings.items() if name.startswith("GATEWAY_")}
    # What records is due in a minute.
    async with harness.serve({**given, "GATEWAY_CHECK_SECONDS": "60"}) as url, harness.client(url) as client:
        for track in (*others, *own):
            headers = {"authorization": f"Bearer {settings['operator']}"}
            assert (await client.start(track, headers=headers)).status_code == 201
        for limit in (1, 2, 100):
            query, headers = {"limit": str(limit)}, {"authorization": f"Bearer {settings['few']}"}
            listed = (await client.get("/v1/admin/tracks", params=query, headers=headers)).json()["tracks"]
            assert {one["participantId"] for one in listed} <= {track["participantId"] for track in own}
            assert len(listed) == min(limit, 2)


def at_rest(pending: dict[str, Any], track: Track) -> bool:
    """Tell whether no process holds a track, and none has to look at it now."""
    own = [one for one in pending["tracks"] if one["roomId"] == track["roomId"]]
    return all(one["claim"] is None and not one["doubted"] and one["dueInSeconds"] > 1 for one in own)


async def test_admin_release_of_a_hanging_leaders_claim_lets_others_recover(
    settings: dict[str, str], simulator: Simulator, new_track: NewTrack, tmp_path: Path
) -> None:
    """Its leader is stopped in the middle, with a long lease: after the release others find out; nothing doubles."""
    given = {name: value for name, value in settings.items() if name.startswith("GATEWAY_")}
    given["GATEWAY_LEASE_SECONDS"] = "10"
    logs = [tmp_path / "hangs", tmp_path / "helps"]
    hangs, helps = [await harness.GatewayProcess(given, log).ready() for log in logs]
    track = new_track()
    try:
        simulator.inject(harness.delay("start", 1))
        async with (
            harness.client(hangs.url, settings["operator"]) as first,
            harness.client(helps.url, settings["operator"]) as second,
        ):
            start = asyncio.create_task(first.start(track))
            await harness.eventually(lambda: any(call.endpoint == "start" for call in simulator.calls))
            hangs.signal(signal.SIGSTOP)
            refused = await second.post(path(track, "release"), json={})
            assert refused.status_code == 422
            released = await second.post(path(track, "release"), json={"reason": "its process hangs"})
            assert released.status_code == 200, released.text
            assert released.json()["released"] is True
            answer = await second.start(track)
            assert answer.json()["outcome"] == "already_recording"
            hangs.signal(signal.SIGCONT)
            assert (await start).status_code in {200, 201}
            # Since its claim was taken, the target is looked at again: what is released then is nothing.
            await harness.until(lambda: second.get("/v1/admin/tracks"), lambda answer: at_rest(answer.json(), track))
            again = await second.post(path(track, "release"), json={"reason": "once more"})
            assert again.json()["released"] is False
    finally:
        hangs.kill()
        helps.stop()
    assert sum(call.endpoint == "start" for call in simulator.calls) == 1
    audits = [json.loads(line) for line in harness.log_lines(logs[1]) if '"audit.claim_released"' in line]
    assert [(one["by"], one["reason"], one["taken"], one["action"] == "") for one in audits] == [
        ("operator", "its process hangs", True, False),
        ("operator", "once more", False, True),
    ]
    # Of the second it is known what recorded: the start had landed by then.
    assert audits[1]["records"] == 1


async def test_admin_release_while_videosdk_fails_keeps_the_claim(
    operator: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """VideoSDK cannot be asked: the claim stays."""
    track = new_track()
    await operator.start(track)
    simulator.inject(Fault(action="refuse", endpoint="list", status=429, times=None))
    refused = await operator.post(path(track, "release"), json={"reason": "to see"})
    assert refused.status_code == 503
    assert refused.json()["type"] == "/problems/upstream-limited"
    simulator.clear_faults()
    idle = await operator.post(path(track, "release"), json={"reason": "to see"})
    assert (idle.status_code, idle.json()["released"]) == (200, False)
    assert (
        track.items() >= {name: idle.json()["recording"][name] for name in ("roomId", "participantId", "kind")}.items()
    )


async def test_admin_routes_refuse_other_callers_and_wrong_requests(
    operator: ApiClient, settings: dict[str, str], new_track: NewTrack
) -> None:
    """Another caller is refused by the rule, a query or a body that is wrong by name."""
    track = new_track()
    headers = {"authorization": f"Bearer {settings['user']}"}
    for request in (
        operator.get("/v1/admin/tracks", headers=headers),
        operator.post(path(track, "settle"), headers=headers),
        operator.post(path(track, "release"), headers=headers, json={"reason": "x"}),
    ):
        refused = await request
        assert refused.status_code == 403
        assert refused.json()["rule"] == "scope"
    for query in ("limit=0", "limit=1001", "limit=a", "limit=1&limit=2", "colour=red"):
        assert (await operator.get(f"/v1/admin/tracks?{query}")).status_code == 422, query
    for body in ({"reason": ""}, {"reason": "a\nb"}, {"reason": 7}, {"reason": "x", "force": True}):
        refused = await operator.post(path(track, "release"), json=body)
        assert refused.status_code == 422, body
    assert (await operator.post(path(track, "release"), json={"reason": "x"})).status_code == 404
