"""Idle connections: none is closed while a request lies unread on it."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from gateway.api.sse import LINE
from gateway.serving.connection import LineProtocol
from tests import harness

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n"


class Answering:
    """An application that answers everything, and notes the connections that requests came on."""

    def __init__(self) -> None:
        self.lines: list[LineProtocol] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.lines.append(scope["state"][LINE])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("end", [LineProtocol.timeout_keep_alive_handler, LineProtocol.shutdown])
async def test_idle_connection_with_an_unread_request_is_closed_after_its_answer(
    end: Callable[[LineProtocol], None],
) -> None:
    """Its time is over, or the process ends, in the moment in which a request arrives: it is answered first."""
    app = Answering()
    async with harness.serve_app(app) as url:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, REQUEST)
            assert b"200 OK" in await loop.sock_recv(client, 1000)
            # Nothing runs in between: the server has not read it when it decides.
            client.send(REQUEST)
            end(app.lines[0])
            answered = b""
            while b"ok" not in answered:
                received = await loop.sock_recv(client, 1000)
                assert received, "closed without an answer"
                answered += received
            if end is LineProtocol.shutdown:
                assert await loop.sock_recv(client, 1000) == b""


async def test_idle_connection_without_a_request_is_closed() -> None:
    """Its time is over and nothing was asked: it does not stay for ever."""
    app = Answering()
    async with harness.serve_app(app) as url:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, REQUEST)
            assert b"200 OK" in await loop.sock_recv(client, 1000)
            app.lines[0].timeout_keep_alive_handler()
            assert await loop.sock_recv(client, 1000) == b""
