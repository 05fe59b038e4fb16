"""`client.js` in a real browser, against a server that stalls, breaks off or sends what the gateway sends rarely."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.sandbox.wire import Exchange, Reply, Request, Server
from tests.browser.conftest import Chromium, running

pytestmark = pytest.mark.anyio

CLIENT: Final = (resources.files("gateway.api") / "watch" / "client.js").read_bytes()
STREAM: Final = "text/event-stream"
Answer = Callable[[Exchange], object] | None
"""Answers one request; None stalls until the browser hangs up."""


@pytest.fixture(scope="module")
async def chromium(project: Path) -> AsyncGenerator[Chromium]:
    """One browser for all tests of the client."""
    async with running(project) as browser:
        yield browser


def says(reply: Reply) -> Answer:
    """Answer this."""
    return lambda exchange: exchange.reply(reply)


class Frontend:
    """Serves an empty page with the client, and answers its requests one after the other; the last answer stays."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[Request] = []

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request."""
        path = exchange.request.path
        if not path.startswith("/v1/"):
            script = path == "/client.js"
            exchange.reply(Reply(200, CLIENT if script else b"", "text/javascript" if script else "text/html"))
            return
        self.asked.append(exchange.request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            await exchange.until_gone()
        else:
            answer(exchange)


@asynccontextmanager
async def frontend(chromium: Chromium, *answers: Answer) -> AsyncGenerator[tuple[Frontend, Callable[..., Any]]]:
    """Open the page; yields what it asked, and what runs a function's body with a client there."""
    served = Frontend(*answers)
    server = Server(served, host="127.0.0.1", port=0)
    await server.start()
    page = await chromium.open(server.url)

    async def run(body: str, **bounds: int) -> Any:
        made = f"new Gateway(location.href, 'key', {json.dumps(bounds)})"
        found = f"import('/client.js').then(async ({{Gateway}}) => {{const gateway = {made}; {body}}})"
        return await page.evaluate(f"Promise.race([{found}, new Promise((end) => setTimeout(end, 30_000, 'nothing'))])")

    try:
        yield served, run
    finally:
        await page.close()
        await server.stop()


def breaks_off(exchange: Exchange) -> None:
    """Send half of an answer."""
    exchange.half_reply(Reply(200, b'{"name":"ada"}'))


PROBLEM: Final = "(problem) => [problem.title, problem.passes]"


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        (None, "The gateway did not answer in time"),
        (breaks_off, "The gateway cannot be reached"),
        (says(Reply(200, b"<h1>Welcome</h1>", "text/html")), "What answers is not the gateway"),
    ],
    ids=["stalls", "breaks off", "is another"],
)
async def test_client_without_an_answer_says_so_within_its_bound(
    chromium: Chromium, answer: Answer, title: str
) -> None:
    """Whatever is asked, and however far the answer came: a problem that the same request may not meet again."""
    async with frontend(chromium, answer) as (served, run):
        asks = "gateway.me(), gateway.start('track', {}), gateway.stop('track', {})"
        bounds = {"answer": 200} if answer is None else {}
        found = await run(f"return Promise.all([{asks}].map((asked) => asked.catch({PROBLEM})));", **bounds)
    assert found == [[title, True]] * 3
    assert [request.method for request in served.asked].count("POST") == 2


FOLLOW: Final = """
    const said = [], leaving = new AbortController();
    const hear = {
        snapshot: (recordings) => said.push("snapshot"),
        recording: (recording) => said.push(recording.id),
        connection(state, tries) {
            said.push(`${state} ${tries}`);
            if (said.length > 20 || said.filter((each) => each === "live 0").length === 2) leaving.abort();
        },
    };
    await gateway.follow("room", hear, leaving.signal);
    return said;
"""


async def test_client_follows_again_where_a_connection_stalls_before_its_answer(chromium: Chromium) -> None:
    """Nothing comes, not even the head of an answer: the line is dead, and the next one is tried."""
    stream = says(Reply(200, b'retry: 10\n\nid: 1-1\nevent: snapshot\ndata: {"recordings":[]}\n\n', STREAM))
    async with frontend(chromium, None, stream) as (served, run):
        said = await run(FOLLOW, silence=300)
    assert said[:3] == ["lost 1", "live 0", "snapshot"]
    assert len(served.asked) >= 2


async def test_client_goes_on_after_the_id_of_a_comment(chromium: Chromium) -> None:
    """A comment with an id, as the gateway sends it where changes are hidden from a caller: nothing is told of it."""
    stream = (
        b'retry: 10\n\n: hello: you\nid: 1-1\nevent: snapshot\ndata: {"recordings":[]}\n\n'
        b':\n\nid: 1-2\nevent: recording\ndata: {"id":"rec-1"}\n\n:\nid: 1-9\n\n:\n\n'
    )
    async with frontend(chromium, says(Reply(200, stream, STREAM))) as (served, run):
        said = await run(FOLLOW)
    assert said == ["live 0", "snapshot", "rec-1", "lost 1", "live 0"]
    assert [request.headers.get("last-event-id") for request in served.asked[:2]] == [None, "1-9"]
