"""Every route against policies of every narrowness: who may, who may not and by which rule, and who sees how much.

The routes are the application's own: one that has no row here fails a test.
"""

import re
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
from litestar.routes import HTTPRoute

from gateway.app import create_app
from gateway.auth.api_keys import new_key
from gateway.sandbox.calls import Call
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from gateway.settings.load import load
from tests import harness
from tests.api_client import ApiClient

pytestmark = pytest.mark.anyio

CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]

ROOM: Final = f"room-{uuid.uuid4().hex[:12]}"
RECORDED, IDLE = "person-recorded", "person-idle"
KIND = "video"
TRACK = {"roomId": ROOM, "participantId": RECORDED, "kind": KIND}
PARTICIPANT = {"roomId": ROOM, "participantId": RECORDED}

ALL = 'scopes = ["recordings:start", "recordings:stop", "recordings:read", "recordings:admin"]\n'
USUAL = 'scopes = ["recordings:start", "recordings:stop", "recordings:read"]\n'
POLICIES: Final[dict[str, str]] = {
    "all": ALL,
    "usual": USUAL,
    "start": 'scopes = ["recordings:start"]\n',
    "stop": 'scopes = ["recordings:stop"]\n',
    "read": 'scopes = ["recordings:read"]\n',
    "admin": 'scopes = ["recordings:admin"]\n',
    "none": "scopes = []\n",
    "own": f'{ALL}rooms = ["{ROOM[:-1]}*"]\nparticipants = ["person-*"]\nkinds = ["{KIND}"]\n',
    "room": f'{ALL}rooms = ["elsewhere"]\n',
    "no-room": f"{ALL}rooms = []\n",
    "person": f'{ALL}participants = ["other-*"]\n',
    "mode": f'{ALL}modes = ["participant"]\n',
    "tracks": f'{ALL}modes = ["track"]\n',
    "kind": f'{ALL}kinds = ["audio"]\n',
    "folder": f'{ALL}bucket_dir_prefix = "ours"\n',
    "rooms": f'{ALL}participants = ["other-*"]\nmodes = ["room"]\n',
}
"""The tables of callers, by their names: from all to nothing, and each list by itself."""

# What each caller gets: a status; `empty`, which is 200 without the track in it; or the rule that refuses it.
#
#          all usual start stop  read  admin none  | own room no-room person      mode tracks kind folder rooms
TABLE: Final[dict[str, str]] = {
    "POST /v1/recordings/track/start":
        " 200 200  200   scope scope scope scope   200 room room  participant mode 200 kind bucket-prefix participant",
    "POST /v1/recordings/track/stop":
        "  200 200   scope 200   scope scope scope   200 room room    participant mode 200    kind 200 participant",
    "GET /v1/recordings/track/{roomId}/{participantId}/{kind}":
        "  200 200   scope scope 200   scope scope   200 room room    participant mode 200    kind 200 participant",
    "POST /v1/recordings/participant/start":
        " 200 200  200   scope scope scope scope  kind room room  participant 200 mode kind bucket-prefix participant",
    "POST /v1/recordings/participant/stop":
        "  200 200   scope 200   scope scope scope  kind room room    participant 200  mode   kind 200 participant",
    "GET /v1/recordings/participant/{roomId}/{participantId}":
        "  200 200   scope scope 200   scope scope  kind room room    participant 200  mode   kind 200 participant",
    "GET /v1/recordings":
        "  200 200   scope scope 200   scope scope   200 room room    empty       200  200    empty 200 empty",
    "GET /v1/rooms/{roomId}/events":
        "  200 200   scope scope 200   scope scope   200 room room    empty       200  200    empty 200 empty",
    "POST /v1/rooms/{roomId}/events/tickets":
        "  200 200   scope scope 200   scope scope   200 room room    empty       200  200    empty 200 empty",
    "POST /v1/recordings/batch":
        " 200 200  200   scope scope scope scope   200 room room  participant mode 200 kind bucket-prefix participant",
    "POST /v1/rooms/{roomId}/recordings/stop":
        "  200 200   scope 200   scope scope scope   200 room room    empty       200  200    empty 200 empty",
    # Every caller may ask what it is and may.
    "GET /v1/me":
        "  200 200   200   200   200   200   200   200 200  200     200         200  200    200   200 200",
    "GET /v1/admin/tracks":
        "  200 scope scope scope scope 200   scope   200 empty empty  empty       200  200    empty 200 empty",
    "POST /v1/admin/tracks/{roomId}/{participantId}/{kind}/settle":
        "  200 scope scope scope scope 200   scope   200 room room    participant mode 200    kind 200 participant",
    "POST /v1/admin/tracks/{roomId}/{participantId}/{kind}/release":
        "  200 scope scope scope scope 200   scope   200 room room    participant mode 200    kind 200 participant",
    "POST /v1/admin/participants/{roomId}/{participantId}/settle":
        "  200 scope scope scope scope 200   scope  kind room room    participant 200  mode   kind 200 participant",
    "POST /v1/admin/participants/{roomId}/{participantId}/release":
        "  200 scope scope scope scope 200   scope  kind room room    participant 200  mode   kind 200 participant",
    "POST /v1/recordings/room/start":
        "  200 200   200   scope scope scope scope  mode room room    mode        mode mode   kind bucket-prefix 200",
    "POST /v1/recordings/room/stop":
        "  200 200   scope 200   scope scope scope  mode room room    mode        mode mode   kind 200 200",
    "GET /v1/recordings/room/{roomId}":
        "  200 200   scope scope 200   scope scope  mode room room    mode        mode mode   kind 200 200",
    # Of rooms that are called like the commands; none is recorded.
    "GET /v1/recordings/room/start":
        "  404 404   scope scope 404   scope scope  room room room    mode        mode mode   kind 404 404",
    "GET /v1/recordings/room/stop":
        "  404 404   scope scope 404   scope scope  room room room    mode        mode mode   kind 404 404",
    "POST /v1/admin/rooms/{roomId}/settle":
        "  200 scope scope scope scope 200   scope  mode room room    mode        mode mode   kind 200 200",
    "POST /v1/admin/rooms/{roomId}/release":
        "  200 scope scope scope scope 200   scope  mode room room    mode        mode mode   kind 200 200",
}  # fmt: skip
BODIES: Final[dict[str, dict[str, Any]]] = {
    "POST /v1/recordings/track/start": TRACK,
    "POST /v1/recordings/track/stop": {**TRACK, "participantId": IDLE},
    "POST /v1/admin/tracks/{roomId}/{participantId}/{kind}/release": {"reason": "to see"},
    "POST /v1/recordings/participant/start": PARTICIPANT,
    "POST /v1/recordings/participant/stop": {**PARTICIPANT, "participantId": IDLE},
    "POST /v1/recordings/batch": {"items": [{"action": "start", "mode": "track", **TRACK}]},
    "POST /v1/rooms/{roomId}/recordings/stop": {},
    "POST /v1/admin/participants/{roomId}/{participantId}/release": {"reason": "to see"},
    "POST /v1/recordings/room/start": {"roomId": ROOM},
    "POST /v1/recordings/room/stop": {"roomId": f"{ROOM}-idle"},
    "POST /v1/admin/rooms/{roomId}/release": {"reason": "to see"},
}
ROOMS: Final = {"POST /v1/rooms/{roomId}/recordings/stop": f"{ROOM[:-1]}-over"}
"""Rooms of which a route is asked, where not of the one in which others expect their recordings: nothing records."""
QUERIES: Final[dict[str, dict[str, str]]] = {
    "GET /v1/recordings": {"roomId": ROOM},
    "GET /v1/admin/tracks": {"limit": "1000"},
}
FOR_EVERYBODY: Final[dict[str, int]] = {
    "GET /livez": 200,
    "GET /readyz": 200,
    "GET /metrics": 200,
    "GET /openapi.json": 200,
    "GET /": 404,
    "GET /docs": 200,
    "GET /docs/{name}": 404,
    "GET /watch": 200,
    "GET /watch/{name}": 404,
    "GET /problems/{slug}": 200,
    # Known by VideoSDK's signature, which none of these requests has.
    "POST /v1/webhooks/videosdk": 401,
}
"""Routes that need no key, and their answer to every caller."""
SEEN: Final[dict[str, set[str]]] = {
    **{name: {"track", "participant", "room"} for name in ("all", "usual", "read", "admin", "folder")},
    "own": {"track"},
    "mode": {"participant"},
    "tracks": {"track"},
    "rooms": {"room"},
}
"""Modes of the recordings that a policy shows, where the route may be used at all."""
SHOWING = ("GET /v1/recordings", "/events", "/events/tickets", "GET /v1/admin/tracks")
"""Ends of the routes whose answer shows several tracks, of which a caller sees its own."""


@dataclass(frozen=True)
class Gateway:
    """The gateway of these tests.

    Attributes:
        client: Speaks to it, and shows nothing by itself.
        keys: Of the callers.
        routes: The application's own.
    """

    client: ApiClient
    keys: dict[str, str]
    routes: frozenset[str]

    def bearer(self, name: str) -> dict[str, str]:
        """Return the header that a caller sends."""
        return {"authorization": f"Bearer {self.keys[name]}"}


@pytest.fixture(scope="module")
async def videosdk(signer: Signer) -> AsyncGenerator[Simulator]:
    """One VideoSDK for all of them."""
    async with harness.simulator(signer=signer) as videosdk:
        yield videosdk


@pytest.fixture(scope="module")
async def served(
    valkey: EmbeddedValkey, videosdk: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Gateway]:
    """A gateway with a caller for each policy, and a track that is recorded."""
    keys: dict[str, str] = {}
    file = tmp_path_factory.mktemp("policies") / "callers.toml"
    with file.open("w") as callers:
        for name, table in POLICIES.items():
            keys[name], entry = new_key(name)
            callers.write(f"{entry.partition('scopes')[0]}{table}")
    # So that a recording is due, far in the future: operators see what is.
    settings = harness.environment(valkey.url, videosdk.url, file, **harness.FAST) | {"GATEWAY_CHECK_SECONDS": "3600"}
    app: Any = create_app(load(settings | {"GATEWAY_CALLER_STARTS_PER_MINUTE": "0"}))
    async with harness.serve_app(app) as url, harness.client(url) as client:
        gateway = Gateway(client, keys, frozenset(routes_of(app)))
        started = await client.start(TRACK, headers=gateway.bearer("all"))
        assert started.status_code == 201, started.text
        for mode, body in (("participant", PARTICIPANT), ("room", {"roomId": ROOM})):
            whole = await client.post(f"/v1/recordings/{mode}/start", json=body, headers=gateway.bearer("all"))
            assert whole.status_code == 201, whole.text
        yield gateway


def routes_of(app: Any) -> Iterator[str]:
    """Yield the method and the path of everything that an application answers."""
    for route in app._app.routes:
        assert isinstance(route, HTTPRoute), f"{route.path} needs a test of its own"
        yield from (f"{method} {route.path_format}" for method in route.methods if method != "OPTIONS")


@asynccontextmanager
async def asked(
    served: Gateway, route: str, headers: dict[str, str], **query: str
) -> AsyncGenerator[tuple[httpx.Response, str]]:
    """Ask a route about the track; yields the answer and its text, of a stream that of its first event."""
    method, _, path = route.partition(" ")
    path = path.format(
        roomId=ROOMS.get(route, ROOM), participantId=RECORDED, kind=KIND, slug="forbidden", name="unknown.js"
    )  # fmt: skip
    async with served.client.stream(
        method, path, json=BODIES.get(route), params=QUERIES.get(route, {}) | query, headers=headers
    ) as answer:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            await answer.aread()
            yield answer, answer.text
            return
        text = ""
        async for part in answer.aiter_text():
            text += part
            if "data: " in text and text.endswith("\n\n"):
                break
        yield answer, text


async def test_every_route_has_a_row(served: Gateway) -> None:
    """A new route must say who may use it, and each row one cell for each policy."""
    assert served.routes == TABLE.keys() | FOR_EVERYBODY.keys()
    assert not TABLE.keys() & FOR_EVERYBODY.keys()
    assert {len(cells.split()) for cells in TABLE.values()} == {len(POLICIES)}


CELLS = [
    (route, policy, cell)
    for route, cells in TABLE.items()
    for policy, cell in zip(POLICIES, cells.split(), strict=True)
]  # fmt: skip


@pytest.mark.parametrize(("route", "policy", "cell"), CELLS, ids=[f"{route} {policy}" for route, policy, _ in CELLS])
async def test_route_for_a_policy_answers_what_the_table_says(
    served: Gateway, videosdk: Simulator, check_problem: CheckProblem, route: str, policy: str, cell: str
) -> None:
    """Allowed, seen only in part, or refused by its rule before anything reaches VideoSDK."""
    acts = acts_in_room(videosdk)
    async with asked(served, route, served.bearer(policy)) as (answer, text):
        if cell == "404":
            check_problem(answer, "not-found")
            return
        if cell not in {"200", "empty"}:
            if answer.status_code == 200 and route.endswith("/batch"):
                # Each item is refused by itself.
                (result,) = answer.json()["results"]
                assert (result["status"], result["problem"]["rule"]) == (403, cell)
            else:
                assert check_problem(answer, "forbidden")["rule"] == cell
            assert acts_in_room(videosdk) == acts
            return
        assert answer.is_success, text
        if route.endswith("/batch"):
            assert answer.json()["results"][0]["status"] == 200
        if route.endswith("/tickets"):
            # What a ticket opens is no more than what its maker could open without it.
            seen = await seen_with(served, answer.json()["ticket"])
        else:
            seen = text
        if route.endswith(SHOWING):
            assert (RECORDED in seen) == (cell == "200")
            assert set(re.findall(r'"mode":"(\w+)"', seen)) == SEEN.get(policy, set())


def acts_in_room(videosdk: Simulator) -> list[Call]:
    """Return what VideoSDK was asked to do: the gateway also looks at lists by itself, at times of its own."""
    return [call for call in harness.calls_for(videosdk, ROOM) if call.method == "POST"]


async def seen_with(served: Gateway, ticket: str) -> str:
    """Return what a ticket shows."""
    async with asked(served, "GET /v1/rooms/{roomId}/events", {}, ticket=ticket) as (answer, text):
        assert answer.status_code == 200, text
    return text


@pytest.mark.parametrize("route", TABLE)
async def test_route_for_a_stranger_answers_unauthenticated(
    served: Gateway, videosdk: Simulator, check_problem: CheckProblem, route: str
) -> None:
    """Without a key, with one that is not known, or with a ticket that is for something else, nothing is done."""
    acts = acts_in_room(videosdk)
    made = await served.client.post(f"/v1/rooms/{ROOM}/events/tickets", headers=served.bearer("all"))
    elsewhere = await served.client.post("/v1/rooms/elsewhere/events/tickets", headers=served.bearer("all"))
    ticket = (elsewhere if route.endswith("/events") else made).json()["ticket"]
    unknown = {"authorization": f"Bearer {new_key('stranger')[0]}"}
    for headers, query in (({}, {}), (unknown, {}), ({}, {"ticket": ticket})):
        async with asked(served, route, headers, **query) as (answer, _):
            check_problem(answer, "unauthenticated")
    assert acts_in_room(videosdk) == acts


@pytest.mark.parametrize("route", FOR_EVERYBODY)
async def test_route_for_everybody_asks_nobody_for_a_key(served: Gateway, route: str) -> None:
    """The same answer for a stranger, for a caller who may nothing, and for one who may all."""
    for headers in ({}, served.bearer("none"), served.bearer("all")):
        async with asked(served, route, headers) as (answer, text):
            assert answer.status_code == FOR_EVERYBODY[route], text
            assert RECORDED not in text
            assert ROOM not in text


def test_table_holds_every_rule_that_is_not_about_a_value() -> None:
    """The rules on scopes, rooms, participants, modes, kinds and folders are each met; others are in `test_policy`."""
    refusing = {cell for _, _, cell in CELLS} - {"200", "404", "empty"}
    assert refusing == {"scope", "room", "participant", "mode", "kind", "bucket-prefix"}
