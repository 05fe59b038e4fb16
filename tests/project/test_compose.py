"""compose.yaml, as far as it can be tried without an engine: its form, what it names, and its parts as processes."""

import asyncio
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.sandbox import tether
from gateway.sandbox.ports import free_port
from gateway.sandbox.run import vouch
from gateway.sandbox.valkey import packaged_binary
from gateway.settings.table import SETTINGS
from tests import harness
from tests.harness import skip_unless_ci
from tests.leaks import EVIDENCE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "compose"
BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_compose_file_is_valid() -> None:
    """The compose specification's own schema takes it."""
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_hardened_and_has_a_health_check(name: str) -> None:
    """A root that is only read, no privileges, no capability, a health check, and no port beyond this machine."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service.get("ports", []))
    # The image of others is named by its digest; ours is built here.
    assert "build" in service or re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", service["image"])
    for secret in service.get("secrets", []):
        assert COMPOSE["secrets"][secret] == {"file": f"./secrets/{secret}"}


def test_gateway_alone_reaches_valkey() -> None:
    """The network between them leads nowhere else."""
    assert COMPOSE["networks"]["state"] == {"internal": True}
    assert [name for name, service in SERVICES.items() if "state" in service.get("networks", [])] == [
        "gateway",
        "valkey",
    ]
    assert SERVICES["valkey"]["networks"] == ["state"]
    assert "ports" not in SERVICES["valkey"]


def test_every_setting_and_path_exists() -> None:
    """The gateway knows each variable that it is given, and what is mounted lies in the repository."""
    known = {row.variable for row in SETTINGS} | {row.file_variable for row in SETTINGS if row.has_file}
    given = SERVICES["gateway"]["environment"]
    assert given.keys() <= known
    for value in given.values():
        if str(value).startswith("/run/secrets/"):
            assert str(value).removeprefix("/run/secrets/") in SERVICES["gateway"]["secrets"]
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, _, rest = volume.partition(":")
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
            assert rest.endswith(":ro") or not source.startswith("./")
        for other in service.get("depends_on", {}):
            assert "healthcheck" in SERVICES[other]


def test_images_are_those_of_the_chart_and_the_dockerfile() -> None:
    """Valkey is the chart's, and the sandbox is a stage of the Dockerfile that is not its last."""
    chart = yaml.safe_load((ROOT / "helm" / "recording-gateway" / "values.yaml").read_text())
    assert SERVICES["valkey"]["image"] == chart["valkey"]["image"]
    assert SERVICES["valkey"]["user"].split(":")[0] == str(chart["valkey"]["runAsUser"])
    stages = re.findall(r"^FROM .*?(?: AS ([\w-]+))?$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert SERVICES["videosdk"]["build"]["target"] in stages
    assert stages[-1] == ""
    assert "target" not in SERVICES["gateway"]["build"]


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    """With the rules where compose mounts them; the target is the gateway and its port."""
    promtool = shutil.which("promtool")
    if promtool is None:
        skip_unless_ci("promtool is not installed (Debian: prometheus)")
    text = (FOLDER / "prometheus.yaml").read_text()
    (tmp_path / "prometheus.yml").write_text(
        text.replace("/etc/prometheus/rules", str(ROOT / "helm/recording-gateway/rules"))
    )
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout
    (scraped,) = yaml.safe_load(text)["scrape_configs"]
    assert scraped["static_configs"][0]["targets"] == ["gateway:8080"]


def test_grafana_finds_its_dashboard_and_its_source() -> None:
    """The provider's folder is where the chart's dashboard is mounted, and the source asks compose's Prometheus."""
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    (provider,) = yaml.safe_load((FOLDER / "grafana-dashboards.yaml").read_text())["providers"]
    dashboards = ROOT / mounted[provider["options"]["path"]]
    assert [json.loads(file.read_text())["uid"] for file in dashboards.glob("*.json")] == ["recording-gateway"]
    (source,) = yaml.safe_load((FOLDER / "grafana-datasource.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """What prepare.sh writes, and the demo caller's key in a file beside it."""
    script = FOLDER / "prepare.sh"
    environ = {**os.environ, "KEYS": f"{BIN}/gateway keys new"}
    done = subprocess.run(["sh", script, tmp_path], capture_output=True, text=True, timeout=60, env=environ)
    assert done.returncode == 0, done.stderr
    (key,) = re.findall(r"^  (gw_\S+)$", done.stderr, re.MULTILINE)
    EVIDENCE.guard(key.split("_", 2)[2], "compose's demo key")
    (tmp_path / "key").write_text(key)
    before = {file.name: file.read_bytes() for file in (tmp_path / "secrets").iterdir()}
    again = subprocess.run(["sh", script, tmp_path], capture_output=True, text=True, timeout=60, env=environ)
    assert (again.returncode, again.stderr) == (0, "")
    assert {file.name: file.read_bytes() for file in (tmp_path / "secrets").iterdir()} == before
    return tmp_path


def test_prepared_secrets_are_those_of_compose_and_kept(prepared: Path) -> None:
    """Each file that compose mounts is there, readable for the containers' users, in a folder that others cannot enter.

    `.env` chooses a profile that exists. All of it is ignored by git and by the image's build.
    """
    folder = prepared / "secrets"
    assert {file.name for file in folder.iterdir()} == set(COMPOSE["secrets"])
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    chosen = dict(line.split("=", 1) for line in (prepared / ".env").read_text().splitlines())
    assert chosen["COMPOSE_PROFILES"] in SERVICES["videosdk"]["profiles"]
    assert chosen["GATEWAY_VIDEOSDK_URL"] == "http://videosdk:8090"
    (entry,) = re.findall(r"^ENTRYPOINT \[.*simulator.*\]$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert entry.endswith('"--port", "8090"]')
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"secrets/", ".env"} <= set(ignored)


@asynccontextmanager
async def tethered(*command: str | Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a program that ends with this test."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, tether.__file__, *command, stdin=pipe, stdout=pipe)
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.anyio
@pytest.mark.blackbox
async def test_services_work_together_as_processes(prepared: Path) -> None:
    """Valkey, VideoSDK and gateway with compose's own arguments, variables and secrets: a start is started."""
    secrets, at = prepared / "secrets", {"valkey": free_port(), "videosdk": free_port()}

    def here(text: str) -> str:
        return text.replace("/run/secrets", str(secrets))

    url = secrets / "redis_url"
    url.chmod(0o600)
    url.write_text(url.read_text().replace("valkey:6379", f"127.0.0.1:{at['valkey']}"))
    _, *valkey = (here(word) for word in SERVICES["valkey"]["command"])
    valkey = [str(prepared) if word == "/data" else word for word in valkey]
    simulator = [here(word) for word in SERVICES["videosdk"]["command"]]
    settings = {name: here(value) for name, value in SERVICES["gateway"]["environment"].items()}
    settings["GATEWAY_VIDEOSDK_URL"] = f"http://127.0.0.1:{at['videosdk']}"
    settings |= {"GATEWAY_PUBLIC_URL": "", "GATEWAY_CORS_ORIGINS": ""}
    async with (
        tethered(packaged_binary(), *valkey, "--port", str(at["valkey"])),
        tethered(sys.executable, "-m", "gateway.sandbox.simulator", "--port", str(at["videosdk"]), *simulator),
    ):
        await harness.until(lambda: _vouched(url.read_text().strip()))
        served = await harness.GatewayProcess(settings, prepared / "gateway.log").ready()
        async with harness.client(served.url, (prepared / "key").read_text()) as client:
            await harness.until_ready(client)
            track = {"roomId": "abcd-efgh-ijkl", "participantId": "ada", "kind": "video"}
            started = await client.start(track)
            assert (started.status_code, started.json()["outcome"]) == (201, "started"), started.text
            assert "gateway_build_info" in (await client.get("/metrics")).text
        assert served.stop() == 0


async def _vouched(url: str) -> bool:
    try:
        await vouch(url)
    except Exception:  # noqa: BLE001 - it does not listen yet
        return False
    return True
