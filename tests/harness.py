"""The gateway as tests run it: on a real socket in the test's own loop, or as real processes."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar, cast

import httpx
import pytest
import redis
import uvicorn
from litestar.types import ASGIApp
from redis.exceptions import MovedError
from typing_extensions import override

from gateway.app import create_app
from gateway.auth.api_keys import new_key
from gateway.auth.policy import Scope
from gateway.sandbox import tether
from gateway.sandbox.calls import Call
from gateway.sandbox.faults import Fault
from gateway.sandbox.ports import PORTS, free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey, packaged_binary
from gateway.secrets import Secret
from gateway.serving.connection import LineProtocol
from gateway.serving.server import SERVER
from gateway.settings.load import load
from gateway.store.scripts import BUCKETS
from gateway.videosdk.tokens import MintedTokens
from tests.api_client import ApiClient
from tests.leaks import EVIDENCE

T = TypeVar("T")

API_KEY = "test-api-key-5f1b"
SECRET = "test-secret-0123456789abcdef0123456789abcdef"
"""Distinctive, so that a leak is found by searching for it."""
EVIDENCE.guard(SECRET, "the VideoSDK secret")

FAST: dict[str, str] = {
    "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "1.5",
    "GATEWAY_SEND_WINDOW_SECONDS": "0.95",
    "GATEWAY_SETTLE_SECONDS": "0.7",
    "GATEWAY_LEASE_SECONDS": "2",
    "GATEWAY_REQUEST_DEADLINE_SECONDS": "10",
}
"""The protocol's times scaled down, in the proportions of the defaults: for tests that wait for one of them."""

CALM: dict[str, str] = {
    "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "12",
    "GATEWAY_SEND_WINDOW_SECONDS": "5",
    "GATEWAY_SETTLE_SECONDS": "0.7",
    "GATEWAY_LEASE_SECONDS": "8",
    "GATEWAY_REQUEST_DEADLINE_SECONDS": "60",
}
"""Times that a busy machine does not miss: for tests in which nothing has to run out."""

BRIEF: dict[str, str] = {
    **CALM,
    "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "4",
    "GATEWAY_SEND_WINDOW_SECONDS": "2",
}
"""Nearly as calm, with a Q of 6.7 s instead of 17.7: for tests in which nothing but Q has to run out."""

_TRUSTED = httpx.create_ssl_context()
"""Made once: it takes as long as a dozen of the requests that a test sends."""

_GRACE = 5.0
"""Seconds that requests have when their gateway is to end."""

BOUND = 60.0
"""Seconds that a condition may take to come true: generous, because only a failing test waits for so long."""


def age(server: EmbeddedValkey) -> None:
    """Have a server look as if it had been up for long, so that its memory is believed: gateways are ready at once."""
    with redis.Redis.from_url(server.url) as admin:
        run, since = admin.info("server")["run_id"], int(time.time() * 1000) - 600_000  # pyright: ignore
        with admin.pipeline(transaction=False) as marks:
            for bucket in range(BUCKETS):
                marks.set(f"rec:{{{bucket:02d}}}:epoch", f"{run}:{since}", ex=3600)
            refused = [answer for answer in marks.execute(raise_on_error=False) if answer is not True]
    # Of a Cluster, each node keeps a part of them.
    assert all(isinstance(answer, MovedError) for answer in refused), refused


def scheduled(client: redis.Redis, what: str) -> list[str]:
    """Return the sets that say which records must be looked at (`due`), or must end (`ends`), and when."""
    # A record's own key is longer, and may end in any participant's id.
    return [key for key in cast("list[str]", client.keys(f"rec:{{??}}:*:{what}")) if key.count(":") == 3]


def unschedule(client: redis.Redis, what: str) -> None:
    """Have no gateway look at the records that lie on a server, or end them, until a caller comes for one."""
    if keys := scheduled(client, what):
        client.delete(*keys)


class AgedValkey(EmbeddedValkey):
    """A server whose memory is believed: before a new one, every first start waits for Q, which takes seconds.

    After `restart` it is a server that has forgotten.
    """

    def start(self) -> Self:
        """Start it, and have it look old."""
        super().start()
        age(self)
        return self


class PatientValkey(AgedValkey):
    """An old server that no test harms: where it answers late, the machine is busy, and no caller needs to notice."""

    @property
    def url(self) -> str:
        """Its address, with time-outs that a busy machine does not miss."""
        return f"{super().url}?socket_connect_timeout=20&socket_timeout=20"


def node_port() -> int:
    """Return a free port where the other one that a node of a Cluster listens at, 10,000 above, is free and stays so.

    0, which has the server look for one, where the kernel leaves too few.
    """
    first, last = PORTS
    while first + 11_000 < last:
        port = free_port(last - 10_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port + 10_000)):
            return port
    return 0


def scoped(entry: str, *scopes: str) -> str:
    """Return the lines of a caller with these scopes instead of those that a new key has; without any with all."""
    listed = ", ".join(f'"{scope}"' for scope in (scopes or tuple(Scope)))
    return re.sub(r"^scopes = .*$", f"scopes = [{listed}]", entry, flags=re.MULTILINE)


def keys_in(*entries: str) -> str:
    """Return the line `keys = […]` of one caller that has the keys of all these entries."""
    listings = [re.findall(r"^keys = \[(.*)\]$", entry, flags=re.MULTILINE)[0] for entry in entries]
    return f"keys = [{', '.join(listings)}]\n"


class Demo:
    """A caller with a key, and the file that makes it valid."""

    def __init__(self, folder: Path, name: str = "demo") -> None:
        self.name = name
        self.key, entry = new_key(name)
        folder.mkdir(exist_ok=True)
        self.file = folder / "callers.toml"
        # Tests send webhooks to servers of their own; limits have tests of their own, and others count scripts.
        self.file.write_text(f"{entry}webhook_http = true\nwebhook_private = true\nstarts_per_minute = 0\n")
        EVIDENCE.guard(self.key.split("_", 2)[2], f"the key of {name}")


def environment(redis_url: str, videosdk_url: str, callers_file: Path, **more: str) -> dict[str, str]:
    """Return the settings of a gateway under test."""
    return {
        "GATEWAY_REDIS_URL": redis_url,
        "GATEWAY_VIDEOSDK_URL": videosdk_url,
        "GATEWAY_VIDEOSDK_API_KEY": API_KEY,
        "GATEWAY_VIDEOSDK_SECRET": SECRET,
        "GATEWAY_CALLERS_FILE": str(callers_file),
        "GATEWAY_TRACK_STARTS_PER_MINUTE": "0",
        "GATEWAY_CALLER_QUESTIONS_PER_MINUTE": "0",
        # What looks by itself disturbs tests that count commands and calls.
        "GATEWAY_CHECK_SECONDS": "0",
        "GATEWAY_RETRY_REFUSED_SECONDS": "0",
        **more,
    }


def client(url: str, key: str | None = None) -> ApiClient:
    """Return a client of a gateway: no proxies, a generous time-out, as many connections as asked for."""
    return ApiClient(
        base_url=url,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=60,
        # An idle connection is ended from this side: where both do so after as long, a request meets the server's end.
        limits=httpx.Limits(max_connections=None, keepalive_expiry=1),
        trust_env=False,
        verify=_TRUSTED,
    )


@asynccontextmanager
async def serve(settings: Mapping[str, str], *, public: bool = False) -> AsyncGenerator[str]:
    """Serve the gateway on a real socket in this event loop, known to VideoSDK or not; yields its address."""
    with _listening() as listener:
        own = {"GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{listener.getsockname()[1]}"} if public else {}
        async with serve_app(create_app(load({**settings, **own})), listener) as url:
            yield url


@asynccontextmanager
async def serve_app(
    app: ASGIApp, listener: socket.socket | None = None, *, connections: type[LineProtocol] = LineProtocol
) -> AsyncGenerator[str]:
    """Serve an application of one's own the way the gateway is served."""
    options: dict[str, Any] = {**SERVER, "http": connections}
    config = uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        timeout_keep_alive=round(BOUND),
        **options,
    )
    server = _Server(config)
    listener = listener or _listening()
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await eventually(lambda: server.started or task.done())
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.asked_to_end.set()
        await task
        listener.close()


class _Server(uvicorn.Server):
    """Ends as uvicorn's does, but at once: that one looks ten times a second, and hundreds of tests wait."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.asked_to_end = asyncio.Event()

    @override
    async def main_loop(self) -> None:
        while not self.asked_to_end.is_set():
            await self.on_tick(0)  # the `Date` of the answers
            with suppress(TimeoutError):
                await asyncio.wait_for(self.asked_to_end.wait(), 1)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for closed in (*self.servers, *(sockets or ())):
            closed.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with suppress(AssertionError):
            await eventually(lambda: not (self.server_state.connections or self.server_state.tasks), _GRACE)
        for unfinished in self.server_state.tasks:
            unfinished.cancel()
        await self.lifespan.shutdown()


def _listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    # Asyncio sets this for sockets that it made itself. Without it each answer, whose head and body are written one
    # after the other, waits 40 ms for the client's kernel to say that it has the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def eventually(condition: Callable[[], object], timeout: float = BOUND) -> None:
    """Wait until a condition holds that costs nothing to look at."""

    async def look() -> object:
        return condition()

    await until(look, timeout=timeout, every=0.005)


def wait_until(condition: Callable[[], object], timeout: float = BOUND) -> None:
    """Wait until a condition holds, outside of an event loop."""
    give_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < give_up, f"the condition did not come true in {timeout:g} s"
        time.sleep(0.01)


async def until(
    ask: Callable[[], Awaitable[T]],
    accept: Callable[[T], object] = bool,
    timeout: float = BOUND,
    every: float = 0.05,
) -> T:
    """Ask again and again until an answer is acceptable, and return it: the one loop that tests wait in."""
    give_up = time.monotonic() + timeout
    while not accept(answer := await ask()):
        assert time.monotonic() < give_up, f"no acceptable answer in {timeout:g} s; the last: {answer}"
        await asyncio.sleep(every)
    return answer


def log_lines(log: Path, begin: int = 0) -> list[str]:
    """Return what was logged from a byte on, without a line that is still being written."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().splitlines(keepends=True)
    return [line.decode().rstrip() for line in lines if line.endswith(b"\n")]


async def turns(count: int = 1) -> None:
    """Let the event loop go round so many times. Not a wait: what is ready to run now runs."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until_ready(*gateways: ApiClient) -> None:
    """Wait until gateways reach their Redis: the first call finds it, shakes hands and loads scripts, all in 1.5 s.

    On a busy machine that may be too short, and then a start is honestly refused.
    """
    for gateway in gateways:
        await until(lambda gateway=gateway: gateway.get("/readyz"), lambda answer: answer.is_success)


def skip_unless_ci(reason: str) -> NoReturn:
    """Skip with a reason on a developer's machine; fail on CI, where a skip would hide that nothing was tested."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must not skip this: {reason}")
    pytest.skip(reason)


def management_token() -> str:
    """Return a token that the simulator accepts, for callers that go around the gateway."""
    return MintedTokens(API_KEY, Secret(SECRET)).current()


def calls_for(simulator: Simulator, room: str) -> list[Call]:
    """Return what VideoSDK was asked of a room: of others, a gateway may have something left to find out."""
    return [call for call in simulator.calls if call.room_id == room]


def delay(endpoint: str, seconds: float, **match: str) -> Fault:
    """Have every call of an endpoint of the simulator take a while before it is applied."""
    return Fault(action="delay", endpoint=endpoint, seconds=seconds, times=None, **match)  # pyright: ignore[reportArgumentType]


@contextmanager
def sentinel(configuration: Path, binary: str | None = None) -> Generator[None]:
    """Run a Sentinel from its configuration file; the package's own unless a binary is given."""
    process = subprocess.Popen(
        [sys.executable, tether.__file__, binary or str(packaged_binary()), str(configuration), "--sentinel"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield
        finally:
            if process.stdin:
                process.stdin.close()


@dataclass(frozen=True)
class Variant:
    """How a gateway is run, where not as it stands here.

    Attributes:
        module: What Python runs.
        folder: From where; another package of the same name that lies there comes first.
        environ: More variables, which are not the gateway's settings.
    """

    module: str = "gateway"
    folder: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict[str, str])


_AS_IT_STANDS = Variant()


_running: "set[GatewayProcess]" = set()
"""What was started and has not ended."""


@contextmanager
def no_process_left() -> Generator[None]:
    """Kill the gateways that a test has started and, because it failed, has not ended.

    The failure's traceback keeps them, and so their tethers: until the session ends they would look after the tracks of
    other tests, and they hold the pipe that the session writes to.
    """
    before = set(_running)
    try:
        yield
    finally:
        for process in _running - before:
            process.kill()


class GatewayProcess:
    """A real gateway process, tied to the life of the test."""

    def __init__(
        self,
        settings: Mapping[str, str],
        log: Path,
        variant: Variant = _AS_IT_STANDS,
        *,
        port: int | None = None,
        public: bool = False,
        command: tuple[str, ...] = (),
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"GATEWAY_PUBLIC_URL": self.url} if public else {}
        self.log = log
        EVIDENCE.add(log)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        self._environ = {**kept, **settings, **own, **variant.environ, "GATEWAY_PORT": str(self.port)}
        self._tether, self.pid = self._start(variant, command)
        _running.add(self)

    def _start(self, variant: Variant, command: tuple[str, ...]) -> tuple[Any, int]:
        """Start the process; return what ends it when its input is closed, and its process id."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, tether.__file__, *(command or (sys.executable, "-m", variant.module)), "serve"],
                env=self._environ,
                cwd=variant.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        assert process.stdout
        return process, int(process.stdout.readline())

    async def ready(self) -> Self:
        """Wait until it serves."""
        async with client(self.url) as probe:

            async def serves() -> bool:
                assert self._tether.poll() is None, "it has ended"
                try:
                    return (await probe.get("/livez")).is_success
                except httpx.TransportError:
                    return False

            try:
                await until(serves)
            except AssertionError as waited:
                raise AssertionError(self.log.read_text()) from waited
        return self

    def signal(self, number: int) -> None:
        """Send a signal to the gateway itself."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """Ask it to end and wait for that; its exit code."""
        if self._tether.poll() is None:
            self._tether.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends by itself; its exit code. One that does not end is killed."""
        try:
            return self._tether.wait(BOUND)
        finally:
            self._let_go()
            EVIDENCE.keep(self.log)

    def kill(self) -> None:
        """End it as a crash would."""
        self._let_go()
        self._tether.wait(BOUND)
        EVIDENCE.keep(self.log)

    def _let_go(self) -> None:
        _running.discard(self)
        for pipe in (self._tether.stdin, self._tether.stdout):
            if pipe is not None:
                pipe.close()


"""Of this module alone: tests set the seed of the module's own, and workers would all draw the same ports."""


def simulator(**options: object) -> Simulator:
    """Return a simulator that accepts the tests' credentials."""
    return Simulator(api_key=API_KEY, secret=SECRET, **options)  # pyright: ignore[reportArgumentType]
