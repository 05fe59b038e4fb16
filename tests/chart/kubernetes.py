"""Kubernetes's own schemas, and those of the custom resources, all of them strict: no field they do not name."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.chart.helm import Manifest

_SCHEMAS = Path(str(files("kubernetes_validate"))) / "kubernetes-json-schema"
_CUSTOM = {
    "ServiceMonitor": "prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor.js",
    "PrometheusRule": "prometheus-operator/monitoring.coreos.com/v1/PrometheusRule.js",
    "HTTPRoute": "gateway-api/gateway.networking.k8s.io/v1/HTTPRoute.js",
}

NEWEST = kubernetes_validate.latest_version().removesuffix(".0")
"""The newest Kubernetes whose schemas are at hand."""


def problems(manifest: Manifest, version: str, node_modules: Path) -> list[str]:
    """Return what a Kubernetes of this version would object to."""
    name = manifest["kind"]
    if name in _CUSTOM:
        validator = _custom(node_modules / "@kubernetes-models" / _CUSTOM[name])
    else:
        group, _, api = manifest["apiVersion"].rpartition("/")
        prefix = f"{group.split('.')[0]}-" if group else ""
        validator = _builtin(version, f"{name.lower()}-{prefix}{api}.json")
    return [
        f"{name} {manifest['metadata']['name']} {error.json_path}: {error.message[:200]}"
        for error in validator.iter_errors(manifest)
    ]


@cache
def _builtin(version: str, file: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((_folder(version) / file).read_text()), registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    contents = json.loads((_folder(version) / "_definitions.json").read_text())
    return DRAFT202012.create_resource(contents) @ Registry()


def _folder(version: str) -> Path:
    return _SCHEMAS / f"v{version}.0-local-strict"


@cache
def _custom(file: Path) -> Draft202012Validator:
    """Read the schema out of the module that carries it, and have it name every field there may be."""
    text = file.read_text()
    schema, _ = json.JSONDecoder().raw_decode(text, text.index("const schema = ") + len("const schema = "))
    # The one reference there is. Metadata is looked at in the resources that Kubernetes itself knows.
    schema["properties"]["metadata"] = {"type": "object"}
    _close(schema)
    return Draft202012Validator(schema)


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)
