"""What the token may never touch, and how it is replaced without a restart."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest

from gateway.errors import NeverSent
from gateway.recordings import Kind, Mode, Target
from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.secrets import Secret
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.tokens import FixedToken, MintedTokens
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.leaks import EVIDENCE

pytestmark = pytest.mark.anyio

NEW_SECRET = "rotated-secret-0123456789abcdef0123456789"
EVIDENCE.guard(NEW_SECRET, "the rotated VideoSDK secret")

CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]


def numbered(room: str, number: int) -> Target:
    """Return one of a room's tracks."""
    return Target(Mode.TRACK, room, f"p{number}", Kind.VIDEO)


def replace(file: Path, text: str) -> None:
    """Replace a file in one step."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def logged() -> list[str]:
    """Return what gateways of this process have logged so far."""
    return harness.log_lines(Path(EVIDENCE.log.name))


@asynccontextmanager
async def gateway_at(
    valkey: EmbeddedValkey, videosdk_url: str, demo: harness.Demo, **settings: str
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway with credentials of its own."""
    environ = harness.environment(valkey.url, videosdk_url, demo.file, **harness.CALM)
    for name in ("GATEWAY_VIDEOSDK_API_KEY", "GATEWAY_VIDEOSDK_SECRET"):
        del environ[name]
    async with harness.serve(environ | settings) as url, harness.client(url, demo.key) as client:
        yield client


async def test_mounted_secret_is_replaced_without_a_restart(
    valkey: EmbeddedValkey, demo: harness.Demo, signer: object, tmp_path: Path, new_track: NewTrack
) -> None:
    """VideoSDK knows the new secret, then the file holds it: starts succeed again, and so do new join tokens."""
    key, secret = tmp_path / "api-key", tmp_path / "secret"
    key.write_text(f"{harness.API_KEY}\n")
    secret.write_text(f"{harness.SECRET}\n")
    simulator = harness.simulator(signer=signer)
    async with simulator:
        files = {"GATEWAY_VIDEOSDK_API_KEY_FILE": str(key), "GATEWAY_VIDEOSDK_SECRET_FILE": str(secret)}
        async with gateway_at(valkey, simulator.url, demo, **files, GATEWAY_JOIN_TOKENS="on") as client:
            assert (await client.start(new_track())).status_code == 201
            simulator._secret = NEW_SECRET
            replace(secret, f"\ufeff{NEW_SECRET}\r\n")

            async def started() -> int:
                return (await client.start(new_track())).status_code

            await harness.until(started, lambda status: status == 201)
            track = new_track()
            made = {secret: _join(secret, track) for secret in (harness.SECRET, NEW_SECRET)}
            old = await client.start(track, headers={"authorization": f"Bearer {made[harness.SECRET]}"})
            new = await client.start(track, headers={"authorization": f"Bearer {made[NEW_SECRET]}"})
            assert (old.status_code, new.status_code) == (401, 201)

            for rubbish in ("", "two words", "\0"):
                replace(secret, rubbish)
                assert await started() == 201
            secret.unlink()
            assert await started() == 201


def _join(secret: str, track: dict[str, str]) -> str:
    return demo_join_token(harness.API_KEY, secret, room=track["roomId"], participant=track["participantId"])


async def test_videosdk_api_key_replaced_keeps_every_record(
    valkey: EmbeddedValkey, demo: harness.Demo, signer: object, tmp_path: Path, new_track: NewTrack
) -> None:
    """Calls go out under the new key, the running recording stays known, and the log warns once, without either key."""
    key = tmp_path / "api-key"
    key.write_text(harness.API_KEY)
    simulator = harness.simulator(signer=signer)
    async with simulator:
        settings = {"GATEWAY_VIDEOSDK_API_KEY_FILE": str(key), "GATEWAY_VIDEOSDK_SECRET": harness.SECRET}
        async with gateway_at(valkey, simulator.url, demo, **settings) as client:
            track = new_track()
            assert (await client.start(track)).status_code == 201
            simulator._api_key = "rotated-api-key"
            replace(key, "rotated-api-key")

            async def started() -> int:
                return (await client.start(new_track())).status_code

            before = len(logged())
            await harness.until(started, lambda status: status == 201)
            again = await client.start(track)
            assert (again.status_code, again.json()["outcome"]) == (200, "already_recording")
    (warned,) = [line for line in logged()[before:] if '"project.changed"' in line]
    assert '"level": "warning"' in warned
    assert "api-key" not in warned


async def test_mounted_token_is_replaced_without_a_restart(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path, new_track: NewTrack
) -> None:
    """A token that VideoSDK refuses is the operator's to mend: by replacing the file, and nothing else."""
    file = tmp_path / "token"
    file.write_text(MintedTokens(harness.API_KEY, Secret("wrong-" + NEW_SECRET)).current())
    settings = {"GATEWAY_VIDEOSDK_TOKEN_FILE": str(file), "GATEWAY_VERIFY_ABSENT": "never"}
    async with gateway_at(valkey, simulator.url, demo, **settings) as client:
        assert (await client.start(new_track())).status_code == 502
        replace(file, harness.management_token())

        async def started() -> int:
            return (await client.start(new_track())).status_code

        await harness.until(started, lambda status: status == 201)


def test_videosdk_token_is_minted_anew_when_its_key_or_secret_changes() -> None:
    """Another key or another secret ends the use of a minted token at once; a given one is renewed by another."""
    held = {"key": "one", "secret": harness.SECRET}
    tokens = MintedTokens(lambda: held["key"], lambda: Secret(held["secret"]))
    first = tokens.current()
    assert tokens.current() is first
    held["key"] = "two"
    assert jwt.decode(tokens.current(), harness.SECRET, algorithms=["HS256"])["apikey"] == "two"
    held["secret"] = NEW_SECRET
    assert jwt.decode(tokens.current(), NEW_SECRET, algorithms=["HS256"])["apikey"] == "two"

    given = FixedToken(lambda: Secret(held["key"]))
    assert given.current() == "two"
    assert not given.renew()
    held["key"] = "three"
    assert given.renew()
    assert given.current() == "three"


async def test_upstream_call_beyond_the_rate_waits_or_is_not_sent(simulator: Simulator) -> None:
    """Calls a second are kept; a call that waits too long is not sent and uses up no turn."""
    tokens = MintedTokens(harness.API_KEY, Secret(harness.SECRET))
    videosdk = VideoSDK(simulator.url, tokens, timeout=harness.BOUND, calls_per_second=20)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(*(videosdk.start(numbered("room-1", number)) for number in range(10)))
    assert loop.time() - begun >= 9 / 20
    await videosdk.aclose()

    slow = VideoSDK(simulator.url, tokens, timeout=3, calls_per_second=0.1)
    calls = len(simulator.calls)
    ended = await asyncio.gather(
        *(slow.start(numbered("room-2", number)) for number in range(5)),
        return_exceptions=True,
    )
    assert [type(error) for error in ended] == [type(None)] + [NeverSent] * 4
    assert len(simulator.calls) == calls + 1
    await slow.aclose()


async def test_upstream_call_beyond_the_concurrency_waits_or_is_not_sent(simulator: Simulator) -> None:
    """Calls beyond the limit wait, and those whose wait is too long were never sent."""
    simulator.inject(harness.delay("start", 0.2))
    tokens = MintedTokens(harness.API_KEY, Secret(harness.SECRET))
    videosdk = VideoSDK(simulator.url, tokens, timeout=harness.BOUND, max_connections=3)
    await asyncio.gather(*(videosdk.start(numbered("room-3", number)) for number in range(9)))
    mine = [call for call in simulator.calls if call.room_id == "room-3"]
    for call in mine:
        assert sum(other.received <= call.received < (other.answered or 0) for other in mine) <= 3
    await videosdk.aclose()


async def test_request_with_headers_beyond_the_bound_is_refused(gateway: ApiClient) -> None:
    """Headers beyond it are refused cleanly, and an answer says nothing of the server that gave it."""
    url = urlsplit(str(gateway.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-long: ")
    # The last of these is one too many: nothing is left unread that would turn the answer into a reset.
    for _ in range(32):
        writer.write(b"x" * 1024)
        await writer.drain()
    refused = await reader.read()
    writer.close()
    assert refused.startswith(b"HTTP/1.1 4")
    assert b"Traceback" not in refused
    assert b"\r\nserver:" not in refused.lower()

    ordinary = await gateway.get("/livez", headers={"x-long": "x" * 8_000})
    assert ordinary.status_code == 200
    assert "server" not in ordinary.headers
    assert "x-powered-by" not in ordinary.headers
