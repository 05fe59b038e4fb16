"""Values that cannot be meant are refused, each with a message that names what is wrong."""

import json
from typing import Any

import pytest
import yaml

from tests.chart.helm import Helm, Manifest, Refused, values_of
from tests.chart.written import SCHEMA, VALUES

BY_THE_SCHEMA: list[tuple[str, Manifest, str]] = [
    ("a misspelt value", {"replica": 2}, "Additional property replica is not allowed"),
    ("one deep inside", {"networkPolicy": {"enable": True}}, "Additional property enable is not allowed"),
    ("a misspelt setting", {"settings": {"GATEWAY_TRUST": 5}}, "Additional property GATEWAY_TRUST is not allowed"),
    (
        "a setting with another type",
        {"settings": {"GATEWAY_WORKERS": "4"}},
        "settings.GATEWAY_WORKERS: Invalid type. Expected: integer, given: string",
    ),
    (
        "a setting out of bounds",
        {"settings": {"GATEWAY_SETTLE_SECONDS": 301}},
        "settings.GATEWAY_SETTLE_SECONDS: Must be less than or equal to 300",
    ),
    (
        "another setting out of bounds",
        {"settings": {"GATEWAY_UPSTREAM_TIMEOUT_SECONDS": 0}},
        "Must be greater than or equal to 0.05",
    ),
    (
        "a choice there is not",
        {"settings": {"GATEWAY_WITHOUT_REDIS": "local"}},
        'must be one of the following: "refuse", "degrade"',
    ),
    (
        "off without quotes is false",
        {"settings": {"GATEWAY_JOIN_TOKENS": False}},
        'must be one of the following: "off", "on", "any-room"',
    ),
    ("a port that is needed", {"settings": {"GATEWAY_PORT": None}}, "GATEWAY_PORT is required"),
    ("a time that is needed", {"settings": {"GATEWAY_SETTLE_SECONDS": None}}, "GATEWAY_SETTLE_SECONDS is required"),
    (
        "a secret among the settings",
        {"settings": {"GATEWAY_VIDEOSDK_SECRET": "x"}},
        "Additional property GATEWAY_VIDEOSDK_SECRET is not allowed",
    ),
    (
        "a file among the settings",
        {"settings": {"GATEWAY_CALLERS_FILE": "/x"}},
        "Additional property GATEWAY_CALLERS_FILE is not allowed",
    ),
    (
        "Redis among the settings",
        {"settings": {"GATEWAY_REDIS_URL": "redis://x"}},
        "Additional property GATEWAY_REDIS_URL is not allowed",
    ),
    (
        "a setting among the credentials",
        {"credentials": {"keys": {"GATEWAY_PORT": "port"}}},
        "Additional property GATEWAY_PORT is not allowed",
    ),
    (
        "an entry no Secret can have",
        {"credentials": {"keys": {"GATEWAY_VIDEOSDK_TOKEN": "a/b"}}},
        "credentials.keys.GATEWAY_VIDEOSDK_TOKEN: Does not match pattern",
    ),
    (
        "a setting among the variables",
        {"extraEnv": [{"name": "GATEWAY_PORT", "value": "1"}]},
        "extraEnv.0.name: Must not validate the schema (not)",
    ),
    ("a variable without a value", {"extraEnv": [{"name": "A"}]}, "extraEnv.0: Must validate one and only one schema"),
    ("another scheme for Redis", {"redis": {"url": "http://redis"}}, "redis.url: Does not match pattern"),
    (
        "a socket, which no pod shares",
        {"redis": {"url": "unix:///run/redis.sock"}},
        "redis.url: Does not match pattern",
    ),
    ("no replica", {"replicas": 0}, "replicas: Must be greater than or equal to 1"),
    ("half a replica", {"replicas": 1.5}, "replicas: Invalid type. Expected: integer, given: number"),
    ("root", {"runAsUser": 0}, "runAsUser: Must be greater than or equal to 1"),
    ("a user by name", {"runAsUser": "gateway"}, "runAsUser: Invalid type. Expected: integer, given: string"),
    (
        "another pull policy",
        {"image": {"pullPolicy": "Sometimes"}},
        'image.pullPolicy: image.pullPolicy must be one of the following: "Always"',
    ),
    ("half a digest", {"image": {"digest": "sha256:abc"}}, "image.digest: Does not match pattern"),
    ("no image", {"image": {"repository": ""}}, "image.repository: Does not match pattern"),
    ("everything through the Ingress", {"ingress": {"paths": ["/"]}}, "ingress.paths.0: Does not match pattern"),
    (
        "what operators may do, unnamed",
        {"ingress": {"paths": ["/v1"]}},
        "ingress.paths.0: Does not match pattern",
    ),
    (
        "a password that a URL would have to spell",
        {"valkey": {"password": "with/slash:and@more"}},
        "valkey.password: Does not match pattern",
    ),
    (
        "the metrics through the Ingress",
        {"ingress": {"paths": ["/v1/rooms", "/metrics"]}},
        "ingress.paths.1: Does not match pattern",
    ),
    (
        "the metrics through the route",
        {"httpRoute": {"paths": ["/metrics"]}},
        "httpRoute.paths.0: Does not match pattern",
    ),
    (
        "a host with a scheme",
        {"ingress": {"hosts": ["https://a.example.com"]}},
        "ingress.hosts.0: Does not match pattern",
    ),
    (
        "a parent without a name",
        {"httpRoute": {"parentRefs": [{"namespace": "x"}]}},
        "httpRoute.parentRefs.0: name is required",
    ),
    ("a peer that is nobody", {"networkPolicy": {"callers": [{}]}}, "Must have at least 1 properties"),
    (
        "a peer by a wrong word",
        {"networkPolicy": {"callers": [{"podLabels": {}}]}},
        "Additional property podLabels is not allowed",
    ),
    (
        "VideoSDK nowhere",
        {"networkPolicy": {"videosdk": []}},
        "networkPolicy.videosdk: Array must have at least 1 items",
    ),
    ("a port beyond the last", {"service": {"port": 70000}}, "service.port: Must be less than or equal to 65535"),
    (
        "a service without an address",
        {"service": {"type": "ExternalName"}},
        'service.type must be one of the following: "ClusterIP"',
    ),
    (
        "an amount nobody can read",
        {"resources": {"limits": {"memory": "1 GB"}}},
        "resources.limits.memory: Does not match pattern",
    ),
    ("a resource there is not", {"resources": {"limits": {"gpu": 1}}}, "Additional property gpu is not allowed"),
    (
        "no budget",
        {"podDisruptionBudget": {"maxUnavailable": 0}},
        "podDisruptionBudget.maxUnavailable: Must be greater than or equal to 1",
    ),
    (
        "a spread of another kind",
        {"topologySpread": {"zones": "Never"}},
        "topologySpread.zones must be one of the following",
    ),
    ("a label that is none", {"podLabels": {"a b": "c"}}, 'podLabels: Property name of "a b" does not match'),
    (
        "a probe elsewhere",
        {"probes": {"readinessPath": "/metrics"}},
        "probes.readinessPath must be one of the following",
    ),
    (
        "a runbook without a slash",
        {"prometheusRule": {"runbookBase": "https://x"}},
        "prometheusRule.runbookBase: Does not match pattern",
    ),
    (
        "an interval without a unit",
        {"serviceMonitor": {"interval": "15"}},
        "serviceMonitor.interval: Does not match pattern",
    ),
    (
        "a toleration of another kind",
        {"tolerations": [{"operator": "Like"}]},
        "tolerations.0.operator must be one of the following",
    ),
    (
        "a scaling beyond reason",
        {"autoscaling": {"maxReplicas": 5000}},
        "autoscaling.maxReplicas: Must be less than or equal to 1000",
    ),
]

TOGETHER: list[tuple[str, Manifest, str]] = [
    (
        "no Redis",
        {"redis": {"url": ""}},
        "Redis: give exactly one of redis.url, redis.existingSecret and valkey.enabled; given: none",
    ),
    ("two of them", {"valkey": {"enabled": True}}, "given: redis.url, valkey.enabled"),
    (
        "no credentials",
        {"credentials": {"existingSecret": ""}},
        "credentials: give existingSecret (a Secret with VideoSDK's api-key and secret), or values",
    ),
    (
        "them twice",
        {"credentials": {"values": {"GATEWAY_VIDEOSDK_TOKEN": "x"}}},
        "credentials: give existingSecret or values, not both",
    ),
    (
        "a key without its secret",
        {"credentials": {"keys": {"GATEWAY_VIDEOSDK_API_KEY": "k"}}},
        "expected GATEWAY_VIDEOSDK_API_KEY with GATEWAY_VIDEOSDK_SECRET, or GATEWAY_VIDEOSDK_TOKEN alone",
    ),
    (
        "a token beside a key",
        {"credentials": {"keys": {"GATEWAY_VIDEOSDK_API_KEY": "k", "GATEWAY_VIDEOSDK_TOKEN": "t"}}},
        "or GATEWAY_VIDEOSDK_TOKEN alone",
    ),
    (
        "entries of no Secret",
        {
            "credentials": {
                "existingSecret": "",
                "values": {"GATEWAY_VIDEOSDK_TOKEN": "x"},
                "keys": {"GATEWAY_VIDEOSDK_TOKEN": "t"},
            }
        },
        "credentials.keys: names entries of credentials.existingSecret, which is not given",
    ),
    (
        "a file from nowhere",
        {"files": {"GATEWAY_CALLERS_FILE": {"existingSecret": None}}},
        "files.GATEWAY_CALLERS_FILE: give exactly one of text, existingSecret and existingConfigMap",
    ),
    (
        "a file from two places",
        {"files": {"GATEWAY_CALLERS_FILE": {"text": "x"}}},
        "files.GATEWAY_CALLERS_FILE: give exactly one of",
    ),
    (
        "a file without an entry",
        {"files": {"GATEWAY_CALLERS_FILE": {"key": None}}},
        "files.GATEWAY_CALLERS_FILE: give the key under which existingSecret holds it",
    ),
    (
        "nobody is let in",
        {"files": {"GATEWAY_CALLERS_FILE": None}},
        "No caller can get in: give files.GATEWAY_CALLERS_FILE",
    ),
    ("whatever port is free", {"settings": {"GATEWAY_PORT": 0}}, "settings.GATEWAY_PORT: expected a fixed port, not 0"),
    (
        "fewer at most than at least",
        {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}},
        "autoscaling: maxReplicas is less than minReplicas",
    ),
    (
        "scaling by nothing",
        {"autoscaling": {"enabled": True, "cpuPercent": 0}},
        "autoscaling: give cpuPercent, operationsInFlight or both",
    ),
    (
        "Redis by a name that does not say where",
        {"redis": {"url": "redis://:a-password@redis.example.com:6379"}},
        "networkPolicy.redis: say where Redis is (a peer, such as an ipBlock): its address does not",
    ),
    (
        "Redis in a Secret that the chart cannot read",
        {"redis": {"url": "", "existingSecret": "redis-url"}},
        "networkPolicy.redis: say where Redis is",
    ),
    ("an Ingress for no host", {"ingress": {"enabled": True}}, "ingress.hosts: expected at least one host"),
    (
        "a route of no Gateway",
        {"httpRoute": {"enabled": True}},
        "httpRoute.parentRefs: expected the Gateway that the route belongs to",
    ),
]


def merged(values: Any, more: Any) -> Any:
    """Lay values over others, as several values files of Helm's are; null takes away what is given, or a default."""
    if not isinstance(values, dict) or not isinstance(more, dict):
        return more
    laid = {**values, **{name: merged(values.get(name), part) for name, part in more.items()}}
    return {name: part for name, part in laid.items() if part is not None or name not in values}


@pytest.mark.parametrize(
    ("values", "message"), [row[1:] for row in BY_THE_SCHEMA], ids=[row[0] for row in BY_THE_SCHEMA]
)
def test_values_schema_refuses_wrong_values(helm: Helm, values: Manifest, message: str) -> None:
    """Before anything is rendered."""
    with pytest.raises(Refused) as refused:
        helm.render(merged(values_of("default"), values))
    assert "values don't meet the specifications of the schema" in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(("values", "message"), [row[1:] for row in TOGETHER], ids=[row[0] for row in TOGETHER])
def test_chart_refuses_contradicting_values(helm: Helm, values: Manifest, message: str) -> None:
    """By the templates, in words of the values."""
    with pytest.raises(Refused) as refused:
        helm.render(merged(values_of("default"), values))
    assert message in str(refused.value)


def test_chart_without_values_says_what_is_missing(helm: Helm) -> None:
    """An installation without values is refused, and not half done."""
    with pytest.raises(Refused, match="Redis: give exactly one of"):
        helm.render({})


def test_values_schema_leaves_nothing_open() -> None:
    """Every object names its properties, or says what each must look like; every value of values.yaml is in it."""

    def walk(part: Any, path: str) -> list[str]:
        found: list[str] = []
        if isinstance(part, dict):
            if part.get("type") == "object" and path != "$.properties.global":
                closed = part.get("additionalProperties") is False
                shaped = isinstance(part.get("additionalProperties"), dict) and "propertyNames" in part
                if not (closed or shaped):
                    found.append(path)
            if part.get("type") == "array" and "items" not in part:
                found.append(path)
            for name, inner in part.items():
                found += walk(inner, f"{path}.{name}")
        return found

    assert walk(json.loads(SCHEMA.read_text()), "$") == []


def test_values_yaml_shows_every_value() -> None:
    """What the schema knows stands in values.yaml, and nothing else does."""
    properties = json.loads(SCHEMA.read_text())["properties"]
    values = yaml.safe_load(VALUES.read_text())
    assert set(values) == set(properties) - {"global"}
    for name, part in properties.items():
        if part.get("type") == "object" and name not in {"global", "settings", "files"}:
            assert set(values[name]) == set(part["properties"]), name
