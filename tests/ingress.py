"""A real ingress: HAProxy, which shows a gateway under a prefix and strips it."""

import asyncio
import shutil
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.sandbox.ports import free_port
from tests import harness

__all__ = ["PREFIX", "behind_an_ingress"]

PREFIX: Final = "/recording"
_CONFIGURATION: Final = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen ingress
    bind 127.0.0.1:{port}
    http-request set-path %[path,regsub(^{prefix}/,/)]
    server gateway {gateway}
"""


@asynccontextmanager
async def behind_an_ingress(settings: Mapping[str, str], folder: Path) -> AsyncGenerator[str]:
    """Serve a gateway that knows its public address, under a prefix; yields that address."""
    if (haproxy := shutil.which("haproxy")) is None:
        harness.skip_unless_ci("haproxy is not installed")
    port = free_port()
    address = f"http://127.0.0.1:{port}{PREFIX}"
    async with harness.serve({**settings, "GATEWAY_PUBLIC_URL": address}) as url:
        file = folder / "haproxy.cfg"
        file.write_text(_CONFIGURATION.format(port=port, prefix=PREFIX, gateway=urlsplit(url).netloc))
        process = await asyncio.create_subprocess_exec(haproxy, "-db", "-q", "-f", str(file))
        try:
            await harness.eventually(lambda: _listens(port))
            yield address
        finally:
            process.kill()
            await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
