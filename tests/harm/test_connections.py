"""Connections that say nothing, send half and do not read: what they take up is bounded, and the end is not held up."""

import asyncio
import base64
import re
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import pytest

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START
from tests.observability.numbers import Numbers

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

CONNECTIONS: Final = 500
SIGNED: Final = b"videosdk-signature: %b\r\n" % base64.b64encode(bytes(256))
"""It could be VideoSDK's, as far as can be seen before the body is there."""
HALF_WEBHOOK: Final = (
    b"POST /v1/webhooks/videosdk HTTP/1.1\r\nhost: x\r\ncontent-length: 250001\r\n%b\r\n" + b"x" * 250_000
)
BUNDLE: Final = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\naccept-encoding: %b\r\n\r\n"
MEBIBYTE: Final = 1024 * 1024

_ESTABLISHED: Final = "01"
_LISTENS: Final = "0A"
"""States of connections, as the kernel numbers them."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
async def process(
    valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[harness.GatewayProcess]:
    """A gateway process with few connections."""
    folder = tmp_path_factory.mktemp("connections")
    demo = harness.Demo(folder)
    # VideoSDK is not asked for anything here.
    settings = harness.environment(valkey.url, "http://127.0.0.1:9", demo.file, **harness.CALM)
    settings["GATEWAY_MOST_CONNECTIONS"] = str(CONNECTIONS)
    # Who says nothing is let go after these, which make room for others; a request may not wait for less.
    settings |= {"GATEWAY_TRANSFER_SECONDS": "300", "GATEWAY_REQUEST_DEADLINE_SECONDS": "300"}
    process = await harness.GatewayProcess(settings, folder / "log").ready()
    try:
        yield process
    finally:
        process.kill()


def memory(process: harness.GatewayProcess) -> float:
    """Return the memory that a process holds, in MiB."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


async def connect(process: harness.GatewayProcess, stack: AsyncExitStack, source: str = "127.0.0.1") -> Connection:
    """Open a connection for as long as the stack stands."""
    # Small buffers, so that what is not read stays with the gateway.
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.bind((source, 0))
    plain.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", process.port))
        reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
    except OSError:
        plain.close()
        raise

    def abort() -> None:
        # Of the writer, which would else be forgotten, and close the connection by itself.
        writer.transport.abort()

    stack.callback(abort)
    return reader, writer


async def refused(process: harness.GatewayProcess, bound: str) -> float:
    """Return how often a bound has refused something."""
    async with harness.client(process.url) as client:
        return Numbers((await client.get("/metrics")).text).total("refused_total", bound=bound)


async def until_connections(process: harness.GatewayProcess, most: int) -> None:
    """Wait until no more connections than these are open: those of a test before may take a moment to end."""

    def count() -> int:
        # One that its client has reset is gone for the kernel, and keeps its place until the gateway has seen it.
        port, folder = f":{process.port:04X}", Path(f"/proc/{process.pid}")
        tcp = [line.split() for line in (folder / "net/tcp").read_text().splitlines()[1:]]
        local = (folder / "net/unix").read_text().splitlines()[1:]
        others = {line[9] for line in tcp if not line[1].endswith(port) or line[3] == _LISTENS}
        others |= {line.split()[6] for line in local}
        held = set[str]()
        for link in (folder / "fd").iterdir():
            with suppress(FileNotFoundError):  # it has just been closed
                if (name := str(link.readlink())).startswith("socket:"):
                    held.add(name[8:-1])
        to_be_accepted = [line for line in tcp if line[1].endswith(port) and line[9] == "0" and line[3] == _ESTABLISHED]
        return len(held - others) + len(to_be_accepted)

    await harness.eventually(lambda: count() <= most)


async def test_half_sent_bodies_take_bounded_memory(process: harness.GatewayProcess) -> None:
    """Half-sent webhooks of 250 kB, 48 MiB and then 14 more: these take no more, because the first of them give way.

    Bounded by: GATEWAY_UNFINISHED_MEBIBYTES, for all connections together.
    """
    await until_connections(process, 2)
    async with AsyncExitStack() as stack:

        async def send(count: int, source: str, given_way: int) -> Connection:
            """Send so many halves, and wait until so many in all have given way; return the first connection."""
            opened = [await connect(process, stack, source) for _ in range(count)]
            for _, writer in opened:
                writer.write(HALF_WEBHOOK % SIGNED)
            await harness.until(lambda: refused(process, "unfinished"), lambda found: found >= given_way)
            return opened[0]

        # 8 MiB are the halves of 33.
        reader, _ = await send(200, "127.0.0.1", 160)
        full = memory(process)
        await send(60, "127.0.0.2", 215)
        assert memory(process) - full < 8
        assert (await reader.readline()).startswith(b"HTTP/1.1 503")


async def test_half_sent_webhooks_without_a_signature_are_answered_at_once(process: harness.GatewayProcess) -> None:
    """Each is refused when its head is there: nothing is kept of its body, and none gives way for it."""
    await until_connections(process, 2)
    before = await refused(process, "unfinished")
    async with AsyncExitStack() as stack:
        for _ in range(50):
            reader, writer = await connect(process, stack)
            writer.write(HALF_WEBHOOK % b"")
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        assert await refused(process, "unfinished") == before


@pytest.mark.parametrize("encoding", [b"gzip", b"identity"])
async def test_unread_bundles_take_bounded_memory(process: harness.GatewayProcess, encoding: bytes) -> None:
    """60 clients ask for the docs' largest file, 1.7 MB as it is, again and again, and read nothing of it.

    Bounded by: all answers are the same bytes, compressed once where the client takes that.
    """
    await until_connections(process, 2)
    before = memory(process)
    async with AsyncExitStack() as stack:
        opened = [await connect(process, stack) for _ in range(60)]
        for _, writer in opened:
            # The first may fit into the kernel's buffers.
            writer.write((BUNDLE % encoding) * 4)
        for reader, _ in opened:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _ in range(10):
            # In which the answers behind the first ones would be seen.
            await asyncio.sleep(0.05)
            assert memory(process) - before < 20


async def test_connections_of_one_address_leave_places_to_others(process: harness.GatewayProcess) -> None:
    """More silent connections than there are places: half of them are let in, the others answered 503 and closed.

    Another address is served all the same. Bounded by: GATEWAY_MOST_CONNECTIONS, shared by addresses.
    """
    await until_connections(process, 2)
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS // 2):
            await connect(process, stack)

        async def answer() -> bytes:
            # One that is cut off instead comes again. One that is let in, for a connection of the test before that has
            # ended meanwhile, keeps that place, and the next one comes.
            with suppress(ConnectionError, TimeoutError):
                reader, _ = await connect(process, stack)
                async with asyncio.timeout(5):
                    return await reader.read()
            return b""

        assert b"connections-per-address" in await harness.until(answer)
        for _ in range(CONNECTIONS // 2):
            # Of those that are turned away a hundred at a time are answered, and others cut off.
            with suppress(ConnectionError):
                await connect(process, stack)
        reader, writer = await connect(process, stack, "127.0.0.2")
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await until_connections(process, 2)
    assert await refused(process, "connections-per-address") >= CONNECTIONS // 4


async def test_sigterm_waits_for_nothing_that_is_unfinished(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """Half a head, half a body, half a webhook, an unread file and a silent connection: the process ends all the same.

    Its requests may take five minutes, and a test waits for less. Bounded by: two seconds for what has not arrived, and
    five for what is not read.
    """
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    settings |= {"GATEWAY_REQUEST_DEADLINE_SECONDS": "300", "GATEWAY_TRANSFER_SECONDS": "300"}
    process = await harness.GatewayProcess(settings, tmp_path / "log").ready()
    head = f"POST {START} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {demo.key}\r\n"
    body = 'content-type: application/json\r\ncontent-length: 100\r\n\r\n{"roomId":'
    async with AsyncExitStack() as stack:
        for sent in (head, head + body, HALF_WEBHOOK % SIGNED, BUNDLE % b"identity", b""):
            _, writer = await connect(process, stack)
            writer.write(sent.encode() if isinstance(sent, str) else sent)
            await writer.drain()
        reader, writer = await connect(process, stack)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        # What came before it has been read.
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
    assert "Traceback" not in process.log.read_text()
