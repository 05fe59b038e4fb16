"""How long a recording may last, over HTTP: what a start says, what policy and setting say, and the end.

The API's least duration is a minute. Where a test needs the end itself, it sets the moment in the record.
"""

import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.auth.api_keys import new_key
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack, Track
from tests.listener import listening
from tests.settings_reach.scene import record_key

pytestmark = pytest.mark.anyio

PARTICIPANTS = "/v1/recordings/participant"


@pytest.fixture
def valkey() -> Iterator[EmbeddedValkey]:
    """A server of the test's own."""
    with harness.PatientValkey() as server:
        yield server


@asynccontextmanager
async def serving(
    valkey: EmbeddedValkey, simulator: Simulator, folder: Path, *tables: str, **more: str
) -> AsyncGenerator[list[ApiClient]]:
    """Serve a gateway to callers with these tables; a client for each."""
    keys = [new_key(f"caller-{number}") for number in range(len(tables))]
    file = folder / "callers.toml"
    entries = [
        re.sub("(?m)^scopes.*$", "", entry) if "scopes" in table else entry
        for (_, entry), table in zip(keys, tables, strict=True)
    ]
    file.write_text("".join(f"{entry}{table}\n" for entry, table in zip(entries, tables, strict=True)))
    settings = harness.environment(valkey.url, simulator.url, file, **{**harness.CALM, **more})
    async with harness.serve(settings) as url:
        clients = [harness.client(url, key) for key, _ in keys]
        try:
            yield clients
        finally:
            for client in clients:
                await client.aclose()


def asking(track: Track, seconds: float | None) -> dict[str, Any]:
    """Return the body of a start."""
    return {**track, "maxDurationSeconds": seconds}


def moment(text: str) -> float:
    """Read a moment as RFC 3339 writes it."""
    return datetime.fromisoformat(text).timestamp()


def lasts(answer: httpx.Response) -> float | None:
    """Return for how many seconds a recording may last, from when it was requested; None where it has no end."""
    body = answer.raise_for_status().json()
    return None if body["stopsAt"] is None else round(moment(body["stopsAt"]) - moment(body["requestedAt"]), 3)


async def end_now(valkey: EmbeddedValkey, track: Track) -> None:
    """Have the time of a track's recording be over."""
    now = int(time.time() * 1000)
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        key = await record_key(redis, track)
        assert key is not None
        await redis.hset(key, "stops_at", str(now))  # pyright: ignore[reportGeneralTypeIssues]
        await redis.zadd(f"{':'.join(key.split(':')[:3])}:ends", {key: now})


async def ended(gateway: ApiClient, track: Track) -> dict[str, Any]:
    """Wait until a recording is over."""
    answer = await harness.until(lambda: gateway.show(track), lambda shown: shown.json().get("status") == "stopped")
    return answer.json()


@pytest.mark.parametrize(
    ("table", "setting", "asked", "expected"),
    [
        ("", "0", None, None),
        ("", "", 60, 60),
        ("", "0", 86_400, 86_400),
        ("max_duration_seconds = 900", "0", None, 900),
        ("max_duration_seconds = 900", "0", 600, 600),
        # As JSON's readers see it, the same number.
        ("", "0", 600.0, 600),
        ("max_duration_seconds = 900", "0", 1200, 900),
        ("", "900", None, 900),
        ("", "900", 600, 600),
        ("", "900", 1200, 900),
        ("max_duration_seconds = 600", "900", 1200, 600),
        ("max_duration_seconds = 900", "600", 1200, 600),
    ],
)
async def test_start_shows_the_end_that_the_smallest_duration_gives(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    new_track: NewTrack,
    tmp_path: Path,
    table: str,
    setting: str,
    asked: float | None,
    expected: float | None,
) -> None:
    """The start's own, its caller's and the setting's; VideoSDK is told of none."""
    track = new_track()
    async with serving(valkey, simulator, tmp_path, table, GATEWAY_MAX_DURATION_SECONDS=setting) as (gateway,):
        started = await gateway.start(asking(track, asked))
        shown, listed = await gateway.show(track), await gateway.list(track["roomId"])

    assert (started.status_code, lasts(started)) == (201, expected)
    assert shown.json()["stopsAt"] == listed.json()["recordings"][0]["stopsAt"] == started.json()["stopsAt"]
    assert "maxDurationSeconds" not in str([call.body for call in simulator.calls])


async def test_recording_of_each_mode_is_stopped_when_its_time_is_over(
    valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack, tmp_path: Path
) -> None:
    """By the gateway, which says so to who asks and to readers of the room; a start then starts another."""
    track = new_track()
    whole = {name: track[name] for name in ("roomId", "participantId")}
    async with serving(valkey, simulator, tmp_path, "") as (gateway,):
        async with listening(gateway, track["roomId"]) as events:
            await gateway.start(asking(track, 60))
            started = await gateway.post(f"{PARTICIPANTS}/start", json={**whole, "maxDurationSeconds": 60})
            assert lasts(started) == 60
            await end_now(valkey, track)
            over = await ended(gateway, track)
            await events.until(lambda heard: "stopped" in heard.statuses)
            news = events.changes[-1].data
        other = await gateway.get(f"{PARTICIPANTS}/{track['roomId']}/{track['participantId']}")
        again = await gateway.start(asking(track, 60))

    assert (over["endedBecause"], over["requestedBy"]) == ("max_duration", "caller-0")
    assert moment(over["endedAt"]) >= moment(over["stopsAt"])
    assert (news["endedBecause"], news["stopsAt"]) == ("max_duration", over["stopsAt"])
    assert other.json()["status"] == "recording"
    assert (again.status_code, again.json()["id"] != over["id"]) == (201, True)


async def test_repeated_start_brings_the_end_forward_for_who_may_stop(
    valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack, tmp_path: Path
) -> None:
    """It joins whatever it asks; only a caller that may lengthen puts the end off; who may not stop changes nothing."""
    track = new_track()
    tables = ("", "", "lengthen = true", "stop_others = false", 'scopes = ["recordings:start", "recordings:read"]')
    async with serving(valkey, simulator, tmp_path, *tables) as (first, second, lengthener, of_its_own, starter):
        ends = [
            await caller.start(asking(track, seconds))
            for caller, seconds in (
                (first, 3600), (second, 7200), (second, None), (of_its_own, 60), (starter, 60), (second, 1800),
                (first, 3600), (lengthener, 5400), (first, 5400), (lengthener, 600),
            )
        ]  # fmt: skip

    assert [answer.status_code for answer in ends] == [201] + [200] * 9
    assert [answer.json()["outcome"] for answer in ends[1:]] == ["already_recording"] * 9
    moments = [moment(answer.json()["stopsAt"]) for answer in ends]
    assert moments[0] == moments[1] == moments[2] == moments[3] == moments[4]
    assert moments[5] == moments[6] < moments[0]
    assert moments[7] == moments[8] > moments[0]
    assert moments[9] < moments[5]
    assert sum(call.endpoint == "start" for call in simulator.calls) == 1


async def test_webhooks_that_come_meanwhile_change_no_end(
    valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack, demo: harness.Demo
) -> None:
    """VideoSDK reports the beginning, and a replay an end that is none: the recording ends when it has to."""
    track = new_track()
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with harness.serve(settings, public=True) as url, harness.client(url, demo.key) as gateway:
        started = await gateway.start(asking(track, 60))
        body = (
            b'{"webhookType": "participant-track-recording-stopped", "data": {"meetingId": "%s", '
            b'"participantId": "%s", "kind": "%s"}}'
        ) % tuple(track[name].encode() for name in ("roomId", "participantId", "kind"))
        signed = {"videosdk-signature": simulator.sign(body)}
        assert (await gateway.post("/v1/webhooks/videosdk", content=body, headers=signed)).is_success
        await harness.until(lambda: gateway.show(track), lambda shown: shown.json()["confirmedBy"] == "list")
        assert (await gateway.show(track)).json()["stopsAt"] == started.json()["stopsAt"]

        await end_now(valkey, track)
        assert (await ended(gateway, track))["endedBecause"] == "max_duration"
