"""A batch: each item is answered what its single call would have been, and harms no other."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.auth.api_keys import new_key
from gateway.recordings import MODES
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, STOP, ApiClient, NewTrack
from tests.observability.numbers import scrape
from tests.recordings.parts import Log

pytestmark = pytest.mark.anyio

CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]
NothingReaches = Callable[[], AbstractAsyncContextManager[None]]
BATCH = "/v1/recordings/batch"


def item(action: str, track: Mapping[str, Any], mode: str = "track", **more: Any) -> dict[str, Any]:
    """Return the item for a start or a stop."""
    return {"action": action, "mode": mode, **track, **more}


async def send(gateway: ApiClient, *items: object, **options: Any) -> list[dict[str, Any]]:
    """Send a batch and return its results."""
    answer = await gateway.post(BATCH, json={"items": items}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def upstream(simulator: Simulator, endpoint: str) -> int:
    """Count the calls that VideoSDK got."""
    return sum(call.endpoint == endpoint for call in simulator.calls)


async def test_batch_of_starts_joins_equal_ones(gateway: ApiClient, simulator: Simulator, new_track: NewTrack) -> None:
    """A hundred starts at once with thirty doubled are seventy starts at VideoSDK, in the order of the items."""
    tracks = [new_track() for _ in range(70)]
    sent = [*tracks, *tracks[:30]]
    results = await send(gateway, *(item("start", track) for track in sent))
    assert [result["item"] for result in results] == list(range(100))
    assert [result["recording"]["participantId"] for result in results] == [track["participantId"] for track in sent]
    assert Counter(result["status"] for result in results) == {201: 70, 200: 30}
    assert Counter(result["recording"]["outcome"] for result in results) == {"started": 70, "joined": 30}
    for first, doubled in zip(results[:30], results[70:], strict=True):
        assert first["recording"]["id"] == doubled["recording"]["id"]
    assert upstream(simulator, "start") == 70


async def test_batch_items_run_in_every_mode(gateway: ApiClient, simulator: Simulator, new_track: NewTrack) -> None:
    """A start of each mode in one batch, then a stop of each: what `MODES` knows, a batch can do."""
    track = new_track()
    targets = {mode: {name: track[name] for name in spec.ids} for mode, spec in MODES.items()}
    started = await send(gateway, *(item("start", ids, mode) for mode, ids in targets.items()))
    assert [result["status"] for result in started] == [201] * len(MODES)
    assert [result["target"] for result in started] == [{"mode": mode, **ids} for mode, ids in targets.items()]
    stopped = await send(gateway, *(item("stop", ids, mode) for mode, ids in targets.items()))
    assert [result["recording"]["outcome"] for result in stopped] == ["stopped"] * len(MODES)
    assert [result["recording"]["mode"] for result in stopped] == list(MODES)
    assert len(simulator.rows) == len(MODES)


async def test_batch_of_stops_stops_each_once(gateway: ApiClient, simulator: Simulator, new_track: NewTrack) -> None:
    """A storm of stops, each twice in each of five batches: one stop each at VideoSDK, and all are answered."""
    tracks = [new_track() for _ in range(10)]
    await send(gateway, *(item("start", track) for track in tracks))
    stops = [item("stop", track) for track in (*tracks, *tracks)]
    batches = await asyncio.gather(*(send(gateway, *stops) for _ in range(5)))
    outcomes = Counter(result["recording"]["outcome"] for results in batches for result in results)
    assert outcomes["stopped"] == 10
    assert outcomes.keys() <= {"stopped", "joined", "not_recording"}
    # Of other rooms a gateway may have something left to stop.
    of_room = harness.calls_for(simulator, tracks[0]["roomId"])
    assert sum(call.endpoint == "stop" for call in of_room) == 10


# --- the same as a single call ----------------------------------------------------------------------------------------

_OF_ONE = {"id", "participantId", "requestedAt", "confirmedAt", "endedAt", "instance", "requestId"}
"""What no two recordings and no two requests have in common."""


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """Return what the answers to two equal requests about two tracks have in common."""
    return {name: value for name, value in document.items() if name not in _OF_ONE}


@pytest.mark.parametrize("case", ["started", "running", "differs", "refused", "limited", "unknown", "stopped", "idle"])
async def test_batch_item_is_answered_as_a_single_call(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack, case: str
) -> None:
    """The same status and body, and what the single call says in its headers, whatever came of it."""
    one, other = new_track(), new_track()
    action = "stop" if case in {"stopped", "idle"} else "start"
    if case in {"running", "differs", "stopped"}:
        await asyncio.gather(hasty.start(one), hasty.start(other))
    if case in {"refused", "limited"}:
        status, headers = (404, {}) if case == "refused" else (429, {"Retry-After": "7"})
        simulator.inject(Fault(action="refuse", endpoint="start", status=status, headers=headers, times=None))
    if case == "unknown":
        simulator.inject(Fault(action="hang_before", endpoint="start", times=None))
    more = {"bucketDirPath": "elsewhere"} if case == "differs" else {}
    single, (result,) = await asyncio.gather(
        hasty.post(START if action == "start" else STOP, json=one | more), send(hasty, item(action, other, **more))
    )
    assert result["status"] == single.status_code
    said = result.get("recording") or result["problem"]
    assert plain(said) == plain(single.json())
    assert ("problem" in result) == ("type" in single.json())
    assert result.get("retryAfter") == (int(single.headers["retry-after"]) if case in {"limited", "unknown"} else None)
    led_to = single.headers.get("location") or single.headers.get("link", "").partition(">")[0].strip("<")
    assert result.get("location", "") == led_to.replace(one["participantId"], other["participantId"])
    assert result["target"] == {"mode": "track", **other}


async def test_batch_item_with_kinds_stands_for_one_each(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """One result for each kind, in their order, each with the place of its item; and the next item's after them."""
    track, other = new_track(), new_track()
    both: dict[str, Any] = {"roomId": track["roomId"], "participantId": track["participantId"]}
    both["kinds"] = ["video", "audio"]
    results = await send(gateway, item("start", both), item("start", other))
    assert [(result["item"], result["status"]) for result in results] == [(0, 201), (0, 201), (1, 201)]
    assert [result["recording"]["kind"] for result in results] == ["video", "audio", other["kind"]]
    stopped = await send(gateway, item("stop", both))
    assert [result["recording"]["outcome"] for result in stopped] == ["stopped", "stopped"]
    assert upstream(simulator, "start") == 3


# --- bad input --------------------------------------------------------------------------------------------------------

_IDS = {"roomId": "room-bad", "participantId": "ada"}
_GOOD = {"action": "start", "mode": "track", **_IDS, "kind": "video"}


def without(name: str) -> dict[str, Any]:
    """Return a good item without a member."""
    return {member: value for member, value in _GOOD.items() if member != name}


WRONG_ITEMS: dict[str, tuple[object, list[str]]] = {
    "no object": ("start", ["items[1]"]),
    "null": (None, ["items[1]"]),
    "a list of items": ([_GOOD], ["items[1]"]),
    "empty": ({}, ["items[1].action", "items[1].mode"]),
    "without an action": (without("action"), ["items[1].action"]),
    "another action": (_GOOD | {"action": "delete"}, ["items[1].action"]),
    "an action that is a list": (_GOOD | {"action": ["start"]}, ["items[1].action"]),
    "without a mode": (without("mode"), ["items[1].mode"]),
    "another mode": (_GOOD | {"mode": "composite"}, ["items[1].mode"]),
    "a mode that is an object": (_GOOD | {"mode": {}}, ["items[1].mode"]),
    "without a room": (without("roomId"), ["items[1].roomId"]),
    "without a kind": (without("kind"), ["items[1].kind"]),
    "a bad id and a bad kind": (_GOOD | {"roomId": "a/b", "kind": "smell"}, ["items[1].roomId", "items[1].kind"]),
    "an unknown member": (_GOOD | {"foo": 1}, ["items[1].foo"]),
    "a batch in a batch": (_GOOD | {"items": [_GOOD]}, ["items[1].items"]),
    "a number beyond bounds": (_GOOD | {"foo": 10**40}, ["items[1].foo"]),
    "a stop with a start's member": (_GOOD | {"action": "stop", "fileFormat": "webm"}, ["items[1].fileFormat"]),
    "a member of another mode": ({**_GOOD, "mode": "participant"}, ["items[1].kind"]),
    "kinds of a participant": ({**without("kind"), "mode": "participant", "kinds": ["audio"]}, ["items[1].kinds"]),
    "kind and kinds": (_GOOD | {"kinds": ["audio"]}, ["items[1].kinds"]),
    "no kinds": (without("kind") | {"kinds": []}, ["items[1].kinds"]),
    "kinds that are none": (without("kind") | {"kinds": "audio"}, ["items[1].kinds"]),
    "an unknown kind": (without("kind") | {"kinds": ["audio", "smell"]}, ["items[1].kinds[1]"]),
    "a kind twice": (without("kind") | {"kinds": ["audio", "audio"]}, ["items[1].kinds[1]"]),
    "a kind that is a list": (without("kind") | {"kinds": [["audio"]]}, ["items[1].kinds[0]"]),
    "too many kinds": (without("kind") | {"kinds": ["audio"] * 5000}, ["items[1].kinds"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_ITEMS)
async def test_batch_with_a_wrong_item_names_its_fields_and_runs_the_others(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, name: str
) -> None:
    """The wrong item is answered 422 with every field by its place; the items before and after it run."""
    wrong, fields = WRONG_ITEMS[name]
    one, other = new_track(), new_track()
    results = await send(gateway, item("start", one), wrong, item("start", other))
    assert [result["status"] for result in results] == [201, 422, 201]
    problem = results[1]["problem"]
    assert problem["type"] == "/problems/invalid-request"
    assert {error["field"] for error in problem["errors"]} >= set(fields)
    assert all(error["field"].startswith("items[1]") for error in problem["errors"])
    assert name == "too many kinds" or {error["field"] for error in problem["errors"]} == set(fields)
    assert upstream(simulator, "start") == 2


async def test_batch_that_contradicts_itself_refuses_both_items(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """A start and a stop of one recording are both refused, naming both; the other items still run."""
    contested, other = new_track(), new_track()
    results = await send(
        gateway,
        item("start", other),
        item("stop", contested),
        item("start", contested, bucketDirPath="lessons"),
        item("stop", {**contested, "kind": "audio"}),
    )
    assert [result["status"] for result in results] == [201, 422, 422, 200]
    for result in results[1:3]:
        assert result["problem"]["type"] == "/problems/invalid-request"
        assert {error["field"] for error in result["problem"]["errors"]} == {"items[1]", "items[2]"}
    assert {call.participant_id for call in simulator.calls if call.endpoint == "start"} == {other["participantId"]}


WRONG_BATCHES: dict[str, tuple[object, list[str]]] = {
    "no items": ({"items": []}, ["items"]),
    "101 items": ({"items": [_GOOD] * 101}, ["items"]),
    "26 items of four kinds": (
        {"items": [without("kind") | {"kinds": ["audio", "video", "screen_audio", "screen_video"]}] * 26}, ["items"],
    ),
    "without items": ({}, ["items"]),
    "null": ({"items": None}, ["items"]),
    "an object": ({"items": {"0": _GOOD}}, ["items"]),
    "an unknown member": ({"items": [_GOOD], "atomic": True}, ["atomic"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_BATCHES)
async def test_wrong_batch_is_refused_as_a_whole(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, name: str
) -> None:
    """Nothing of it is done, and the field is named."""
    body, fields = WRONG_BATCHES[name]
    async with nothing_reaches():
        problem = check_problem(await gateway.post(BATCH, json=body), "invalid-request")
    assert [error["field"] for error in problem["errors"]] == fields
    if name in {"no items", "101 items"}:
        assert problem["errors"][0]["message"] == "must have 1 to 100 items"


async def test_batch_of_wrong_items_reaches_nothing(gateway: ApiClient, nothing_reaches: NothingReaches) -> None:
    """Also under an idempotency key: what is not valid is not remembered."""
    async with nothing_reaches():
        results = await send(gateway, {}, _GOOD | {"foo": 1}, headers={"idempotency-key": str(uuid.uuid4())})
    assert [result["status"] for result in results] == [422, 422]


async def test_batch_body_is_bounded(gateway: ApiClient, new_track: NewTrack, check_problem: CheckProblem) -> None:
    """256 KiB pass, one byte more is 413 with the bound of this route, and other routes keep their own."""
    text = json.dumps({"items": [item("start", new_track())]})
    headers = {"content-type": "application/json"}
    fitting = await gateway.post(BATCH, content=text.ljust(256 * 1024), headers=headers)
    assert fitting.json()["results"][0]["status"] == 201
    too_long = await gateway.post(BATCH, content=text.ljust(256 * 1024 + 1), headers=headers)
    assert "262144" in check_problem(too_long, "payload-too-large")["detail"]
    single = await gateway.post(START, content=json.dumps(new_track()).ljust(64 * 1024 + 1), headers=headers)
    assert "65536" in check_problem(single, "payload-too-large")["detail"]


# --- each by itself ---------------------------------------------------------------------------------------------------


async def test_batch_item_that_fails_by_a_mistake_of_ours_harms_no_other(
    gateway: ApiClient, valkey: EmbeddedValkey, new_track: NewTrack
) -> None:
    """What is kept of one item cannot be read: that one is a 500, and the others are answered."""
    broken, whole = new_track(), new_track()
    batch, key = [item("start", broken), item("start", whole)], under()
    await send(gateway, *batch, headers=key)
    async with Redis.from_url(valkey.url) as redis:
        async for name in redis.scan_iter(match="*:answers:*"):
            known: dict[bytes, bytes] = await redis.hgetall(name)  # pyright: ignore
            for field, value in known.items():
                if broken["participantId"].encode() in value:
                    fingerprint, begun, _ = value.split(b" ", 2)
                    await redis.hset(name, field.decode(), b"%s %s rubbish" % (fingerprint, begun))  # pyright: ignore
    results = await send(gateway, *batch, headers=key)
    assert [result["status"] for result in results] == [500, 201]
    assert results[0]["problem"]["type"] == "/problems/internal"
    assert results[1]["replayed"] is True


async def test_batch_item_is_allowed_and_limited_by_itself(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """A caller that may only start is refused its stops, and once its limit is used up the rest of its starts."""
    key, entry = new_key(f"narrow-{uuid.uuid4().hex[:8]}")
    file = tmp_path / "callers.toml"
    file.write_text(harness.scoped(entry, "recordings:start") + "starts_per_minute = 1\n")
    settings = harness.environment(valkey.url, simulator.url, file, **harness.CALM)
    tracks = [new_track() for _ in range(20)]
    async with harness.serve(settings) as url, harness.client(url, key) as client:
        results = await send(client, item("stop", new_track()), *(item("start", track) for track in tracks))
    assert results[0]["status"] == 403
    assert results[0]["problem"]["rule"] == "scope"
    counts = Counter(result["status"] for result in results[1:])
    # One token, and a tenth for each that arrives before any of them is known to have cost more.
    assert counts[201] == 10
    assert counts[429] == 10
    for result in results:
        if result["status"] == 429:
            assert result["problem"]["bound"] == "starts-per-caller"
            assert result["retryAfter"] > 0
        elif result["status"] == 201:
            # Without `recordings:read`.
            assert result["recording"]["requestedBy"] is None
    assert upstream(simulator, "start") == 10


@pytest.mark.parametrize(("scope", "statuses"), [("start", [201, 403]), ("stop", [403, 200])])
async def test_batch_of_a_caller_with_one_scope_runs_what_it_is_for(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack, scope: str, statuses: list[int]
) -> None:
    """The route is for all who may start or stop, and each item needs its own scope."""
    key, entry = new_key(f"one-{uuid.uuid4().hex[:8]}")
    file = tmp_path / "callers.toml"
    file.write_text(harness.scoped(entry, f"recordings:{scope}"))
    settings = harness.environment(valkey.url, simulator.url, file, **harness.CALM)
    async with harness.serve(settings) as url, harness.client(url, key) as client:
        results = await send(client, item("start", new_track()), item("stop", new_track()))
    assert [result["status"] for result in results] == statuses
    assert {result["problem"]["rule"] for result in results if result["status"] == 403} == {"scope"}


async def test_batch_without_redis_carries_out_its_stops(
    simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Redis is gone: stops are carried out, starts are refused, each as by itself, with and without a key."""
    track, other = new_track(), new_track()
    with harness.AgedValkey() as server:
        settings = harness.environment(server.url, simulator.url, demo.file, **harness.FAST)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
            await client.start(track)
            server.kill()
            for headers in ({}, {"idempotency-key": str(uuid.uuid4())}):
                results = await send(client, item("stop", track), item("start", other), headers=headers)
                assert [result["status"] for result in results] == [200, 503]
                assert results[0]["recording"]["coordinated"] is False
                assert results[1]["problem"]["type"] == "/problems/coordination-unavailable"
                assert results[1]["retryAfter"] > 0


async def test_batch_is_counted_by_item_and_logged_once(gateway: ApiClient, new_track: NewTrack) -> None:
    """Each item is one start or stop in the metrics; the request is one line, with a count for each status."""
    tracks = [new_track(), new_track()]
    before, log = await scrape(gateway), Log()
    starts = [item("start", track) for track in tracks]
    request_id = f"batch-{uuid.uuid4().hex}"
    await send(gateway, *starts, item("stop", new_track()), {}, headers={"x-request-id": request_id})
    grown = (await scrape(gateway)).since(before)
    counted = {
        (name, dict(labels)["outcome"]): value
        for (name, labels), value in grown.items()
        if name in {"gateway_starts_total", "gateway_stops_total"}
    }
    assert counted == {("gateway_starts_total", "started"): 2, ("gateway_stops_total", "not_recording"): 1}
    answered = [entry for entry in log.entries() if entry["event"] == "request.answered"]
    (line,) = [entry for entry in answered if entry["request_id"] == request_id]
    assert line["commands"] == {"201": 2, "200": 1}


# --- idempotency ------------------------------------------------------------------------------------------------------


def under(key: str | None = None) -> dict[str, str]:
    """Return the header with a key, by default an unused one."""
    return {"idempotency-key": key or str(uuid.uuid4())}


async def test_batch_retried_with_its_key_repeats_only_what_is_not_known(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Of one item nothing was known: the retry sends that one alone, and replays what the others were answered."""
    tracks = [new_track() for _ in range(4)]
    key = under()
    lost = Fault(action="hang_before", endpoint="start", participant_id=tracks[2]["participantId"], times=None)
    simulator.inject(lost)
    batch = [item("start", track) for track in tracks]
    first = await send(hasty, *batch, headers=key)
    assert [result["status"] for result in first] == [201, 201, 504, 201]
    assert first[2]["retryAfter"] > 0
    simulator.clear_faults()
    sent = upstream(simulator, "start")
    again = await harness.until(
        lambda: send(hasty, *batch, headers=key), lambda results: results[2]["status"] == 201, timeout=30
    )
    for before, after in zip(first, again, strict=True):
        if before["status"] == 201:
            assert after["replayed"] is True
            assert after["recording"] == before["recording"]
    assert "replayed" not in again[2]
    assert upstream(simulator, "start") == sent + 1
    whole = await send(hasty, *batch, headers=key)
    assert [result.get("replayed") for result in whole] == [True] * 4


async def test_batch_retried_after_a_stop_does_not_start_again(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """Another caller has stopped meanwhile: replayed where the answer was kept, and nothing done where it was not."""
    kept, forgotten = new_track(), new_track()
    key, batch = under(), [item("start", kept), item("start", forgotten)]
    first = await send(gateway, *batch, headers=key)
    async with Redis.from_url(valkey.url) as redis:
        async for name in redis.scan_iter(match="*:answers:*"):
            known: dict[bytes, bytes] = await redis.hgetall(name)  # pyright: ignore
            for field, value in known.items():
                if forgotten["participantId"].encode() in value:
                    await redis.hdel(name, field.decode())  # pyright: ignore[reportGeneralTypeIssues]
    await gateway.stop(kept)
    await gateway.stop(forgotten)
    again = await send(gateway, *batch, headers=key)
    assert again[0]["recording"] == first[0]["recording"]
    assert again[0]["replayed"] is True
    assert (again[1]["recording"]["status"], again[1]["recording"]["outcome"]) == ("stopped", None)
    assert upstream(simulator, "start") == 2


@pytest.mark.parametrize("change", ["fewer", "more", "other", "order"])
async def test_another_batch_with_the_same_key_is_refused_as_a_whole(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem, change: str
) -> None:
    """Whatever differs, also an item more than before: nothing of it is done."""
    one, two, three = (item("start", new_track()) for _ in range(3))
    key = under()
    await send(gateway, one, two, headers=key)
    items = {"fewer": [one], "more": [one, two, three], "other": [one, three], "order": [two, one]}[change]
    answer = await gateway.post(BATCH, json={"items": items}, headers=key)
    check_problem(answer, "idempotency-key-reused")
    assert upstream(simulator, "start") == 2


async def test_batch_of_which_one_item_was_sent_otherwise_refuses_that_item_alone(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """To make room the whole of an earlier batch was forgotten, and the answer to its item not: it alone is refused."""
    one, two, three = (item("start", new_track()) for _ in range(3))
    key = under()
    await send(gateway, one, headers=key)
    async with Redis.from_url(valkey.url) as redis:
        async for name in redis.scan_iter(match="*:answers:*"):
            known: dict[bytes, bytes] = await redis.hgetall(name)  # pyright: ignore
            for field, value in known.items():
                if value.endswith(b" "):  # begun, and without an answer: the whole has none
                    await redis.hdel(name, field.decode())  # pyright: ignore[reportGeneralTypeIssues]
    for replayed in (False, True):
        refused, done = await send(gateway, two, three, headers=key)
        assert (refused["status"], refused["problem"]["type"]) == (422, "/problems/idempotency-key-reused")
        assert (done["status"], done.get("replayed", False)) == (201, replayed)
    assert upstream(simulator, "start") == 2


async def test_batch_with_the_same_key_written_otherwise_is_the_same(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """The order of members does not matter, nor whether an absent one is said to be null."""
    one, key = item("start", new_track()), under()
    await send(gateway, one, headers=key)
    (again,) = await send(gateway, dict(reversed(one.items())) | {"webhookUrl": None}, headers=key)
    assert again["replayed"] is True
    # The key of a batch is no key of a single start.
    single = await gateway.start({name: one[name] for name in ("roomId", "participantId", "kind")}, headers=key)
    assert single.json()["outcome"] == "already_recording"
    assert upstream(simulator, "start") == 1


async def test_batch_sent_by_ten_at_once_under_one_key_starts_once(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Retries that overtake the first request join it, item by item."""
    simulator.inject(harness.delay("start", 1))
    batch, key = [item("start", new_track()) for _ in range(3)], under()
    answers = await asyncio.gather(*(send(gateway, *batch, headers=key) for _ in range(10)))
    assert {result["status"] for results in answers for result in results} == {200, 201}
    assert Counter(result["status"] for results in answers for result in results)[201] == 3
    assert upstream(simulator, "start") == 3
