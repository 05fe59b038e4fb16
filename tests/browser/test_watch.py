"""A room's page in a real browser: live, with what the caller may, and for people who see, hear or type otherwise."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
import pytest
from redis.asyncio import Redis

from gateway.auth.api_keys import new_key
from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.simulator import Simulator
from tests import harness
from tests.api_client import ApiClient, NewTrack, Track
from tests.browser.conftest import Chromium, Page, running
from tests.ingress import PREFIX, behind_an_ingress

pytestmark = pytest.mark.anyio

ARTEFACTS: Final = Path(__file__).parents[1] / "artefacts"

CALLERS: Final = {
    "lesson-service": 'scopes = ["recordings:start", "recordings:stop", "recordings:read"]\n',
    "reader": 'scopes = ["recordings:read"]\n',
    "starter": 'scopes = ["recordings:start"]\n',
    "own": 'scopes = ["recordings:start", "recordings:stop", "recordings:read"]\nstop_others = false\n',
    "folder": 'scopes = ["recordings:start", "recordings:read"]\nbucket_dir_prefix = "lessons"\n',
    "bounded": 'scopes = ["recordings:start", "recordings:read"]\nmax_duration_seconds = 5400\n',
    "nothing": "scopes = []\n",
}
"""The tables of callers, by their names."""

LIVE: Final = "document.querySelector('#connection').dataset.state === 'live'"
ROWS: Final = """[...document.querySelectorAll(".recording")].map((row) => ({
    who: row.closest(".person").querySelector("h2").textContent,
    status: row.querySelector(".status").dataset.status ?? null,  /* null before it is drawn */
    word: row.querySelector(".status").textContent,
    shape: row.querySelector("use").getAttribute("href"),
    what: row.querySelector("[data-part=what]").textContent,
    length: row.querySelector(".length").textContent,
    facts: row.querySelector(".facts").textContent,
    button: row.querySelector("button:not([hidden])")?.textContent ?? null,
}))"""
TAKES: Final = 60.0
"""Seconds that anything may take: only a failing test waits for so long."""


class Room:
    """A gateway with callers, and one room of it for a test.

    Attributes:
        url: The gateway's address.
        client: Speaks to it as `lesson-service`.
        keys: The callers' keys.
        redis: A client of its server.
        simulator: VideoSDK.
        id: The room.
    """

    def __init__(self, served: "Served", track: Track) -> None:
        self.url, self.client, self.keys = served.url, served.client, served.keys
        self.redis, self.simulator = served.redis, served.simulator
        self.id = track["roomId"]

    def token(self, participant: str, *, moderates: bool = False) -> str:
        """Make the join token of a participant."""
        more = {"permissions": ["allow_join", "allow_mod"]} if moderates else {}
        return demo_join_token(harness.API_KEY, harness.SECRET, room=self.id, participant=participant, **more)

    def track(self, participant: str, kind: str = "video") -> Track:
        """Return the body of a track in it."""
        return {"roomId": self.id, "participantId": participant, "kind": kind}

    @property
    def starts(self) -> Counter[str | None]:
        """How often VideoSDK was asked to start recording whom."""
        calls = harness.calls_for(self.simulator, self.id)
        return Counter(call.participant_id for call in calls if call.endpoint == "start")


class Served:
    """What `Room` hands out."""

    def __init__(self, url: str, client: ApiClient, keys: dict[str, str], redis: Redis, simulator: Simulator) -> None:
        self.url, self.client, self.keys, self.redis, self.simulator = url, client, keys, redis, simulator


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Served]:
    """One gateway for all tests of the page."""
    keys: dict[str, str] = {}
    file = tmp_path_factory.mktemp("watch") / "callers.toml"
    with file.open("w") as callers:
        for name, table in CALLERS.items():
            keys[name], entry = new_key(name)
            callers.write(f"{entry.partition('scopes')[0]}{table}")
    async with harness.simulator() as videosdk:
        with harness.AgedValkey() as valkey:
            settings = harness.environment(
                valkey.url, videosdk.url, file, **harness.CALM,
                GATEWAY_JOIN_TOKENS="on", GATEWAY_CALLER_STARTS_PER_MINUTE="1000", GATEWAY_TRUST_SECONDS="1",
            )  # fmt: skip
            async with (
                harness.serve(settings) as url,
                harness.client(url, keys["lesson-service"]) as client,
                Redis.from_url(valkey.url, decode_responses=True) as redis,
            ):
                yield Served(url, client, keys, redis, videosdk)


@pytest.fixture
def room(served: Served, new_track: NewTrack) -> Room:
    """A room that no other test uses."""
    return Room(served, new_track())


@pytest.fixture(scope="module")
async def chromium(project: Path) -> AsyncGenerator[Chromium]:
    """One browser for all tests of the page; each page has a window of its own."""
    async with running(project) as browser:
        yield browser
        assert browser.outside.asked == []


@asynccontextmanager
async def opened(chromium: Chromium, address: str, **options: Any) -> AsyncGenerator[Page]:
    """Open a page; afterwards, nothing was asked for elsewhere, and nothing but refusals stands in its console."""
    page = await chromium.open(address, **options)
    yield page
    seen = await page.seen()
    hosts = {urlsplit(request).netloc for request in seen["requests"]}
    assert hosts == {urlsplit(address).netloc}
    # A browser notes each refused or broken request by itself.
    complaints = [each for each in seen["messages"] if "Failed to load resource" not in each and "ERR_" not in each]
    assert complaints == []
    await page.close()


async def connect(page: Page, shown: str, *, keep: bool = False) -> None:
    """Show a key or token on the page's form, the way a person with a mouse does."""
    await page.at("#credential", "fill", shown)
    if keep:
        await page.at("#keep", "check")
    await page.at("#connect button", "click")


@asynccontextmanager
async def watching(chromium: Chromium, room: Room, shown: str, **options: Any) -> AsyncGenerator[Page]:
    """Open a page that is live."""
    async with opened(chromium, f"{room.url}/watch?room={quote(room.id)}", **options) as page:
        await connect(page, shown)
        await until(page, LIVE)
        yield page


async def until(page: Page, expression: str) -> Any:
    """Wait until an expression is true in a page."""
    return await harness.until(lambda: page.evaluate(expression), timeout=TAKES, every=0.03)


async def rows(page: Page, count: int = 1, **expected: str | None) -> list[dict[str, Any]]:
    """Wait until a page has drawn so many rows and each is as expected; return them."""

    def fits(found: list[dict[str, Any]]) -> bool:
        drawn = [row for row in found if row["status"] is not None]
        return len(drawn) == count and all(row[name] == value for row in drawn for name, value in expected.items())

    return await harness.until(lambda: page.evaluate(ROWS), fits, timeout=TAKES, every=0.03)


async def problem(page: Page) -> str:
    """Wait for a problem; return what the page says of it."""
    await until(page, "!document.querySelector('#problem').hidden")
    return await page.evaluate("document.querySelector('#problem').textContent")


async def start_on_page(page: Page, participant: str, kind: str = "video") -> None:
    """Fill in the form, and start."""
    await page.at("#participantId", "fill", participant)
    await page.at("#kind", "selectOption", kind)
    await page.at("#start button", "click")


async def test_watch_two_pages_and_a_service_that_start_at_once_see_one_recording(
    chromium: Chromium, room: Room
) -> None:
    """One start reaches VideoSDK; both pages show the same row, and the stop of one shows on the other."""
    async with (
        watching(chromium, room, room.keys["lesson-service"]) as one,
        watching(chromium, room, room.token("ben", moderates=True)) as other,
    ):
        answer, *_ = await asyncio.gather(
            room.client.start(room.track("ada")), start_on_page(one, "ada"), start_on_page(other, "ada")
        )
        assert answer.json()["status"] == "recording"
        seen = [await rows(page, status="recording") for page in (one, other)]
        for page in (one, other):
            await until(page, "document.querySelector('#said').textContent !== ''")
        assert room.starts == {"ada": 1}
        assert [[(row["who"], row["what"], row["word"]) for row in found] for found in seen] == [
            [("ada", "Video", "Recording")]
        ] * 2
        # What each may: the moderator's token stops what a participant or a moderator started, and no service's.
        by_service = "lesson-service" in seen[0][0]["facts"]
        assert [row["button"] for row in await rows(other)] == [None if by_service else "Stop"]

        await one.at(".recording button", "click")

        for page in (one, other):
            (row,) = await rows(page, status="stopped")
            assert "stopped on request" in row["facts"]
            assert row["shape"] == "#shape-stopped"
            assert row["button"] == "Start again"
        assert await one.evaluate("document.title") == f"Recordings – {room.id}"


async def test_watch_pages_reconnect_after_their_gateway_was_killed_and_are_right_again(
    chromium: Chromium, room: Room, demo: harness.Demo, tmp_path: Path
) -> None:
    """Both say that the connection is lost and as of when they show; then what changed meanwhile is there."""
    with harness.AgedValkey() as valkey:
        settings = harness.environment(valkey.url, room.simulator.url, demo.file, **harness.CALM)
        ARTEFACTS.mkdir(exist_ok=True)
        dying, other = (harness.GatewayProcess(settings, tmp_path / name) for name in ("dying", "other"))
        await asyncio.gather(dying.ready(), other.ready())
        room.url = dying.url
        async with harness.client(other.url, demo.key) as service:
            assert (await service.start(room.track("ada"))).status_code == 201
            async with watching(chromium, room, demo.key) as one, watching(chromium, room, demo.key) as two:
                for page in (one, two):
                    await rows(page, status="recording")

                dying.kill()
                for page in (one, two):
                    await until(page, "document.querySelector('#connection').dataset.state === 'lost'")
                    said = await page.evaluate("document.querySelector('#connection').textContent")
                    assert said.startswith("Connection lost, reconnecting")
                    assert "Shown as of " in said
                assert await one.violations() == []
                await one.call("screenshot", {"path": str(ARTEFACTS / "watch-lost.png")})
                assert (await service.stop(room.track("ada"))).json()["outcome"] == "stopped"
                assert (await service.start(room.track("ben"))).status_code == 201
                again = await harness.GatewayProcess(settings, tmp_path / "again", port=dying.port).ready()

                for page in (one, two):
                    await until(page, LIVE)
                    await until(page, f"String({ROWS}.map((r) => [r.who, r.status])) === 'ada,stopped,ben,recording'")
                    assert await page.evaluate("document.querySelector('#connection').textContent") == "Live"
        assert again.stop() == 0
        assert other.stop() == 0


async def test_watch_behind_a_stripped_prefix_is_live_and_starts(
    chromium: Chromium, room: Room, demo: harness.Demo, tmp_path: Path
) -> None:
    """Behind an ingress that shows the gateway below a path: the page's files, its calls and its events lead there."""
    with harness.AgedValkey() as valkey:
        settings = harness.environment(valkey.url, room.simulator.url, demo.file, **harness.CALM)
        async with behind_an_ingress(settings, tmp_path) as room.url, watching(chromium, room, demo.key) as page:
            await start_on_page(page, "ada")
            await rows(page, who="ada", status="recording")
            asked = [urlsplit(request).path for request in (await page.seen())["requests"]]
            assert [path for path in asked if not path.startswith(f"{PREFIX}/")] == []


async def test_watch_without_any_right_says_so_and_shows_no_buttons(chromium: Chromium, room: Room) -> None:
    """A key that may nothing: a sentence that names the missing scope, no form, no list, and no attempt to follow."""
    async with opened(chromium, f"{room.url}/watch?room={room.id}") as page:
        await connect(page, room.keys["nothing"])
        await until(page, "!document.querySelector('#note').hidden")
        said = await page.evaluate("document.querySelector('#room-section').innerText")
        assert "may not see recordings: it lacks the scope recordings:read" in said
        assert "may do nothing" in said
        assert (
            await page.evaluate("[...document.querySelectorAll('button')].filter((b) => b.checkVisibility()).length")
            == 1
        )
        assert not [request for request in (await page.seen())["requests"] if request.endswith("/events")]


@pytest.mark.parametrize(
    ("caller", "form", "button"),
    [("reader", False, None), ("own", True, None), ("folder", True, None), ("lesson-service", True, "Stop")],
)
async def test_watch_shows_the_buttons_that_the_caller_has(
    chromium: Chromium, room: Room, caller: str, form: bool, button: str | None
) -> None:
    """What another started: a reader, one who stops only its own and one without the scope see no Stop."""
    assert (await room.client.start(room.track("ada"))).status_code == 201
    async with watching(chromium, room, room.keys[caller]) as page:
        assert [row["button"] for row in await rows(page, status="recording")] == [button]
        assert await page.evaluate("document.querySelector('#start').checkVisibility()") is form
        if caller in {"own", "folder"}:
            await start_on_page(page, "ben")
            found = await rows(page, 2)
            assert found[1]["button"] == ("Stop" if caller == "own" else None)


async def test_watch_of_a_participant_offers_its_own_tracks(chromium: Chromium, room: Room) -> None:
    """A join token: its participant is filled in, one mode is offered, and others' recordings are not shown."""
    assert (await room.client.start(room.track("ben"))).status_code == 201
    async with watching(chromium, room, room.token("zoë*")) as page:
        assert await page.evaluate("document.querySelector('#participantId').value") == "zoë*"
        assert await page.evaluate("[...document.querySelector('#mode').options].map((o) => o.value)") == ["track"]
        await page.at("#start button", "click")
        (row,) = await rows(page, status="recording")
        assert (row["who"], row["button"]) == ("zoë*", "Stop")


OPTIONS: Final = "[...document.querySelector('#%s').options].map(({value, text}) => [value, text])"


async def test_watch_start_with_a_duration_is_bounded_and_its_row_says_until_when(
    chromium: Chromium, room: Room
) -> None:
    """Chosen on the form: the gateway stops it then. Not chosen: it has no end, and the row names none."""
    async with watching(chromium, room, room.keys["lesson-service"]) as page:
        assert await page.evaluate(OPTIONS % "maxDurationSeconds") == [
            ["", "Never"], ["1800", "30 min"], ["3600", "1 h"], ["7200", "2 h"], ["14400", "4 h"]
        ]  # fmt: skip
        await start_on_page(page, "ada")
        (row,) = await rows(page, status="recording")
        assert "until" not in row["facts"]
        await page.at("#maxDurationSeconds", "selectOption", "1800")
        await start_on_page(page, "ben")
        _, row = await rows(page, 2, status="recording")
        recordings = {each["participantId"]: each for each in (await room.client.list(room.id)).json()["recordings"]}
        assert recordings["ada"]["stopsAt"] is None
        begun, end = (datetime.fromisoformat(recordings["ben"][name]) for name in ("requestedAt", "stopsAt"))
        assert end - begun == timedelta(minutes=30)
        spoken = await page.evaluate(f"new Date({int(end.timestamp() * 1000)}).toTimeString().slice(0, 5)")
        assert re.search(f"until [^·]*{spoken}", row["facts"])  # with its day where that is tomorrow


async def test_watch_offers_no_longer_duration_than_the_caller_has(chromium: Chromium, room: Room) -> None:
    """Its longest stands first, since a start without a duration ends then too; what is longer is not offered."""
    async with watching(chromium, room, room.keys["bounded"]) as page:
        assert await page.evaluate(OPTIONS % "maxDurationSeconds") == [
            ["5400", "1 h 30 min"], ["1800", "30 min"], ["3600", "1 h"]
        ]  # fmt: skip


async def ends_in(room: Room, key: str, seconds: int) -> None:
    """Have a recording end in so many seconds."""
    at = int((time.time() + seconds) * 1000)
    await room.redis.hset(key, "stops_at", str(at))  # pyright: ignore
    await room.redis.zadd(f"{':'.join(key.split(':')[:3])}:ends", {key: at})


async def test_watch_counts_down_to_the_end_and_says_that_the_time_was_over(chromium: Chromium, room: Room) -> None:
    """Near its end a row says in how long; then the gateway stops it, and the row says why."""
    body = {**room.track("ada"), "maxDurationSeconds": 3600}
    assert (await room.client.start(body)).status_code == 201
    key = await key_of(room, "ada")
    await ends_in(room, key, 300)
    async with watching(chromium, room, room.keys["reader"]) as page:
        (row,) = await rows(page, status="recording")
        assert re.search(r"stops in [34] min \d+ s", row["facts"])
        await harness.until(
            lambda: page.evaluate(ROWS), lambda found: found[0]["facts"] != row["facts"], timeout=TAKES, every=0.03
        )
        await ends_in(room, key, 0)
        (row,) = await rows(page, status="stopped")
        assert "it had recorded for as long as it may" in row["facts"]
        assert "stops in" not in row["facts"]


async def test_watch_starts_and_stops_the_whole_room_where_the_caller_may(chromium: Chromium, room: Room) -> None:
    """The mode takes no participant and no kind, and has a row of its own, first, with its own button."""
    assert (await room.client.start(room.track("ada"))).status_code == 201
    async with watching(chromium, room, room.keys["lesson-service"]) as page:
        assert [mode for mode, _ in await page.evaluate(OPTIONS % "mode")] == ["track", "participant", "room"]
        await page.at("#mode", "selectOption", "room")
        for field in ("participantId", "kind"):
            assert not await page.evaluate(f"document.querySelector('#{field}').checkVisibility()")
        await page.at("#start button", "click")
        whole, _ = await rows(page, 2, status="recording", button="Stop")
        assert (whole["who"], whole["what"]) == ("The whole room", "Room as a whole")

        await page.at(".recording button >> nth=0", "click")

        await until(page, f"String({ROWS}.map((row) => row.status)) === 'stopped,recording'")
        await page.at(".recording button >> nth=0", "click")
        await rows(page, 2, status="recording")
        calls = [call.endpoint for call in harness.calls_for(room.simulator, room.id) if call.method == "POST"]
        assert calls == ["start", "room-start", "room-stop", "room-start"]


async def test_watch_of_another_room_or_with_a_wrong_key_shows_the_problem(chromium: Chromium, room: Room) -> None:
    """401 at the form, which keeps what was typed; 403 in the room: title and detail of the problem, and no retries."""
    async with opened(chromium, f"{room.url}/watch?room={room.id}") as page:
        await connect(page, new_key("stranger")[0])
        assert "The key is not known." in await problem(page)
        assert await page.evaluate("document.querySelector('#credential').getAttribute('aria-invalid')") == "true"
        await page.at("#room", "fill", "somebody-elses")
        await connect(page, room.token("ada"))
        await until(page, "document.querySelector('#connection').textContent === 'Not connected'")
        assert "You may not act in this room." in await problem(page)
        asked = [request for request in (await page.seen())["requests"] if request.endswith("/events")]
        assert len(asked) == 1


async def test_watch_start_that_is_refused_names_the_field(chromium: Chromium, room: Room) -> None:
    """What the gateway says of a field stands in the message, and marks the field."""
    async with watching(chromium, room, room.keys["lesson-service"]) as page:
        await start_on_page(page, "a/b")
        assert "participantId: must not contain `/`" in await problem(page)
        assert await page.evaluate("document.querySelector('#participantId').getAttribute('aria-invalid')") == "true"
        await page.at("#problem-close", "click")
        assert await page.evaluate("document.querySelectorAll('[aria-invalid=true]').length") == 0
        assert room.starts == {}


async def test_watch_reload_keeps_the_key_only_where_that_was_ticked(chromium: Chromium, room: Room) -> None:
    """Ticked: live again by itself. Not ticked: the room is still there, the key is nowhere. Leaving forgets both."""
    assert (await room.client.start(room.track("ada"))).status_code == 201
    stored = "JSON.stringify([{...sessionStorage}, {...localStorage}])"
    async with watching(chromium, room, room.keys["reader"]) as page:
        await rows(page, status="recording")
        assert room.keys["reader"] not in await page.evaluate(stored)
        await page.call("reload")
        assert await page.evaluate("document.querySelector('#credential').value") == ""
        assert await page.evaluate("document.querySelector('#room').value") == room.id
        await connect(page, room.keys["reader"], keep=True)
        await rows(page, status="recording")
        await page.call("reload")
        await until(page, LIVE)
        await rows(page, status="recording")
        assert room.keys["reader"] in await page.evaluate(stored)
        await page.at("#leave", "click")
        await until(page, "document.querySelector('#connect-section').checkVisibility()")
        assert await page.evaluate(stored) == "[{},{}]"
        addresses = (await page.seen())["requests"]
        assert not any(room.keys["reader"] in address for address in addresses)


HOSTILE: Final = [
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)<",
    "{{constructor.constructor('alert(1)')()}}",
    "javascript:alert(1)",
    "\u202egnp.live\u2066",
    "__proto__",
    "constructor",
    "%3Cb%3E&lt;b&gt;&amp;",
    "a" * 128,
    "日本語 🎥 e\u0301",
]


async def test_watch_shows_hostile_ids_as_text(chromium: Chromium, room: Room) -> None:
    """Each stands there letter by letter; none becomes an element, a script or a link, and the page stays whole."""
    for participant in HOSTILE:
        assert (await room.client.start(room.track(participant))).status_code == 201
    async with watching(chromium, room, room.keys["lesson-service"], viewport={"width": 320, "height": 700}) as page:
        found = await rows(page, len(HOSTILE))
        assert {row["who"] for row in found} == set(HOSTILE)
        assert (
            await page.evaluate(
                "document.querySelectorAll('main img, main script, main a, main b:not([data-count])').length"
            )
            == 0
        )
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_watch_links_only_files_of_the_web(chromium: Chromium, room: Room) -> None:
    """A file's https address is a link that tells its target nothing; one that would be a script is no link."""
    for participant in ("ada", "ben"):
        assert (await room.client.start(room.track(participant))).status_code == 201
        assert (await room.client.stop(room.track(participant))).status_code == 200

    async def listed() -> list[str]:
        """Return the addresses of all files, ada's first."""
        page = (await room.client.list(room.id)).json()["recordings"]
        return [file["fileUrl"] for recording in page for file in recording["files"]]

    address, other = await harness.until(listed, lambda found: len(found) == 2, timeout=TAKES)
    key = await key_of(room, "ben")
    evidence = str(await room.redis.hget(key, "evidence"))
    assert other in evidence
    await room.redis.hset(key, "evidence", evidence.replace(other, "javascript:alert(document.domain)//x.webm"))

    async with watching(chromium, room, room.keys["reader"]) as page:
        await rows(page, 2, status="stopped")
        links = await page.evaluate(
            "[...document.querySelectorAll('.files')].map((files) => "
            "[...files.querySelectorAll('a')].map((a) => [a.href, a.rel, a.target]))"
        )
        assert links == [[[address, "noopener noreferrer", "_blank"]], []]


async def test_watch_with_200_recordings_draws_them_once_and_keeps_its_rows(chromium: Chromium, room: Room) -> None:
    """The snapshot is one frame's work; through 200 stops each row stays the same element, and the counts are right."""
    first = """
        globalThis.frames_asked = 0;
        const ask = globalThis.requestAnimationFrame.bind(globalThis);
        globalThis.requestAnimationFrame = (draw) => (globalThis.frames_asked += 1, ask(draw));
        globalThis.tasks = [];
        new PerformanceObserver((list) => tasks.push(...list.getEntries().map(({duration}) => Math.round(duration))))
            .observe({type: "longtask", buffered: true});
    """
    everyone = [f"person-{number:03}" for number in range(200)]

    async def for_everyone(act: Callable[[dict[str, str]], Awaitable[httpx.Response]]) -> None:
        async def until_done(track: dict[str, str]) -> None:
            # 200 at once may take a busy machine longer than Redis may take to answer.
            await harness.until(lambda: act(track), lambda answer: answer.status_code in {200, 201})

        await asyncio.gather(*(until_done(room.track(participant)) for participant in everyone))

    await for_everyone(room.client.start)
    async with watching(chromium, room, room.keys["lesson-service"], first=first) as page:
        count = "Number(document.querySelector('[data-count=%s]').textContent)"
        await until(page, f"{count % 'running'} === 200")
        assert await page.evaluate("frames_asked") == 1
        assert [row["who"] for row in await page.evaluate(ROWS)] == everyone
        await page.evaluate("document.querySelectorAll('.recording').forEach((row, number) => row.mark = number), 0")
        await page.at("#filter label >> nth=1", "click")

        await for_everyone(room.client.stop)
        await until(page, f"{count % 'ended'} === 200")
        assert await page.evaluate("[...document.querySelectorAll('.recording')].every((row, n) => row.mark === n)")
        assert await page.evaluate("document.querySelector('#empty').checkVisibility()")
        await page.at("#filter label >> nth=0", "click")
        assert await page.evaluate("[...document.querySelectorAll('.person')].filter((p) => !p.hidden).length") == 200
        figures = await page.evaluate("({frames: frames_asked, tasks})")
    ARTEFACTS.mkdir(exist_ok=True)
    (ARTEFACTS / "watch-200.json").write_text(json.dumps(figures))


async def test_watch_with_the_keyboard_alone_connects_starts_and_stops(chromium: Chromium, room: Room) -> None:
    """Tab, typing, Enter and Space are enough; each stop of the focus is seen, and none is lost on the way."""
    async with opened(chromium, f"{room.url}/watch") as page:

        async def press(*keys: str) -> None:
            for key in keys:
                await page.call("keyboard.press", key)

        async def focus() -> str:
            return await page.evaluate("document.activeElement.id || document.activeElement.className")

        async def tab_to(name: str) -> None:
            for _ in range(12):
                await press("Tab")
                shown = "getComputedStyle(document.activeElement)"
                ring = await page.evaluate(f"{shown}.outlineStyle + {shown}.opacity")
                assert ring in {"solid1", "solid0"}, await focus()
                if await page.evaluate(f"document.activeElement.matches({json.dumps(name)})"):
                    return
            raise AssertionError(f"no way to {name}, at {await focus()}")

        await press("Tab")
        assert await focus() == "skip"
        await tab_to("#credential")
        await page.call("keyboard.insertText", room.keys["lesson-service"])
        await tab_to("#room")
        await page.call("keyboard.insertText", room.id)
        await tab_to("#keep")
        await press("Space")
        assert await page.evaluate("document.querySelector('#keep').checked")
        await tab_to("#connect button")
        await press("Enter")
        await until(page, LIVE)
        assert await focus() == "room-title"
        await tab_to("#participantId")
        await page.call("keyboard.insertText", "ada")
        await tab_to("#kind")
        await press("a")
        await tab_to("#start button")
        await press("Enter")
        (row,) = await rows(page, status="recording")
        assert (row["who"], row["what"]) == ("ada", "Audio")
        room.simulator.inject(harness.delay("stop", 0.3, room_id=room.id))
        await tab_to(".recording button")
        await page.evaluate(
            "globalThis.focused = [], document.addEventListener('focusout', () => focused.push('out'), true)"
        )
        await press("Enter")
        await rows(page, status="stopped")
        # Not even while it is stopping.
        assert await page.evaluate("focused") == []
        # The same button starts again now: a person is where they were.
        assert await page.evaluate("document.activeElement.textContent") == "Start again"
        assert (
            await page.evaluate("document.activeElement.getAttribute('aria-label')")
            == "Start again: \u2068ada\u2069, \u2068Audio\u2069"
        )
        await until(page, "document.querySelector('#news').textContent.includes('Stopped')")
        assert room.starts == {"ada": 1}


# --- what it looks like ------------------------------------------------------------------------------------------

LESSON: Final[list[tuple[str, str, dict[str, object]]]] = [
    ("", "", {"begun": 41.3, "stops": -4.2}),
    ("ada", "video", {"begun": 24.2, "stops": -35.8}),
    ("ada", "audio", {"begun": 24.2}),
    ("ben@example.com", "video", {"begun": 47.6, "ended": 13.1, "because": "participant_left", "state": "stopped"}),
    ("ben@example.com", "screen_video", {"begun": 38.0, "ended": 29.4, "because": "stopped", "state": "stopped"}),
    ("carla", "", {"begun": 9.7}),
    ("dov", "video", {"begun": 31.5, "confirmed": 2.4, "state": "unknown"}),
    ("edda", "audio", {"begun": 4.1, "ended": 4.1, "because": "refused", "state": "failed"}),
    ("zoë", "video", {"begun": 0.1, "state": "stopping"}),
]
"""A lesson in the middle of its hour: who (none: the room), which kind of track (none: as a whole), and minutes ago."""


async def key_of(room: Room, participant: str, kind: str = "video", mode: str = "track") -> str:
    """Return the key of a record."""
    end = f":{mode}:{quote(participant, safe='')}:{kind}"
    (key,) = [key async for key in room.redis.scan_iter(match=f"*:{room.id}:*") if str(key).endswith(end)]
    return str(key)


async def hold_a_lesson(room: Room) -> None:
    """Have a room whose recordings began and ended in the last hour: real ones, whose records are made older."""
    now = time.time() * 1000
    for participant, kind, past in LESSON:
        track = {name: value for name, value in room.track(participant, kind).items() if value}
        mode = "track" if kind else "participant" if participant else "room"
        started = await room.client.post(f"/v1/recordings/{mode}/start", json=track)
        assert started.status_code == 201, started.text
        fields = {"begun": "started_at", "ended": "ended_at", "confirmed": "confirmed", "stops": "stops_at"}
        changed = {
            fields.get(name, name): int(now - value * 60_000) if isinstance(value, float) else value
            for name, value in past.items()
        }
        await room.redis.hset(await key_of(room, participant, kind, mode), mapping=changed)  # pyright: ignore


def looks() -> Iterator[Any]:
    """Yield how people look at the page."""
    for name, room, scheme, width, height in (
        ("light", "algebra-2", "light", 1120, 1080),
        ("dark", "algebra-3", "dark", 1120, 1080),
        ("phone", "algebra-4", "light", 320, 1200),
        ("phone-dark", "algebra-5", "dark", 390, 1200),
    ):
        yield pytest.param(
            {"colorScheme": scheme, "viewport": {"width": width, "height": height}, "reducedMotion": "reduce"},
            name, room, id=name,
        )  # fmt: skip


@pytest.mark.parametrize(("options", "name", "lesson"), list(looks()))
async def test_watch_breaks_no_rule_of_accessibility(
    chromium: Chromium, room: Room, options: dict[str, Any], name: str, lesson: str
) -> None:
    """axe-core finds nothing, and nothing overflows: at the form, with a problem, and in a room with every status."""
    ARTEFACTS.mkdir(exist_ok=True)

    async def look(page: Page, what: str) -> None:
        assert await page.violations() == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture = ARTEFACTS / f"watch-{what}{name}.png"
        picture.unlink(missing_ok=True)
        await page.call("screenshot", {"path": str(picture), "animations": "disabled"})
        assert picture.read_bytes().startswith(b"\x89PNG")

    room.id = lesson
    await hold_a_lesson(room)
    async with opened(chromium, f"{room.url}/watch?room={room.id}", **options) as page:
        await look(page, "form-")
        await connect(page, "gw_0000_of-nobody")
        await problem(page)
        await look(page, "refused-")
        await connect(page, room.keys["lesson-service"])
        await until(page, LIVE)
        found = await rows(page, len(LESSON))
        assert {row["status"] for row in found} == {"recording", "stopped", "failed", "stopping", "unknown"}
        assert len({row["shape"] for row in found}) == 5
        facts = {(row["who"], row["what"]): row["facts"] for row in found}
        assert "the participant left" in facts["ben@example.com", "Video"]
        assert "VideoSDK refused it" in facts["edda", "Audio"]
        assert "not certain since" in facts["dov", "Video"]
        assert "started by \u2068lesson-service\u2069" in facts["ada", "Video"]
        assert "until " in facts["ada", "Video"]
        assert "stops in " in facts["The whole room", "Room as a whole"]
        lengths = {(row["who"], row["what"]): row["length"] for row in found}
        assert lengths["ada", "Video"].startswith("24 min ")
        assert lengths["ben@example.com", "Video"] == "34 min 30 s"
        lines = "[...document.querySelectorAll('.timeline')].map((line) => line.getAttribute('aria-label'))"
        room_line, first_line, *_ = await page.evaluate(lines)
        assert room_line.startswith("Last hour: Room as a whole since ")
        assert first_line.startswith("Last hour: Audio since ")
        await look(page, "")
