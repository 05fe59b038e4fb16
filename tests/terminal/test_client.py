"""The terminal's client, as a person or a script runs it: real processes that speak to a gateway on a socket."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from gateway.recordings.targets import MODES
from gateway.sandbox.faults import Fault
from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.wire import Exchange, Reply, Server
from gateway.terminal.arguments import CLIENT_COMMANDS, MODE_IDS
from gateway.terminal.exit_codes import MEANINGS, ExitCode
from tests import harness
from tests.api.test_max_duration import end_now
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio

CALLERS = (Path(__file__).parents[2] / "docs" / "callers.md").read_text("utf-8")


PROBLEM = "application/problem+json"


class Ended(NamedTuple):
    """What a command did."""

    code: int | None
    out: str
    err: str


def environment(url: str, key: str | None, **more: str) -> dict[str, str]:
    """Return the environment of a person who uses a gateway."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "NO_COLOR"))}
    return {**kept, "GATEWAY_ADDRESS": url, "TERM": "xterm", **({"GATEWAY_KEY": key} if key else {}), **more}


async def command(environ: dict[str, str], *arguments: str) -> Ended:
    """Run `gateway` to its end."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
    )
    async with asyncio.timeout(harness.BOUND):
        out, err = await process.communicate()
    return Ended(process.returncode, out.decode(), err.decode())


Command = Callable[..., Awaitable[Ended]]


@pytest.fixture
def run(gateway: ApiClient, demo: harness.Demo) -> Command:
    """Run a command against the gateway, as the demo caller."""

    async def run(*arguments: str, **more: str) -> Ended:
        return await command(environment(str(gateway.base_url), demo.key, **more), *arguments)

    return run


def ids(track: dict[str, str]) -> tuple[str, ...]:
    """Return a track's ids as they stand on a command line."""
    return track["roomId"], track["participantId"], track["kind"]


# --- start, stop, list -------------------------------------------------------------------------------------------


async def test_start_list_and_stop_say_what_they_did(run: Command, simulator: Simulator, new_track: NewTrack) -> None:
    """Started, listed and stopped, each with exit code 0; VideoSDK got one start and one stop."""
    track = new_track()
    started, again = await run("start", *ids(track)), await run("start", *ids(track))
    assert (started.code, again.code) == (0, 0), started.err
    assert started.out.startswith(f"{' '.join(ids(track))}: recording (started)\n")
    assert ": recording (already recording)\n" in again.out
    assert re.search(r"^  requested  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d by demo$", started.out, re.MULTILINE)

    listed = await run("list", track["roomId"])
    heads, row = listed.out.splitlines()
    assert heads.split("  ")[-1] == "ENDED BECAUSE"
    assert heads.split()[:-2] == ["MODE", "PARTICIPANT", "KIND", "STATUS", "SINCE", "UNTIL", "BY", "FILES"]
    assert row.split()[:4] == ["track", track["participantId"], "video", "recording"]
    assert heads.index("STATUS") == row.index("recording")

    stopped = await run("stop", *ids(track))
    assert (stopped.code, ": stopped (stopped)" in stopped.out) == (0, True), stopped.err
    assert "\x1b" not in started.out + listed.out + stopped.out
    assert [call.endpoint for call in simulator.calls if call.method == "POST"] == ["start", "stop"]


async def test_start_with_json_writes_the_recording(run: Command, simulator: Simulator, new_track: NewTrack) -> None:
    """`--json`: the answer and nothing else; `--mode` and `--set` reach VideoSDK, also from a file."""
    track = new_track()
    started = await run("start", "--json", "--mode", "participant", "--set", "bucketDirPath=a=b/c", *ids(track)[:2])
    assert (started.code, started.err) == (0, "")
    recording = json.loads(started.out)
    assert (recording["mode"], recording["outcome"]) == ("participant", "started")
    (call,) = [call for call in simulator.calls if call.method == "POST"]
    assert call.body["bucketDirPath"] == "a=b/c"
    listed = json.loads((await run("list", "--json", "--mode", "participant", track["roomId"])).out)
    assert [row["id"] for row in listed["recordings"]] == [recording["id"]]


@pytest.mark.parametrize(("given", "seconds"), [("90", 90), ("120s", 120), ("90m", 5400), ("2h", 7200)])
async def test_start_with_a_max_duration_says_until_when(
    gateway: ApiClient, run: Command, new_track: NewTrack, given: str, seconds: int
) -> None:
    """Seconds, minutes or hours; the start and the list say until when, in this machine's time."""
    track = new_track()
    started = await run("start", "--max-duration", given, *ids(track), TZ="UTC")
    assert started.code == 0, started.err
    recording = (await gateway.show(track)).json()
    begun, end = (datetime.fromisoformat(recording[name]) for name in ("requestedAt", "stopsAt"))
    assert end - begun == timedelta(seconds=seconds)
    until = end.strftime("%Y-%m-%d %H:%M:%S")
    assert f"\n  until      {until}\n" in started.out
    heads, row = (await run("list", track["roomId"], TZ="UTC")).out.splitlines()
    assert row.index(until) == heads.index("UNTIL")


async def test_list_and_watch_of_what_was_over_say_why_and_no_longer_until_when(
    valkey: EmbeddedValkey, gateway: ApiClient, demo: harness.Demo, run: Command, new_track: NewTrack
) -> None:
    """The gateway stops it when its time is over: the line of that says `max_duration`, and so does the list."""
    track = new_track()
    assert (await run("start", "--max-duration", "1h", *ids(track))).code == 0
    until = re.compile(r"  until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", re.MULTILINE)
    async with watching(environment(str(gateway.base_url), demo.key), track["roomId"]) as watch:
        await watch.until(lambda watch: until.search(watch.out))
        await end_now(valkey, track)
        await watch.until(lambda watch: "  because max_duration" in watch.out)
        (last,) = [line for line in watch.out.splitlines() if "because" in line]
        assert "until" not in last
    heads, row = (await run("list", track["roomId"])).out.splitlines()
    assert row[heads.index("ENDED BECAUSE") :].strip() == "max_duration"
    assert row[heads.index("UNTIL") : heads.index("BY")].strip() == ""


async def test_stop_of_a_whole_room_says_what_became_of_each(
    gateway: ApiClient, run: Command, simulator: Simulator, new_track: NewTrack
) -> None:
    """All that was started there, whatever its mode; what started outside the gateway is counted, or stopped too."""
    track, foreign = new_track(), new_track()
    room, whole = track["roomId"], {"roomId": track["roomId"]}
    assert (await gateway.start(track)).status_code == 201
    assert (await gateway.post("/v1/recordings/room/start", json=whole)).status_code == 201
    async with httpx.AsyncClient(headers={"authorization": harness.management_token()}) as another:
        path = f"{simulator.url}/v2/recordings/participant/track/start"
        assert (await another.post(path, json={**foreign, "fileFormat": "webm"})).is_success

    ended = await run("stop", "--all", room)
    assert ended.code == 0, ended.err
    rows = [line.split() for line in ended.out.splitlines()]
    assert rows[0] == ["MODE", "PARTICIPANT", "KIND", "STATUS", "WHAT", "WAS", "DONE"]
    assert sorted(rows[1:]) == [
        ["room", "stopped", "stopped"],
        ["track", track["participantId"], track["kind"], "stopped", "stopped"],
    ]
    assert ended.err.startswith("Left alone: 1 started outside the gateway")

    ended = await run("stop", "--all", "--include-foreign", "--json", room)
    answer = json.loads(ended.out)
    assert (ended.code, ended.err, answer["complete"], answer["foreignLeft"]) == (0, "", True, 0)
    assert [result["target"]["participantId"] for result in answer["results"]] == [foreign["participantId"]]
    assert (await run("stop", "--all", room)).err == "Nothing recorded.\n"


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (Fault(action="refuse", endpoint="list", status=500, times=None), ExitCode.UNKNOWN, "could not be had"),
        (Fault(action="refuse", endpoint="stop", status=429, times=None), ExitCode.NOT_NOW, "Limited by VideoSDK"),
    ],
    ids=["the list fails", "VideoSDK limits"],
)
async def test_stop_of_a_whole_room_that_leaves_something_says_so(
    gateway: ApiClient, run: Command, simulator: Simulator, new_track: NewTrack, fault: Fault, code: int, said: str
) -> None:
    """Where not all is known to be stopped, the exit code is that of a single stop."""
    track = new_track()
    assert (await gateway.start(track)).status_code == 201
    simulator.inject(fault)
    ended = await run("stop", "--all", track["roomId"])
    assert ended.code == code, ended
    assert said in ended.out + ended.err


async def test_start_sends_fields_from_files_and_as_json(
    run: Command, simulator: Simulator, new_track: NewTrack, tmp_path: Path
) -> None:
    """A webhook's address, whose query may be a secret, comes from a file: arguments are seen by every user."""
    (tmp_path / "hook").write_text("http://127.0.0.1:9/hook?key=1\n")
    started = await run(
        "start", "--set", f"webhookUrl=@{tmp_path}/hook", "--set", 'fileFormat:="webm"', *ids(new_track())
    )
    assert started.code == 0, started.err
    (call,) = [call for call in simulator.calls if call.endpoint == "start"]
    assert (call.body["webhookUrl"], call.body["fileFormat"]) == ("http://127.0.0.1:9/hook?key=1", "webm")


async def test_list_reads_every_page(gateway: ApiClient, run: Command, new_track: NewTrack) -> None:
    """More recordings than a page holds are all listed, and none of them twice."""
    tracks = [new_track() for _ in range(201)]
    answers = await asyncio.gather(*(gateway.start(track) for track in tracks))
    assert {answer.status_code for answer in answers} == {201}
    listed = await run("list", "--json", "--status", "recording", tracks[0]["roomId"])
    assert sorted(row["participantId"] for row in json.loads(listed.out)["recordings"]) == sorted(
        track["participantId"] for track in tracks
    )


async def test_callers_page_terminal_lines_work(simulator: Simulator, demo: harness.Demo) -> None:
    """The lines of the page, one after the other: started, listed, stopped. A Redis of its own: they name one track."""
    (lines,) = re.findall(r"^## A terminal\n.*?^```sh\n(.*?)^```$", CALLERS, re.MULTILINE | re.DOTALL)
    with harness.AgedValkey() as own:
        settings = harness.environment(own.url, simulator.url, demo.file, **harness.CALM)
        async with harness.serve(settings) as url:
            environ = environment(url, demo.key)
            environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
            process = await asyncio.create_subprocess_exec(
                *("sh", "-eu", "-c", lines), env=environ, stdout=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(harness.BOUND):
                out, _ = await process.communicate()
    assert process.returncode == 0
    told = re.findall(rb"\((\w+)\)|  (recording)  ", out)
    assert told == [(b"started", b""), (b"", b"recording"), (b"stopped", b"")], out


# --- what goes wrong ---------------------------------------------------------------------------------------------


async def test_start_with_a_wrong_key_exits_1_and_never_shows_it(gateway: ApiClient, new_track: NewTrack) -> None:
    """Refused: title, detail and request id on standard error, and what to do about the key."""
    key = "gw_00000000_hunter2hunter2hunter2"
    ended = await command(environment(str(gateway.base_url), key), "start", *ids(new_track()))
    assert (ended.code, ended.out) == (ExitCode.REFUSED, "")
    assert ended.err.startswith("gateway start: ")
    assert "requestId" in ended.err
    assert "/problems/unauthenticated" in ended.err
    assert "--key-file" in ended.err
    assert "hunter2" not in ended.err


async def test_start_with_wrong_ids_names_every_field(run: Command, new_track: NewTrack) -> None:
    """The gateway's list of what is wrong, a line for each; with `--json` its problem document on standard output."""
    room, participant, _ = ids(new_track())
    ended = await run("start", room, participant, "smell")
    assert ended.code == ExitCode.REFUSED
    assert re.search(r"^  kind +must be one of audio, ", ended.err, re.MULTILINE)
    ended = await run("start", "--json", room)
    problem = json.loads(ended.out)
    assert (ended.code, ended.err, problem["exitCode"]) == (ExitCode.REFUSED, "", ExitCode.REFUSED)
    assert [error["field"] for error in problem["errors"]] == ["participantId", "kind"]


@pytest.mark.parametrize("name", sorted(CLIENT_COMMANDS))
async def test_command_without_a_gateway_exits_3(name: str) -> None:
    """Nothing listens: exit code 3, the address, no traceback."""
    url = f"http://127.0.0.1:{free_port()}"
    wanted = ("room", "ada", "video") if name in {"start", "stop"} else ("room",)
    ended = await command(environment(url, "key"), name, *wanted)
    assert (ended.code, ended.out) == (ExitCode.UNREACHABLE, "")
    assert ended.err.startswith(f"gateway {name}: No gateway answers\n  {url}: ")
    assert "Traceback" not in ended.err


async def test_outcome_that_is_not_known_yet_exits_4(run: Command, simulator: Simulator, new_track: NewTrack) -> None:
    """The wait is over while VideoSDK takes its time: exit code 4 for a start and a stop, neither done nor failed."""
    track = new_track()
    simulator.inject(harness.delay("start", 1.0))
    ended = await run("start", "--wait", "0.3", *ids(track))
    assert ended.code == ExitCode.UNKNOWN, ended.err
    assert "/problems/deadline-exceeded" in ended.err
    assert (await run("start", *ids(track))).code == ExitCode.DONE
    simulator.inject(harness.delay("stop", 1.0))
    ended = await run("stop", "--wait", "0.3", *ids(track))
    assert (ended.code, ": stopping (stop requested)" in ended.out) == (ExitCode.UNKNOWN, True), ended


async def test_start_while_videosdk_limits_exits_5(run: Command, simulator: Simulator, new_track: NewTrack) -> None:
    """A limit passes: exit code 5, and after how long."""
    simulator.inject(Fault(action="refuse", endpoint="start", status=429, times=None))
    ended = await run("start", *ids(new_track()))
    assert ended.code == ExitCode.NOT_NOW, ended.err
    assert re.search(r"^  again in +\d+ s$", ended.err, re.MULTILINE)


@asynccontextmanager
async def another_server(*replies: Reply | None) -> AsyncGenerator[str]:
    """A server that is no gateway: each request gets the next answer and at last always the same; None cuts it off."""
    left = list(replies)

    async def answer(exchange: Exchange) -> None:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if reply is None:
            exchange.reset()
        else:
            exchange.reply(reply)

    server = Server(answer, host="127.0.0.1", port=0)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("reply", "sent", "listing"),
    [
        (Reply(502, b"<h1>Bad gateway</h1>", "text/html"), ExitCode.UNKNOWN, ExitCode.UNREACHABLE),
        (Reply(200, b"<h1>Welcome</h1>", "text/html"), ExitCode.UNKNOWN, ExitCode.UNREACHABLE),
        (Reply(404, b"<h1>Not found</h1>", "text/html"), ExitCode.UNREACHABLE, ExitCode.UNREACHABLE),
        (Reply(400, b'{"title":"Bad","errors":{"a":["b"]}}', PROBLEM), ExitCode.UNREACHABLE, ExitCode.UNREACHABLE),
        (Reply(200, b"{}"), ExitCode.UNKNOWN, ExitCode.UNREACHABLE),
        (Reply(200, b'{"status":"ok","recordings":[{}],"results":[{}]}'), ExitCode.UNKNOWN, ExitCode.UNREACHABLE),
        (Reply(200, b'{"title":"?"}', PROBLEM), ExitCode.UNKNOWN, ExitCode.UNREACHABLE),
        (Reply(200, b"{}", headers=(("content-encoding", "gzip"),)), ExitCode.UNKNOWN, ExitCode.UNREACHABLE),
        (None, ExitCode.UNKNOWN, ExitCode.UNREACHABLE),
    ],
    ids=[
        "a proxy's page",
        "another service",
        "another service's 404",
        "another service's problem",
        "an empty object",
        "another service's object",
        "a problem with a success",
        "packed, and it is not",
        "cut off",
    ],
)
async def test_command_answered_by_another_server_believes_nothing(
    reply: Reply | None, sent: ExitCode, listing: ExitCode
) -> None:
    """What is not the gateway's proves nothing: behind a proxy a start may have happened, a list is not to be had."""
    commands = (("start", "room", "ada", "video"), ("stop", "--all", "room"), ("list", "room"))
    async with another_server(reply) as url:
        answers = await asyncio.gather(*(command(environment(url, "key"), *arguments) for arguments in commands))
    assert [ended.code for ended in answers] == [sent, sent, listing], answers
    for ended in answers:
        assert ended.out == ""
        assert url in ended.err
        assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "--key", "gw_hunter2", "room"), "unrecognized arguments"),
        (("list", "--key-file", "/nowhere", "room"), "cannot be read"),
        (("start", "--wait", "soon", "room"), "expected seconds"),
        (("start", "--max-duration", "1.5h", "room"), "expected a duration like 5400, 90m or 2h"),
        (("start", "--max-duration", "-60", "room"), "expected"),
        (("stop", "--max-duration", "90m", "room"), "unrecognized arguments"),
        (("start", "room", "ada", "video", "more"), "at most 3 ids"),
        (("start", "--set", "a:=NaN", "room"), "--set a:= takes JSON"),
        (("list", os.fsdecode(b"\xff")), "argument ROOM: expected UTF-8"),
        (("stop", "--all", "room", "ada"), "--all takes a ROOM alone"),
        (("stop", "--include-foreign", "room", "ada", "video"), "stands beside it"),
    ],
)
async def test_command_with_unusable_arguments_exits_2(arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2 and what is wrong; there is no option for the key itself, and no short form makes one."""
    ended = await command(environment(f"http://127.0.0.1:{free_port()}", None), *arguments)
    assert (ended.code, ended.out) == (ExitCode.USAGE, ""), ended.err
    assert said in ended.err


async def test_key_from_a_file_is_taken(gateway: ApiClient, demo: harness.Demo, tmp_path: Path) -> None:
    """`--key-file` and `GATEWAY_KEY_FILE` hold the key, and win over another in the environment."""
    (tmp_path / "key").write_text(f"{demo.key}\n")
    url = str(gateway.base_url)
    listed = await command(environment(url, None, GATEWAY_KEY_FILE=str(tmp_path / "key")), "list", "room-x")
    assert (listed.code, listed.out, listed.err) == (0, "", "No recordings.\n")
    listed = await command(environment(url, "another"), "list", "--key-file", str(tmp_path / "key"), "room-x")
    assert listed.code == 0, listed.err


async def test_interrupted_start_exits_130(
    gateway: ApiClient, demo: harness.Demo, simulator: Simulator, new_track: NewTrack
) -> None:
    """Ctrl-C while VideoSDK takes its time: exit code 130, no traceback, and the gateway goes on with the start."""
    track = new_track()
    simulator.inject(harness.delay("start", 1.0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "start", *ids(track)),
        env=environment(str(gateway.base_url), demo.key),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await harness.eventually(lambda: [call for call in simulator.calls if call.endpoint == "start"])
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(harness.BOUND):
        out, err = await process.communicate()
    assert (process.returncode, out) == (ExitCode.INTERRUPTED, b"")
    assert b"Traceback" not in err
    assert b"The gateway goes on with what was sent" in err
    await harness.until(lambda: gateway.show(track), lambda answer: answer.json().get("status") == "recording")


# --- a terminal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
async def test_list_is_coloured_on_a_terminal_alone(
    gateway: ApiClient, demo: harness.Demo, new_track: NewTrack, more: dict[str, str], coloured: bool
) -> None:
    """On a terminal the status has a colour, but for people who ask for none; the word stands there in any case."""
    track = new_track()
    await gateway.start(track)
    main, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "list", track["roomId"]),
        env=environment(str(gateway.base_url), demo.key, **more),
        stdout=terminal,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(terminal)
    async with asyncio.timeout(harness.BOUND):
        await process.wait()
    shown = b""
    with suppress(OSError):  # a terminal whose other end is closed
        while part := os.read(main, 4096):
            shown += part
    os.close(main)
    assert (b"\x1b[32mrecording\x1b[0m" in shown) is coloured
    assert b"recording" in shown
    assert (b"\x1b" in shown) is coloured


async def test_waiting_is_shown_on_a_terminal(
    gateway: ApiClient, demo: harness.Demo, simulator: Simulator, new_track: NewTrack
) -> None:
    """While VideoSDK takes its time a terminal shows since when, and is wiped before the answer."""
    simulator.inject(harness.delay("start", 1.5))
    main, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "start", *ids(new_track())),
        env=environment(str(gateway.base_url), demo.key),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    async with asyncio.timeout(harness.BOUND):
        assert await process.wait() == 0
    shown = os.read(main, 65536).decode()
    os.close(main)
    assert re.fullmatch(r"(\r\x1b\[Kgateway start: waiting for the gateway's answer, \d+ s)+\r\x1b\[K", shown)


async def test_list_whose_reader_has_gone_ends_quietly(
    gateway: ApiClient, demo: harness.Demo, new_track: NewTrack
) -> None:
    """`gateway list … | head -1` is no failure, and nothing is said of it."""
    track = new_track()
    await gateway.start(track)
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "list", track["roomId"]),
        env=environment(str(gateway.base_url), demo.key),
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    async with asyncio.timeout(harness.BOUND):
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_help_shows_examples_modes_and_exit_codes() -> None:
    """Each command's help has an example of it and every exit code; the docs have the same table."""
    for name in sorted(CLIENT_COMMANDS | {"check", "serve", "openapi", "keys", "sandbox"}):
        ended = await command(environment("", None), name, "--help")
        assert ended.code == 0
        assert re.search(rf"^examples:\n(  .*\n)*  .*gateway {name}\b", ended.out, re.MULTILINE), name
        for code, text in MEANINGS.items():
            assert f"{code:>3}  {text}" in ended.out
    for code, text in MEANINGS.items():
        assert f"| {code:d} | {text} |" in CALLERS
    assert MODES.keys() <= MODE_IDS.keys()
    for mode, spec in MODES.items():
        assert len(MODE_IDS[mode].split()) == len(spec.ids)


# --- watch -------------------------------------------------------------------------------------------------------


class Watching:
    """`gateway watch` as a process, with what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out, self.err = "", ""
        assert process.stdout
        assert process.stderr
        self._readers = [
            asyncio.create_task(self._read("out", process.stdout)),
            asyncio.create_task(self._read("err", process.stderr)),
        ]

    async def _read(self, name: str, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            setattr(self, name, getattr(self, name) + line.decode())

    async def until(self, condition: Callable[["Watching"], object]) -> None:
        """Wait until it has written something."""
        try:
            await harness.eventually(lambda: condition(self) or self.process.returncode is not None)
            assert condition(self)
        except AssertionError as error:
            raise AssertionError(f"out:\n{self.out}\nerr:\n{self.err}") from error

    async def ended(self) -> int:
        """Wait until it ends; its exit code."""
        async with asyncio.timeout(harness.BOUND):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code


@asynccontextmanager
async def watching(environ: dict[str, str], *arguments: str) -> AsyncGenerator[Watching]:
    """Run `gateway watch`."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "watch", *arguments, env=environ, stdout=pipe, stderr=pipe
    )
    watch = Watching(process)
    try:
        yield watch
    finally:
        if process.returncode is None:
            process.kill()
        await watch.ended()


async def test_watch_follows_a_room_until_interrupted(
    gateway: ApiClient, demo: harness.Demo, new_track: NewTrack
) -> None:
    """What runs at first, every change as a line, and Ctrl-C ends it with 130 and without a traceback."""
    first, second = new_track(), new_track("audio")
    await gateway.start(first)
    async with watching(environment(str(gateway.base_url), demo.key), first["roomId"]) as watch:
        await watch.until(lambda watch: f"{first['participantId']}  video  recording  by demo\n" in watch.out)
        await gateway.start(second)
        await watch.until(lambda watch: f"{second['participantId']}  audio  recording  by demo\n" in watch.out)
        await gateway.stop(second)
        await watch.until(lambda watch: f"{second['participantId']}  audio  stopped  " in watch.out)
        watch.process.send_signal(signal.SIGINT)
        assert await watch.ended() == ExitCode.INTERRUPTED
        assert "Traceback" not in watch.err
        assert f"{first['roomId']} now:\n" in watch.err


class Relay:
    """Passes connections on to a gateway, until it is told to cut them."""

    def __init__(self, url: str) -> None:
        self.target = url
        self._writers: list[asyncio.StreamWriter] = []
        self.heads: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode().lower())
        host, _, port = self.target.removeprefix("http://").rstrip("/").partition(":")
        answers, requests = await asyncio.open_connection(host, int(port))
        self._writers += [writer, requests]
        requests.write(head)
        with suppress(OSError):
            while data := await answers.read(65536):
                writer.write(data)
        writer.close()
        requests.close()

    def cut(self) -> None:
        """Cut what is open."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def relayed(relay: Relay) -> AsyncGenerator[str]:
    """Let connections to a relay through; yields its address."""
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        relay.cut()


async def test_watch_goes_on_after_the_last_event(gateway: ApiClient, demo: harness.Demo, new_track: NewTrack) -> None:
    """A cut connection is said, and the next begins after the last event: what happened meanwhile comes once."""
    track, meanwhile = new_track(), new_track("audio")
    relay = Relay(str(gateway.base_url))
    async with (
        relayed(relay) as url,
        watching(environment(url, demo.key), "--json", track["roomId"]) as watch,
    ):
        await watch.until(lambda watch: '"event":"snapshot"' in watch.out)
        await gateway.start(track)
        await watch.until(lambda watch: '"status":"recording"' in watch.out)
        last = json.loads(watch.out.splitlines()[-1])["id"]
        relay.cut()
        await gateway.start(meanwhile)
        await watch.until(lambda watch: f'"participantId":"{meanwhile["participantId"]}"' in watch.out)
        assert "Connection lost (" in watch.err
        assert f"Connected again, from event {last} on." in watch.err
        assert f"last-event-id: {last}\r\n" in relay.heads[1]
        told: list[dict[str, Any]] = [json.loads(line) for line in watch.out.splitlines()]
        assert [event["event"] for event in told].count("snapshot") == 1
        assert len({event["id"] for event in told}) == len(told)


async def test_watch_moves_to_another_gateway_when_its_own_ends(
    gateway: ApiClient, valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """A gateway that is about to end says so, and the watch goes on at the next one of the same address."""
    track = new_track()
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    relay = Relay("")
    async with relayed(relay) as url:
        ending = AsyncExitStack()
        relay.target = await ending.enter_async_context(harness.serve(settings))
        async with ending, watching(environment(url, demo.key), track["roomId"]) as watch:
            await watch.until(lambda watch: "No recordings yet." in watch.err)
            relay.target = str(gateway.base_url)
            await ending.aclose()
            await watch.until(lambda watch: "Connection lost (this gateway is about to end)" in watch.err)
            await gateway.start(track)
            await watch.until(lambda watch: f"{track['participantId']}  video  recording" in watch.out)


async def test_watch_with_a_revoked_key_exits_1(
    gateway: ApiClient, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """The key is taken out of the callers file: the gateway ends the stream, lets it in no more, and the watch ends."""
    other = harness.Demo(tmp_path / "other", "other")
    track = new_track()
    headers = {"authorization": f"Bearer {other.key}"}
    async with watching(environment(str(gateway.base_url), demo.key), track["roomId"]) as watch:
        await watch.until(lambda watch: "No recordings yet." in watch.err)
        demo.file.write_text(other.file.read_text())
        await harness.until(lambda: gateway.start(track, headers=headers), lambda answer: answer.is_success)
        assert await watch.ended() == ExitCode.REFUSED
        assert "the key or token is not in force any more" in watch.err
        assert "/problems/unauthenticated" in watch.err


async def test_watch_of_another_servers_events_leaves_them_out() -> None:
    """An event of a known name that lacks what the gateway's has is no reason to end, and is not shown."""
    others = ("snapshot", "{}"), ("recording", "[]"), ("recording", '{"roomId":"room","status":"recording"}')
    stream = "".join(f"event: {name}\ndata: {data}\n\n" for name, data in others)
    async with (
        another_server(Reply(200, stream.encode(), "text/event-stream")) as url,
        watching(environment(url, "key"), "room") as watch,
    ):
        await watch.until(
            lambda watch: "  recording" in watch.out and watch.err.count("not the gateway's was left") > 1
        )


async def test_watch_of_a_gateway_that_ends_again_and_again_keeps_its_pace() -> None:
    """The pace that the gateway asks for, then twice that: each try that fails makes the next one later."""
    async with (
        another_server(Reply(200, b"retry: 300\n\n", "text/event-stream")) as url,
        watching(environment(url, "key"), "room") as watch,
    ):
        await watch.until(lambda watch: "again in 0.3 s." in watch.err and "again in 0.6 s." in watch.err)


async def test_watch_goes_on_after_what_it_may_not_see() -> None:
    """A comment that comes with an id says where to go on; nothing is shown, and nothing is said of it."""
    stream = b'retry: 100\n\nid: 1-1\nevent: snapshot\ndata: {"recordings":[]}\n\n:\nid: 1-9\n\n'
    async with (
        another_server(Reply(200, stream, "text/event-stream")) as url,
        watching(environment(url, "key"), "--json", "room") as watch,
    ):
        await watch.until(lambda watch: "Connected again, from event 1-9 on." in watch.err)
        assert "left out" not in watch.err
        assert {json.loads(line)["event"] for line in watch.out.splitlines()} == {"snapshot"}


async def test_watch_refused_for_a_while_says_why_and_comes_back_when_it_may() -> None:
    """Let in before, and refused with a Retry-After now: the problem's title, and the seconds that it asks for."""
    limited = Reply(503, b'{"title":"Too many readers"}', PROBLEM, (("retry-after", "1"),))
    stream = Reply(200, b"retry: 100\n\n", "text/event-stream")
    async with (
        another_server(stream, limited, stream) as url,
        watching(environment(url, "key"), "room") as watch,
    ):
        await watch.until(lambda watch: "Connection lost (Too many readers); again in 1.0 s." in watch.err)


@pytest.mark.blackbox
async def test_commands_against_a_real_process(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, tmp_path: Path
) -> None:
    """`gateway serve` and `gateway start`, as two programs: started; after the first has ended nothing answers."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
    served = await harness.GatewayProcess(settings, tmp_path / "gateway.log").ready()
    track = new_track()
    started = await command(environment(served.url, demo.key), "start", *ids(track))
    assert (started.code, ": recording (started)" in started.out) == (ExitCode.DONE, True), started.err
    served.signal(signal.SIGTERM)
    assert served.wait() == 0
    assert (await command(environment(served.url, demo.key), "list", track["roomId"])).code == ExitCode.UNREACHABLE
