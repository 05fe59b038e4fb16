"""Calls to VideoSDK through a proxy: what it sees, and what its failures prove."""

import base64
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from gateway.errors import MayHaveHappened, NeverSent
from gateway.recordings import Kind, Mode, Target
from gateway.sandbox.simulator import Simulator
from gateway.secrets import Secret
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.tokens import MintedTokens
from gateway.videosdk.transport import BEFORE_SEND, Limits, Proxy, Transport
from tests import harness
from tests.forward_proxy import ForwardProxy
from tests.videosdk.test_transport import tls_server

pytestmark = pytest.mark.anyio

TRACK = Target(Mode.TRACK, "room-1", "ada", Kind.VIDEO)
IN_A_URL, PLAIN = "us%40er:p%3Ass%2Fword", "us@er:p:ss/word"
SHOWN = base64.b64encode(PLAIN.encode())


@pytest.fixture
async def proxy() -> AsyncGenerator[ForwardProxy]:
    """A proxy that asks for a password."""
    async with ForwardProxy(PLAIN) as proxy:
        yield proxy


def client(url: str, proxy: str, timeout: float = 30) -> VideoSDK:
    """Make the client, with a proxy."""
    return VideoSDK(url, MintedTokens(harness.API_KEY, Secret(harness.SECRET)), timeout=timeout, proxy=lambda: proxy)


async def over_tls(folder: Path, proxy: str, sent: list[bool], timeout: float = 30) -> bytes:
    """Send a request to a server that speaks TLS, and note when it may leave."""
    async with tls_server(folder, []) as (port, authority):
        transport = Transport(ssl.create_default_context(cafile=str(authority)), Limits(), lambda: Proxy.at(proxy))
        try:
            extensions = {BEFORE_SEND: lambda: sent.append(True), "timeout": {"connect": timeout, "read": timeout}}
            request = httpx.Request(
                "POST", f"https://127.0.0.1:{port}/secret?x=1", content=b"body", extensions=extensions
            )
            return await (await transport.handle_async_request(request)).aread()
        finally:
            await transport.aclose()


async def test_call_over_tls_goes_through_a_tunnel(tmp_path: Path, proxy: ForwardProxy) -> None:
    """The proxy learns the host and its own password, and not a byte of the request; the name is checked as ever."""
    sent: list[bool] = []
    assert await over_tls(tmp_path, proxy.url(IN_A_URL), sent)
    (head,) = proxy.heads
    assert head.startswith(b"CONNECT 127.0.0.1:")
    assert b"proxy-authorization: Basic " + SHOWN in head
    assert b"secret" not in head
    assert sent == [True]


async def test_call_in_the_clear_goes_to_the_proxy_with_its_whole_address(
    simulator: Simulator, proxy: ForwardProxy
) -> None:
    """VideoSDK gets the same request as without, and none of the proxy's password."""
    videosdk = client(simulator.url, proxy.url(IN_A_URL))
    await videosdk.start(TRACK)
    rows = await videosdk.list_rows("/v2/recordings/participant/track", "room-1", "ada")
    await videosdk.aclose()
    assert [row.participant_id for row in rows] == ["ada"]
    assert [call.endpoint for call in simulator.calls] == ["start", "list"]
    assert proxy.heads[0].startswith(f"POST {simulator.url}/v2/recordings/participant/track/start HTTP/1.1".encode())


REFUSALS = {
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 5\r\n\r\nsorry",
    "403": b"HTTP/1.1 403 Forbidden\r\n\r\n",
    "502": b"HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\n\r\n<html>",
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "words of the other side": b"HTTP/1.1 200 OK\r\n\r\nunasked",
    "no end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    "half a head": b"HTTP/1.1 200 OK\r\nx:",
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_tunnel_that_is_refused_proves_that_nothing_was_sent(
    refusal: bytes, tmp_path: Path, proxy: ForwardProxy
) -> None:
    """Whatever the proxy says in place of a tunnel: the request had not begun."""
    proxy.refusal = refusal
    sent: list[bool] = []
    with pytest.raises(httpx.ProxyError):
        await over_tls(tmp_path, proxy.url(), sent)
    assert sent == []
    videosdk = client("https://127.0.0.1:1", proxy.url())
    with pytest.raises(NeverSent):
        await videosdk.start(TRACK)
    await videosdk.aclose()


async def test_tunnel_that_does_not_come_proves_that_nothing_was_sent(tmp_path: Path, proxy: ForwardProxy) -> None:
    """A proxy that says nothing, one that is not there, and a host behind it that is not."""
    proxy.silent = True
    sent: list[bool] = []
    with pytest.raises(httpx.ConnectTimeout):
        await over_tls(tmp_path, proxy.url(), sent, timeout=0.1)
    assert sent == []
    proxy.silent = False
    for url, through in (("https://127.0.0.1:1", proxy.url(IN_A_URL)), ("https://localhost:1", "http://127.0.0.1:1")):
        videosdk = client(url, through)
        with pytest.raises(NeverSent):
            await videosdk.start(TRACK)
        await videosdk.aclose()


async def test_call_in_the_clear_that_the_proxy_fails_may_have_happened(
    simulator: Simulator, proxy: ForwardProxy
) -> None:
    """What was given to the proxy may have been passed on, whatever it says of it."""
    proxy.refusal = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
    videosdk = client(simulator.url, proxy.url(IN_A_URL))
    with pytest.raises(MayHaveHappened):
        await videosdk.start(TRACK)
    await videosdk.aclose()


def test_proxy_shows_no_password() -> None:
    """Neither the way to it, nor the client that uses it, when they are printed."""
    url = f"http://{IN_A_URL}@proxy.example:3128"
    for shown in (repr(Proxy.at(url)), repr(client("https://api.example", url))):
        assert "word" not in shown
        assert SHOWN.decode() not in shown
