"""A real load balancer before gateway processes: HAProxy, as Debian has it."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from gateway.sandbox.ports import free_port
from tests import harness

__all__ = ["Balancer", "balancer"]

# As an operator would write it, but for the pace. No request is sent twice: what fails is to be seen.
_CONFIGURATION: Final = """
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 5s
    retries 0
    option httpchk GET /readyz
    default-server check inter 100ms fall 1 rise 1 init-addr none
frontend callers
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    balance roundrobin
{servers}
listen status
    bind 127.0.0.1:{status}
    stats enable
    stats uri /
"""


class Balancer:
    """A running HAProxy.

    Attributes:
        url: Where callers find it.
    """

    def __init__(self, port: int, status: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._status = f"http://127.0.0.1:{status}/;csv"

    async def wait_for(self, serving: int) -> None:
        """Wait until it sends requests to so many."""
        await harness.until(
            self._servers, lambda servers: sum(one["status"] == "UP" for one in servers.values()) == serving
        )

    async def _servers(self) -> dict[str, dict[str, str]]:
        async with harness.client(self._status) as client:
            rows = (await client.get(self._status)).text.splitlines()
        names = rows[0].removeprefix("# ").split(",")
        servers = [dict(zip(names, row.split(","), strict=False)) for row in rows[1:]]
        return {row["svname"]: row for row in servers if row["pxname"] == "gateways" and row["svname"] != "BACKEND"}


@asynccontextmanager
async def balancer(ports: Sequence[int], folder: Path) -> AsyncGenerator[Balancer]:
    """Run one before the gateways on these ports."""
    binary = shutil.which("haproxy")
    if binary is None:
        harness.skip_unless_ci("haproxy is not installed")
    port, status = free_port(), free_port()
    servers = "\n".join(f"    server gateway{number} 127.0.0.1:{one}" for number, one in enumerate(ports))
    configuration = folder / "haproxy.cfg"
    configuration.write_text(_CONFIGURATION.format(port=port, status=status, servers=servers))
    with (folder / "haproxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(binary), "-db", "-f", str(configuration), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        running = Balancer(port, status)
        await harness.eventually(lambda: process.returncode is not None or _listens(status))
        assert process.returncode is None, (folder / "haproxy.log").read_text()
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
