"""Item 8: tokens that name no participant shared one account: one got another's answers, and used up all limits."""

from collections.abc import AsyncGenerator
from functools import partial

import pytest

from gateway.auth.join_tokens import JoinTokens
from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.secrets import Secret
from tests import harness
from tests.api_client import NewTrack, Track
from tests.harm.identities import Headers, Stage, stage

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

_PER_MINUTE = 3


@pytest.fixture(scope="module")
async def on(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    """One process for all attacks of this file, with a limit that is soon reached."""
    folder = tmp_path_factory.mktemp("accounts")
    async with stage(valkey.url, folder, GATEWAY_CALLER_STARTS_PER_MINUTE=str(_PER_MINUTE)) as running:
        yield running


def moderator(on: Stage, track: Track, name: str) -> Headers:
    """Return what a moderator shows whose token names no participant; the backend wrote other things into each."""
    return on.joins(track, moderates=True, nameless=name)


async def test_answer_kept_for_a_token_without_a_participant_is_not_anothers(on: Stage, new_track: NewTrack) -> None:
    """Two moderators use one idempotency key: neither gets the other's answer, nor a refusal."""
    first, second = new_track(), new_track()
    for body in (first, second):
        for name, outcome in (("one", "started"), ("two", "already_recording")):
            headers = moderator(on, body, f"{name}-{body['participantId']}") | {"idempotency-key": "1"}
            answer = await on.client.start(body, headers=headers)
            assert answer.json()["outcome"] == outcome
            assert "idempotency-replayed" not in answer.headers


async def test_limit_used_up_by_a_token_without_a_participant_is_left_to_others(on: Stage, new_track: NewTrack) -> None:
    """A moderator uses up its limit; another of the same room starts all the same."""
    track = new_track()
    greedy = moderator(on, track, "greedy")

    async def start() -> int:
        return (await on.client.start(new_track(), headers=greedy)).status_code

    assert await harness.until(start, lambda status: status != 201) == 429
    assert (await on.client.start(track, headers=moderator(on, track, "modest"))).status_code == 201


def test_account_of_a_token_is_the_same_however_its_signature_is_written() -> None:
    """A token is good with padding and without: its bearer makes no second account of it."""
    tokens = JoinTokens(lambda: harness.API_KEY, lambda: Secret(harness.SECRET), "on")
    made = partial(demo_join_token, harness.API_KEY, harness.SECRET, room="r1", participant=None)
    token = made(jti="one")
    (account,) = {tokens.identify(spelling).account for spelling in (token, f"{token}=")}
    assert account != tokens.identify(made(jti="two")).account
    assert not [part for part in token.split(".") if part in account]
