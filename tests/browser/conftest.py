"""A real browser, pages for it to open, and a watch on what it sends elsewhere."""

import json
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from gateway.sandbox.wire import Exchange, Reply, Server
from tests.browser import node_project
from tests.harness import skip_unless_ci

FOLDER = Path(__file__).parent
Drive = Callable[..., Awaitable[dict[str, Any]]]


class Outside:
    """Stands for the rest of the world: the browser's proxy, which keeps what it was asked for and refuses it."""

    def __init__(self) -> None:
        self._server = Server(self._refuse, host="127.0.0.1", port=0)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop()

    async def _refuse(self, exchange: Exchange) -> None:
        request = exchange.request
        host = request.headers.get("host") or ""
        # What the browser wants for itself, whatever page it shows: its maker's updates.
        if not host.partition(":")[0].endswith((".gvt1.com", ".google.com", ".googleapis.com")):
            self.asked.append(f"{request.method} {host}")
        exchange.reply(Reply(502))


async def _show(exchange: Exchange) -> None:
    exchange.reply(Reply(200, (FOLDER / "page.html").read_bytes(), "text/html; charset=utf-8"))


@pytest.fixture
async def page() -> AsyncGenerator[str]:
    """The origin of a frontend."""
    server = Server(_show, host="127.0.0.1", port=0)
    await server.start()
    yield server.url
    await server.stop()


@pytest.fixture
async def strange_page() -> AsyncGenerator[str]:
    """The same page at an origin that is not listed."""
    server = Server(_show, host="127.0.0.1", port=0)
    await server.start()
    yield server.url
    await server.stop()


@pytest.fixture
async def outside() -> AsyncGenerator[Outside]:
    """Whatever is not this machine."""
    async with Outside() as world:
        yield world


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that drives the browser, with its package."""
    return node_project.installed(FOLDER / "node", tmp_path_factory.mktemp("browser"))


@pytest.fixture
async def drive(project: Path, outside: Outside) -> Drive:
    """Run one scenario in a browser of its own; return what was seen."""
    executable = shutil.which("chromium")
    if executable is None:
        skip_unless_ci("chromium is not installed")

    async def act(scenario: str, **given: object) -> dict[str, Any]:
        order = {"scenario": scenario, "executable": executable, "proxy": outside.url, **given}
        code, out, err = await node_project.run("node", "drive.mjs", cwd=project, given=json.dumps(order).encode())
        assert code == 0, err
        return json.loads(out)

    return act
