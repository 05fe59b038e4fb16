"""What only a process of its own shows: two of them, which differ in every such setting at once."""

import asyncio
import base64
import json
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from tests import harness
from tests.observability.collector import Collector
from tests.settings_reach.scene import Scene

__all__ = ["ADDRESSES", "Observed", "observe_processes"]

ADDRESSES = ("127.0.0.1", "127.0.0.2")
"""Both of this machine's loopback: Linux answers at each of 127.0.0.0/8."""

Observed = dict[str, tuple[object, object]]
"""By variable: what was seen of the first process, and of the second."""


_WHOLE: Final = b"GET /livez HTTP/1.1\r\nhost: gateway\r\n\r\n"
_HALF: Final = (
    b"POST /v1/webhooks/videosdk HTTP/1.1\r\nhost: gateway\r\ncontent-length: 250001\r\n"
    b"videosdk-signature: %b\r\n\r\n%b"
) % (base64.b64encode(bytes(256)), b"x" * 250_000)
_HALVES: Final = 5
"""As many of them are more than 1 MiB."""
_CONNECTIONS: Final = 40


class _Seen:
    """One process, and what is seen of it."""

    def __init__(self, process: harness.GatewayProcess, collector: Collector) -> None:
        self.process, self.collector = process, collector
        self.told: dict[str, object] = {}

    @property
    def lines(self) -> list[str]:
        return harness.log_lines(self.process.log)

    async def serve(self) -> None:
        """See where it serves, with how many workers, and what it logs of a request."""
        port = self.process.port
        # Several interpreters start at once: on a busy machine that takes longer than one alone is given.
        await harness.until(self._starts, timeout=80)
        await self.process.ready()
        self.told["GATEWAY_HOST"] = [address for address in ADDRESSES if _listens(address, port)]
        self.told["GATEWAY_PORT"] = str(port)
        self.told["GATEWAY_WORKERS"] = _workers(self.process.pid)
        async with harness.client(self.process.url) as gateway:
            answer = await gateway.get("/v1/recordings/track/room/somebody/video")
            assert answer.status_code == 404, answer.text
        idle, silent, *half = await asyncio.gather(
            self._end_of(_WHOLE), self._end_of(b""), *(self._end_of(_HALF) for _ in range(_HALVES))
        )
        self.told["GATEWAY_KEEP_ALIVE_SECONDS"] = idle is not None and idle.startswith(b"HTTP/1.1 200")
        self.told["GATEWAY_TRANSFER_SECONDS"] = silent is not None
        self.told["GATEWAY_UNFINISHED_MEBIBYTES"] = any(end and end.startswith(b"HTTP/1.1 503") for end in half)
        many = await asyncio.gather(*(self._end_of(b"", seconds=1) for _ in range(_CONNECTIONS)))
        self.told["GATEWAY_MOST_CONNECTIONS"] = any(end and end.startswith(b"HTTP/1.1 503") for end in many)

    async def _end_of(self, sent: bytes, seconds: float = 6) -> bytes | None:
        """Send something; return what came back, None where the connection is not closed within so many seconds."""
        parts = urlsplit(self.process.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(sent)
        try:
            async with asyncio.timeout(seconds):
                return await reader.read()
        except TimeoutError:
            return None
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def _starts(self) -> bool:
        return any(_listens(address, self.process.port) for address in ADDRESSES)

    async def end(self) -> None:
        """See whether SIGTERM is only announced, and after the end what was logged and traced."""
        self.process.signal(signal.SIGTERM)
        announced = self.told["GATEWAY_DRAIN_SECONDS"] = await self._announces()
        # What was only announced ends with a second signal; what ends already needs none.
        ended = await asyncio.to_thread(self.process.stop if announced else self.process.wait)
        assert ended == 0, self.process.log.read_text()
        warning = next(line for line in self.lines if "settings.warning" in line)
        self.told["GATEWAY_LOG_FORMAT"] = "json" if _is_json(warning) else "console"
        self.told["GATEWAY_LOG_LEVEL"] = any("request.answered" in line for line in self.lines)
        self.told["GATEWAY_TRACING"] = bool(self.collector.spans)

    async def _announces(self) -> bool:
        async with harness.client(self.process.url) as gateway:

            async def ready() -> int:
                try:
                    return (await gateway.get("/readyz")).status_code
                except httpx.TransportError:
                    return 0

            return await harness.until(ready, lambda status: status != 200) == 503


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def _workers(pid: int) -> int:
    """Count the children that serve: beside them there may be one that tracks their resources."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum("spawn_main" in Path(f"/proc/{child}/cmdline").read_text() for child in children)


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


async def observe_processes(scene: Scene, first: Mapping[str, str], second: Mapping[str, str]) -> Observed:
    """Run two processes with these variables, use them and end them; return what was seen."""
    async with Collector() as one, Collector() as other:
        with ExitStack() as stack:
            seen: list[_Seen] = []
            for number, (given, collector) in enumerate(((first, one), (second, other))):
                settings = await scene.environment({"GATEWAY_AUTH": "none", **collector.settings, **given})
                log = scene.folder / f"process-{number}.log"
                process = harness.GatewayProcess(settings, log, port=int(settings["GATEWAY_PORT"]))
                stack.callback(process.kill)
                process.url = f"http://{settings['GATEWAY_HOST']}:{process.port}"
                seen.append(_Seen(process, collector))
            for work in (_Seen.serve, _Seen.end):
                await asyncio.gather(*(work(process) for process in seen))
    return {variable: (seen[0].told[variable], seen[1].told[variable]) for variable in seen[0].told}
