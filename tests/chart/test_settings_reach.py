"""Every setting of the gateway is reachable from the chart's values, means the same there, and comes out readable."""

import json
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from gateway import __version__
from gateway.auth.api_keys import new_key
from gateway.settings.load import load
from gateway.settings.table import SETTINGS, Setting
from tests.chart import written
from tests.chart.helm import SETS, Helm, Manifest, container, kind, one, values_of

REACHED = {row.variable for row in (*written.plain(), *written.credentials(), *written.files())}


def test_chart_generated_files_are_up_to_date() -> None:
    """`make chart` writes it; this fails where a setting was added without it."""
    assert written.VALUES.read_text() == written.values(), "run `make chart`"
    assert written.SCHEMA.read_text() == written.schema(), "run `make chart`"
    assert written.ABOUT.read_text() == written.about(), "run `make chart`"


def test_chart_has_a_place_for_every_setting() -> None:
    """In `settings`, `credentials` or `files`, or the chart gives it itself."""
    assert written.unreachable() == []
    assert {row.variable for row in SETTINGS} == REACHED | written.GIVEN_BY_THE_CHART


def test_chart_version_is_the_packages() -> None:
    """The image's tag, unless another is given."""
    assert yaml.safe_load(written.ABOUT.read_text())["appVersion"] == __version__


@pytest.mark.parametrize("row", written.plain(), ids=lambda row: row.variable)
def test_values_schema_agrees_with_the_settings(row: Setting) -> None:
    """Its bounds are taken by both, what lies beyond is refused by both, and so is another type."""
    schema = json.loads(written.SCHEMA.read_text())["properties"]["settings"]["properties"][row.variable]
    validator = Draft7Validator(schema)
    if "minimum" in schema:
        for edge, beyond in ((schema["minimum"], -1), (schema["maximum"], 1)):
            assert validator.is_valid(edge)
            row.value_type.parse(str(edge))
            assert not validator.is_valid(edge + beyond)
            with pytest.raises(Exception, match=r"out of bounds|not a"):
                row.value_type.parse(str(edge + beyond))
    for name in schema.get("enum", ()):
        row.value_type.parse(name)
    assert not validator.is_valid([])
    assert not validator.is_valid(None)
    if row.default is not None:
        assert validator.is_valid(yaml.safe_load(row.default if "minimum" in schema else json.dumps(row.default)))


def example(row: Setting) -> Any:
    """Make up a value as an operator would write it: the smallest, the largest with decimals, or some text."""
    schema = row.value_type.schema
    if schema.get("type") == "number":
        return float(Decimal(str(schema["minimum"])) + Decimal("0.05"))
    if schema.get("type") == "integer":
        return schema["maximum"]
    if "enum" in schema:
        return schema["enum"][-1]
    text = f"'quoted' \"{row.variable.lower()}\" {{{{ .Values }}}}"
    return text if re.search(schema.get("pattern", ""), text) else row.default


def test_chart_passes_every_value_unchanged(helm: Helm) -> None:
    """Large numbers without an exponent, texts with quotes and braces unchanged; each as one variable."""
    given = {row.variable: example(row) for row in written.plain()}
    values = {
        "redis": {"url": "redis://redis"},
        "credentials": {"existingSecret": "videosdk", "keys": {"GATEWAY_VIDEOSDK_TOKEN": "token"}},
        "files": {row.variable: {"existingSecret": "files", "key": row.field} for row in written.files()},
        "settings": given,
    }
    names = [item["name"] for item in container(helm.render(values))["env"]]
    assert sorted(names) == sorted(
        {*given, *(row.variable for row in written.files()), "GATEWAY_REDIS_URL_FILE", "GATEWAY_VIDEOSDK_TOKEN_FILE"}
    )
    env = {item["name"]: item.get("value") for item in container(helm.render(values))["env"]}
    for variable, value in given.items():
        assert env[variable] == (f"{value:g}" if isinstance(value, float) else str(value))


def test_chart_mounts_every_credential(helm: Helm) -> None:
    """By the variable that names its file, from the entry that the operator names."""
    for row in written.credentials():
        keys = {"GATEWAY_VIDEOSDK_TOKEN": "token"} if row.variable == "GATEWAY_VIDEOSDK_TOKEN" else {}
        if not keys:
            keys = {"GATEWAY_VIDEOSDK_API_KEY": "k", "GATEWAY_VIDEOSDK_SECRET": "s", row.variable: "entry"}
        values = {**values_of("minimal"), "credentials": {"existingSecret": "videosdk", "keys": keys}}
        pod = one(helm.render(values), "Deployment")["spec"]["template"]["spec"]
        env = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "credentials"]
        items = {item["path"]: item["key"] for item in volume["secret"]["items"]}
        assert items == keys
        assert env[row.file_variable].rpartition("/")[2] == row.variable


def environment(manifests: list[Manifest], folder: Path) -> dict[str, str]:
    """Return a pod's variables as they would be, with what it mounts put into a folder."""
    pod = one(manifests, "Deployment")["spec"]["template"]["spec"]
    made = {item["metadata"]["name"]: item["stringData"] for item in kind(manifests, "Secret")}
    _, callers = new_key("lessons")
    tomllib.loads(callers)
    held = {"callers.toml": callers, "uri": "redis://gateway:password@redis:6379/1"}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    for volume in pod["volumes"]:
        source = volume.get("secret") or volume.get("configMap")
        if source is None:
            continue
        place = folder / mounts[volume["name"]].lstrip("/")
        place.mkdir(parents=True)
        contents = made.get(source.get("secretName", source.get("name")), held)
        for item in source["items"]:
            (place / item["path"]).write_text(contents.get(item["key"], f"value-of-{item['key']}"))
    found: dict[str, str] = {}
    for item in pod["containers"][0]["env"]:
        ref = item.get("valueFrom", {}).get("secretKeyRef")
        value = item.get("value") or (made.get(ref["name"], held).get(ref["key"], "") if ref else "")
        found[item["name"]] = str(folder) + value if item["name"].endswith("_FILE") else value
    return found


@pytest.mark.parametrize("name", SETS)
def test_gateway_accepts_the_pods_settings(helm: Helm, name: str, tmp_path: Path) -> None:
    """The variables and files of each set of values are settings without a problem."""
    settings = load(environment(helm.render(values_of(name)), tmp_path))
    assert settings.host == "0.0.0.0"
    if name == "everything":
        assert (settings.port, settings.caller_starts_per_minute, settings.log_level) == (9090, 1_000_000, "warning")
        assert settings.quiet.total_seconds() == 9.25
        assert settings.redis_url.reveal().startswith("rediss+sentinel://gateway:a%2Fpassword@redis-0:26379")
    if name == "existing-secret":
        assert settings.redis_url.reveal() == "redis://gateway:password@redis:6379/1"
        assert settings.mounted.keys() == {"videosdk_token", "redis_url"}
