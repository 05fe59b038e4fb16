"""Idempotency keys: the same request again gets the answer it got, whatever became of the track."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.auth.api_keys import new_key
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio


CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]


def under(key: str | None = None) -> dict[str, str]:
    """Return the header with a key, by default an unused one."""
    return {"idempotency-key": key or f'"{uuid.uuid4()}"'}


def starts(simulator: Simulator) -> int:
    """Count the starts that VideoSDK got."""
    return sum(call.endpoint == "start" for call in simulator.calls)


async def test_start_retried_with_its_key_replays_the_answer(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Status, headers and body are those of the first answer, to the byte; the header says that it is a replay."""
    track, key = new_track(), under()
    first = await gateway.start(track, headers=key)
    again = await gateway.start(dict(reversed(track.items())), headers=key)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert starts(simulator) == 1


async def test_start_retried_after_a_stop_does_not_start_again(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Another caller has stopped the recording meanwhile: the retry receives the first answer, and nothing starts."""
    track, key = new_track(), under()
    first = await gateway.start(track, headers=key)
    assert (await gateway.stop(track)).json()["outcome"] == "stopped"
    again = await gateway.start(track, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert starts(simulator) == 1
    assert (await gateway.get(first.headers["location"])).json()["status"] == "stopped"
    assert (await gateway.start(track, headers=under())).status_code == 201
    assert starts(simulator) == 2


async def test_start_retried_after_a_crash_and_a_stop_does_not_start_again(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """The process that answered is gone before it could keep that; the recording has been stopped since."""
    track, key = new_track(), under()
    first = await gateway.start(track, headers=key)
    await _forget_answers(valkey)
    await gateway.stop(track)
    again = await gateway.start(track, headers=key)
    assert again.status_code == 200
    assert (again.json()["status"], again.json()["outcome"]) == ("stopped", None)
    assert again.json()["id"] == first.json()["id"]
    assert starts(simulator) == 1
    replayed = await gateway.start(track, headers=key)
    assert replayed.content == again.content
    assert replayed.headers["idempotency-replayed"] == "true"


async def test_start_retried_without_a_stored_answer_joins_the_recording(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """No answer was kept, and it runs: the track itself knows."""
    track, key = new_track(), under()
    first = await gateway.start(track, headers=key)
    await _forget_answers(valkey)
    again = await gateway.start(track, headers=key)
    assert (again.status_code, again.json()["outcome"]) == (200, "already_recording")
    assert again.json()["id"] == first.json()["id"]
    assert starts(simulator) == 1


async def _forget_answers(valkey: EmbeddedValkey) -> None:
    async with Redis.from_url(valkey.url) as redis:
        async for name in redis.scan_iter(match="*:answers:*"):
            known: dict[bytes, bytes] = await redis.hgetall(name)  # pyright: ignore
            for key, value in known.items():
                if len(key) == 32:
                    fingerprint, begun, answer = value.split(b" ", 2)
                    await redis.hset(name, key, b"%s %s " % (fingerprint, begun))  # pyright: ignore
                    await redis.hincrby(name, "bytes", -len(answer))  # pyright: ignore


async def test_start_retried_while_under_way_joins_it(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """Ten at once under one key: one start, and every caller receives the same recording."""
    simulator.inject(harness.delay("start", 2))
    track, key = new_track(), under()
    answers = await asyncio.gather(*(gateway.start(track, headers=key) for _ in range(10)))
    assert Counter(answer.json()["outcome"] for answer in answers) == {"started": 1, "joined": 9}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert starts(simulator) == 1


async def test_idempotency_key_with_another_body_is_refused(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """Another body under the same key is refused, also while nothing of the first was answered yet."""
    track, key = new_track(), under()
    simulator.inject(harness.delay("start", 1))
    first = asyncio.create_task(gateway.start(track, headers=key))
    await harness.eventually(lambda: starts(simulator))
    other = {**track, "bucketDirPath": "elsewhere"}
    check_problem(await gateway.start(other, headers=key), "idempotency-key-reused")
    assert (await first).status_code == 201
    check_problem(await gateway.start(new_track(), headers=key), "idempotency-key-reused")
    assert starts(simulator) == 1


async def test_idempotency_key_of_another_caller_or_route_is_another_key(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """The same key of another caller, or for a stop, is another key."""
    (one, first), (two, second) = new_key("one"), new_key("two")
    file = tmp_path / "both.toml"
    file.write_text(first + second)
    settings = harness.environment(valkey.url, simulator.url, file, **harness.CALM)
    track, key = new_track(), under()
    async with harness.serve(settings) as url, harness.client(url, one) as a, harness.client(url, two) as b:
        assert (await a.start(track, headers=key)).status_code == 201
        assert (await b.start(track, headers=key)).json()["outcome"] == "already_recording"
        assert (await a.stop(track, headers=key)).json()["outcome"] == "stopped"
        assert (await a.stop(track, headers=key)).headers["idempotency-replayed"] == "true"


async def test_stop_retried_after_a_new_start_does_not_stop_it(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """The retry of a stop is about the recording it stopped, not about the next one."""
    track, key = new_track(), under()
    await gateway.start(track)
    stopped = await gateway.stop(track, headers=key)
    next_one = await gateway.start(track)
    assert next_one.status_code == 201
    again = await gateway.stop(track, headers=key)
    assert again.content == stopped.content
    assert (await gateway.get(next_one.headers["location"])).json()["status"] == "recording"


async def test_start_retried_replays_final_refusals_only(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """`upstream-refused` is an answer; a limit or an outage is not one, and a retry may win."""
    track, key = new_track(), under()
    simulator.inject(Fault(action="refuse", endpoint="start", status=404, text="no live session"))
    first = check_problem(await gateway.start(track, headers=key), "upstream-refused")
    answer = await gateway.start(track, headers=key)
    again = check_problem(answer, "upstream-refused")
    assert answer.headers["idempotency-replayed"] == "true"
    assert {**first, "requestId": ""} == {**again, "requestId": ""}
    assert starts(simulator) == 1

    track, key = new_track(), under()
    simulator.inject(Fault(action="refuse", endpoint="start", status=429, headers={"Retry-After": "1"}))
    check_problem(await gateway.start(track, headers=key), "upstream-limited")
    simulator.clear_faults()
    won = await gateway.start(track, headers=key)
    assert won.status_code == 201
    assert "idempotency-replayed" not in won.headers


async def test_start_refused_for_a_while_is_carried_out_again(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """VideoSDK's 409 may pass by itself, as the answer's `Retry-After` says: the retry starts the recording."""
    track, key = new_track(), under()
    simulator.inject(Fault(action="refuse", endpoint="start", status=409, times=None, room_id=track["roomId"]))
    refused = await gateway.start(track, headers=key)
    check_problem(refused, "upstream-refused")
    assert "retry-after" in refused.headers
    simulator.clear_faults()
    again = await gateway.start(track, headers=key)
    assert (again.status_code, again.json()["outcome"]) == (201, "started")
    assert "idempotency-replayed" not in again.headers


async def test_stop_refused_is_carried_out_again(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """The recording goes on, and the answer says so: the retry of the stop stops it."""
    track, key = new_track(), under()
    await gateway.start(track)
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        (record,) = [name async for name in redis.scan_iter(f"*:{track['roomId']}:track:*")]
        # A young recording may refuse its stop because it only just begins.
        await redis.hincrby(record, "started_at", -60_000)  # pyright: ignore[reportGeneralTypeIssues]
    simulator.inject(Fault(action="refuse", endpoint="stop", status=400, times=None, room_id=track["roomId"]))
    refused = await gateway.stop(track, headers=key)
    assert "the recording goes on" in check_problem(refused, "upstream-refused")["detail"]
    assert "retry-after" in refused.headers
    simulator.clear_faults()
    again = await gateway.stop(track, headers=key)
    assert (again.status_code, again.json()["outcome"]) == (200, "stopped")
    assert "idempotency-replayed" not in again.headers


async def test_start_retried_that_differed_gets_the_same_and_does_nothing_after_a_stop(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """No answer need be kept: as long as it records, it differs; and a stop since then overrules the retry."""
    track, key = new_track(), under()
    other = {**track, "bucketDirPath": "elsewhere"}
    await gateway.start(track)
    first = check_problem(await gateway.start(other, headers=key), "parameters-differ")
    again = await gateway.start(other, headers=key)
    assert {**check_problem(again, "parameters-differ"), "requestId": ""} == {**first, "requestId": ""}
    assert "idempotency-replayed" not in again.headers
    await gateway.stop(track)
    late = await gateway.start(other, headers=key)
    assert (late.status_code, late.json()["outcome"], late.json()["status"]) == (200, None, "stopped")
    assert starts(simulator) == 1


async def test_start_retried_shows_the_files_as_they_are_then(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """Redis keeps no files under a key: where the answer had some, the replay reads them anew from the record."""
    track, key = new_track(), under()
    started = await gateway.start(track)
    await _show_file(valkey, track, "first.webm")
    first = await gateway.start(track, headers=key)
    assert [file["filePath"] for file in first.json()["files"]] == ["first.webm"]
    await _show_file(valkey, track, "second.webm")

    again = await gateway.start(track, headers=key)

    assert again.headers["idempotency-replayed"] == "true"
    assert [file["filePath"] for file in again.json()["files"]] == ["second.webm"]
    assert {**again.json(), "files": []} == {**first.json(), "files": []}
    # Of another recording's files none is shown.
    await gateway.stop(track)
    assert (await gateway.start(track)).json()["id"] != started.json()["id"]
    await _show_file(valkey, track, "third.webm")
    late = await gateway.start(track, headers=key)
    assert (late.json()["id"], late.json()["files"]) == (started.json()["id"], [])
    assert starts(simulator) == 2


async def _show_file(valkey: EmbeddedValkey, track: dict[str, str], path: str) -> None:
    """Have the record of a track tell of a file, as if VideoSDK's list had shown it."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        (key,) = [key async for key in redis.scan_iter(match=f"*:{track['roomId']}:track:{track['participantId']}:*")]
        generation = await redis.hget(key, "generation")  # pyright: ignore
        evidence = json.dumps({"generation": generation, "files": [{"filePath": path}]})
        await redis.hset(key, "evidence", evidence)  # pyright: ignore


async def test_stop_retried_after_202_stops_again(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """202 promises what is still to come: it is no final answer, so the retry receives the result."""
    track, key = new_track(), under()
    await gateway.start(track)
    simulator.inject(Fault(action="reset_before", endpoint="stop", room_id=track["roomId"]))
    requested = await gateway.stop(track, headers=key)
    assert (requested.status_code, requested.json()["outcome"]) == (202, "stop_requested")

    retry = await gateway.stop(track, headers=key)

    assert (retry.status_code, retry.json()["status"]) == (200, "stopped")
    assert "idempotency-replayed" not in retry.headers
    again = await gateway.stop(track, headers=key)
    assert (again.content, again.headers["idempotency-replayed"]) == (retry.content, "true")


@pytest.mark.parametrize(
    ("one", "other"),
    [('"abc-{}"', "abc-{}"), ("8e03{}", '"8e03{}"'), ('"a\\"b{}"', '"a\\"b{}"'), ("a:b/c={}", '"a:b/c={}"')],
)
async def test_idempotency_key_quoted_or_bare_is_the_same(
    gateway: ApiClient, new_track: NewTrack, one: str, other: str
) -> None:
    """The draft has a quoted string; many clients send it bare; it is the same key."""
    track, unique = new_track(), uuid.uuid4().hex
    await gateway.start(track, headers=under(one.format(unique)))
    again = await gateway.start(track, headers=under(other.format(unique)))
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    "key",
    ["", '""', '"', '"abc', 'abc"', '"a b"', "a b", "a,b", '"a";x=1', '"a", "b"', '"a\\n"', "ä", "x" * 256, "a\tb"],
)
async def test_idempotency_key_that_is_malformed_is_refused(
    gateway: ApiClient,
    nothing_reaches: Callable[[], Any],
    new_track: NewTrack,
    check_problem: CheckProblem,
    key: str,
) -> None:
    """Empty, half quoted, with blanks, several, or too long: 422, and nothing is done."""
    async with nothing_reaches():
        answer = await gateway.start(new_track(), headers=[(b"idempotency-key", key.encode())])
    assert [error["field"] for error in check_problem(answer, "invalid-request")["errors"]] == ["idempotency-key"]


async def test_idempotency_key_given_twice_is_refused(
    gateway: ApiClient, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """A request has one name."""
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    check_problem(await gateway.start(new_track(), headers=headers), "invalid-request")


async def test_start_with_a_key_without_redis_is_refused_and_stop_is_done(
    simulator: Simulator, demo: harness.Demo, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """A start under a key is refused, even where starts are done without Redis; a stop is carried out."""
    with EmbeddedValkey() as server:
        url = server.url
    settings = harness.environment(url, simulator.url, demo.file, **harness.CALM, GATEWAY_WITHOUT_REDIS="degrade")
    async with harness.serve(settings) as base, harness.client(base, demo.key) as client:
        track = new_track()
        check_problem(await client.start(track, headers=under()), "coordination-unavailable")
        stopped = await client.stop(track, headers=under())
        assert stopped.status_code == 200
        assert stopped.json()["coordinated"] is False


async def test_idempotency_record_expires_and_holds_no_key_in_the_clear(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """Nothing of a key stays beyond its hours, and neither the key nor the caller is in Redis in the clear."""
    track, name = new_track(webhookUrl="https://app.example.com/hook?key=hunter2"), uuid.uuid4().hex
    demo = harness.Demo(tmp_path, f"own-{name[:12]}")
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with Redis.from_url(valkey.url) as redis, harness.serve(settings) as url:
        # The server is shared with other tests, whose answers may be old, or kept for another time.
        before = {key async for key in redis.scan_iter(match="*:answer*", count=1_000)}
        async with harness.client(url, demo.key) as client:
            await client.start(track, headers=under(name))
        keys = {key async for key in redis.scan_iter(match="*:answer*", count=1_000)} - before
        assert len(keys) == 2
        for key in keys:
            assert 23 * 3600 * 1000 < await redis.pttl(key) <= 24 * 3600 * 1000
            hashed = await redis.type(key) == b"hash"
            kept = repr((key, await (redis.hgetall(key) if hashed else redis.zrange(key, 0, -1))))  # pyright: ignore
            assert name not in kept
            assert demo.name not in repr(key)
            assert "hunter2" not in kept


async def test_start_retried_after_one_that_was_never_sent_starts(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """An older recording has ended, and the first try brought nothing about: the retry starts a new one."""
    track, key = new_track(), under()
    await gateway.start(track)
    await gateway.stop(track)
    simulator.inject(Fault(action="refuse", endpoint="start", status=429, headers={"Retry-After": "1"}))
    check_problem(await gateway.start(track, headers=key), "upstream-limited")
    simulator.clear_faults()

    won = await gateway.start(track, headers=key)

    assert (won.status_code, won.json().get("outcome")) == (201, "started")


async def test_start_retried_after_one_that_never_landed_starts(
    hasty: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """VideoSDK did not answer and its list shows no recording: the retry starts."""
    track, key = new_track(), under()
    simulator.inject(Fault(action="reset_before", endpoint="start"))
    check_problem(await hasty.start(track, headers=key), "outcome-unknown")
    address = f"/v1/recordings/track/{track['roomId']}/{track['participantId']}/video"
    await harness.until(lambda: hasty.get(address), lambda seen: seen.json()["status"] in {"stopped", "failed"})

    won = await hasty.start(track, headers=key)

    assert (won.status_code, won.json().get("outcome")) == (201, "started")


async def test_start_retried_while_a_stop_slips_in_does_not_start(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """A stop slips in between the moment a retry is taken in and its claim: the retry still does not start again."""
    track, key = new_track(), under()
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        first = await client.start(track, headers=key)
        await _forget_answers(valkey)
        for number in range(20):
            # Whichever comes first: where the stop does, nothing is left to join.
            retry, stop = await asyncio.gather(client.start(track, headers=key), client.stop(track))
            assert (retry.status_code, stop.status_code) == (200, 200), (number, retry.text, stop.text)
            assert retry.json()["id"] == first.json()["id"]
            await _forget_answers(valkey)
    assert starts(simulator) == 1


async def test_start_beside_an_overruled_retry_starts(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """An overruled retry and a new start, at the same moment and for the same: the new one starts."""
    track, key = new_track(), under()
    await gateway.start(track, headers=key)
    await _forget_answers(valkey)
    simulator.inject(harness.delay("stop", 2))
    stop = asyncio.create_task(gateway.stop(track))
    await harness.eventually(lambda: any(call.endpoint == "stop" for call in simulator.calls))

    retry, new = await asyncio.gather(gateway.start(track, headers=key), gateway.start(track, headers=under()))

    assert (await stop).json()["outcome"] == "stopped"
    assert (new.status_code, new.json()["outcome"]) == (201, "started")
    assert (retry.status_code, retry.json()["outcome"]) == (200, None)
    assert starts(simulator) == 2


async def test_start_retried_after_already_recording_and_a_stop_does_not_start_again(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack
) -> None:
    """The recording is older than the key: a stop that came after the first request still overrules the retry."""
    track, key = new_track(), under()
    await gateway.start(track)
    assert (await gateway.start(track, headers=key)).json()["outcome"] == "already_recording"
    await _forget_answers(valkey)
    await gateway.stop(track)

    again = await gateway.start(track, headers=key)

    assert (again.status_code, again.json()["outcome"], again.json()["status"]) == (200, None, "stopped")
    assert starts(simulator) == 1
