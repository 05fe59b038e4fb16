"""Runs the code that the pages show to callers and operators, as it stands there."""

import json
import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from gateway.api.problems import PROBLEM_JSON
from gateway.auth.api_keys import Callers
from gateway.auth.policy import Policy
from gateway.sandbox.faults import Fault
from gateway.sandbox.identities import demo_join_token
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.wire import Exchange, Reply, Server
from tests import harness
from tests.api_client import ApiClient
from tests.browser import node_project

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
CALLERS = (ROOT / "docs" / "callers.md").read_text("utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
TRACK = {"roomId": "abcd-efgh-ijkl", "participantId": "ada", "kind": "video"}


def block(language: str, heading: str, text: str = CALLERS) -> str:
    """Return the one block of code in a language below a heading."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    (found,) = re.findall(rf"^ *```{language}\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)
    return found


@dataclass
class House:
    """A gateway, and what its callers hold."""

    url: str
    key: str
    join_token: str
    simulator: Simulator

    @property
    def upstream(self) -> list[str]:
        """What reached VideoSDK, but for looks."""
        return [call.endpoint for call in self.simulator.calls if call.method == "POST"]


@pytest.fixture
async def house(simulator: Simulator, demo: harness.Demo) -> AsyncGenerator[House]:
    """A gateway that lets in services and participants, with a Redis of its own: the examples name one track."""
    join_token = demo_join_token(harness.API_KEY, harness.SECRET, room=TRACK["roomId"], participant="ada")
    with harness.AgedValkey() as valkey:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_JOIN_TOKENS="on")
        async with harness.serve(settings) as url:
            yield House(url, demo.key, join_token, simulator)


async def test_callers_page_shell_lines_start_show_and_stop(house: House, tmp_path: Path) -> None:
    """Started, recording, stopped, as the three lines are pasted one after the other."""
    if shutil.which("curl") is None:
        harness.skip_unless_ci("curl is not installed")
    script = tmp_path / "lines.sh"
    # One answer a line.
    script.write_text(re.sub(r"^curl", "echo; curl", block("sh", "A shell"), flags=re.MULTILINE))
    use = ["env", f"GATEWAY={house.url}", f"KEY={house.key}", "sh", "-eu", script]
    code, out, err = await node_project.run(*use, cwd=tmp_path)
    assert code == 0, err
    started, seen, stopped = (json.loads(line) for line in out.splitlines() if line)
    assert (started["outcome"], seen["status"], stopped["outcome"]) == ("started", "recording", "stopped")
    assert house.upstream == ["start", "stop"]


async def test_readme_curl_line_starts_a_recording(house: House, tmp_path: Path) -> None:
    """The README's one request starts a recording."""
    if shutil.which("curl") is None:
        harness.skip_unless_ci("curl is not installed")
    script = tmp_path / "line.sh"
    line = block("sh", "Use it", (ROOT / "README.md").read_text("utf-8"))
    script.write_text(line.replace("curl", "curl --silent --fail-with-body"))
    use = ["env", f"GATEWAY={house.url}", f"KEY={house.key}", "sh", "-eu", script]
    code, out, err = await node_project.run(*use, cwd=tmp_path)
    assert code == 0, out + err
    assert json.loads(out)["outcome"] == "started"


async def test_callers_page_bodies_are_what_the_gateway_answers(house: House) -> None:
    """The recording and the problem that the page shows, but for what each answer has of its own."""
    own = {"id": r"rec_[a-z2-7]{24}", "requestId": r"[0-9a-f]{16}"}
    own |= dict.fromkeys(("requestedAt", "confirmedAt"), r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
    async with harness.client(house.url, house.key) as caller:
        started = await caller.start(TRACK)
        refused = await caller.start(TRACK | {"kind": "smell"})
    for heading, answer in (("Requests and answers", started), ("Problems", refused)):
        shown, answered = json.loads(block("json", heading)), answer.json()
        for body in (shown, answered):
            for name in own.keys() & body.keys():
                assert re.fullmatch(own[name], body[name]), name
                body[name] = ""
        assert list(shown.items()) == list(answered.items())


async def test_callers_page_python_service_starts_and_raises_refusals(house: House, tmp_path: Path) -> None:
    """It starts although the participant only just joins, gets the same recording again, and raises what is wrong."""
    house.simulator.inject(Fault(action="refuse", endpoint="start", status=400, headers={"Retry-After": "1"}))
    (tmp_path / "service.py").write_text(block("python", "A service in Python"))
    (tmp_path / "use.py").write_text(
        "import json, sys, httpx\nfrom service import start_recording\n"
        "gateway, key, track = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])\n"
        "recordings = [start_recording(gateway, key, track) for _ in range(2)]\n"
        "try:\n    start_recording(gateway, key, track | {'kind': 'smell'})\n"
        "except httpx.HTTPStatusError as error:\n    recordings.append(error.response.json())\n"
        "print(json.dumps(recordings))\n"
    )
    use = [sys.executable, "-W", "error", "use.py", house.url, house.key, json.dumps(TRACK)]
    code, out, err = await node_project.run(*use, cwd=tmp_path)
    assert code == 0, err
    first, second, refused = json.loads(out)
    assert (first["outcome"], second["outcome"]) == ("started", "already_recording")
    assert first["id"] == second["id"]
    assert refused["type"] == "/problems/invalid-request"
    assert house.upstream == ["start", "start"]


@asynccontextmanager
async def busy_at_first(gateway: str) -> AsyncGenerator[str]:
    """Stand in front of a gateway, and refuse the first request for each path as the gateway does what may pass."""
    seen: set[str] = set()

    async def forward(exchange: Exchange) -> None:
        asked = exchange.request
        if asked.path not in seen:
            seen.add(asked.path)
            exchange.reply(Reply(503, b"{}", PROBLEM_JSON, (("Retry-After", "0"),)))
            return
        passed = {name: asked.headers[name] for name in ("authorization", "idempotency-key") if name in asked.headers}
        async with harness.client(gateway) as client:
            json_type = {"content-type": "application/json"}
            answer = await client.post(asked.path, content=asked.body, headers=passed | json_type)
        exchange.reply(Reply(answer.status_code, answer.content, answer.headers["content-type"]))

    server = Server(forward, host="127.0.0.1", port=0)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


async def test_callers_page_python_lesson_starts_and_ends(house: House, tmp_path: Path) -> None:
    """Four tracks begin in one batch and end with the room, although both requests and a start are refused at first."""
    house.simulator.inject(Fault(action="refuse", endpoint="start", status=429, headers={"Retry-After": "1"}))
    (tmp_path / "lesson.py").write_text(block("python", "A lesson"))
    (tmp_path / "use.py").write_text(
        "import json, sys\nfrom lesson import end_lesson, start_lesson\n"
        "gateway, key, room = sys.argv[1:]\n"
        "started = start_lesson(gateway, key, room, ['ada', 'bob'])\n"
        "print(json.dumps([started, end_lesson(gateway, key, room)]))\n"
    )
    async with busy_at_first(house.url) as url:
        use = [sys.executable, "-W", "error", "use.py", url, house.key, TRACK["roomId"]]
        code, out, err = await node_project.run(*use, cwd=tmp_path)
    assert code == 0, err
    started, left = json.loads(out)
    assert [result["recording"]["kind"] for result in started] == ["audio", "video"] * 2
    # Of the second try: three are replayed.
    assert [result["status"] for result in started] == [201] * 4
    assert sum("replayed" in result for result in started) == 3
    assert left == []
    assert Counter(house.upstream) == {"start": 5, "stop": 4}


async def test_callers_page_browser_lesson_starts_and_ends(house: House, tmp_path: Path) -> None:
    """The same in JavaScript: what did not start is named by its result, and the end says that all ended."""
    if shutil.which("node") is None:
        harness.skip_unless_ci("node is not installed")
    (tmp_path / "lesson.mjs").write_text(block("js", "A lesson"))
    (tmp_path / "use.mjs").write_text(
        'import {endLesson, startLesson} from "./lesson.mjs";\nconst [, , gateway, key, room] = process.argv;\n'
        'const failed = await startLesson(gateway, key, room, ["ada", "b/ob"]);\n'
        "console.log(JSON.stringify([failed, await endLesson(gateway, key, room)]));\n"
    )
    use = ["node", "use.mjs", house.url, house.key, TRACK["roomId"]]
    code, out, err = await node_project.run(*use, cwd=tmp_path)
    assert code == 0, err
    failed, ended = json.loads(out)
    assert [result["problem"]["errors"][0]["field"] for result in failed] == ["items[1].participantId"] * 2
    assert ended is True
    assert Counter(house.upstream) == {"start": 2, "stop": 2}


async def test_callers_page_browser_code_starts_and_stops(house: House, tmp_path: Path) -> None:
    """A participant starts and stops with its join token, and reads in words why another's track is refused."""
    if shutil.which("node") is None:
        harness.skip_unless_ci("node is not installed")
    (tmp_path / "record.mjs").write_text(block("js", "A web page"))
    (tmp_path / "use.mjs").write_text(
        'import {record} from "./record.mjs";\nconst [, , gateway, token, text] = process.argv;\n'
        "const track = JSON.parse(text);\n"
        'const answers = [await record("start", gateway, token, track), await record("stop", gateway, token, track)];\n'
        'const bobs = {...track, participantId: "bob"};\n'
        'const refusal = await record("start", gateway, token, bobs).catch((error) => error.message);\n'
        "console.log(JSON.stringify([...answers, refusal]));\n"
    )
    use = ["node", "use.mjs", house.url, house.join_token, json.dumps(TRACK)]
    code, out, err = await node_project.run(*use, cwd=tmp_path)
    assert code == 0, err
    started, stopped, refusal = json.loads(out)
    assert (started["outcome"], stopped["outcome"]) == ("started", "stopped")
    assert started["requestedBy"] == "participant:ada"
    assert refusal.startswith("Forbidden: You may not act on this participant. (")
    assert house.upstream == ["start", "stop"]


async def test_callers_page_flutter_request_is_accepted(house: House) -> None:
    """Without a Dart SDK: what the block sends, sent the way Dart's http package does, which adds the charset."""
    code = block("dart", "A Flutter app")
    known = {"gateway": house.url, "joinToken": house.join_token, **TRACK}

    def filled(text: str) -> str:
        return re.sub(r"\$(\w+)", lambda name: known[name[1]], text)

    (address,) = re.findall(r'http\.post\(\s*Uri\.parse\("([^"]+)"\)', code)
    headers = {name: filled(value) for name, value in re.findall(r'^    "([\w-]+)": "([^"]+)",', code, re.MULTILINE)}
    headers["Content-Type"] += "; charset=utf-8"
    body = {name: known[value] for name, value in re.findall(r'"(\w+)": (\w+)[,}]', code)}
    assert headers.keys() == {"Authorization", "Content-Type"}
    async with harness.client("") as client:
        answer = await client.post(filled(address), headers=headers, content=json.dumps(body))
    assert (answer.status_code, answer.json()["outcome"]) == (201, "started"), answer.text
    # What changes against the vendor's own is marked, and is two lines.
    assert re.findall(r"// (\d): was", code) == ["1", "2"]


async def test_callers_page_events_line_returns_the_room(house: House, tmp_path: Path) -> None:
    """The curl line of the live events gets the room as it is."""
    if shutil.which("curl") is None:
        harness.skip_unless_ci("curl is not installed")
    script = tmp_path / "line.sh"
    line = block("sh", "Live events").partition("#")[0].strip()
    script.write_text(f'{line} --silent --fail-with-body -H "X-Request-Timeout-Ms: 200"\n')
    use = ["env", f"GATEWAY={house.url}", f"KEY={house.key}", "sh", "-eu", script]
    code, out, err = await node_project.run(*use, cwd=tmp_path)
    assert code == 0, err
    assert "event: snapshot\n" in out


def test_callers_page_events_code_is_what_the_browser_tests_run() -> None:
    """`tests/browser/page.html` holds the shown code, and the browser tests run that."""
    page = textwrap.dedent((ROOT / "tests" / "browser" / "page.html").read_text("utf-8"))
    shown = textwrap.indent(block("js", "Live events"), " " * 6)
    assert shown in page


def test_operating_page_callers_file_is_valid(tmp_path: Path) -> None:
    """The table that people copy holds no key that is unknown, and no value of another sort."""
    text = block("toml", "Callers", (ROOT / "docs" / "operating.md").read_text("utf-8"))
    file = tmp_path / "callers.toml"
    file.write_text(text.replace('"…"', f'"{"ab" * 32}"'))
    assert Callers.load(file)


def test_operating_page_lists_every_key_of_the_callers_file() -> None:
    """One row for each key that a table may hold, and none for another."""
    page = (ROOT / "docs" / "operating.md").read_text("utf-8")
    table = page.split("<!-- callers file -->\n")[1].split("<!-- /callers file -->")[0]
    listed = [re.match(r"\| `(\w+)` \| .+ \| .+ \|$", row) for row in table.splitlines()]
    keys = {"keys", "starts_per_minute", *(field.name for field in msgspec.structs.fields(Policy))}
    assert sorted(row[1] if row else "" for row in listed) == sorted(keys)


@pytest.mark.parametrize("page", PAGES)
async def test_callers_page_names_only_existing_problems(page: str, gateway: ApiClient) -> None:
    """Problems that are named have a page."""
    text = (ROOT / page).read_text("utf-8")
    for slug in re.findall(r"(?:409|422|502|503|504) `([a-z-]+)`", text):
        assert (await gateway.get(f"/problems/{slug}")).status_code == 200, slug
