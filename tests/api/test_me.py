"""`GET /v1/me`: what a caller is told of itself, and that asking costs nothing of what it came for."""

from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway.api.rate_limits import RateLimiter
from gateway.auth.api_keys import Caller, new_key
from gateway.sandbox.identities import IdentityProvider, demo_join_token
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.token_buckets import TokenBuckets
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.recordings.parts import ErringConnection

pytestmark = pytest.mark.anyio

CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]

ME: Final = "/v1/me"
USUAL: Final = ["recordings:start", "recordings:stop", "recordings:read"]
SCOPES: Final = f"scopes = {USUAL}\n"
MODES: Final = ["track", "participant", "room"]
KINDS: Final = ["audio", "video", "screen_audio", "screen_video"]
FREE: Final = {
    "scopes": USUAL,
    "modes": MODES,
    "kinds": KINDS,
    "rooms": None,
    "participants": None,
    "stopsOthers": True,
    "maxDurationSeconds": None,
    "lengthens": False,
    "bucketDirPrefix": None,
}
"""What a caller gets to hear whose table has scopes and nothing else."""

NARROW: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "free": (SCOPES, {}),
    "nothing": ("scopes = []\n", {"scopes": []}),
    "operator": ('scopes = ["recordings:admin"]\n', {"scopes": ["recordings:admin"]}),
    "rooms": (f'{SCOPES}rooms = ["lesson-*", "hall\\\\*"]\n', {"rooms": ["lesson-*", "hall\\*"]}),
    "no-rooms": (f"{SCOPES}rooms = []\n", {"rooms": []}),
    # What is recorded of a room shows all who are in it, so the table must name that mode.
    "participants": (
        f'{SCOPES}participants = ["ada"]\n', {"participants": ["ada"], "modes": ["track", "participant"]},
    ),
    "participants-and-room": (
        f'{SCOPES}participants = ["ada"]\nmodes = ["room"]\n', {"participants": ["ada"], "modes": ["room"]},
    ),
    "no-participants": (f"{SCOPES}participants = []\n", {"participants": [], "modes": []}),
    "modes": (f'{SCOPES}modes = ["participant"]\n', {"modes": ["participant"]}),
    # What has no kind, since it holds several, is not among them.
    "kinds": (f'{SCOPES}kinds = ["audio", "video"]\n', {"kinds": ["audio", "video"], "modes": ["track"]}),
    "no-kinds": (f"{SCOPES}kinds = []\n", {"kinds": [], "modes": []}),
    "bounded": (f"{SCOPES}max_duration_seconds = 900\n", {"maxDurationSeconds": 900}),
    "lengthening": (f"{SCOPES}lengthen = true\n", {"lengthens": True}),
    "own": (f"{SCOPES}stop_others = false\n", {"stopsOthers": False}),
    "folder": (f'{SCOPES}bucket_dir_prefix = "ours/2026"\n', {"bucketDirPrefix": "ours/2026"}),
    "hooks": (f'{SCOPES}webhook_hosts = ["hooks.of-the-company.example"]\n', {}),
}  # fmt: skip
"""Tables of callers, and what of `FREE` is otherwise."""


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    """The callers' keys by their names."""
    return {}


@pytest.fixture(scope="module")
async def served(
    valkey: EmbeddedValkey, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[ApiClient, IdentityProvider]]:
    """A gateway with a caller for each table, join tokens, and an identity provider."""
    file = tmp_path_factory.mktemp("me") / "callers.toml"
    with file.open("w") as callers:
        for name, (table, _) in NARROW.items():
            keys[name], entry = new_key(name)
            callers.write(f"{entry.partition('scopes')[0]}{table}")
    async with harness.simulator() as videosdk, IdentityProvider() as provider:
        more = {"GATEWAY_JOIN_TOKENS": "on", "GATEWAY_JWT_ROOMS_CLAIM": "rooms", **provider.settings}
        settings = harness.environment(valkey.url, videosdk.url, file, **harness.CALM) | more
        async with harness.serve(settings) as url, harness.client(url) as client:
            yield client, provider


async def me(client: ApiClient, shown: str) -> dict[str, Any]:
    """Return what the bearer of a key or token is told, but for its limits."""
    answer = await client.get(ME, headers={"authorization": f"Bearer {shown}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert shown not in answer.text
    document = answer.json()
    assert [limit["policy"] for limit in document.pop("limits")] == ["caller", "tickets"]
    return document


@pytest.mark.parametrize("name", NARROW)
async def test_me_of_a_service_says_what_its_table_says(
    served: tuple[ApiClient, IdentityProvider], keys: dict[str, str], name: str
) -> None:
    """Each list of the callers file as the caller meets it; no hash of its key, and no host of webhooks."""
    answer = await me(served[0], keys[name])
    assert answer == {"name": name, "sort": "api_key", "expiresAt": None, **FREE, **NARROW[name][1]}


@pytest.mark.parametrize("moderates", [False, True])
async def test_me_of_a_join_token_is_one_participant_or_a_moderator(
    served: tuple[ApiClient, IdentityProvider], moderates: bool
) -> None:
    """Its room; its own participant's tracks, or with allow_mod all participants and modes; never what others began."""
    more = {"permissions": ["allow_join", "allow_mod"]} if moderates else {}
    token = demo_join_token(harness.API_KEY, harness.SECRET, room="a*b", participant="zoë", **more)

    answer = await me(served[0], token)

    expected = {"name": f"{'moderator' if moderates else 'participant'}:zoë", "sort": "join_token", **FREE,
                "rooms": ["a\\*b"], "participants": None if moderates else ["zoë"],
                "modes": MODES if moderates else ["track"], "stopsOthers": False}  # fmt: skip
    assert datetime.fromisoformat(answer.pop("expiresAt"))
    assert answer == expected


async def test_me_of_a_jwt_has_its_scopes_and_rooms(served: tuple[ApiClient, IdentityProvider]) -> None:
    """What the token itself says narrows what JWTs may."""
    token = served[1].token("ada", scope="recordings:read openid", rooms=["lesson-1"])

    answer = await me(served[0], token)

    assert datetime.fromisoformat(answer.pop("expiresAt"))
    assert answer == {"name": "jwt:ada", "sort": "jwt", **FREE, "scopes": ["recordings:read"], "rooms": ["lesson-1"]}


async def test_me_of_a_token_that_expires_in_no_calendars_year_is_answered(
    served: tuple[ApiClient, IdentityProvider],
) -> None:
    """A token may hold any number: what no calendar has is as good as never."""
    token = demo_join_token(harness.API_KEY, harness.SECRET, room="r", participant="ada", exp=10**18)
    assert (await me(served[0], token))["expiresAt"] is None


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer gw_0_unknown"}, {"authorization": "Basic YTpi"}])
async def test_me_of_a_stranger_is_unauthenticated(
    served: tuple[ApiClient, IdentityProvider], check_problem: CheckProblem, header: dict[str, str]
) -> None:
    """401, and how to say who one is."""
    answer = await served[0].get(ME, headers=header)
    check_problem(answer, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("setting", "expected"), [("600", 600), ("1200.5", 900)])
async def test_me_with_a_longest_duration_shows_the_smaller_of_policy_and_setting(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, setting: str, expected: int
) -> None:
    """What holds for the caller, whichever of the two says it."""
    key, entry = new_key("bounded")
    (tmp_path / "callers.toml").write_text(f"{entry}max_duration_seconds = 900\n")
    more = {"GATEWAY_MAX_DURATION_SECONDS": setting}
    settings = harness.environment(valkey.url, simulator.url, tmp_path / "callers.toml", **harness.CALM, **more)
    async with harness.serve(settings) as url, harness.client(url, key) as client:
        assert (await client.get(ME)).json()["maxDurationSeconds"] == expected


async def test_me_where_no_identity_is_asked_for_is_anyone(valkey: EmbeddedValkey, simulator: Simulator) -> None:
    """With `GATEWAY_AUTH=none` every caller is the same, and may all that has no scope of its own."""
    more = {"GATEWAY_AUTH": "none", "GATEWAY_MAX_DURATION_SECONDS": "1200.5"}
    settings = harness.environment(valkey.url, simulator.url, Path("unset")) | more
    del settings["GATEWAY_CALLERS_FILE"]
    async with harness.serve(settings) as url, harness.client(url) as client:
        answer = (await client.get(ME)).json()
    assert (answer["name"], answer["sort"], answer["scopes"]) == ("anyone", "anyone", USUAL)
    # Whole seconds, as a start names them.
    assert answer["maxDurationSeconds"] == 1200


async def test_me_shows_the_limits_as_the_headers_do_and_takes_nothing(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """At one a minute each: asked ten times there is still one; a start and a ticket take theirs, and it shows."""
    key, entry = new_key(f"me-{tmp_path.name}"[:64].strip("-"))
    (tmp_path / "callers.toml").write_text(entry)
    environ = harness.environment(valkey.url, simulator.url, tmp_path / "callers.toml", **harness.CALM)
    environ |= {f"GATEWAY_CALLER_{name}_PER_MINUTE": "1" for name in ("STARTS", "QUESTIONS", "TICKETS")}
    async with harness.serve(environ) as url, harness.client(url, key) as client:

        async def left() -> dict[str, int]:
            answers = [(await client.get(ME)).json()["limits"] for _ in range(10)]
            assert {limit["perMinute"] for limit in answers[-1]} == {1}
            return {limit["policy"]: limit["remaining"] for limit in answers[-1]}

        assert await left() == {"caller": 1, "questions": 1, "tickets": 1}
        started = await client.start(new_track())
        assert started.status_code == 201
        assert '"caller";r=0;' in started.headers["ratelimit"]
        assert await left() == {"caller": 0, "questions": 1, "tickets": 1}
        assert 0 < (await client.get(ME)).json()["limits"][0]["fullInSeconds"] <= 60
        assert (await client.post(f"/v1/rooms/{new_track()['roomId']}/events/tickets")).status_code == 201
        assert await left() == {"caller": 0, "questions": 1, "tickets": 0}


async def test_me_without_limits_names_none(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo) -> None:
    """Where a limit is 0 there is none, and nothing is said of it."""
    environ = harness.environment(valkey.url, simulator.url, demo.file) | {"GATEWAY_CALLER_TICKETS_PER_MINUTE": "0"}
    async with harness.serve(environ) as url, harness.client(url, demo.key) as client:
        assert (await client.get(ME)).json()["limits"] == []


async def test_standing_while_redis_is_away_names_the_limits_and_not_what_is_left(valkey: EmbeddedValkey) -> None:
    """Who one is needs no Redis; what is left is not guessed."""
    connection = ErringConnection(valkey.url)
    limiter = RateLimiter(TokenBuckets(connection), "t", caller_per_minute=9, target_per_minute=0, tickets_per_minute=4)
    connection.away("limit")

    standing = await limiter.standing(Caller("ada", account="ada-without-redis"))

    assert [(each.policy, each.per_minute) for each in standing] == [("caller", 9), ("tickets", 4)]
    assert {(each.remaining, each.full_in_seconds) for each in standing} == {(None, None)}
    await connection.aclose()
