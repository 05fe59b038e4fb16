"""What Helm makes of the chart: lint, Kubernetes's schemas, and that the parts fit each other."""

import copy
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.api.openapi import contract
from tests.chart import kubernetes
from tests.chart.helm import SETS, Helm, Manifest, Refused, container, kind, labels, one, pods, values_of
from tests.chart.written import CHART, VALUES

every_set = pytest.mark.parametrize("name", SETS)


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> dict[str, list[Manifest]]:
    """What each set of values becomes."""
    return {name: helm.render(values_of(name)) for name in SETS}


@every_set
def test_helm_lint_reports_nothing(helm: Helm, name: str) -> None:
    """`helm lint --strict`, with values as operators give them."""
    values = Path(__file__).parent / "values" / f"{name}.yaml"
    written = helm.run("lint", "--strict", CHART, "--values", values)
    assert "[WARNING]" not in written
    assert "[ERROR]" not in written


@pytest.mark.parametrize("version", ["1.30", kubernetes.NEWEST])
@every_set
def test_manifests_match_the_kubernetes_schemas(helm: Helm, node_modules: Path, name: str, version: str) -> None:
    """Against the schemas of the oldest version the chart allows and of the newest at hand, no unknown field."""
    manifests = helm.render(values_of(name), version=f"{version}.0")
    assert manifests
    assert [problem for item in manifests for problem in kubernetes.problems(item, version, node_modules)] == []


def test_manifest_with_an_unknown_field_is_refused(rendered: dict[str, list[Manifest]], node_modules: Path) -> None:
    """Of every kind of manifest: one with a field that is not there is refused."""
    manifests = {item["kind"]: item for item in rendered["everything"] + rendered["valkey"]}
    assert len(manifests) == 13, sorted(manifests)
    for name, manifest in manifests.items():
        wrong = copy.deepcopy(manifest)
        inside = wrong.get("spec", wrong)
        inside["replica"] = 1
        assert kubernetes.problems(wrong, "1.30", node_modules), name


def test_chart_refuses_an_older_kubernetes(helm: Helm) -> None:
    """It would not know how to pause before the end without a shell."""
    with pytest.raises(Refused, match=r"requires kubeVersion: >=1\.30"):
        helm.render(values_of("default"), version="1.29.9")


@every_set
def test_manifests_selectors_ports_and_mounts_fit(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Selectors choose the gateway's pods and no others, ports have names, mounts have volumes, names do not clash."""
    manifests = rendered[name]
    names = [(item["kind"], item["metadata"]["name"]) for item in manifests]
    assert len(set(names)) == len(names)
    every = pods(manifests)
    gateway = [pod for pod in every if pod["containers"][0]["name"] == "gateway"]
    chosen = [one(manifests, "Service")["spec"]["selector"]]
    chosen += [one(manifests, "Deployment")["spec"]["selector"]["matchLabels"]]
    selecting = [item for item in manifests if item["kind"] in {"PodDisruptionBudget", "ServiceMonitor"}]
    chosen += [item["spec"]["selector"]["matchLabels"] for item in selecting]
    if kind(manifests, "NetworkPolicy"):
        chosen.append(one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    for selector in chosen:
        assert [pod for pod in every if selector.items() <= pod["labels"].items()] == gateway
    assert one(manifests, "Service")["spec"]["ports"][0]["targetPort"] == container(manifests)["ports"][0]["name"]
    for pod in every:
        volumes = [volume["name"] for volume in pod.get("volumes", [])]
        mounted = {mount["name"] for part in pod["containers"] for mount in part.get("volumeMounts", [])}
        assert sorted(mounted) == sorted(volumes)
        assert not [mount for part in pod["containers"] for mount in part.get("volumeMounts", []) if "subPath" in mount]


@every_set
def test_manifests_use_only_secrets_that_exist(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Made by the chart, with that entry; or named in the values."""
    manifests = rendered[name]
    made = {item["metadata"]["name"]: set(item["stringData"]) for item in kind(manifests, "Secret")}
    values = values_of(name)
    given = [*re.findall(r"existing(?:Secret|ConfigMap)': '([^']+)'", str(values)), "collector"]
    for pod in pods(manifests):
        uses = [
            (ref["name"], {ref["key"]})
            for part in pod["containers"]
            for variable in part.get("env", [])
            if (ref := variable.get("valueFrom", {}).get("secretKeyRef"))
        ]
        uses += [
            (source["secretName"], {item["key"] for item in source["items"]})
            for volume in pod["volumes"]
            if (source := volume.get("secret"))
        ]
        for secret, entries in uses:
            assert secret in given or entries <= made[secret], (secret, entries)


@every_set
def test_manifests_pods_meet_the_restricted_standard(rendered: dict[str, list[Manifest]], name: str) -> None:
    """As the Pod Security Standard `restricted` asks, and more: no token, a root that cannot be written to."""
    for pod in pods(rendered[name]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for part in pod["containers"]:
            assert part["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert not [volume for volume in pod["volumes"] if volume.keys() - {"name", "secret", "configMap", "emptyDir"}]


def test_manifests_rollout_starts_a_pod_before_one_ends(rendered: dict[str, list[Manifest]]) -> None:
    """A new pod serves before an old one goes."""
    deployment = one(rendered["default"], "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert deployment["strategy"]["rollingUpdate"]["maxSurge"] == 1
    assert "replicas" in deployment
    assert "replicas" not in one(rendered["everything"], "Deployment")["spec"], "the autoscaler's to say"


@pytest.mark.parametrize(
    ("name", "seconds"), [("default", 5 + 30 + 1 + 17 + 5), ("everything", 10 + 21 + 1 + 10 + 5), ("minimal", 53)]
)
def test_manifests_grace_period_covers_the_longest_shutdown(
    rendered: dict[str, list[Manifest]], name: str, seconds: int
) -> None:
    """The pause, the longest request, what was sent and may still land, and a little."""
    pod = one(rendered[name], "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == seconds
    pause = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pause == {"default": 5, "everything": 10, "minimal": 0}[name]


@pytest.mark.parametrize("name", ["ingress", "gateway-api", "everything"])
def test_manifests_expose_the_api_and_no_internal_route(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Through an Ingress or a route all of the API is reached, and nothing that is for operators and developers."""
    paths: list[str] = []
    for item in kind(rendered[name], "Ingress"):
        paths += [path["path"] for rule in item["spec"]["rules"] for path in rule["http"]["paths"]]
    for item in kind(rendered[name], "HTTPRoute"):
        paths += [match["path"]["value"] for rule in item["spec"]["rules"] for match in rule["matches"]]

    def reached(route: str) -> bool:
        return any(route == path or route.startswith(path.rstrip("/") + "/") for path in paths)

    api = [route for route in contract()["paths"] if route.startswith("/v1/") and not route.startswith("/v1/admin")]
    assert len(api) > 5
    assert [route for route in api if not reached(route)] == []
    assert {route for route in contract()["paths"] if reached(route)} == set(api)
    for hidden in ("/metrics", "/livez", "/readyz", "/", "/v1", "/v1/admin", "/openapi.json"):
        assert not reached(hidden)
    # Of the pages only where they are asked for.
    assert reached("/docs") is reached("/watch") is (name == "ingress")


def test_manifests_restart_pods_only_for_settings(helm: Helm) -> None:
    """Another secret, caller or password: the same pods. Another setting, another Redis: new ones."""

    def pod(**more: Any) -> Any:
        values = {
            "redis": {"url": "redis://redis"},
            "credentials": {"values": {"GATEWAY_VIDEOSDK_TOKEN": "one"}},
            "files": {"GATEWAY_CALLERS_FILE": {"text": "# one"}},
            **more,
        }
        return one(helm.render(values), "Deployment")["spec"]["template"]

    before = pod()
    assert pod(credentials={"values": {"GATEWAY_VIDEOSDK_TOKEN": "other"}}) == before
    assert pod(files={"GATEWAY_CALLERS_FILE": {"text": "# other"}}) == before
    assert pod(redis={"url": "redis://user:another-password@redis"}) == before
    assert pod(redis={"url": "redis://other"}) != before
    assert pod(settings={"GATEWAY_TRUST_SECONDS": 11}) != before


@every_set
def test_manifests_hold_secrets_only_in_secrets(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Nor in anything else that is not a Secret."""
    for item in rendered[name]:
        if item["kind"] != "Secret":
            assert not re.search(r"a-secret|a-key|password", str(item)), item["kind"]


def test_network_policy_admits_only_what_is_needed(rendered: dict[str, list[Manifest]]) -> None:
    """In: the pod's port. Out: names, Redis where its URL says that it is, VideoSDK; nothing private."""
    for name, ports in {
        "default": [6379],
        "ingress": [6379, 6380],
        "gateway-api": [6379, 7000, 7001],
        "everything": [6379, 16379, 26379, 26380],
    }.items():
        spec = one(rendered[name], "NetworkPolicy")["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert [port for rule in spec["ingress"] for port in rule["ports"]] == [{"port": "http"}]
        names, redis, videosdk, *_ = spec["egress"]
        assert {(port["port"], port["protocol"]) for port in names["ports"]} == {(53, "UDP"), (53, "TCP")}
        assert [port["port"] for port in redis["ports"]] == ports, name
        assert [port["port"] for port in videosdk["ports"]] == [443]
        assert names["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
        assert all(rule.get("to") for rule in spec["egress"]), "no rule leads anywhere"
        assert {"podSelector": {}} in redis["to"] or name in {"ingress", "everything"}
    assert one(rendered["ingress"], "NetworkPolicy")["spec"]["egress"][1]["to"] == [
        {"ipBlock": {"cidr": "10.1.2.3/32"}}
    ]
    spec = one(rendered["valkey"], "NetworkPolicy")["spec"]
    valkey = spec["egress"][1]["to"][0]["podSelector"]["matchLabels"]
    assert [pod for pod in pods(rendered["valkey"]) if valkey.items() <= pod["labels"].items()]
    theirs = [item for item in kind(rendered["valkey"], "NetworkPolicy") if item["metadata"]["name"].endswith("valkey")]
    assert theirs[0]["spec"]["podSelector"]["matchLabels"] == valkey


PRIVATE = (
    *("10.1.2.3", "100.64.1.1", "127.0.0.1", "169.254.169.254", "172.16.1.1", "192.168.1.1", "0.0.0.0", "224.0.0.1"),
    *("::1", "fd00::1", "fe80::1", "::ffff:10.1.2.3", "64:ff9b::a01:203", "64:ff9b:1::1", "2002:a01:203::1"),
)


def test_network_policy_leads_to_nothing_private(rendered: dict[str, list[Manifest]]) -> None:
    """VideoSDK's rule reaches public addresses, and no private one, also not as IPv6, through NAT64 or through 6to4."""
    blocks = [peer["ipBlock"] for peer in one(rendered["default"], "NetworkPolicy")["spec"]["egress"][2]["to"]]

    def reached(text: str) -> bool:
        address = ip_address(text)
        return any(
            address in ip_network(block["cidr"]) and not any(address in ip_network(one) for one in block["except"])
            for block in blocks
        )

    assert [address for address in PRIVATE if reached(address)] == []
    assert all(map(reached, ("1.1.1.1", "203.0.114.1", "2606:4700::1")))


@pytest.mark.parametrize(
    ("url", "peer"),
    [
        ("redis://redis", {"podSelector": {}}),
        ("redis://user:a.b@10.0.0.7:6380/2", {"ipBlock": {"cidr": "10.0.0.7/32"}}),
        ("rediss://[fd00::7]:6379", {"ipBlock": {"cidr": "fd00::7/128"}}),
        (
            "redis://redis.cache.svc:6379",
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "cache"}}},
        ),
        (
            "redis+cluster://redis-0.redis.cache.svc.cluster.local:6379,redis-1.redis.cache.svc.cluster.local",
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "cache"}}},
        ),
        ("redis+sentinel://sentinel:26379/tracks?x=1", {"podSelector": {}}),
    ],
)
def test_network_policy_finds_redis_by_its_address(helm: Helm, url: str, peer: Manifest) -> None:
    """An IP address, a Service of the namespace and one of another say where Redis is."""
    policy = one(helm.render({**values_of("default"), "redis": {"url": url}}), "NetworkPolicy")
    assert policy["spec"]["egress"][1]["to"] == [peer]


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("redis+sentinel://sentinel/tracks", [6379, 26379]),
        ("rediss+sentinel://:a%2Fb@sentinel-0:26380,sentinel-1/tracks", [6379, 26380, 26379]),
        ("redis+sentinel://[fd00::7]/tracks", [6379, 26379]),
        ("redis+cluster://redis-0:7000,redis-1", [6379, 7000]),
        ("redis://redis", [6379]),
    ],
)
def test_network_policy_opens_the_ports_that_the_address_means(helm: Helm, url: str, ports: list[int]) -> None:
    """Those that are written, and where none is written that of a Sentinel or of any other Redis."""
    policy = one(helm.render({**values_of("default"), "redis": {"url": url}}), "NetworkPolicy")
    assert [way["port"] for way in policy["spec"]["egress"][1]["ports"]] == ports


def test_network_policy_of_a_redis_in_a_secret_opens_the_ports_that_are_named(helm: Helm) -> None:
    """Its address is not known to the chart: what `redisPorts` names, and no default beside it."""
    policy = {"redis": [{"podSelector": {}}], "redisPorts": [7000, 26379]}
    values = {**values_of("default"), "redis": {"url": "", "existingSecret": "redis"}, "networkPolicy": policy}
    rendered = one(helm.render(values), "NetworkPolicy")
    assert [way["port"] for way in rendered["spec"]["egress"][1]["ports"]] == [7000, 26379]


def test_trial_valkey_asks_for_the_password_that_the_gateway_shows(
    helm: Helm, rendered: dict[str, list[Manifest]]
) -> None:
    """Made up, in a Secret that both mount; no other pod and no argument of a command holds it."""
    secret = next(item for item in kind(rendered["valkey"], "Secret") if item["metadata"]["name"].endswith("valkey"))
    held = secret["stringData"]
    assert len(held["password"]) >= 32
    assert held["valkey.conf"] == f"requirepass {held['password']}\n"
    assert held["url"] == f"redis://:{held['password']}@{secret['metadata']['name']}:6379"
    server = next(pod for pod in pods(rendered["valkey"]) if pod["containers"][0]["name"] == "valkey")
    mount = server["containers"][0]["volumeMounts"][-1]["mountPath"]
    assert f"{mount}/valkey.conf" in server["containers"][0]["args"]
    assert held["password"] not in str([item for item in rendered["valkey"] if item is not secret])
    again = kind(helm.render(values_of("valkey")), "Secret")
    assert held["password"] not in str(again), "each installation has its own"
    given = "given0123456789abcdef"
    values = {**values_of("valkey"), "valkey": {"enabled": True, "password": given}}
    assert f"redis://:{given}@" in str(kind(helm.render(values), "Secret"))


def test_images_are_named_by_their_digests() -> None:
    """What the chart brings along and what the image is built on: another one cannot come under the same name."""
    pinned = r"@sha256:[0-9a-f]{64}$"
    assert re.search(pinned, yaml.safe_load(VALUES.read_text())["valkey"]["image"])
    (base,) = re.findall(r"^ARG BASE=(.*)$", (CHART.parents[1] / "Dockerfile").read_text(), re.MULTILINE)
    assert re.search(pinned, base)


def test_manifests_hold_rules_and_dashboard_unchanged(rendered: dict[str, list[Manifest]]) -> None:
    """The files are put into their manifests, and only the runbook's address is completed."""
    rules = yaml.safe_load((CHART / "rules" / "alerts.yaml").read_text())
    sent = one(rendered["everything"], "PrometheusRule")["spec"]
    base = values_of("everything")["prometheusRule"]["runbookBase"]
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = base + rule["annotations"]["runbook_url"]
    assert sent == rules
    dashboard = (CHART / "dashboards" / "recording-gateway.json").read_text()
    assert one(rendered["everything"], "ConfigMap")["data"] == {"recording-gateway.json": dashboard.strip()}


def test_chart_with_another_name_renames_every_manifest(rendered: dict[str, list[Manifest]]) -> None:
    """`fullnameOverride` and `commonLabels` reach every manifest."""
    for item in rendered["everything"]:
        assert item["metadata"]["name"].startswith("school-recorder") or item["kind"] == "ServiceAccount"
        assert labels(item)["team"] == "lessons"
    assert one(rendered["everything"], "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "recorder"
    assert container(rendered["everything"])["image"].startswith("registry.example.com/platform/recording-gateway@sha")


def test_chart_as_a_subchart_renders(helm: Helm) -> None:
    """Helm then hands in `global`, whatever is in it."""
    assert helm.render({**values_of("default"), "global": {"imageRegistry": "x"}})
