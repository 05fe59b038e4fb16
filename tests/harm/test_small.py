"""Item 9: smaller ways to get more than one may, or to harm others."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.auth.api_keys import CallersFile, new_key
from gateway.auth.policy import Scope
from gateway.sandbox.faults import Fault
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.wire import Exchange, Reply, Server
from tests import harness
from tests.api_client import NewTrack
from tests.harm.identities import Stage, bearer, stage
from tests.leaks import EVIDENCE
from tests.listener import listening

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]


@pytest.fixture(scope="module")
async def on(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    """One process for all attacks of this file."""
    async with stage(valkey.url, tmp_path_factory.mktemp("small"), GATEWAY_TRUST_SECONDS="0.2") as running:
        yield running


@pytest.fixture
def guest() -> tuple[str, str]:
    """Make a key beside the service's, and the lines of its caller."""
    key, entry = new_key("guest")
    EVIDENCE.guard(key.split("_", 2)[2], "the key of the guest")
    return key, entry


# --- the callers file ----------------------------------------------------------------------------------------------


async def test_callers_file_that_is_cut_short_widens_no_policy(
    on: Stage, guest: tuple[str, str], new_track: NewTrack
) -> None:
    """The disk was full, and the guest's policy is missing: the last whole file stays in force, and that is said."""
    key, entry = guest
    read = harness.scoped(entry, Scope.READ)
    await on.write(read)
    on.file.write_text(on.entry + read.partition("scopes")[0])

    async def warnings() -> list[str]:
        return (await on.client.get("/readyz")).json().get("warnings", [])

    assert await harness.until(warnings) == ["callers-file-broken"]
    assert (await on.client.start(new_track(), headers=bearer(key))).status_code == 403
    assert (await on.client.start(new_track(), headers=on.service)).status_code == 201
    await on.write()


def test_callers_file_that_is_being_written_is_not_read_before_it_rests(tmp_path: Path) -> None:
    """Between two writes in place it is a good file that allows more; a file that replaces it counts at once."""
    key, entry = new_key("app")
    file, now = tmp_path / "callers.toml", 0.0
    restricted = f'{entry}rooms = ["a"]\n'
    file.write_text(restricted)
    callers = CallersFile(file, lambda: now)

    def rooms_at(seconds: float, text: str) -> tuple[str, ...] | None:
        nonlocal now
        now = seconds
        file.write_text(text)
        # However slow this machine is: the file has been written just now.
        os.utime(file, (time.time() + 60, time.time() + 60))
        return callers.identify(key).policy.rooms

    assert rooms_at(1, entry) == ("a",)
    assert rooms_at(2, f"{restricted}# longer") == ("a",)
    assert rooms_at(3, f'{entry}rooms = ["b"]\n') == ("a",)
    now = 4
    assert callers.identify(key).policy.rooms == ("b",)
    new = file.with_suffix(".new")
    new.write_text(f'{entry}rooms = ["c"]\n')
    new.rename(file)
    now = 5
    assert callers.identify(key).policy.rooms == ("c",)
    file.unlink()
    now = 6
    assert callers.identify(key).policy.rooms == ("c",)


@pytest.mark.parametrize("change", ["key", "policy"])
async def test_key_that_is_revoked_ends_its_stream_and_its_ticket(
    on: Stage, guest: tuple[str, str], new_track: NewTrack, change: str
) -> None:
    """Its open stream tells nothing more, and a ticket that was made before opens nothing; so where it may see less."""
    key, entry = guest
    await on.write(entry)
    track = new_track()
    events = f"/v1/rooms/{track['roomId']}/events"
    async with harness.client(on.process.url, key) as client:
        made = await client.post(f"{events}/tickets")
        ticket = made.json()["ticket"]
        async with listening(client, track["roomId"]) as reader:
            await on.client.start(track, headers=on.service)
            await reader.until_statuses("starting", "recording")
            await on.write(*([f"{entry}kinds = []\n"] if change == "policy" else []))
            await on.client.stop(track, headers=on.service)
            await reader.until(lambda reader: reader.ended)
            assert reader.received[-1][1:] == ("reconnect", {"reason": "expired"})
            assert not {"stopping", "stopped"} & set(reader.statuses)
    refused = await on.client.get(events, params={"ticket": ticket})
    assert (refused.status_code, refused.json()["type"]) == (401, "/problems/unauthenticated")
    await on.write()


# --- what is written down ------------------------------------------------------------------------------------------


async def test_audit_log_does_not_take_a_jwt_for_the_key_of_that_name(on: Stage, new_track: NewTrack) -> None:
    """A person of the company who is called like the service: their acts are not logged as the service's."""
    track = new_track()
    await on.client.start(track, headers=on.service)
    address = f"/v1/admin/tracks/{track['roomId']}/{track['participantId']}/{track['kind']}"
    operator = on.company("lesson-service", scope=" ".join(Scope))
    for headers in (operator, on.service):
        assert (await on.client.post(f"{address}/settle", headers=headers)).status_code == 200
        answer = await on.client.post(f"{address}/release", json={"reason": "test"}, headers=headers)
        assert answer.status_code == 200
    for event in ("audit.settled", "audit.claim_released"):
        said = [entry["by"] for entry in on.logged(event) if track["roomId"] in entry["target"]]
        assert said == ["jwt:lesson-service", "lesson-service"]


async def test_keys_and_tickets_in_the_wrong_place_are_not_logged(on: Stage, new_track: NewTrack) -> None:
    """A client puts its key or its ticket into a path, or an operator into a reason: the log holds neither."""
    track = new_track()
    made = await on.client.post(f"/v1/rooms/{track['roomId']}/events/tickets", headers=on.service)
    ticket = made.json()["ticket"]
    await on.client.start(track, headers=on.service)
    # Its answers are not kept: they say to the client itself what it has asked for.
    async with httpx.AsyncClient(base_url=on.process.url, headers=on.service, trust_env=False) as client:
        for secret in (on.key, ticket):
            await client.get(f"/v1/rooms/{secret}/recordings")
            await client.get(f"/{track['roomId']}/x{secret}x", params={"ticket": secret})
            address = f"/v1/admin/tracks/{track['roomId']}/{track['participantId']}/{track['kind']}/release"
            await client.post(address, json={"reason": f"it had {secret}"})
    text = on.process.log.read_text()
    assert on.key.split("_", 2)[2] not in text
    assert ticket not in text
    paths = [entry["path"] for entry in on.logged("request.answered")]
    assert [path for path in paths if f"/{track['roomId']}/x" in path and "[redacted]" in path]


# --- what is answered ----------------------------------------------------------------------------------------------


async def test_answer_to_a_caller_who_may_not_read_shows_no_details(on: Stage, new_track: NewTrack) -> None:
    """A key for starts and stops learns what its request did, and not who asked, nor VideoSDK's id and the files."""
    key, entry = new_key("button")
    EVIDENCE.guard(key.split("_", 2)[2], "the key of a button")
    await on.write(harness.scoped(entry, Scope.START, Scope.STOP))
    track, hidden = new_track(), {"requestedBy", "videosdkRecordingId", "files", "webhookDeliveries"}
    await on.client.start({**track, "bucketDirPath": "secret-folder"}, headers=on.service)
    await harness.until(
        lambda: on.client.show(track, headers=on.service), lambda answer: answer.json()["videosdkRecordingId"]
    )
    body = {**track, "bucketDirPath": "secret-folder"}
    for ask, outcome in ((on.client.start, "already_recording"), (on.client.stop, "stopped")):
        answer = await ask(body if ask == on.client.start else track, headers=bearer(key))
        shown = answer.json()
        assert shown["outcome"] == outcome
        assert {name for name in hidden if shown[name]} == set()
        assert "secret-folder" not in answer.text
        assert shown["id"]
    seen = (await on.client.stop(track, headers=on.service)).json()
    assert seen["requestedBy"] == "lesson-service"
    await on.write()


@pytest.mark.parametrize("after", ["9" * 400, "1" + "0" * 30, "99999999"])
async def test_retry_after_of_any_length_is_passed_on_within_bounds(on: Stage, new_track: NewTrack, after: str) -> None:
    """What answers in VideoSDK's place asks for a wait beyond all numbers: callers get a problem, and stops go on."""
    track = new_track()
    asked = {"retry-after": after}
    on.simulator.inject(Fault(action="error", endpoint="start", status=429, headers=asked, room_id=track["roomId"]))
    answer = await on.client.start(track, headers=on.service)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/upstream-limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 300


# --- whose keys in Redis -------------------------------------------------------------------------------------------


async def test_tokens_that_name_no_api_key_share_nothing(
    valkey: EmbeddedValkey, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Two projects with tokens made elsewhere share a Redis: neither takes the other's recording for its own."""

    async def confirm(exchange: Exchange) -> None:
        exchange.reply(Reply(200, b'"started"'))

    server = Server(confirm, host="127.0.0.1", port=0)
    await server.start()
    settings = harness.environment(valkey.url, server.url, demo.file, **harness.CALM, GATEWAY_VERIFY_ABSENT="never")
    del settings["GATEWAY_VIDEOSDK_API_KEY"], settings["GATEWAY_VIDEOSDK_SECRET"]
    track = new_track()
    for token in ("opaque-token-of-one", "opaque-token-of-another"):
        own = settings | {"GATEWAY_VIDEOSDK_TOKEN": token}
        async with harness.serve(own) as url, harness.client(url, demo.key) as gateway:
            await harness.until_ready(gateway)
            first, second = await gateway.start(track), await gateway.start(track)
            assert first.json().get("outcome") == "started", first.text
            assert second.json().get("outcome") == "already_recording", second.text
    await server.stop()


# --- the identity provider's keys ----------------------------------------------------------------------------------


async def test_rotated_key_is_taken_while_key_ids_are_made_up(on: Stage, new_track: NewTrack) -> None:
    """Tokens with made-up key ids have the keys fetched: the bearer of a rotated key is let in all the same."""
    track = new_track()
    assert (await on.client.start(track, headers=on.company("ada"))).status_code == 201
    stranger = ec.generate_private_key(ec.SECP256R1())

    async def make_up(number: int) -> int:
        made_up = jwt.encode({"sub": "eve"}, stranger, "ES256", headers={"kid": f"made-up-{number}"})
        return (await on.client.start(track, headers=bearer(made_up))).status_code

    # Whatever was fetched before: with this one the keys have just been fetched.
    assert await make_up(0) == 401
    on.provider.rotate()
    fetches = on.provider.fetches
    statuses = asyncio.gather(*map(make_up, range(1, 30)))
    answer = await on.client.start(track, headers=on.company("ada"))
    assert answer.json()["outcome"] == "already_recording"
    assert set(await statuses) == {401}
    assert on.provider.fetches - fetches < 10
