"""A room's page as it is served: from files of our own, with nothing inline. `tests/browser/` opens it."""

import re
from importlib import resources
from typing import Final
from urllib.parse import urljoin

import httpx
import pytest

pytestmark = pytest.mark.anyio

FILES: Final = {
    "watch.js": "text/javascript",
    "client.js": "text/javascript",
    "words.js": "text/javascript",
    "watch.css": "text/css",
    "icon.svg": "image/svg+xml",
}
FOLDER: Final = resources.files("gateway.api") / "watch"


async def test_watch_page_is_served_with_a_policy_that_lets_no_text_become_markup(gateway: httpx.AsyncClient) -> None:
    """It needs no key, loads from here alone, allows nothing inline, and forbids scripts to make markup of text."""
    page = await gateway.get("/watch", params={"room": "abcd-efgh-ijkl"}, headers={"authorization": ""})
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "abcd-efgh-ijkl" not in page.text.replace('placeholder="abcd-efgh-ijkl"', "")


async def test_watch_page_names_only_what_the_gateway_serves(gateway: httpx.AsyncClient) -> None:
    """Relative addresses, each of them there; no style, script or handler inline; nothing of another host."""
    page = (await gateway.get("/watch")).text
    named = set(re.findall(r"(?:src|href)=\"([^\"#]+)\"", page))
    assert {address.removeprefix("watch/") for address in named} == set(FILES) - {"client.js", "words.js"}
    for address in named:
        assert (await gateway.get(urljoin("/watch", address))).status_code == 200
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", page)
    for name in ("index.html", *FILES):
        text = (FOLDER / name).read_text("utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")|@import|url\(", text), name
    script = "".join((FOLDER / name).read_text("utf-8") for name in FILES if name.endswith(".js"))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|console\.", script
    )


@pytest.mark.parametrize("page", ["watch", "docs"])
async def test_page_with_a_slash_at_its_end_leads_to_the_page_without(gateway: httpx.AsyncClient, page: str) -> None:
    """There, the relative addresses of its files would lead nowhere. What was asked is kept."""
    for path, location in ((f"/{page}/", f"/{page}"), (f"/{page}//?room=a%20b", f"/{page}?room=a%20b")):
        answer = await gateway.get(path)
        assert (answer.status_code, answer.headers["location"]) == (302, location)


@pytest.mark.parametrize(("name", "media_type"), FILES.items())
async def test_watch_file_is_asked_for_again_and_sent_once(
    gateway: httpx.AsyncClient, name: str, media_type: str
) -> None:
    """Page, script and style change together: a browser keeps each, and asks each time whether it is still the same."""
    answer = await gateway.get(f"/watch/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content == (FOLDER / name).read_bytes()
    again = await gateway.get(f"/watch/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["index.html", "watch.html", "..%2fdocs.py", "swagger-ui.css"])
async def test_watch_path_of_another_file_is_not_found(gateway: httpx.AsyncClient, name: str) -> None:
    """Only what the page needs is served."""
    answer = await gateway.get(f"/watch/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json; charset=utf-8"


def test_watch_script_is_short_enough_to_read() -> None:
    """It is the example for frontends: with its comments no longer than a module of ours may be."""
    assert len((FOLDER / "watch.js").read_text("utf-8").splitlines()) <= 400
    assert len((FOLDER / "client.js").read_text("utf-8").splitlines()) <= 160
