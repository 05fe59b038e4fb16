"""The programs below examples/, each run as its first lines say, against a real gateway."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.sandbox import tether
from gateway.sandbox.faults import Fault
from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.wire import Exchange, Reply, Server
from tests import harness
from tests.api_client import ApiClient, NewTrack
from tests.browser import node_project
from tests.harness import skip_unless_ci

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def running(*command: str | Path, gateway: str, key: str) -> AsyncGenerator[ApiClient]:
    """Run an example's service; yields a client of it."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ = {**kept, "GATEWAY_ADDRESS": gateway.rstrip("/"), "GATEWAY_KEY": key, "PORT": str(port)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        tether.__file__,
        *command,
        env=environ,
        stdin=pipe,
        stdout=pipe,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with harness.client(f"http://127.0.0.1:{port}") as client:

            async def listens() -> bool:
                assert process.returncode is None
                try:
                    await client.get("/")
                except httpx.TransportError:
                    return False
                return True

            await harness.until(listens)
            yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_python_service_records_a_lesson(
    gateway: ApiClient, demo: harness.Demo, simulator: Simulator, new_track: NewTrack
) -> None:
    """Starts each camera, bounded, also after a refusal that passes; names what is wrong; stops all that records."""
    ada, ben = new_track(), new_track()
    room = ada["roomId"]
    simulator.inject(Fault(action="refuse", endpoint="start", status=400, times=1, headers={"Retry-After": "1"}))
    async with running(sys.executable, EXAMPLES / "service.py", gateway=str(gateway.base_url), key=demo.key) as lessons:
        people = [ada["participantId"], ben["participantId"]]
        begun = await lessons.post(f"/lessons/{room}", json={"participants": people})
        assert (begun.status_code, begun.json()) == (
            200,
            {"states": dict.fromkeys(people, "recording"), "problems": {}},
        )
        wrong = await lessons.post(f"/lessons/{room}", json={"participants": ["a/b"]})
        assert wrong.status_code == 502
        assert wrong.json()["problems"]["a/b"]["type"] == "/problems/invalid-request"
        stops_at = [(await gateway.show(track)).json()["stopsAt"] for track in (ada, ben)]
        assert None not in stops_at
        assert (await gateway.post("/v1/recordings/room/start", json={"roomId": room})).status_code == 201
        ended = await lessons.request("DELETE", f"/lessons/{room}")
        names = ["room", *(f"track {name} video" for name in people)]
        assert (ended.status_code, ended.json()["states"]) == (200, dict.fromkeys(names, "stopped"))
        again = await lessons.request("DELETE", f"/lessons/{room}")
        assert again.json() == {"states": {}, "problems": {}}


async def test_node_service_knows_what_records(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """It follows a room from the first question on; once its gateway is gone it says that it does not know better."""
    node = shutil.which("node")
    if node is None:
        skip_unless_ci("node is not installed")
    track = new_track()
    named = [f"{track['participantId']} video"]
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(harness.serve(settings))
        async with running(node, EXAMPLES / "service.mjs", gateway=url, key=demo.key) as service:

            async def room() -> dict[str, Any]:
                return (await service.get(f"/rooms/{track['roomId']}")).json()

            await harness.until(room, lambda known: known == {"connected": True, "recording": [], "maybe": []})
            async with harness.client(url, demo.key) as caller:
                await caller.start(track)
                await harness.until(room, lambda known: known["recording"] == named)
                await caller.stop(track)
                await harness.until(room, lambda known: known["recording"] == [])
            await stack.aclose()
            await harness.until(room, lambda known: not known["connected"])


async def test_page_records_the_participants_camera(simulator: Simulator, demo: harness.Demo, tmp_path: Path) -> None:
    """In a real browser: recording, stopped by another caller, then refused in words, without an error of script."""
    chromium = shutil.which("chromium")
    if chromium is None:
        skip_unless_ci("chromium is not installed")
    folder = node_project.installed(Path(__file__).parents[1] / "browser" / "node", tmp_path)
    shutil.copy(Path(__file__).with_name("drive.mjs"), folder / "example.mjs")

    async def show(exchange: Exchange) -> None:
        exchange.reply(Reply(200, (EXAMPLES / "page" / "index.html").read_bytes(), "text/html; charset=utf-8"))

    page = Server(show, host="127.0.0.1", port=0)
    await page.start()
    own = {"GATEWAY_JOIN_TOKENS": "on", "GATEWAY_CORS_ORIGINS": page.url}
    tokens = [
        demo_join_token(harness.API_KEY, harness.SECRET, room="abcd-efgh-ijkl", participant=name)
        for name in ("ada", "ben")
    ]
    try:
        with harness.AgedValkey() as valkey:
            settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, **own)
            async with harness.serve(settings) as url:
                given = {"executable": chromium, "page": page.url, "gateway": url, "key": demo.key}
                given |= {"token": tokens[0], "foreign": tokens[1]}
                code, out, err = await node_project.run(
                    "node", "example.mjs", cwd=folder, given=json.dumps(given).encode()
                )
    finally:
        await page.stop()
    assert code == 0, err
    seen = json.loads(out)
    recording, status, stopped, refused = seen["heard"]
    assert (recording, status, stopped, seen["errors"]) == ("Recording.", 200, "Not recording.", [])
    assert re.match(r"Forbidden: .+ \([0-9a-f]+\)$", refused)


def test_readme_names_every_example() -> None:
    """Each file is in the table, and each that the table names is there."""
    text = (EXAMPLES / "README.md").read_text()
    linked = set(re.findall(r"^\| \[`[^`]+`\]\(([^)]+)\)", text, re.MULTILINE))
    assert all((EXAMPLES / link).is_file() for link in linked)
    assert {link.partition("/")[0] for link in linked} | {"README.md"} == {path.name for path in EXAMPLES.iterdir()}
