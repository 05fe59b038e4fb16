"""The page for people: served from files of our own, and nothing is fetched from anywhere else."""

import re
from importlib import resources
from urllib.parse import urljoin

import httpx
import pytest
from litestar.testing import RequestFactory

from gateway.api.static_files import StaticFile

pytestmark = pytest.mark.anyio

ASSETS = {
    "docs.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


async def test_docs_page_is_served_with_a_content_security_policy(gateway: httpx.AsyncClient) -> None:
    """A page that may load from here alone, needs no key, and may not be framed."""
    page = await gateway.get("/docs", headers={"authorization": ""})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    # Every source is one of these words: no host is named.
    words = {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert {word for sources in policy.values() for word in sources.split()} <= words
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"


async def test_docs_page_names_only_what_the_gateway_serves(gateway: httpx.AsyncClient) -> None:
    """Scripts, styles, icon and contract are relative addresses, and each of them is there; no script stands inline."""
    page = await gateway.get("/docs")
    named = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert len(named) >= 4
    assert not re.search(r"<script(?![^>]*\ssrc=)", page.text)
    for address in [*named, "openapi.json"]:
        assert not re.match(r"(?:[a-z]+:)?//", address)
        assert (await gateway.get(urljoin("/docs", address))).status_code == 200
    assert "http" not in page.text
    script = (await gateway.get("/docs/docs.js")).text
    assert '"openapi.json"' in script
    assert "validatorUrl: null" in script
    assert "http" not in script


@pytest.mark.parametrize(("name", "media_type"), ASSETS.items())
async def test_docs_assets_have_their_content_types(gateway: httpx.AsyncClient, name: str, media_type: str) -> None:
    """Each file comes with its own type, which browsers must not guess, and may be kept for a while."""
    answer = await gateway.get(f"/docs/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in answer.headers["cache-control"]
    assert answer.content == (resources.files("gateway.api") / "swagger" / name).read_bytes()


@pytest.mark.parametrize("path", ["/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/openapi.json"])
async def test_docs_file_is_sent_compressed_where_the_client_takes_that(gateway: httpx.AsyncClient, path: str) -> None:
    """The same file in two forms, each with a name of its own, and no cache may take one for the other."""
    plain = await gateway.get(path, headers={"accept-encoding": "identity"})
    packed = await gateway.get(path, headers={"accept-encoding": "br, gzip;q=0.5"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert packed.content == plain.content
    assert plain.headers["etag"] != packed.headers["etag"]
    for answer in (plain, packed):
        assert "accept-encoding" in answer.headers["vary"].lower()
        assert re.fullmatch(r'"[0-9a-z-]+"', answer.headers["etag"])


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("GZIP ; q=1", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0", ""),
        ("gzip; q=0.000, *", ""),
        ("*;q=0", ""),
        ("br", ""),
        ("", ""),
    ],
)
async def test_docs_file_has_the_form_that_the_client_asks_for(
    gateway: httpx.AsyncClient, accepted: str, encoding: str
) -> None:
    """A coding is taken that is named, or meant by an asterisk, and not weighed 0."""
    answer = await gateway.get("/docs/swagger-ui.css", headers={"accept-encoding": accepted})
    assert answer.headers.get("content-encoding", "") == encoding


async def test_docs_file_that_the_client_has_is_not_sent_again(gateway: httpx.AsyncClient) -> None:
    """304 without a body for the form that is named, also where a proxy weakened the name; the other form is sent."""
    path, packing = "/docs/swagger-ui.css", {"accept-encoding": "gzip"}
    etag = (await gateway.get(path, headers=packing)).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await gateway.get(path, headers={**packing, "if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert "accept-encoding" in again.headers["vary"].lower()
        assert "max-age" in again.headers["cache-control"]
    for known, accepted in ((etag, "identity"), ('"other"', "gzip")):
        answer = await gateway.get(path, headers={"accept-encoding": accepted, "if-none-match": known})
        assert answer.status_code == 200
        assert answer.content


def test_static_file_is_read_once_and_all_answers_share_its_bytes() -> None:
    """However many ask, the process holds the file once as it is and once compressed."""
    reads: list[str] = []

    def read() -> bytes:
        reads.append("read")
        return b"x" * 5000

    file = StaticFile(read, "text/plain")
    for accepted in ("gzip", "identity"):
        request = RequestFactory().get("/", headers={"accept-encoding": accepted})
        first, second = file.answer(request), file.answer(request)
        assert first.content is second.content
    assert reads == ["read"]


async def test_docs_assets_load_nothing_from_other_hosts(gateway: httpx.AsyncClient) -> None:
    """Neither style nor script names a source map, an import or a font of another host."""
    style = (await gateway.get("/docs/swagger-ui.css")).text
    bundle = (await gateway.get("/docs/swagger-ui-bundle.js")).text
    assert re.findall(r"url\((?!['\"]?(?:data:|#))[^)]*\)", style) == []
    assert "@import" not in style
    assert "sourceMappingURL" not in style + bundle[-2000:]


@pytest.mark.parametrize(
    "name",
    ["docs.html", "LICENSE", "swagger-ui.js", "..%2f..%2fapp.py", "%2e%2e/callers.py", "x" * 300],
)
async def test_docs_path_of_another_file_is_not_found(gateway: httpx.AsyncClient, name: str) -> None:
    """Only what the page needs is served: no way leads to other files."""
    answer = await gateway.get(f"/docs/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json; charset=utf-8"


def test_licences_of_the_vendored_files_are_in_the_package() -> None:
    """The package holds Swagger UI's licence, notice and those of what it bundles."""
    folder = resources.files("gateway.api") / "swagger"
    assert "Apache License" in (folder / "LICENSE").read_text("utf-8")
    assert (folder / "NOTICE").read_text("utf-8").strip()
    assert (folder / "swagger-ui-bundle.js.LICENSE.txt").read_text("utf-8").strip()
