"""A simulator on a socket, a client that holds its token, and a listener for its webhooks."""

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import jwt
import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.webhooks import Signer
from gateway.sandbox.wire import Reply, Server

API_KEY = "test-api-key"
SECRET = "0123456789abcdef" * 4
TRACKS = "/v2/recordings/participant/track"
DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "openapi" / "videosdk.yaml").read_text("utf-8"))


@pytest.fixture
def anyio_backend():
    """Run on asyncio: the simulator is made for it."""
    return "asyncio"


def mint(secret=SECRET, **claims):
    """Return a token like the vendor's own management token, with some claims changed; None takes one out."""
    now = int(time.time())
    content = {
        "apikey": API_KEY,
        "permissions": ["allow_join", "allow_mod"],
        "version": 2,
        "roles": ["crawler"],
        "iat": now,
        "exp": now + 300,
        **claims,
    }
    return jwt.encode({name: value for name, value in content.items() if value is not None}, secret, "HS256")


@pytest.fixture(name="mint")
def mint_fixture():
    """Give tests the maker of tokens."""
    return mint


class Client(httpx.AsyncClient):
    """Speaks to a simulator in the words of the vendor's endpoints."""

    def __init__(self, url):
        # Without TLS no certificates need loading, which is most of the time such a client takes to make.
        super().__init__(base_url=url, headers={"authorization": mint()}, timeout=60, verify=False)

    async def start(self, **fields):
        """Start recording; the track's three fields have defaults."""
        return await self.post(f"{TRACKS}/start", json=track(**fields))

    async def stop(self, **fields):
        """Stop recording."""
        return await self.post(f"{TRACKS}/stop", json=track(**fields))

    async def list(self, **query):
        """Return the rows of a list call."""
        answer = await self.get(TRACKS, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def control(self, action, **fields):
        """Call a control route, without a token."""
        answer = await self.post(f"/_control/{action}", json=fields, headers={"authorization": ""})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def inject(self, *rules):
        """Put fault rules into force through the control route."""
        answer = await self.post("/_control/faults", json=rules)
        assert answer.status_code == 200, answer.text


def track(**fields):
    """Return a track's three fields, with some changed or added."""
    return {"roomId": "abcd-efgh-ijkl", "participantId": "alice", "kind": "video", **fields}


# Making a key is the slowest thing a simulator does; the tests share one.
SIGNER = Signer()


@asynccontextmanager
async def running(**options):
    """Run a simulator and a client for it."""
    async with (
        Simulator(api_key=API_KEY, secret=SECRET, signer=SIGNER, **options) as simulator,
        Client(simulator.url) as client,
    ):
        yield simulator, client


@pytest.fixture(name="running")
def running_fixture():
    """Give tests the maker of simulators with options of their own."""
    return running


@pytest.fixture
async def pair():
    """A simulator without options, and a client for it."""
    async with running() as both:
        yield both


@pytest.fixture
async def simulator(pair):
    """The simulator of `pair`."""
    return pair[0]


@pytest.fixture
async def client(pair):
    """The client of `pair`."""
    return pair[1]


class Listener:
    """Takes webhooks on a socket of its own and keeps them as they came."""

    def __init__(self):
        self.taken = []
        self.status = 200
        self.hold = asyncio.Event()
        self.hold.set()
        self._server = Server(self._take, host="127.0.0.1", port=0)

    async def __aenter__(self):
        await self._server.start()
        return self

    async def __aexit__(self, *_):
        await self._server.stop()

    def url(self, path="/hook"):
        """The address of a path on this listener."""
        return self._server.url + path

    @property
    def types(self):
        """The types of the webhooks taken, in order."""
        return [msgspec.json.decode(request.body)["webhookType"] for request in self.taken]

    @property
    def stages(self):
        """The last words of those types."""
        return [name.rpartition("-")[2] for name in self.types]

    async def _take(self, exchange):
        self.taken.append(exchange.request)
        await self.hold.wait()
        exchange.reply(Reply(self.status))


@pytest.fixture
async def listener():
    """A listener for webhooks."""
    async with Listener() as taking:
        yield taking


@pytest.fixture
def document():
    """The description of the upstream, openapi/videosdk.yaml."""
    return DOCUMENT


@pytest.fixture
def conforms():
    """Check an answer of status 200 against the description of its operation."""

    def check(answer, method, path):
        assert answer.status_code == 200, answer.text
        content = DOCUMENT["paths"][path][method]["responses"]["200"]["content"]["application/json"]
        validate(answer.json(), content["schema"])

    return check


def validate(content, schema):
    """Check JSON content against a schema of the description."""
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}, format_checker=FormatChecker()).validate(
        content
    )


@pytest.fixture(name="validate")
def validate_fixture():
    """Give tests the check against one schema."""
    return validate
