"""What a setting is observed with: a gateway served on a socket, between real servers that can be looked at."""

import asyncio
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from redis.asyncio import Redis

from gateway.sandbox.identities import IdentityProvider
from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from gateway.sandbox.wire import Exchange, Reply, Request, Server
from tests import harness
from tests.api_client import START, STOP, ApiClient
from tests.bench.processes import Served
from tests.forward_proxy import ForwardProxy
from tests.papers import make_papers

__all__ = ["START", "STOP", "Given", "Observe", "Row", "Scene", "Upstream"]


Given = Mapping[str, str | None]
"""Variables, over those of every test; None takes one away."""


class Upstream:
    """A VideoSDK that holds every start, or every list, until it is released, and lists nothing.

    Args:
        holds: The method of what it holds.
    """

    def __init__(self, holds: str = "POST") -> None:
        self.holds = holds
        self.starts: list[Request] = []
        self.in_flight = self.peak = 0
        self.released = asyncio.Event()
        self.server = Server(self._take, host="127.0.0.1", port=0)

    async def _take(self, exchange: Exchange) -> None:
        if exchange.request.method == self.holds:
            self.starts.append(exchange.request)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            await self.released.wait()
            self.in_flight -= 1
        listed, started = b'{"pageInfo":{"lastPage":1},"data":[]}', b'"track recording started successfully."'
        exchange.reply(Reply(200, listed if exchange.request.method == "GET" else started))


class Scene:
    """One row's servers, and the names by which the table speaks of what only exists while they run."""

    def __init__(self, valkey: EmbeddedValkey, simulator: Simulator, folder: Path, stack: AsyncExitStack) -> None:
        self.valkey, self.simulator, self.folder, self._stack = valkey, simulator, folder, stack
        self.demo = harness.Demo(folder / "demo")
        self._names: dict[str, str] = {}
        self._kept: dict[str, Any] = {}

    def keep(self, name: str, thing: object) -> str:
        """Keep what stands behind a name of the table."""
        self._kept[name] = thing
        return name

    def kept(self, name: str) -> Any:
        """Return what stands behind a name of the table."""
        return self._kept[name]

    async def fill(self, text: str) -> str:
        """Replace a name in braces, `{other-server}`, by what it stands for; the same every time."""
        if not text.startswith("{"):
            return text
        if text not in self._names:
            self._names[text] = await _MAKERS[text.strip("{}")](self)
        return self._names[text]

    async def enter(self, manager: Any) -> Any:
        """Have something run until the test is over."""
        if hasattr(manager, "__aenter__"):
            return await self._stack.enter_async_context(manager)
        return self._stack.enter_context(manager)

    async def upstream(self, holds: str = "POST") -> Upstream:
        """Return a VideoSDK that holds every start, or what else has this method."""
        upstream = Upstream(holds)
        await upstream.server.start()
        self._stack.push_async_callback(upstream.server.stop)
        return upstream

    async def environment(self, given: Given) -> dict[str, str]:
        """Return all variables of a gateway."""
        every: dict[str, str | None] = {
            **harness.environment(self.valkey.url, self.simulator.url, self.demo.file, **harness.FAST),
            **given,
        }
        return {name: await self.fill(text) for name, text in every.items() if text is not None}

    @asynccontextmanager
    async def serving(self, given: Given, key: str | None = None) -> AsyncGenerator[ApiClient]:
        """Serve a gateway; a client that shows the demo caller's key, or another; `""` for none."""
        settings = await self.environment(given)
        async with harness.serve(settings) as url, harness.client(url, self.demo.key if key is None else key) as client:
            yield client

    def track(self) -> dict[str, str]:
        """Return a track in a room of its own."""
        return {"roomId": f"room-{uuid.uuid4().hex[:12]}", "participantId": "p", "kind": "video"}

    async def record(self, track: dict[str, str], *fields: str) -> list[int] | None:
        """Return numbers of a track's record; None while there is none."""
        async with Redis.from_url(self.valkey.url, decode_responses=True) as redis:
            if key := await record_key(redis, track):
                return [int(value or 0) for value in await cast("Awaitable[list[str]]", redis.hmget(key, fields))]
        return None

    def asked(self, endpoint: str) -> int:
        """Return how often an endpoint of VideoSDK was called."""
        return sum(call.endpoint == endpoint for call in self.simulator.calls)


async def record_key(redis: Any, track: dict[str, str]) -> str | None:
    """Find the record of a track."""
    pattern = f"rec:*:{track['roomId']}:track:{track['participantId']}:{track['kind']}"
    found = [key async for key in redis.scan_iter(match=pattern, count=1000)]
    return found[0] if found else None


Observe = Callable[[Scene, Given], Awaitable[object]]


class Row(NamedTuple):
    """One setting, and what can be seen of it.

    Attributes:
        variable: Its name.
        values: Values and what is observed with each; a value in braces is made by the scene, None is "not set".
        observe: How it is observed.
        more: What else is set for it.
        tested_in: Where a value that is only seen to arrive is tested to do what it should.
    """

    variable: str
    values: dict[str | None, object]
    observe: Observe
    more: Given = MappingProxyType({})
    tested_in: str = ""


# --- what the names stand for -----------------------------------------------------------------------------------------


async def _this_server(scene: Scene) -> str:
    return scene.valkey.url


async def _other_server(scene: Scene) -> str:
    server = cast("EmbeddedValkey", await scene.enter(harness.PatientValkey()))
    return server.url


async def _nowhere(scene: Scene) -> str:
    return f"unix://{scene.folder}/absent.sock"


async def _tls_server(scene: Scene) -> str:
    """Offer the server over TLS and nothing else: the one of the package knows none."""
    papers, port = make_papers(scene.folder), free_port()
    path = scene.valkey.url.removeprefix("unix://").partition("?")[0]
    command = (sys.executable, "-m", "tests.tls_relay", str(port), str(papers.certificate), str(papers.key), path)
    await scene.enter(Served(command, port, scene.folder / "relay.log", environ={}, cores=frozenset()))

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    await harness.until(listens)
    return f"rediss://127.0.0.1:{port}?socket_connect_timeout=20&socket_timeout=20"


async def _authority(scene: Scene) -> str:
    return str(scene.folder / "authority.pem")


async def _other_authority(scene: Scene) -> str:
    folder = scene.folder / "other"
    folder.mkdir()
    return str(make_papers(folder).authority)


async def _this_account(scene: Scene) -> str:
    return scene.simulator.url


async def _other_account(scene: Scene) -> str:
    other = await scene.enter(harness.simulator(signer=Signer()))
    scene.keep("other-account", other)
    return other.url


async def _token(_: Scene) -> str:
    return harness.management_token()


async def _key_file(scene: Scene) -> str:
    file = scene.folder / "webhooks.pem"
    file.write_text(scene.simulator.public_key)
    return str(file)


async def _other_key_file(scene: Scene) -> str:
    file, signer = scene.folder / "others.pem", Signer()
    file.write_text(signer.public_key)
    return str(file)


async def _demo_callers(scene: Scene) -> str:
    return str(scene.demo.file)


async def _other_callers(scene: Scene) -> str:
    return str(harness.Demo(scene.folder / "others", "other").file)


async def _provider(scene: Scene, name: str) -> IdentityProvider:
    provider = await scene.enter(IdentityProvider())
    scene.keep(name, provider)
    return provider


async def _keys_of_the_provider(scene: Scene) -> str:
    return (await _provider(scene, "provider")).settings["GATEWAY_JWT_JWKS_URL"]


async def _keys_of_another(scene: Scene) -> str:
    return (await _provider(scene, "another")).settings["GATEWAY_JWT_JWKS_URL"]


async def _port(_: Scene) -> str:
    return str(free_port())


async def _a_proxy(scene: Scene) -> str:
    return await _proxy(scene, "a-proxy")


async def _another_proxy(scene: Scene) -> str:
    return await _proxy(scene, "another-proxy")


async def _proxy(scene: Scene, name: str) -> str:
    proxy = cast("ForwardProxy", await scene.enter(ForwardProxy()))
    scene.keep(name, proxy)
    return proxy.url()


_MAKERS: dict[str, Callable[[Scene], Awaitable[str]]] = {
    "this-server": _this_server,
    "other-server": _other_server,
    "nowhere": _nowhere,
    "tls-server": _tls_server,
    "authority": _authority,
    "other-authority": _other_authority,
    "this-account": _this_account,
    "other-account": _other_account,
    "token": _token,
    "key-file": _key_file,
    "other-key-file": _other_key_file,
    "demo-callers": _demo_callers,
    "other-callers": _other_callers,
    "keys-of-the-provider": _keys_of_the_provider,
    "keys-of-another": _keys_of_another,
    "a-proxy": _a_proxy,
    "another-proxy": _another_proxy,
    "port": _port,
    "other-port": _port,
}
