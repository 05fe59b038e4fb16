"""Behind an ingress: a prefix that it strips, and requests as proxies and people write them."""

import gzip
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, ApiClient, NewTrack
from tests.ingress import PREFIX, behind_an_ingress

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ingress(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> AsyncGenerator[ApiClient]:
    """A client that reaches a gateway under a prefix, which a real proxy strips."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with behind_an_ingress(settings, tmp_path) as address, harness.client(address, demo.key) as client:
        await harness.until_ready(client)
        yield client


async def test_links_behind_a_stripped_prefix_lead_to_the_right_place(ingress: ApiClient, new_track: NewTrack) -> None:
    """`Location`, a problem's `type` and `instance`, `/` and the contract's server: each can be followed."""
    track = new_track()
    started = await ingress.start(track)
    shown = await ingress.get(_from_root(ingress, started.headers["location"]))
    assert shown.json()["id"] == started.json()["id"]

    problem = (await ingress.get("/nowhere")).json()
    assert problem["instance"] == f"{PREFIX}/nowhere"
    page = await ingress.get(_from_root(ingress, problem["type"]))
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")

    root = await ingress.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert (root.status_code, root.headers["location"]) == (302, f"{PREFIX}/docs")
    assert (await ingress.get("/openapi.json")).json()["servers"] == [{"url": PREFIX}]


def _from_root(client: ApiClient, path: str) -> str:
    return f"http://{client.base_url.netloc.decode()}{path}"


async def test_request_that_still_has_the_prefix_is_served(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """An ingress that strips nothing is as good; what only begins with the same letters is not the prefix."""
    public = f"http://127.0.0.1:1{PREFIX}"
    settings = harness.environment(valkey.url, simulator.url, demo.file, GATEWAY_PUBLIC_URL=public)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        assert (await client.get(f"{PREFIX}/livez")).is_success
        assert (await client.get(f"{PREFIX}s/livez")).status_code == 404
        assert (await client.get("/livez")).is_success
        # No header says what the prefix is: any client could send one.
        odd = await client.get("/nowhere", headers={"x-forwarded-prefix": "/evil"})
        assert odd.json()["type"] == f"{PREFIX}/problems/not-found"


async def test_head_is_answered_wherever_get_is(gateway: ApiClient, new_track: NewTrack) -> None:
    """With the same status and headers, and without a body; of a stream of events too."""
    track = new_track()
    location = (await gateway.start(track)).headers["location"]
    room = track["roomId"]
    for path in ("/livez", "/readyz", "/openapi.json", "/docs", "/docs/docs.js", "/problems/not-found", "/nowhere",
                 "/watch", "/watch/watch.js", "/v1/me", location, f"/v1/recordings?roomId={room}"):  # fmt: skip
        got, head = await gateway.get(path), await gateway.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    stream = await gateway.head(f"/v1/rooms/{room}/events")
    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    refused = await gateway.head(START)
    assert (refused.status_code, refused.content) == (405, b"")
    put = await gateway.put("/livez")
    assert {"GET", "HEAD"} <= {method.strip() for method in put.headers["allow"].split(",")}
    assert (await gateway.head("/metrics")).is_success


@pytest.mark.parametrize(
    ("target", "status"),
    [("http://gateway.example/livez", 200), ("https://gateway.example:8443/livez?x=1", 200), ("http://h", 404),
     ("http://h/v1/recordings/track/a%2Fb/p/video", 404)],
)  # fmt: skip
async def test_absolute_target_is_the_path_in_it(target: str, status: int, gateway: ApiClient) -> None:
    """As proxies may send it (RFC 9112, 3.2.2)."""
    host, port = gateway.base_url.host, gateway.base_url.port
    with socket.create_connection((host, port or 80)) as connection:
        connection.setblocking(False)
        connection.send(f"GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n".encode())
        answer = b""

        async def closed() -> bool:
            nonlocal answer
            try:
                part = connection.recv(65536)
            except BlockingIOError:
                return False
            answer += part
            return part == b""

        await harness.until(closed, every=0.005)
    assert answer.split(b" ", 2)[1] == str(status).encode()


async def test_compressed_body_is_refused_as_such(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack
) -> None:
    """415 says what to change; `identity` is no compression."""
    track = new_track()
    body = gzip.compress(b'{"roomId": "r", "participantId": "p", "kind": "video"}')
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await gateway.post(START, content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")
    assert "compression" in answer.json()["detail"]
    assert simulator.calls == []
    assert (await gateway.start(track, headers={"content-encoding": "identity"})).status_code == 201


async def test_root_leads_a_person_to_the_docs_and_no_program(gateway: ApiClient) -> None:
    """A browser asks for HTML; what does not is told that there is nothing."""
    person = await gateway.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (person.status_code, person.headers["location"]) == (302, "/docs")
    program = await gateway.get("/", headers={"accept": "application/json"})
    assert (program.status_code, program.json()["type"]) == (404, "/problems/not-found")


async def test_answers_name_their_charset(gateway: ApiClient, new_track: NewTrack) -> None:
    """JSON, problems, pages, scripts and events; a picture has none."""
    for answer in (
        await gateway.start(new_track()),
        await gateway.get("/nowhere"),
        *[await gateway.get(path) for path in ("/openapi.json", "/docs", "/docs/docs.js", "/docs/swagger-ui.css")],
        await gateway.get("/problems/not-found"),
        await gateway.get("/metrics"),
    ):
        assert answer.headers["content-type"].endswith("; charset=utf-8")
    assert (await gateway.get("/docs/favicon-32x32.png")).headers["content-type"] == "image/png"


async def test_gateway_at_every_address_is_reached_over_both_protocols(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """`::` listens at IPv4's addresses too."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, GATEWAY_HOST="::")
    process = harness.GatewayProcess(settings, tmp_path / "log")
    await process.ready()
    for host in ("127.0.0.1", "[::1]"):
        async with harness.client(f"http://{host}:{process.port}") as client:
            assert (await client.get("/livez")).is_success
    assert process.stop() == 0
