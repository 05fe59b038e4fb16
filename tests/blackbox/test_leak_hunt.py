"""Distinctive secrets in every place that takes one, everything provoked that can go wrong, and a search for them.

What comes of it is a table: which secret was found where. It must be empty, and is shown to fill when one is planted.
"""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import httpx
import pytest
from redis.asyncio import Redis

from gateway.auth.api_keys import new_key
from gateway.errors import PROBLEMS
from gateway.sandbox.faults import CallAction, Fault
from gateway.sandbox.identities import IdentityProvider, demo_join_token
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.settings.table import SETTINGS
from tests import harness
from tests.api_client import START, STOP

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

TRACKS = "/v1/recordings/track"
JSON = {"content-type": "application/json"}
API_KEY, SECRET = "hunted-api-key-4d2f8a", "hunted-secret-91c3e7-0123456789abcdef01234567"
TOKEN = "hunted.management.token-77b2"
REDIS_PASSWORD, JWKS_QUERY = "hunted-redis-password-55aa", "hunted-jwks-query-3c3c"
WEBHOOK_QUERY, IDEMPOTENCY_KEY = "hunted-webhook-query-8e8e", "hunted-idempotency-key-6b6b"
UPSTREAM_WORDS = "hunted-words-of-a-5xx-2f2f"

Secrets = dict[str, str]
Places = dict[str, str]


def hunt(secrets: Mapping[str, str], places: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return which secret is in which place: as it is, as in a URL, or in base64 however it is aligned."""
    return [
        (name, place)
        for place, text in places.items()
        for name, secret in secrets.items()
        if any(spelling in text for spelling in spellings(secret))
    ]


def spellings(secret: str) -> Iterator[str]:
    """Spell a secret as it may be found."""
    yield secret
    yield quote(secret, safe="")
    for shift in range(3):
        # Without the ends, which depend on what stands beside.
        yield base64.b64encode(b"x" * shift + secret.encode()).decode()[4:-4]


class Hunt:
    """A gateway with secrets in all its settings, and whatever it let out."""

    def __init__(self, url: str, simulator: Simulator, valkey: EmbeddedValkey, secrets: Secrets) -> None:
        self.simulator = simulator
        self.valkey = valkey
        self.secrets = secrets
        self.answers: list[httpx.Response] = []
        self.client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=60)

    async def ask(self, method: str, path: str, shown: str = "an API key", **more: Any) -> httpx.Response:
        """Ask as one of the callers, and keep the answer."""
        headers = {"authorization": f"Bearer {self.secrets.get(shown, shown)}", **more.pop("headers", {})}
        answer = await self.client.request(method, path, headers=headers, **more)
        self.answers.append(answer)
        return answer

    async def start(self, room: str, participant: str = "ada", **more: Any) -> httpx.Response:
        """Start a track, with everything that may be secret in it."""
        body = {"roomId": room, "participantId": participant, "kind": "video"}
        body["webhookUrl"] = f"https://app.example.com/hook?key={WEBHOOK_QUERY}"
        headers = {"idempotency-key": f"{IDEMPOTENCY_KEY}-{room}"}
        return await self.ask("POST", START, json=body, headers=headers, **more)

    async def stop(self, room: str, **more: Any) -> httpx.Response:
        """Stop it."""
        body = {"roomId": room, "participantId": "ada", "kind": "video"}
        return await self.ask("POST", STOP, json=body, headers={"idempotency-key": IDEMPOTENCY_KEY + room}, **more)

    @property
    def said(self) -> str:
        """All answers, with their headers."""
        return "\n".join(f"{answer.status_code} {dict(answer.headers)}\n{answer.text}" for answer in self.answers)

    @property
    def problems(self) -> set[str]:
        """The sorts of problems that were provoked."""
        kind = "application/problem+json; charset=utf-8"
        return {
            answer.json()["type"].rpartition("/")[2]
            for answer in self.answers
            if answer.headers.get("content-type") == kind
        }


@asynccontextmanager
async def hunted(folder: Path, places: Places) -> AsyncGenerator[Hunt]:
    """Run a gateway process with secrets in all its settings; what it wrote is added to the places at the end."""
    key, entry = new_key("hunted")
    (folder / "callers.toml").write_text(entry)
    (folder / "secret").write_text(SECRET)
    (folder / "api-key").write_text(API_KEY)
    simulator = Simulator(api_key=API_KEY, secret=SECRET)
    simulator.inject(Fault(action="webhook_lost", times=None))
    with EmbeddedValkey(port=0, config=[f"requirepass {REDIS_PASSWORD}"]) as valkey:
        async with simulator, IdentityProvider() as provider:
            settings = {
                **harness.FAST,
                **provider.settings,
                "GATEWAY_REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:{valkey.port}",
                "GATEWAY_VIDEOSDK_URL": simulator.url,
                "GATEWAY_VIDEOSDK_API_KEY_FILE": str(folder / "api-key"),
                "GATEWAY_VIDEOSDK_SECRET_FILE": str(folder / "secret"),
                "GATEWAY_CALLERS_FILE": str(folder / "callers.toml"),
                "GATEWAY_JOIN_TOKENS": "on",
                "GATEWAY_TRACK_STARTS_PER_MINUTE": "0",
                "GATEWAY_LOG_LEVEL": "debug",
                # What is broken on purpose is not to be mended by a comparison before it is read.
                "GATEWAY_CHECK_SECONDS": "0",
            }
            settings["GATEWAY_JWT_JWKS_URL"] += f"?key={JWKS_QUERY}"
            secrets = {
                "GATEWAY_VIDEOSDK_SECRET": SECRET,
                "GATEWAY_VIDEOSDK_API_KEY": API_KEY,
                "the password in GATEWAY_REDIS_URL": REDIS_PASSWORD,
                "the query of GATEWAY_JWT_JWKS_URL": JWKS_QUERY,
                "an API key": key,
                "a join token": demo_join_token(API_KEY, SECRET, room="joined", participant="ada"),
                "a JWT": provider.token("hunted-person"),
                "a webhookUrl's query": WEBHOOK_QUERY,
                "an Idempotency-Key": IDEMPOTENCY_KEY,
                "VideoSDK's words on its own mistakes": UPSTREAM_WORDS,
            }
            process = harness.GatewayProcess(settings, folder / "gateway.log")
            hunt = Hunt(process.url, simulator, valkey, secrets)
            try:
                await process.ready()
                yield hunt
                places["its command line"] = command_line(process.pid)
            finally:
                await hunt.client.aclose()
                simulator.clear_faults()
                await asyncio.to_thread(process.stop)
            places["logs"] = process.log.read_text()
            places["answers"] = hunt.said
            places["gateway check"] = await command("check", settings)
            places["gateway check, nothing answers"] = await command(
                "check",
                settings
                | {
                    "GATEWAY_REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:1",
                    "GATEWAY_VIDEOSDK_URL": "http://[::1]:1",
                }
                | {"GATEWAY_JWT_JWKS_URL": f"http://127.0.0.1:1/?key={JWKS_QUERY}"},
            )
            places["VideoSDK refuses the token"] = await command(
                "check", {**settings, "GATEWAY_VIDEOSDK_SECRET": SECRET[::-1], "GATEWAY_VIDEOSDK_SECRET_FILE": ""}
            )


def command_line(pid: int) -> str:
    """Return what everybody on the machine may see of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text() if sys.platform == "linux" else "not to be had"


async def command(name: str, settings: Mapping[str, str]) -> str:
    """Run the command; return all it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", name, env=kept | dict(settings), stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        return (await process.communicate())[0].decode()


async def strike_every_fault(hunt: Hunt) -> None:
    """Every fault of the simulator on every call of ours, each on a track of its own, all at once."""

    async def strike(action: Any, endpoint: Any) -> None:
        room = f"{action}-{endpoint}".replace("_", "-")
        seconds = 0.3 if action in {"delay", "apply_late"} else 0.0
        fault = Fault(
            action=action, endpoint=endpoint, room_id=room, text=UPSTREAM_WORDS, seconds=seconds, status=503, times=2
        )
        hunt.simulator.inject(fault)
        await hunt.start(room)
        await hunt.stop(room)

    struck = [(action, endpoint) for action in get_args(CallAction) for endpoint in ("start", "stop", "list")]
    await asyncio.gather(*(strike(action, endpoint) for action, endpoint in struck))
    said = f"no: https://app.example.com/hook?key={WEBHOOK_QUERY} with {hunt.secrets['a join token']}"
    for status in (400, 401, 403, 409, 429):
        room = f"refused-{status}"
        fault = Fault(action="refuse", endpoint="start", room_id=room, status=status, text=said, times=2)
        hunt.simulator.inject(fault)
        await hunt.start(room)
    # Every call: it is the token that VideoSDK refuses.
    for status in (400, 401, 403):
        hunt.simulator.inject(Fault(action="refuse", status=status, text=UPSTREAM_WORDS, times=None))
        await hunt.start(f"token-{status}")
        hunt.simulator.clear_faults()


async def ask_badly(hunt: Hunt) -> None:
    """Wrong callers, wrong bodies, wrong addresses; and every caller there is."""
    key = hunt.secrets["an API key"]
    await hunt.start("joined", shown="a join token")
    await hunt.start("not-joined", shown="a join token")
    await hunt.start("company", shown="a JWT")
    for wrong in (key[:-1], hunt.secrets["a join token"][:-3], hunt.secrets["a JWT"] + "x", "nobody", SECRET):
        await hunt.start("joined", shown=wrong)
    await hunt.ask("POST", START, json={"roomId": f"{key}.", "token": SECRET, "kind": key, "webhookUrl": SECRET})
    await hunt.ask("POST", START, content=b'{"roomId": ' + key.encode(), headers=JSON)
    await hunt.ask("POST", START, content=b"x" * 70_000 + key.encode(), headers=JSON)
    await hunt.ask("POST", START, content=key.encode())
    for trick in (f"https://u:{WEBHOOK_QUERY}@h.example/", f"https://127.0.0.1/?{WEBHOOK_QUERY}"):
        track = {"roomId": "bad", "participantId": "ada", "kind": "video"}
        await hunt.ask("POST", START, json=track | {"webhookUrl": trick})
    track = {"roomId": "delay-stop", "participantId": "ada", "kind": "video"}
    for body in (track, track | {"bucketDirPath": "other"}):
        await hunt.ask("POST", START, json=body, headers={"idempotency-key": IDEMPOTENCY_KEY})
    await hunt.ask("POST", START, json=track | {"bucketDirPath": "elsewhere"})
    await hunt.ask("POST", START, json=track, headers={"idempotency-key": f'"{IDEMPOTENCY_KEY}'})
    await hunt.ask("POST", START, json=track | {"roomId": "hurry"}, headers={"x-request-timeout-ms": "1"})
    await ask_for_several(hunt, key)
    for method, path in (("GET", "/nowhere"), ("DELETE", START), ("GET", f"{TRACKS}/nobody/ada/video")):
        await hunt.ask(method, f"{path}?token={key}")
    for path in (
        "/openapi.json",
        "/docs",
        "/watch",
        "/v1/me",
        "/livez",
        "/readyz",
        "/metrics",
        *(f"/problems/{slug}" for slug in PROBLEMS),
    ):
        await hunt.ask("GET", path)


async def ask_for_several(hunt: Hunt, key: str) -> None:
    """Batches of all that may be wrong with items, and the end of rooms, under the key that must not be found."""
    good = {"action": "start", "mode": "track", "roomId": "several", "participantId": "ada", "kind": "video"}
    good["webhookUrl"] = f"https://app.example.com/hook?key={WEBHOOK_QUERY}"
    lost = Fault(action="hang_before", endpoint="start", room_id="several-lost", times=None)
    hunt.simulator.inject(lost)
    items = [
        good,
        good | {"roomId": "several-lost"},
        good | {"webhookUrl": f"https://u:{WEBHOOK_QUERY}@h.example/"},
        good | {"webhookUrl": "https://app.example.com/other"},
        good | {"kind": key, "token": SECRET},
        {"action": key, "mode": SECRET},
        key,
    ]
    for body in ({"items": items}, {"items": items}, {"items": items[:1]}, {"items": []}, {"items": key}):
        headers = {"idempotency-key": f"{IDEMPOTENCY_KEY}-several"}
        await hunt.ask("POST", "/v1/recordings/batch", json=body, headers=headers)
    hunt.simulator.clear_faults()
    for room, body in (("several", {}), ("several", {"includeForeign": key}), ("several%5C", {})):
        await hunt.ask("POST", f"/v1/rooms/{room}/recordings/stop", json=body)


async def break_records(hunt: Hunt) -> None:
    """Rubbish with a secret in it where a record should be: an unexpected exception."""
    await hunt.start("broken")
    rubbish = (
        f"https://app.example.com/hook?key={WEBHOOK_QUERY} {hunt.secrets['a join token']} password={REDIS_PASSWORD}"
    )
    async with Redis.from_url(f"redis://:{REDIS_PASSWORD}@127.0.0.1:{hunt.valkey.port}") as redis:
        (record,) = [name async for name in redis.scan_iter(match="*:broken:*") if await redis.type(name) == b"hash"]
        await redis.hset(record, mapping={"confirmed": rubbish})  # pyright: ignore[reportGeneralTypeIssues]
        answer = await hunt.ask("GET", f"{TRACKS}/broken/ada/video")
        assert answer.status_code == 500
        await redis.delete(record)


async def what_redis_holds(hunt: Hunt) -> str:
    """Return everything that lies in Redis, names and contents."""
    held: list[bytes] = []
    async with Redis.from_url(f"redis://:{REDIS_PASSWORD}@127.0.0.1:{hunt.valkey.port}") as redis:
        async for name in redis.scan_iter():
            held += [name, await redis.dump(name) or b""]
            if await redis.type(name) == b"hash":
                held += [repr(await redis.hgetall(name)).encode()]  # pyright: ignore[reportGeneralTypeIssues]
    return b"\n".join(held).decode("latin-1")


async def wrong_settings() -> Places:
    """Start with settings that are wrong by themselves or together, each with a secret in it."""
    secret = {
        "GATEWAY_REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:1",
        "GATEWAY_VIDEOSDK_API_KEY": API_KEY,
        "GATEWAY_VIDEOSDK_SECRET": SECRET,
        "GATEWAY_VIDEOSDK_TOKEN": TOKEN,
        "GATEWAY_JWT_JWKS_URL": f"https://idp.example/?key={JWKS_QUERY}",
    }
    # Each secret with something in it that cannot be, and each in every setting that it does not belong to.
    bad = {name: f"{value} \x7f" for name, value in secret.items()}
    astray = {row.variable: f"{SECRET} {TOKEN} {REDIS_PASSWORD}" for row in SETTINGS}
    unknown = {f"GATEWAY_{name.removeprefix('GATEWAY_')}X": value for name, value in secret.items()}
    both = secret | {"GATEWAY_AUTH": "none"}
    ways = {"bad values": bad, "secrets astray": astray, "unknown names": unknown, "both ways at once": both}
    printed = await asyncio.gather(*(command("serve", settings) for settings in ways.values()))
    assert all("cannot run with these settings" in text for text in printed)
    return {f"gateway serve, {way}": text for way, text in zip(ways, printed, strict=True)}


@pytest.mark.timeout(180)
async def test_leak_hunt_finds_no_secret(tmp_path: Path) -> None:
    """Whatever went wrong: no secret in a log, an answer, a crash, a check, a refusal to start, or in Redis."""
    places: Places = {}
    async with hunted(tmp_path, places) as hunt_:
        secrets = hunt_.secrets | {"GATEWAY_VIDEOSDK_TOKEN": TOKEN}
        await strike_every_fault(hunt_)
        await ask_badly(hunt_)
        await break_records(hunt_)
        places["Redis"] = await what_redis_holds(hunt_)
        hunt_.valkey.kill()
        await asyncio.gather(hunt_.start("away"), hunt_.stop("away"), hunt_.ask("GET", "/readyz"))
        provoked = hunt_.problems
    places |= await wrong_settings()

    assert hunt(secrets, places) == []
    # It was worth searching: nearly every problem came up, an exception was logged, and nothing of it is empty.
    assert set(PROBLEMS) - provoked <= {
        "still-stopping",
        "headers-too-large",
        "newer-record",
        "shutting-down",
        "too-many-requests",
        "too-many-waiting",
        "identity-unavailable",
        "upstream-unavailable",
    }
    assert "request.failed" in places["logs"]
    assert "Traceback" in places["logs"] or '"exception"' in places["logs"]
    assert all(places.values())


PLANTED = {"plain": str, "in a URL": partial(quote, safe=""), "in JSON": json.dumps}


@pytest.mark.parametrize("how", PLANTED)
@pytest.mark.parametrize("name", ["a", "b"])
def test_leak_hunt_finds_a_planted_secret_in_its_place(name: str, how: str) -> None:
    """Each secret in each place fills just its own cell of the table, however it is written."""
    secrets = {"a": "hunted/secret+1=", "b": "another-hunted-secret"}
    places = {"logs": "nothing\n", "answers": f"x{PLANTED[how](secrets[name])}y", "check": "nothing"}
    assert hunt(secrets, places) == [(name, "answers")]


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
def test_leak_hunt_finds_a_secret_in_base64(before: str) -> None:
    """As in a Basic header, whatever stands before it."""
    hidden = base64.b64encode(f"{before}{REDIS_PASSWORD}:more".encode()).decode()
    assert hunt({"the password": REDIS_PASSWORD}, {"logs": hidden}) == [("the password", "logs")]
