"""The alert rules, the dashboard and the runbook: they parse, fire when they should, and name what there is."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings.table import SETTINGS
from tests.api_client import ApiClient
from tests.chart.written import CHART
from tests.harness import skip_unless_ci

RULES = CHART / "rules" / "alerts.yaml"
CASES = Path(__file__).parent / "alerts.test.yaml"
DASHBOARD = CHART / "dashboards" / "recording-gateway.json"
DOCS = CHART.parents[1] / "docs"
RUNBOOK = DOCS / "runbook.md"

TARGET = {"namespace", "job", "pod", "le"}
"""Labels that Prometheus adds, or histograms have."""


def alerts() -> dict[str, Any]:
    """Return the alerts by their names."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def recorded() -> dict[str, str]:
    """Return the expressions of the recording rules by their names."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"] if "record" in rule}


def panels() -> list[Any]:
    """Return the dashboard's panels, without the rows' headings."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def shown() -> list[str]:
    """Return every expression of the dashboard, with its variables filled in."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [re.sub(r"\$(namespace|job)", ".*", expression.replace("$__rate_interval", "5m")) for expression in found]


def promtool(*arguments: str | Path) -> str:
    """Run promtool, and return what it says; fail where it is not content."""
    binary = shutil.which("promtool")
    if binary is None:
        skip_unless_ci("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([str(binary), *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alert_rules_are_valid() -> None:
    """`promtool check rules`."""
    assert "SUCCESS" in promtool("check", "rules", RULES)


def test_alert_rules_fire_exactly_in_their_cases() -> None:
    """`promtool test rules`: in every case it is said what fires, and nothing else may."""
    assert "SUCCESS" in promtool("test", "rules", CASES)
    expected = CASES.read_text()
    for name in alerts():
        assert f'alertname="{name}"' in expected, f"{name} is nowhere expected to fire"


def test_dashboard_expressions_are_valid(tmp_path: Path) -> None:
    """Prometheus reads each of them."""
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(shown())]
    assert len(rules) > 30
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert "SUCCESS" in promtool("check", "rules", file)


def test_dashboard_panels_are_titled_and_do_not_overlap() -> None:
    """Every panel has a title and a number of its own, none lies on another, and all use the chosen data source."""
    every = json.loads(DASHBOARD.read_text())["panels"]
    numbers = [panel["id"] for panel in every]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["title"] and panel["datasource"]["uid"] == "${datasource}" for panel in panels())


def test_runbook_explains_every_alert_and_no_other() -> None:
    """With what it means, what to look at, what to do and what not to do; and the runbook knows no others."""
    sections = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    told = {section.splitlines()[0].strip(): section for section in sections}
    assert [name for name in told if name.startswith("Gateway")] == list(alerts())
    for name, alert in alerts().items():
        parts = re.findall(r"^\*\*(.+?)\*\*", told[name], re.MULTILINE)
        assert parts == ["Means.", "Look.", "Do.", "Do not."], (name, parts)
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert alert["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize("page", ["runbook.md", "operating.md"])
def test_operating_pages_name_only_what_exists(page: str) -> None:
    """Settings, log events that the code writes, and values of the chart."""
    text = (DOCS / page).read_text()
    code = "".join(file.read_text() for file in (DOCS.parent / "gateway").rglob("*.py"))
    known = {row.variable for row in SETTINGS} | {row.file_variable for row in SETTINGS if row.has_file}
    for name in re.findall(r"GATEWAY_[A-Z_]*[A-Z]", text):
        assert name in known, name
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in re.findall(r"`([a-z_A-Z]+\.[a-zA-Z_]+)`", text):
        first, second = name.split(".")
        if second in {"yaml", "json", "py"}:
            continue
        written = f'"{name}"' in code or (first == "finish" and f'"{second}"' in code)
        assert written or second in values.get(first, {}), name


def metrics(exposition: str) -> dict[str, set[str]]:
    """Return the metrics of an exposition, as rules would name them, each with its labels."""
    found: dict[str, set[str]] = {}
    for line in exposition.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, sort = line.split()
            for suffix in ("_bucket", "_sum", "_count") if sort == "histogram" else ("",):
                found.setdefault(name + suffix, set())
        elif not line.startswith("#") and (sample := re.match(r"([a-z_]+)(?:\{(.*)\})? ", line)):
            labels = set(re.findall(r'([a-z_]+)="', sample[2] or ""))
            found.setdefault(sample[1], set()).update(labels)
    return found


@pytest.mark.anyio
async def test_alerts_and_dashboard_name_only_existing_metrics(
    gateway: ApiClient, new_track: Callable[..., dict[str, str]]
) -> None:
    """In `/metrics` of a gateway that has started and stopped something, with the labels that are asked for."""
    track = new_track()
    assert (await gateway.start(track)).status_code == 201
    assert (await gateway.stop(track)).status_code == 200
    there = metrics((await gateway.get("/metrics")).text)
    expressions = [*shown(), *recorded().values(), *(alert["expr"] for alert in alerts().values())]
    own = set(recorded())
    for expression in expressions:
        for name in re.findall(r"\bgateway[_:][a-z0-9_:]+", expression):
            assert name in there or name in own, f"no metric {name}: {expression}"
        for name, matchers in re.findall(r"(gateway_[a-z_]+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"([a-z_]+) *(?:=~|!=|!~|=)", matchers)) - TARGET
            assert labels <= there[name], f"{name} has no {labels - there[name]}"
        grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}
        known = set().union(*(there.get(name, set()) for name in re.findall(r"gateway_[a-z_]+", expression)))
        assert grouped - TARGET <= known, f"nothing has {grouped - TARGET - known}: {expression}"
    # A counter that appears with its first event is not seen to rise.
    for name in ("gateway_duplicates_suspected_total", "gateway_webhook_deliveries_failed_total"):
        assert name in there
    assert "how" in there["gateway_fenced_writes_total"]
