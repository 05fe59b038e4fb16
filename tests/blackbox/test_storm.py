"""Many callers at once over two gateway processes, which know each other through one Valkey alone."""

import asyncio
import base64
import json
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.wire import Exchange, Reply, Request, Server
from tests import harness
from tests.api_client import START
from tests.leaks import EVIDENCE

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]


Track = dict[str, str]


class Caller:
    """One connection to a gateway, made before the request, so that a storm breaks loose at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key

    async def send(self, body: Track) -> None:
        """Ask for a start."""
        content = json.dumps(body).encode()
        head = (
            f"POST {START} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self._key}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        self._writer.write(head.encode() + content)
        await self._writer.drain()

    async def answer(self) -> httpx.Response:
        """Wait for the answer."""
        head, _, content = (await self._reader.read()).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = [tuple(line.split(": ", 1)) for line in lines]
        request = httpx.Request("POST", f"http://gateway{START}")
        answer = httpx.Response(int(first.split()[1]), headers=headers, content=content, request=request)  # pyright: ignore[reportArgumentType]
        EVIDENCE.note(answer)
        return answer

    async def hang_up(self) -> None:
        """Go away."""
        self._writer.close()
        await self._writer.wait_closed()


class Replicas:
    """Two gateways and their callers."""

    def __init__(self, urls: list[str], key: str) -> None:
        self.urls = urls
        self.key = key

    async def caller(self, number: int) -> Caller:
        """Connect to one of them, in turn."""
        url = urlsplit(self.urls[number % len(self.urls)])
        return Caller(*await asyncio.open_connection(url.hostname, url.port), self.key)

    async def storm(self, bodies: Iterable[Track]) -> list[httpx.Response]:
        """Send all requests at once over all gateways, each on a connection of its own."""
        bodies = list(bodies)
        callers = [await self.caller(number) for number in range(len(bodies))]
        await asyncio.gather(*(caller.send(body) for caller, body in zip(callers, bodies, strict=True)))
        answers = await asyncio.gather(*(caller.answer() for caller in callers))
        for caller in callers:
            await caller.hang_up()
        return answers


@asynccontextmanager
async def _processes(settings: dict[str, str], folder: Path, count: int) -> AsyncGenerator[list[str]]:
    async with AsyncExitStack() as stack:
        gateways: list[harness.GatewayProcess] = []
        for number in range(count):
            gateways.append(harness.GatewayProcess(settings, folder / f"gateway-{number}.log"))
            stack.callback(gateways[-1].stop)
        for gateway in gateways:
            await gateway.ready()
        yield [gateway.url for gateway in gateways]


@pytest.fixture
async def replicas(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> AsyncIterator[Replicas]:
    """Two gateway processes on one Valkey, against a VideoSDK that takes three seconds to start anything."""
    simulator.inject(harness.delay("start", 3))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    async with _processes(settings, tmp_path, 2) as urls:
        yield Replicas(urls, demo.key)


def track(**more: str) -> Track:
    """Return a track that was never recorded before."""
    return {"roomId": f"storm-{uuid.uuid4().hex[:12]}", "participantId": "p", "kind": "video", **more}


def starts(simulator: Simulator) -> int:
    """Count the starts that VideoSDK got."""
    return sum(call.endpoint == "start" for call in simulator.calls)


def results(answers: list[httpx.Response]) -> Counter[tuple[int, str]]:
    """Count the answers by status and what they say."""
    return Counter((answer.status_code, answer.json().get("outcome") or answer.json()["type"]) for answer in answers)


async def test_start_200_times_at_once_is_one_upstream_start(replicas: Replicas, simulator: Simulator) -> None:
    """200 at once over both: one start upstream, one 201 `started`, 199 times 200 `joined`, one id."""
    answers = await replicas.storm([track()] * 200)
    assert results(answers) == {(201, "started"): 1, (200, "joined"): 199}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert {answer.json()["status"] for answer in answers} == {"recording"}
    assert starts(simulator) == 1
    assert len(simulator.rows) == 1


async def test_start_200_times_over_two_workers_is_one_upstream_start(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path
) -> None:
    """200 at once at one address behind which two processes serve: one start upstream, and both have had callers."""
    simulator.inject(harness.delay("start", 3))
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_WORKERS="2")
    process = await harness.GatewayProcess(settings, tmp_path / "gateway.log").ready()
    await harness.eventually(lambda: process.log.read_text().count("Application startup complete") == 2)
    callers = [Caller(*await asyncio.open_connection("127.0.0.1", process.port), demo.key) for _ in range(200)]
    workers = _children(process.pid)
    # Both have taken callers on before any of these asks for anything.
    await harness.eventually(lambda: sum(_callers(worker, process.port) for worker in workers) >= 200)
    assert sum(_callers(worker, process.port) > 1 for worker in workers) == 2
    body = track()
    await asyncio.gather(*(caller.send(body) for caller in callers))
    answers = await asyncio.gather(*(caller.answer() for caller in callers))
    assert results(answers) == {(201, "started"): 1, (200, "joined"): 199}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert starts(simulator) == 1
    for caller in callers:
        await caller.hang_up()
    assert await asyncio.to_thread(process.stop) == 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _callers(pid: int, port: int) -> int:
    """Return how many connections at a port a process has taken on."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    established = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        # What was open when the folder was read may be closed by now.
        with suppress(FileNotFoundError):
            found += str(file.readlink()) in established
    return found


async def test_start_of_forty_tracks_is_forty_upstream_starts(replicas: Replicas, simulator: Simulator) -> None:
    """40 tracks with five callers each, mixed: 40 starts upstream, one 201 and one id for each track."""
    tracks = [track() for _ in range(40)]
    answers = await replicas.storm(tracks * 5)
    assert results(answers) == {(201, "started"): 40, (200, "joined"): 160}
    for number in range(40):
        mine = answers[number::40]
        assert sorted(answer.status_code for answer in mine) == [200, 200, 200, 200, 201]
        assert len({answer.json()["id"] for answer in mine}) == 1
    assert len({answer.json()["id"] for answer in answers}) == 40
    assert starts(simulator) == 40
    assert len({call.room_id for call in simulator.calls if call.endpoint == "start"}) == 40


async def test_start_with_different_parameters_at_once_has_one_winner(replicas: Replicas, simulator: Simulator) -> None:
    """Three folders asked for at once, 20 times each: one start with one of them; who asked for others gets 409."""
    body = track()
    folders = ["lessons/1", "lessons/2", "lessons/3"] * 20
    answers = await replicas.storm([{**body, "bucketDirPath": folder} for folder in folders])
    assert results(answers) == {
        (201, "started"): 1,
        (200, "joined"): 19,
        (409, "/problems/parameters-differ"): 40,
    }
    won = {folder for folder, answer in zip(folders, answers, strict=True) if answer.status_code < 300}
    (start,) = (call for call in simulator.calls if call.endpoint == "start")
    assert won == {start.body["bucketDirPath"]}
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["fields"] == ["bucketDirPath"]
            assert "lessons" not in answer.text


async def test_start_whose_caller_disconnects_is_completed(replicas: Replicas, simulator: Simulator) -> None:
    """The caller hangs up while VideoSDK works: the recording exists, and the next caller finds it."""
    body = track()
    gone = await replicas.caller(0)
    await gone.send(body)
    await harness.eventually(lambda: starts(simulator))
    await gone.hang_up()

    joined, later = (await replicas.storm([body]))[0], (await replicas.storm([body, body]))[1]
    assert joined.status_code == later.status_code == 200
    assert joined.json()["status"] == "recording"
    assert joined.json()["id"] == later.json()["id"] != None  # noqa: E711
    assert starts(simulator) == 1
    (row,) = simulator.rows
    assert row.end is None


class Listener:
    """Takes webhooks on a socket of its own."""

    def __init__(self) -> None:
        self.taken: list[Request] = []
        self._server = Server(self._take, host="127.0.0.1", port=0)

    async def __aenter__(self) -> str:
        await self._server.start()
        return self._server.url

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop()

    async def _take(self, exchange: Exchange) -> None:
        self.taken.append(exchange.request)
        exchange.reply(Reply(200))

    def types(self) -> list[str]:
        """Return what the webhooks tell of."""
        return [json.loads(request.body)["webhookType"] for request in self.taken]


async def test_start_with_a_webhook_url_has_it_called_once(replicas: Replicas, simulator: Simulator) -> None:
    """50 callers name one address: VideoSDK's `…-started` comes there once, signed, with the path and query as sent."""
    listener = Listener()
    async with listener as url:
        address = f"{url}/hooks/a%2Fb?key=1%2F2&key2="
        answers = await replicas.storm([track(webhookUrl=address)] * 50)
        assert results(answers) == {(201, "started"): 1, (200, "joined"): 49}
        await harness.eventually(lambda: "participant-track-recording-started" in listener.types())
        await simulator.settle()
    assert listener.types().count("participant-track-recording-started") == 1
    (start,) = (call for call in simulator.calls if call.endpoint == "start")
    assert start.body["webhookUrl"] == address
    key = serialization.load_pem_public_key(simulator.public_key.strip().encode())
    assert isinstance(key, rsa.RSAPublicKey)
    for request in listener.taken:
        assert (request.path, request.query) == ("/hooks/a/b", {"key": "1/2", "key2": ""})
        signature = base64.b64decode(request.headers["videosdk-signature"], validate=True)
        key.verify(signature, request.body, padding.PKCS1v15(), hashes.SHA256())
    assert not any("webhookUrl" in answer.text or "key2" in answer.text for answer in answers)
