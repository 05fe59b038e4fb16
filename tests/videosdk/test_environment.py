"""Nothing in the environment leads a call to VideoSDK, and with it the token, anywhere else."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gateway.app import create_client, fetch_jwks
from gateway.errors import NeverSent
from gateway.recordings import Kind, Mode, Target
from gateway.sandbox.simulator import Simulator
from gateway.settings.load import load
from gateway.videosdk.client import VideoSDK
from tests import harness

pytestmark = pytest.mark.anyio

TRACK = Target(Mode.TRACK, "room-1", "ada", Kind.VIDEO)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Eavesdropper:
    """A server that keeps what it is sent, and answers nothing."""

    def __init__(self) -> None:
        self.connections = 0
        self.heard = b""
        self.port = 0

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection."""
        self.connections += 1
        self.heard += await reader.read(65536)
        writer.close()


@pytest.fixture
async def eavesdropper(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Eavesdropper]:
    """A listener at the address that every variable for proxies names, in both spellings."""
    listener = Eavesdropper()
    server = await asyncio.start_server(listener.listen, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    for name in ("NO_PROXY", "no_proxy", *PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    async with server:
        yield listener


def client(url: str, tmp_path: Path) -> VideoSDK:
    """Make the client as the gateway makes it, out of its settings."""
    settings = harness.environment("redis://127.0.0.1:1", url, harness.Demo(tmp_path).file, **harness.FAST)
    return create_client(load(settings))


@pytest.mark.parametrize("name", [spelling for name in PROXIES for spelling in (name, name.lower())])
async def test_call_with_a_proxy_in_the_environment_goes_to_videosdk_alone(
    simulator: Simulator, eavesdropper: Eavesdropper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A call over http arrives where it belongs, one over https goes nowhere else; the proxy receives neither."""
    monkeypatch.setenv(name, f"http://127.0.0.1:{eavesdropper.port}")
    videosdk = client(simulator.url, tmp_path / "http")
    await videosdk.start(TRACK)
    assert [call.endpoint for call in simulator.calls] == ["start"]
    await videosdk.aclose()

    over_tls = client("https://127.0.0.1:1", tmp_path / "https")
    with pytest.raises(NeverSent):
        await over_tls.start(TRACK)
    await over_tls.aclose()
    with pytest.raises(OSError, match="HTTPStatusError"):
        await fetch_jwks(f"{simulator.url}/no-such-document")
    assert (eavesdropper.connections, eavesdropper.heard) == (0, b"")
