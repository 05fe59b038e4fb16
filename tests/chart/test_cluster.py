"""What a cluster makes of the manifests: who reaches the pods, and where a rollout puts them."""

from collections import Counter
from typing import Any

import pytest

from tests.chart.helm import SETS, Helm, Manifest, container, kind, labels, one, values_of

Labels = dict[str, str]
NAMESPACE = "lessons"
"""Where the release is installed."""


def chosen(selector: Manifest | None, has: Labels) -> bool:
    """Tell whether a label selector chooses what has these labels."""
    wanted = (selector or {}).get("matchLabels", {})
    expressions = (selector or {}).get("matchExpressions", [])
    return wanted.items() <= has.items() and all(
        expression["operator"] == "In" and has.get(expression["key"]) in expression["values"]
        for expression in expressions
    )


def admits(policy: Manifest, port: str, *, namespace: Labels, pod: Labels) -> bool:
    """Tell whether a NetworkPolicy lets a pod in at a port, as Kubernetes reads its rules."""

    def from_peer(peer: Manifest) -> bool:
        if "namespaceSelector" not in peer:
            inside = namespace["kubernetes.io/metadata.name"] == NAMESPACE
            return inside and chosen(peer["podSelector"], pod)
        return chosen(peer["namespaceSelector"], namespace) and chosen(peer.get("podSelector"), pod)

    return any(
        any(from_peer(peer) for peer in rule["from"]) and port in {allowed["port"] for allowed in rule["ports"]}
        for rule in policy["spec"]["ingress"]
    )


def named(namespace: str, **more: str) -> Labels:
    """Return the labels a namespace has."""
    return {"kubernetes.io/metadata.name": namespace, **more}


def scraped_port(manifests: list[Manifest]) -> str:
    """Return the port of the pod at which Prometheus asks for the metrics."""
    (endpoint,) = one(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    (port,) = (port for port in one(manifests, "Service")["spec"]["ports"] if port["name"] == endpoint["port"])
    assert port["targetPort"] in {port["name"] for port in container(manifests)["ports"]}
    return port["targetPort"]


POLICED = [name for name in SETS if values_of(name).get("networkPolicy", {}).get("enabled", True)]
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}


@pytest.mark.parametrize("name", POLICED)
def test_network_policy_admits_prometheus_at_the_port_it_scrapes(helm: Helm, name: str) -> None:
    """From the namespace where it usually is, with every set of values; a stranger's pod is not admitted."""
    manifests = helm.render({**values_of(name), "serviceMonitor": {"enabled": True}})
    policy, port = one(manifests, "NetworkPolicy"), scraped_port(manifests)
    assert admits(policy, port, namespace=named("monitoring"), pod=PROMETHEUS)
    assert not admits(policy, port, namespace=named("strangers"), pod=PROMETHEUS)
    assert not admits(policy, "another", namespace=named("monitoring"), pod=PROMETHEUS)


def test_network_policy_admits_prometheus_where_the_operator_says_it_is(helm: Helm) -> None:
    """`prometheusNamespaces` replaces the usual one, and does not take away who else is admitted."""
    given = {"serviceMonitor": {"enabled": True}, "networkPolicy": {"prometheusNamespaces": ["watch", "watch-too"]}}
    manifests = helm.render({**values_of("default"), **given})
    policy, port = one(manifests, "NetworkPolicy"), scraped_port(manifests)
    asked = {
        place: admits(policy, port, namespace=named(place), pod=PROMETHEUS)
        for place in ("watch", "watch-too", "monitoring", "ingress-nginx", NAMESPACE)
    }
    assert asked == {"watch": True, "watch-too": True, "monitoring": False, "ingress-nginx": True, NAMESPACE: True}


def test_network_policy_admits_the_callers_that_are_listed(helm: Helm) -> None:
    """Peers as Kubernetes writes them, with both selectors: both must hold."""
    policy = one(helm.render(values_of("everything")), "NetworkPolicy")
    teams = named("anywhere", team="lessons")
    assert admits(policy, "http", namespace=teams, pod={"app": "rooms"})
    assert not admits(policy, "http", namespace=teams, pod={"app": "mail"})
    assert not admits(policy, "http", namespace=named("anywhere"), pod={"app": "rooms"})


# --- where the pods run -----------------------------------------------------------------------------------------------


Pod = tuple[str, Labels]
"""The node it runs on, and its labels."""


def place(constraint: Manifest, pods: list[Pod], new: Labels, nodes: list[str]) -> str:
    """Return the node with the fewest pods that the constraint counts; the first of several."""
    counted = dict(constraint["labelSelector"]["matchLabels"])
    counted |= {key: new[key] for key in constraint.get("matchLabelKeys", [])}
    there = Counter(node for node, has in pods if counted.items() <= has.items())
    return min(nodes, key=lambda node: there[node])


def roll_out(deployment: Manifest, constraint: Manifest, nodes: list[str]) -> Counter[str]:
    """Replace every pod by one of a new revision, one more at a time; return where the new ones run."""
    template, replicas = labels(deployment["spec"]["template"]), len(nodes)
    pods: list[Pod] = [(node, {**template, "pod-template-hash": "old"}) for node in nodes]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    new = {**template, "pod-template-hash": "new"}
    for _ in range(replicas):
        pods.append((place(constraint, pods, new, nodes), new))
        pods.pop(0)
    return Counter(node for node, _ in pods)


@pytest.mark.parametrize("name", SETS)
def test_rollout_leaves_the_new_pods_evenly_spread(helm: Helm, name: str) -> None:
    """Pods of the revision that goes do not count for where the new ones are put, on nodes and in zones."""
    deployment = one(helm.render(values_of(name)), "Deployment")
    constraints: list[Any] = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in constraints} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for constraint in constraints:
        assert constraint["maxSkew"] == 1
        spread = roll_out(deployment, constraint, ["a", "b", "c", "d"])
        assert set(spread.values()) == {1}, spread


def test_pods_are_spread_as_strictly_as_the_operator_says(helm: Helm) -> None:
    """Zones and nodes each have a value of their own, `ScheduleAnyway` unless one is given."""

    def strictness(**spread: str) -> dict[str, str]:
        deployment = one(helm.render({**values_of("default"), "topologySpread": spread}), "Deployment")
        constraints = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        return {one["topologyKey"].rpartition("/")[2]: one["whenUnsatisfiable"] for one in constraints}

    assert strictness() == {"zone": "ScheduleAnyway", "hostname": "ScheduleAnyway"}
    assert strictness(zones="DoNotSchedule") == {"zone": "DoNotSchedule", "hostname": "ScheduleAnyway"}
    assert strictness(nodes="DoNotSchedule") == {"zone": "ScheduleAnyway", "hostname": "DoNotSchedule"}


def test_constraint_counts_the_gateways_pods_alone(helm: Helm) -> None:
    """The trial's Valkey beside the gateway is not one of the pods that are spread."""
    manifests = helm.render(values_of("valkey"))
    gateway = one(manifests, "Deployment")
    (valkey,) = (item for item in kind(manifests, "Deployment") if item is not gateway)
    for constraint in gateway["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert chosen(constraint["labelSelector"], labels(gateway["spec"]["template"]))
        assert not chosen(constraint["labelSelector"], labels(valkey["spec"]["template"]))
