"""The command `gateway`, as a person runs it: real processes, real servers."""

import asyncio
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway import __version__
from gateway.sandbox.faults import Fault
from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.forward_proxy import ForwardProxy
from tests.leaks import EVIDENCE


def clean_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with these settings of the gateway and no others."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | settings


async def gateway_command(*arguments: str, **settings: str) -> tuple[int, str]:
    """Run the command while servers of this process answer; return its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        env=clean_environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


@pytest.mark.anyio
async def test_command_version_prints_the_packages() -> None:
    """`gateway --version` says the package's."""
    assert await gateway_command("--version") == (0, f"{__version__}\n")


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["serve", "check"])
async def test_command_without_settings_names_all_that_is_missing(command: str) -> None:
    """An empty environment: exit code 2, one line for each thing, and no traceback."""
    code, printed = await gateway_command(command)
    assert code == 2
    told = [line.strip(" -").partition(":")[0] for line in printed.splitlines()[1:]]
    assert told == ["GATEWAY_REDIS_URL", "GATEWAY_VIDEOSDK_TOKEN", "GATEWAY_CALLERS_FILE"]


@pytest.mark.anyio
async def test_command_with_wrong_settings_names_them_without_values(tmp_path: Path) -> None:
    """Wrong and unknown settings are named together; a secret among them is not repeated."""
    code, printed = await gateway_command(
        "serve",
        GATEWAY_REDIS_URL="http://:hunter2@redis",
        GATEWAY_VIDEOSDK_TOKEN="hunter3 hunter3",
        GATEWAY_PRT="hunter4",
        GATEWAY_AUTH="none",
    )
    assert code == 2
    assert "hunter" not in printed
    for name in ("GATEWAY_REDIS_URL", "GATEWAY_VIDEOSDK_TOKEN", "GATEWAY_PRT"):
        assert f"- {name}:" in printed


@pytest.mark.anyio
async def test_command_with_an_unusable_callers_file_exits_2(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """A file without callers: exit code 2 before anything listens, in one sentence."""
    file = tmp_path / "callers.toml"
    file.write_text("[people]\n")
    code, printed = await gateway_command("serve", **harness.environment(valkey.url, "http://127.0.0.1:1", file))
    assert code == 2
    assert "names no caller" in printed
    assert "Traceback" not in printed


@pytest.mark.anyio
async def test_check_with_working_servers_exits_0(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """Redis answers and VideoSDK accepts: exit code 0, every setting listed, no secret shown, nothing started."""
    code, printed = await gateway_command("check", **harness.environment(valkey.url, simulator.url, demo.file))
    assert code == 0, printed
    lines = {line.split()[0]: line for line in printed.splitlines()}
    assert lines["Redis"].endswith("answers")
    assert lines["VideoSDK"].endswith("accepts the token")
    assert lines["Callers"].endswith("can be used")
    assert "Identity" not in lines
    assert "GATEWAY_PUBLIC_URL is not set" in lines["Webhooks"]
    assert "[secret]" in lines["GATEWAY_VIDEOSDK_SECRET"]
    assert harness.SECRET not in printed
    assert harness.API_KEY not in printed
    assert {call.endpoint for call in simulator.calls} == {"list"}
    assert simulator.rows == []


@pytest.mark.anyio
async def test_check_with_a_refused_token_exits_1(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """Another secret than VideoSDK's: exit code 1 and the status; Redis is reported as well."""
    settings = harness.environment(valkey.url, simulator.url, demo.file)
    settings["GATEWAY_VIDEOSDK_SECRET"] = "another-hunter2-secret-0123456789"
    code, printed = await gateway_command("check", **settings)
    assert code == 1
    assert "REFUSES THE TOKEN (status 401)" in printed
    assert "hunter2" not in printed
    assert any(line.startswith("Redis") and line.endswith("answers") for line in printed.splitlines())
    assert "Compare API key and secret with VideoSDK's dashboard" in printed
    code, printed = await gateway_command("check", "--json", **settings)
    assert code == 1
    told = msgspec.json.decode(printed)
    assert {row["what"]: row["ok"] for row in told["checks"]} == {
        "Redis": True,
        "VideoSDK": False,
        "Callers file": True,
        "Webhooks": True,
    }
    assert all(row["advice"] for row in told["checks"] if not row["ok"])
    assert {row["name"] for row in told["settings"]} >= {"GATEWAY_REDIS_URL", "GATEWAY_AUTH"}
    assert "hunter2" not in printed


@pytest.mark.anyio
@pytest.mark.parametrize("absent", ["Redis", "VideoSDK"])
async def test_check_without_a_server_exits_1(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, tmp_path: Path, absent: str
) -> None:
    """No Redis, or no VideoSDK: exit code 1, it is named and the other is not, without a traceback."""
    redis = f"unix://{tmp_path}/absent.sock" if absent == "Redis" else valkey.url
    videosdk = f"http://127.0.0.1:{free_port()}" if absent == "VideoSDK" else simulator.url
    code, printed = await gateway_command(
        "check", **harness.environment(redis, videosdk, demo.file), GATEWAY_AUTH="none"
    )
    assert code == 1
    assert [line.split()[0] for line in printed.splitlines() if "DOES NOT ANSWER" in line] == [absent]
    assert "Traceback" not in printed
    assert "WARNING: GATEWAY_AUTH=none" in printed
    # What identifies no caller is not checked.
    assert not {"Callers", "Identity"} & {line.split()[0] for line in printed.splitlines()}


@pytest.mark.anyio
async def test_check_names_proxies_of_the_environment_that_are_ignored(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """Each is named and its password is not; calls go through the proxy of the setting, whose password is hidden."""
    async with ForwardProxy("user:hunter2") as proxy:
        settings = harness.environment(valkey.url, simulator.url, demo.file)
        settings["GATEWAY_UPSTREAM_PROXY"] = proxy.url("user:hunter2")
        ignored = dict.fromkeys(("HTTPS_PROXY", "http_proxy", "ALL_PROXY"), "http://user:hunter3@127.0.0.1:1")
        code, printed = await gateway_command("check", **settings, **ignored)
        assert code == 0, printed
        assert proxy.heads
    for name in ignored:
        assert f"WARNING: {name} is ignored; GATEWAY_UPSTREAM_PROXY names the proxy" in printed
    assert "hunter" not in printed
    assert "http://[secret]@127.0.0.1:" in printed


@pytest.mark.anyio
async def test_check_with_broken_identities_exits_1(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """A callers file that broke and an identity provider without keys are reported, with exit code 1."""
    demo.file.write_text("[callers.app]\nkeys = []\n")
    company = {
        "GATEWAY_JWT_JWKS_URL": f"http://127.0.0.1:{free_port()}/keys",
        "GATEWAY_JWT_ISSUER": "i",
        "GATEWAY_JWT_AUDIENCE": "a",
    }
    settings = harness.environment(valkey.url, simulator.url, demo.file)
    code, printed = await gateway_command("check", **settings, **company)
    assert code == 1
    assert f"CANNOT BE USED ({demo.file}, line 1: caller 'app': expected keys" in printed
    assert "GIVES NO KEYS (ConnectError)" in printed
    assert "WARNING: GATEWAY_JWT_JWKS_URL is not https" in printed
    del settings["GATEWAY_CALLERS_FILE"]
    code, printed = await gateway_command("check", **settings, **company)
    assert code == 1
    assert "Callers" not in {line.split()[0] for line in printed.splitlines()}


@pytest.mark.anyio
async def test_check_without_the_webhook_key_exits_1(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo
) -> None:
    """With a public address VideoSDK's key is needed; where it cannot be had, the exit code is 1."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, GATEWAY_PUBLIC_URL="https://gateway.example")
    code, printed = await gateway_command("check", **settings)
    assert (code, "Webhooks" in printed, "can be checked" in printed) == (0, True, True), printed
    simulator.inject(Fault(action="refuse", endpoint="key", status=500, times=None))
    code, printed = await gateway_command("check", **settings)
    assert (code, "CANNOT BE CHECKED (no key)" in printed) == (1, True), printed


# --- the sandbox -------------------------------------------------------------------------------------------------


class Sandbox:
    """`gateway sandbox` as a process, with what it prints."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self._output, errors = folder / "sandbox.out", folder / "sandbox.err"
        # What it prints for a person holds the demo key, on purpose; what the gateway in it logs must not.
        EVIDENCE.add(errors)
        with self._output.open("wb") as out, errors.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "sandbox"],
                env=clean_environment(GATEWAY_PORT=str(self.port), **settings),
                stdout=out,
                stderr=err,
            )
        harness.wait_until(lambda: "A wrong body" in self.printed or self.process.poll() is not None)
        assert self.process.poll() is None, errors.read_text()
        EVIDENCE.guard(self.key.split("_", 2)[2], "the demo key")

    @property
    def printed(self) -> str:
        """All that it printed so far."""
        return self._output.read_text()

    @property
    def key(self) -> str:
        """The demo key."""
        return next(line.split()[-1] for line in self.printed.splitlines() if "Demo key" in line)

    @property
    def curl_lines(self) -> list[str]:
        """The lines to paste."""
        return [line.strip() for line in self.printed.splitlines() if line.strip().startswith("curl ")]

    @property
    def control(self) -> str:
        """The address of the simulator's control routes, with a slash at its end."""
        return next(line.split()[-1] for line in self.printed.splitlines() if line.endswith("/_control/"))

    @property
    def upstream_log(self) -> list[dict[str, Any]]:
        """What the simulator printed of its calls."""
        lines = (line for line in self.printed.splitlines() if line.startswith("videosdk "))
        return [msgspec.json.decode(line.partition(" ")[2]) for line in lines]


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A running sandbox, on a machine with the settings of a real account."""
    box = Sandbox(
        tmp_path, GATEWAY_VIDEOSDK_TOKEN="hunter2", GATEWAY_REDIS_URL="redis://redis.example", GATEWAY_AUTH="none"
    )
    yield box
    if box.process.poll() is None:
        box.process.terminate()
    box.process.wait(30)


def paste(line: str) -> tuple[int, dict[str, Any]]:
    """Run a printed line and return the status and the body of its answer; without curl, send what it says."""
    words = shlex.split(line)
    if shutil.which("curl"):
        answer = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
        head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
        return int(head.split()[1]), msgspec.json.decode(body)
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    url = next(word for word in words if word.startswith("http"))
    sent = httpx.post(url, headers=headers, content=words[words.index("-d") + 1], timeout=30, trust_env=False)
    return sent.status_code, sent.json()


def test_sandbox_printed_lines_work_as_printed(sandbox: Sandbox) -> None:
    """The printed lines, pasted in order: 201, 200, 200, 422; VideoSDK got one start and one stop."""
    start, again, stop, wrong = (paste(line) for line in sandbox.curl_lines)
    assert (start[0], start[1]["outcome"]) == (201, "started")
    assert (again[0], again[1]["outcome"]) == (200, "already_recording")
    assert again[1]["id"] == start[1]["id"]
    assert (stop[0], stop[1]["outcome"]) == (200, "stopped")
    assert wrong[0] == 422
    assert [error["field"] for error in wrong[1]["errors"]] == ["participantId", "kind"]
    assert [call["endpoint"] for call in sandbox.upstream_log if call["endpoint"] in {"start", "stop"}] == [
        "start",
        "stop",
    ]
    deliveries: list[dict[str, Any]] = []

    def delivered() -> bool:
        deliveries[:] = httpx.get(f"{sandbox.control}deliveries", trust_env=False).json()
        return len(deliveries) == 4

    harness.wait_until(delivered)
    assert {delivery["url"] for delivery in deliveries} == {f"http://127.0.0.1:{sandbox.port}/v1/webhooks/videosdk"}
    assert {delivery["status"] for delivery in deliveries} == {204}
    (line,) = (line for line in sandbox.printed.splitlines() if "gateway watch" in line)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    once = ["sh", "-c", line.replace("gateway watch", "gateway list --json")]
    listed = subprocess.run(once, env=clean_environment(PATH=path), capture_output=True, text=True, timeout=60)
    (recording,) = msgspec.json.decode(listed.stdout)["recordings"]
    assert (recording["id"], recording["status"]) == (start[1]["id"], "stopped")
    docs = httpx.get(f"http://127.0.0.1:{sandbox.port}/docs", trust_env=False)
    assert docs.status_code == 200
    assert f"http://127.0.0.1:{sandbox.port}/docs" in sandbox.printed
    (watch,) = [line.split()[1] for line in sandbox.printed.splitlines() if line.startswith("  Watch")]
    assert watch == f"http://127.0.0.1:{sandbox.port}/watch?room=abcd-efgh-ijkl"
    assert httpx.get(watch, trust_env=False).status_code == 200


def test_sandbox_demo_callers_are_accepted(sandbox: Sandbox) -> None:
    """The printed join token acts for ada alone; the printed JWT is a person of the company."""
    printed = {line.split()[0]: line.split()[-1] for line in sandbox.printed.splitlines() if line.startswith("  ")}
    base = f"http://127.0.0.1:{sandbox.port}/v1/recordings/track"
    track = {"roomId": "abcd-efgh-ijkl", "participantId": "ada", "kind": "audio"}

    def ask(route: str, token: str, **more: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.post(f"{base}/{route}", json=track | more, headers=headers, trust_env=False)

    assert ask("start", printed["Join"]).json()["requestedBy"] == "participant:ada"
    assert ask("start", printed["Join"], participantId="bob").status_code == 403
    assert ask("stop", printed["JWT"]).json()["outcome"] == "stopped"


def test_sandbox_admits_pages_of_the_usual_origins(sandbox: Sandbox) -> None:
    """The printed fetch is what a page's console takes, and the browser lets the usual origins send it."""
    (line,) = (line.strip() for line in sandbox.printed.splitlines() if line.strip().startswith("fetch("))
    if shutil.which("node"):
        done = subprocess.run(["node", "-e", line], capture_output=True, text=True, timeout=30)
        assert "outcome: 'started'" in done.stdout, done.stderr
        assert [call["endpoint"] for call in sandbox.upstream_log if call["endpoint"] == "start"] == ["start"]
    asked = {"Origin": "http://localhost:5173", "Access-Control-Request-Method": "POST"}
    preflight = httpx.options(
        f"http://127.0.0.1:{sandbox.port}/v1/recordings/track/start", headers=asked, trust_env=False
    )
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:5173"


def test_sandbox_on_a_taken_port_exits_1(sandbox: Sandbox) -> None:
    """A second one on the same port ends at once with 1 and a sentence."""
    second = subprocess.run(
        [sys.executable, "-m", "gateway", "sandbox"],
        env=clean_environment(GATEWAY_PORT=str(sandbox.port)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert "GATEWAY_PORT" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_sandbox_leaves_no_process_behind(sandbox: Sandbox, number: signal.Signals) -> None:
    """However it ends, no gateway, no Valkey and no tether is left, and the port is free again."""
    family = descendants(sandbox.process.pid)
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in family}
    assert any("valkey-server" in command for command in commands.values())
    assert any("serve" in command and "tether" not in command for command in commands.values())
    assert sum("tether" in command for command in commands.values()) == 2

    sandbox.process.send_signal(number)
    code = sandbox.process.wait(30)

    assert code == -number if number == signal.SIGKILL else code == 0
    harness.wait_until(lambda: not any(alive(pid) for pid in family))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", sandbox.port))


def descendants(pid: int) -> set[int]:
    """Return the processes that a process started, and those they started."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := status_fields(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    family: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in family | {pid}} - family:
        family |= more
    return family


def alive(pid: int) -> bool:
    """Return whether a process still runs; one that only waits to be noticed as dead does not."""
    fields = status_fields(pid)
    return bool(fields) and fields[0] not in {"Z", "X"}


def status_fields(pid: int) -> list[str]:
    """Return what the kernel says of a process after its name: state, parent and more; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
