"""Item 1: the weakest identity has the narrowest policy. What participants and a company's people do to a service."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import NewTrack, Track
from tests.harm.identities import TRACK_STARTS, Stage, rule, stage

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

WEBHOOK, FOLDER = "https://attacker.example/hook", "attacker/folder"


@pytest.fixture(scope="module")
async def staged(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    """One process for all attacks of this file."""
    async with stage(valkey.url, tmp_path_factory.mktemp("policies")) as running:
        yield running


@pytest.fixture
def on(staged: Stage) -> Stage:
    """The process, with a callers file that says nothing of tokens."""
    return staged


@pytest.fixture
async def written(staged: Stage) -> AsyncGenerator[Stage]:
    """The same, with a file that says what it says until the test's end."""
    yield staged
    await staged.write()


async def test_start_by_a_join_token_with_a_webhook_or_a_folder_is_refused(on: Stage, new_track: NewTrack) -> None:
    """A participant sends a recording elsewhere: refused by name, with no call to VideoSDK; without, it starts."""
    for moderates in (False, True):
        track = new_track()
        headers = on.joins(track, moderates=moderates)
        answer = await on.client.start({**track, "webhookUrl": WEBHOOK}, headers=headers)
        assert rule(answer) == "webhook-hosts"
        assert rule(await on.client.start({**track, "bucketDirPath": FOLDER}, headers=headers)) == "folder"
        assert on.sent(track) == []
        assert (await on.client.start(track, headers=headers)).status_code == 201
        assert on.sent(track) == [track]


async def test_start_by_a_jwt_with_a_webhook_or_a_folder_is_refused(on: Stage, new_track: NewTrack) -> None:
    """A person of the company sends a recording elsewhere: refused by name; without, it starts."""
    track, headers = new_track(), on.company("ada")
    assert rule(await on.client.start({**track, "webhookUrl": WEBHOOK}, headers=headers)) == "webhook-hosts"
    assert rule(await on.client.start({**track, "bucketDirPath": FOLDER}, headers=headers)) == "folder"
    assert on.sent(track) == []
    assert (await on.client.start(track, headers=headers)).status_code == 201


async def test_stop_by_a_join_token_of_a_services_recording_is_refused(on: Stage, new_track: NewTrack) -> None:
    """A participant, or a moderator, ends what the service records: refused, and it goes on in the service's folder."""
    track = new_track()
    started = await on.client.start({**track, "bucketDirPath": "lessons/1"}, headers=on.service)
    assert started.status_code == 201
    for moderates in (False, True):
        assert rule(await on.client.stop(track, headers=on.joins(track, moderates=moderates))) == "starter"
    assert on.records(track)
    assert on.sent(track, "stop") == []
    assert (await on.client.stop(track, headers=on.service)).json()["outcome"] == "stopped"


@pytest.mark.parametrize("by", ["participant", "moderator"])
@pytest.mark.parametrize("ends", ["participant", "moderator", "service"])
async def test_stop_of_a_join_tokens_recording_is_for_its_participant_moderators_and_services(
    on: Stage, new_track: NewTrack, by: str, ends: str
) -> None:
    """What participants and moderators start they stop themselves, and so do services."""
    track = new_track()
    who = {
        "participant": on.joins(track),
        "moderator": on.joins(track, moderates=True),
        "service": on.service,
    }
    started = await on.client.start(track, headers=who[by])
    assert started.json()["requestedBy"] == f"{by}:{track['participantId'] if by == 'participant' else 'teacher'}"
    assert (await on.client.stop(track, headers=who[ends])).json()["outcome"] == "stopped"
    assert not on.records(track)
    again = await on.client.stop(track, headers=who[ends])
    assert again.json()["outcome"] == "not_recording"


async def test_stop_by_a_join_token_of_what_has_no_known_starter_is_refused(on: Stage, new_track: NewTrack) -> None:
    """A recording begun beside the gateway, and one that never was: refused, without a call to VideoSDK."""
    beside, never, adopted = new_track(), new_track(), new_track()
    await on.start_beside(beside)
    await on.start_beside(adopted)
    assert (await on.client.show(adopted, headers=on.service)).json()["origin"] == "videosdk"
    before = len(on.simulator.calls)
    for track in (beside, never, adopted):
        assert rule(await on.client.stop(track, headers=on.joins(track))) == "starter"
    assert len(on.simulator.calls) == before
    assert on.records(beside)
    assert on.records(adopted)
    assert (await on.client.stop(beside, headers=on.service)).json()["outcome"] == "stopped"


async def test_stop_by_a_join_token_ends_its_own_start_in_flight(on: Stage, new_track: NewTrack) -> None:
    """A stop that comes while its own start looks at the list, or is sent, waits for it and ends it."""
    for endpoint in ("list", "start"):
        track = new_track()
        room = f"{track['roomId']}-{endpoint}"
        track["roomId"] = room
        headers = on.joins(track)
        on.simulator.inject(harness.delay(endpoint, 0.5, room_id=room))
        start = asyncio.create_task(on.client.start(track, headers=headers))
        await harness.eventually(
            lambda endpoint=endpoint, room=room: any(
                call.endpoint == endpoint and call.room_id == room for call in on.simulator.calls
            )
        )
        stopped = await on.client.stop(track, headers=headers)
        assert stopped.json()["status"] == "stopped", stopped.text
        await start
        assert not on.records(track)
        on.simulator.clear_faults()


async def test_starts_used_up_by_join_tokens_are_left_to_services(on: Stage, new_track: NewTrack) -> None:
    """A participant uses up what a track may be started: it is refused from then on, and the service's start is not."""
    track = new_track()
    headers = on.joins(track)

    async def start_and_stop() -> int:
        status = (await on.client.start(track, headers=headers)).status_code
        await on.client.stop(track, headers=headers)
        return status

    assert await harness.until(start_and_stop, lambda status: status != 201) == 429
    assert len(on.sent(track, "start")) >= TRACK_STARTS
    started = await on.client.start({**track, "bucketDirPath": "lessons/1"}, headers=on.service)
    assert started.status_code == 201


async def test_table_of_join_tokens_lends_each_its_own_folder(written: Stage, new_track: NewTrack) -> None:
    """A folder with the token's own ids: another's and none are refused, and so is what is not listed."""
    await written.write(
        '[join_tokens]\nscopes = ["recordings:start", "recordings:read"]\nkinds = ["video"]\n'
        'webhook_hosts = ["hooks.example.com"]\nbucket_dir_prefix = "rooms/{roomId}/{participantId}"\n'
    )
    own, other = new_track(), new_track()
    headers = written.joins(own)
    folder = f"rooms/{own['roomId']}/{own['participantId']}"
    assert rule(await written.client.stop(own, headers=headers)) == "scope"
    assert rule(await written.client.start(own, headers=headers)) == "bucket-prefix"
    for path in (f"rooms/{own['roomId']}/{other['participantId']}/1", "rooms/{roomId}/{participantId}/1", f"{folder}x"):
        assert rule(await written.client.start({**own, "bucketDirPath": path}, headers=headers)) == "bucket-prefix"
    started = {**own, "bucketDirPath": f"{folder}/1"}
    assert rule(await written.client.start({**started, "webhookUrl": WEBHOOK}, headers=headers)) == "webhook-hosts"
    assert rule(await written.client.start({**started, "kind": "audio"}, headers=headers)) == "kind"
    wanted: Track = {**started, "webhookUrl": "https://hooks.example.com/1"}
    assert (await written.client.start(wanted, headers=headers)).status_code == 201
    assert written.sent(own) == [wanted]


async def test_table_of_jwts_narrows_what_they_say(written: Stage, new_track: NewTrack) -> None:
    """Both the table and the token have to allow it: a token with all scopes gets the table's, and no more."""
    await written.write(
        '[jwt]\nscopes = ["recordings:start", "recordings:stop"]\nrooms = ["room-*"]\nstop_others = false\n'
        'webhook_hosts = ["*.example.org"]\nbucket_dir_prefix = "people"\nstarts_per_minute = 0\n'
    )
    track, headers = new_track(), written.company("ada")
    assert rule(await written.client.show(track, headers=headers)) == "scope"
    started = {**track, "bucketDirPath": "people/ada", "webhookUrl": "https://hooks.example.org/1"}
    assert rule(await written.client.start({**started, "roomId": "elsewhere"}, headers=headers)) == "room"
    assert rule(await written.client.start({**started, "bucketDirPath": "else"}, headers=headers)) == "bucket-prefix"
    assert (await written.client.start(started, headers=headers)).status_code == 201
    assert rule(await written.client.stop(track, headers=written.company("ben"))) == "starter"
    assert (await written.client.stop(track, headers=headers)).json()["outcome"] == "stopped"


async def test_service_replaces_a_participants_recording_by_its_own(on: Stage, new_track: NewTrack) -> None:
    """A participant was first, without the service's folder: the service stops that, starts its own, and keeps it."""
    track = new_track()
    headers, wanted = on.joins(track), {**track, "bucketDirPath": "lessons/1"}
    assert (await on.client.start(track, headers=headers)).status_code == 201
    assert (await on.client.start(wanted, headers=on.service)).json()["type"] == "/problems/parameters-differ"
    assert (await on.client.stop(track, headers=on.service)).json()["outcome"] == "stopped"
    assert (await on.client.start(wanted, headers=on.service)).status_code == 201
    assert (await on.client.start(track, headers=headers)).json()["type"] == "/problems/parameters-differ"
    assert rule(await on.client.stop(track, headers=headers)) == "starter"
    assert on.records(track)
