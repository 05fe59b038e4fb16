"""A proxy on the way out: tunnels (CONNECT) and whole addresses, for those who show the right password."""

import asyncio
import base64
from contextlib import suppress
from typing import Final, Self
from urllib.parse import urlsplit

__all__ = ["ForwardProxy"]

_END: Final = b"\r\n\r\n"


class ForwardProxy:
    """A forwarding proxy on loopback.

    Attributes:
        refusal: What it answers instead of connecting anybody, where that is not empty.
        silent: It takes requests and answers nothing.
        heads: The heads of the requests that it got.
    """

    def __init__(self, credentials: str = "") -> None:
        self.refusal = b""
        self.silent = False
        self.heads: list[bytes] = []
        self._expected = base64.b64encode(credentials.encode()) if credentials else b""
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, credentials: str = "") -> str:
        """Return its address, with these credentials as they stand in a URL."""
        return f"http://{credentials}{'@' if credentials else ''}127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._connect(reader, writer)
        writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_END)
        self.heads.append(head)
        if self.silent:
            await reader.read()
            return
        allowed = not self._expected or b"proxy-authorization: Basic " + self._expected in head
        if self.refusal or not allowed:
            writer.write(self.refusal or b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 2\r\n\r\nno")
            await writer.drain()
            return
        method, target, _ = head.split(b" ", 2)
        if method == b"CONNECT":
            host, _, port = target.decode().rpartition(":")
            there = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            parts = urlsplit(target.decode())
            there = await asyncio.open_connection(parts.hostname, parts.port or 80)
            lines = [line for line in head.split(b"\r\n")[1:] if not line.startswith(b"proxy-")]
            path = f"{parts.path}{'?' if parts.query else ''}{parts.query}"
            there[1].write(b"%s %s HTTP/1.1\r\n" % (method, path.encode()) + b"\r\n".join(lines))
        await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    finally:
        writer.close()
