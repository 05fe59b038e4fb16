"""What people and Kubernetes do right after the installation works against a gateway: probes, notes, `helm test`."""

import re
import sys
from pathlib import Path

import pytest

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient
from tests.browser.node_project import run
from tests.chart.helm import Helm, container, one, values_of

pytestmark = pytest.mark.anyio


async def test_installed_pod_answers_every_probe(helm: Helm, gateway: ApiClient) -> None:
    """With 200, by a gateway that serves."""
    for name in ("default", "everything"):
        part = container(helm.render(values_of(name)))
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = part[probe]["httpGet"]
            assert asked["port"] == part["ports"][0]["name"]
            assert (await gateway.get(asked["path"])).status_code == 200


async def test_installed_pod_stays_ready_while_redis_is_away(
    helm: Helm, simulator: Simulator, demo: harness.Demo, new_track: object
) -> None:
    """Stops must go through: readiness says yes, while a new pod waits for Redis before it is let in."""
    part = container(helm.render(values_of("default")))
    with EmbeddedValkey() as valkey:
        settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM)
        async with harness.serve(settings) as url, harness.client(url, demo.key) as client:
            valkey.stop()
            assert (await client.get(part["readinessProbe"]["httpGet"]["path"])).status_code == 200
            assert (await client.get(part["startupProbe"]["httpGet"]["path"])).status_code == 503


async def test_notes_first_curl_line_starts_a_recording(
    helm: Helm, gateway: ApiClient, demo: harness.Demo, simulator: Simulator, tmp_path: Path
) -> None:
    """The notes' line, pasted into a shell: 201, and once more 200."""
    notes = helm.notes(values_of("default"), tmp_path)
    found = re.search(r"^ +curl .*\\\n.*\\\n.*$", notes, re.MULTILINE)
    assert found, notes
    script = f"URL={gateway.base_url} KEY={demo.key}\n{found[0]}\n"
    for status, outcome in (("201", "started"), ("200", "already_recording")):
        code, out, err = await run("sh", cwd=tmp_path, given=script.encode())
        assert code == 0, err
        assert f"HTTP/1.1 {status}" in out
        assert f'"outcome":"{outcome}"' in out
    assert [call.endpoint for call in simulator.calls if call.method == "POST"] == ["start"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("default", "kubectl -n lessons port-forward service/gw-recording-gateway 8080:80"),
        ("everything", "URL=https://recordings.example.com"),
        ("ingress", "URL=http://recordings.example.com"),
        ("gateway-api", "URL=https://recordings.example.com"),
        ("valkey", "keeps nothing when it restarts"),
        ("minimal", "Everyone who reaches the gateway may start and stop every recording"),
    ],
)
def test_notes_name_the_address_and_what_is_not_for_production(
    helm: Helm, name: str, words: str, tmp_path: Path
) -> None:
    """Where it is reached, and what is not for production."""
    notes = helm.notes(values_of(name), tmp_path)
    assert words in notes
    assert "/v1/recordings/track/start" in notes
    assert "password" not in notes


async def test_helm_test_pod_checks_settings_and_service(
    helm: Helm,
    gateway: ApiClient,
    simulator: Simulator,
    valkey: EmbeddedValkey,
    demo: harness.Demo,
    tmp_path: Path,
) -> None:
    """`helm test` runs `gateway check` with the gateway's own settings, and asks the Service."""
    manifests = helm.render(values_of("default"))
    check, service = one(manifests, "Pod")["spec"]["containers"]
    assert check["env"] == container(manifests)["env"]
    assert check["volumeMounts"] == container(manifests)["volumeMounts"]
    assert check["command"] == ["gateway", "check"]
    ready = service["args"][-1]
    spec = one(manifests, "Service")
    assert ready == f"http://{spec['metadata']['name']}:{spec['spec']['ports'][0]['port']}/readyz"
    assert service["command"] == ["python", "-c"]
    for url, expected in ((f"{gateway.base_url}/readyz", 0), (f"{gateway.base_url}/nowhere", 1)):
        code, out, _ = await run(sys.executable, "-c", service["args"][0], url, cwd=tmp_path)
        assert code == expected
        assert ("ok" in out) is (expected == 0)
