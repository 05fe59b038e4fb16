"""A real browser, pages for it to open, and a watch on what it sends elsewhere."""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
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


def chromium_here() -> str:
    """Return where Chromium is."""
    executable = shutil.which("chromium")
    if executable is None:
        skip_unless_ci("chromium is not installed")
    return executable


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that drives the browser, with its package."""
    return node_project.installed(FOLDER / "node", tmp_path_factory.mktemp("browser"))


@pytest.fixture
async def drive(project: Path, outside: Outside) -> Drive:
    """Run one scenario in a browser of its own; return what was seen."""
    executable = chromium_here()

    async def act(scenario: str, **given: object) -> dict[str, Any]:
        order = {"scenario": scenario, "executable": executable, "proxy": outside.url, **given}
        code, out, err = await node_project.run("node", "drive.mjs", cwd=project, given=json.dumps(order).encode())
        assert code == 0, err
        return json.loads(out)

    return act


class Chromium:
    """One browser, which tests tell step by step what to do; `running` starts it.

    Args:
        process: What drives it.
        outside: What it asked for beyond this machine.
    """

    def __init__(self, process: asyncio.subprocess.Process, outside: Outside) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.outside = outside

    async def open(self, address: str, first: str = "", **options: object) -> "Page":
        """Open a page in a window of its own; the options are those of Playwright's contexts."""
        page = Page(self, f"page-{next(self._numbers)}")
        await self.do("open", page=page.name, address=address, first=first, options=options)
        return page

    async def do(self, step: str, **given: object) -> Any:
        """Have one step carried out; returns what came of it."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"number": number, "step": step, **given}).encode() + b"\n")
        await self._process.stdin.drain()
        return await asyncio.wait_for(self._waiting[number], 60)

    async def listen(self) -> None:
        """Hand out what came of each step, until the process ends."""
        assert self._process.stdout
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            waiting = self._waiting.pop(said["number"])
            if "error" in said:
                waiting.set_exception(AssertionError(said["error"]))
            else:
                waiting.set_result(said["result"])
        for waiting in self._waiting.values():
            waiting.set_exception(AssertionError("the browser has ended"))


class Page:
    """A page in a window of its own."""

    def __init__(self, chromium: Chromium, name: str) -> None:
        self._chromium = chromium
        self.name = name

    async def call(self, method: str, *args: object) -> Any:
        """Call a method of Playwright's page: `reload`, `keyboard.press`."""
        return await self._chromium.do("call", page=self.name, method=method, args=args)

    async def at(self, selector: str, method: str, *args: object) -> Any:
        """Call a method of what a selector finds: `fill`, `click`."""
        return await self._chromium.do("at", page=self.name, selector=selector, method=method, args=args)

    async def evaluate(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        return await self.call("evaluate", expression)

    async def violations(self) -> list[list[str]]:
        """Return what axe-core finds: a rule, and the elements that break it."""
        return await self._chromium.do("violations", page=self.name)

    async def seen(self) -> dict[str, list[str]]:
        """Return the addresses it asked for, and what stands in its console."""
        return await self._chromium.do("seen", page=self.name)

    async def close(self) -> None:
        """Close the window."""
        await self._chromium.do("close", page=self.name)


@asynccontextmanager
async def running(project: Path) -> AsyncGenerator[Chromium]:
    """Run a browser."""
    executable, pipe = chromium_here(), asyncio.subprocess.PIPE
    async with Outside() as outside:
        process = await asyncio.create_subprocess_exec(
            "node", "steps.mjs", cwd=project, stdin=pipe, stdout=pipe, limit=2**24
        )
        chromium = Chromium(process, outside)
        assert process.stdin
        process.stdin.write(json.dumps({"executable": executable, "proxy": outside.url}).encode() + b"\n")
        listening = asyncio.create_task(chromium.listen())
        try:
            yield chromium
        finally:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 20)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                await listening
