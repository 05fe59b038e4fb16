"""Which web pages may ask: those of the configured origins, and the headers that a browser needs for it."""

from collections.abc import AsyncIterator

import pytest

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, ApiClient, NewTrack

pytestmark = pytest.mark.anyio

ORIGINS = "https://app.example.com, http://localhost:3000, https://*.lessons.example, capacitor://localhost, app://-"
LISTED = ["https://app.example.com", "http://localhost:3000", "capacitor://localhost", "app://-"]
PAGES = [*LISTED, "https://a.lessons.example", "https://a.b.lessons.example"]
STRANGERS = [
    "https://evil.example",
    "http://app.example.com",
    "https://app.example.com:8443",
    "https://app.example.com.evil.example",
    "https://evilapp.example.com",
    "https://lessons.example",
    "https://evillessons.example",
    "https://a.lessons.example.evil.example",
    "https://a.lessons.example:8443",
    "https://evil.example/a.lessons.example",
    "https://evil.example#.lessons.example",
    "http://localhost",
    "ionic://localhost",
    "capacitor://localhost.evil.example",
    "capacitor://localhost:1",
    "null",
    "*",
    "",
]
SENT = "authorization,baggage,content-type,sentry-trace,traceparent,tracestate,x-datadog-trace-id,x-requested-with"
"""What pages send with the usual monitoring libraries."""
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": SENT}


@pytest.fixture
async def page(valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo) -> AsyncIterator[ApiClient]:
    """A gateway that pages may use."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_CORS_ORIGINS=ORIGINS)
    async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
        yield client


def words(field: str) -> set[str]:
    """Return the names a header lists, in small letters."""
    return {word.strip().lower() for word in field.split(",")}


@pytest.mark.parametrize("origin", PAGES)
async def test_cors_request_of_a_listed_page_is_allowed(page: ApiClient, new_track: NewTrack, origin: str) -> None:
    """Preflight needs no key, is cached, and allows what callers send; the answer itself can be read."""
    preflight = await page.options(START, headers={"origin": origin, "authorization": "", **ASKS})
    assert preflight.status_code == 204
    assert preflight.content == b""
    assert preflight.headers["access-control-allow-origin"] == origin
    assert words(preflight.headers["access-control-allow-methods"]) == {"get", "head", "post"}
    assert words(preflight.headers["access-control-allow-headers"]) == words(SENT)
    assert int(preflight.headers["access-control-max-age"]) >= 600
    assert words(preflight.headers["vary"]) == {"origin", "access-control-request-headers"}

    answer = await page.start(new_track(), headers={"origin": origin})
    assert answer.status_code == 201
    assert answer.headers["access-control-allow-origin"] == origin
    # The time too: a page tells by it how far its device's clock is off.
    assert {"date", "location", "retry-after", "link", "x-request-id", "idempotency-replayed"} | {
        *("ratelimit", "ratelimit-policy", "www-authenticate")
    } <= words(answer.headers["access-control-expose-headers"])
    assert "origin" in words(answer.headers["vary"])
    # A page below a pattern's domain may be a stranger's: it asks without the browser's credentials.
    for seen in (preflight, answer):
        assert (seen.headers.get("access-control-allow-credentials") == "true") == (origin in LISTED)


@pytest.mark.parametrize("origin", STRANGERS)
async def test_cors_request_of_another_page_is_not_allowed(page: ApiClient, new_track: NewTrack, origin: str) -> None:
    """Its browser finds no permission, before it asks and in an answer; `Vary` keeps caches from mixing them."""
    preflight = await page.options(START, headers={"origin": origin, "authorization": "", **ASKS})
    answer = await page.get("/livez", headers={"origin": origin})
    for seen in (preflight, answer):
        assert not any(name.startswith("access-control-") for name in seen.headers)
        assert words(seen.headers["vary"]) == {"origin"}


async def test_cors_error_answers_carry_the_permission(page: ApiClient) -> None:
    """401, 404, 405, 413, 415 and 422 carry the permission too."""
    headers = {"origin": PAGES[0]}
    json = {"content-type": "application/json"}
    answers = {
        401: await page.start({}, headers={**headers, "authorization": "Bearer no"}),
        404: await page.get("/nowhere", headers=headers),
        405: await page.put(START, headers=headers),
        413: await page.post(START, content=b"x" * 70_000, headers=headers | json),
        415: await page.post(START, content=b"x", headers=headers),
        422: await page.start({}, headers=headers),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGES[0]
        assert answer.headers["x-request-id"]


async def test_request_without_an_origin_gets_no_cors_headers(page: ApiClient, new_track: NewTrack) -> None:
    """Requests without an Origin, and OPTIONS that are no preflight, are answered as ever."""
    for answer in (await page.start(new_track()), await page.get("/livez")):
        assert answer.is_success
        assert "vary" not in answer.headers
        assert not any(name.startswith("access-control-") for name in answer.headers)
    options = await page.options(START, headers={"origin": PAGES[0]})
    assert "access-control-max-age" not in options.headers


async def test_cors_request_that_is_no_options_is_no_preflight(page: ApiClient, new_track: NewTrack) -> None:
    """A page may send a preflight's header with any request: a start that has it is carried out."""
    answer = await page.start(new_track(), headers={"origin": PAGES[0], **ASKS})
    assert (answer.status_code, answer.json()["outcome"]) == (201, "started")
    assert answer.headers["access-control-allow-origin"] == PAGES[0]


async def test_cors_without_configured_origins_is_off(gateway: ApiClient) -> None:
    """Without the setting nothing is said of origins at all."""
    preflight = await gateway.options(START, headers={"origin": PAGES[0], **ASKS})
    answer = await gateway.get("/livez", headers={"origin": PAGES[0]})
    for seen in (preflight, answer):
        assert not any(name.startswith("access-control-") for name in seen.headers)
