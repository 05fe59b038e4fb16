"""Keeps the chart equal to the settings: `python -m tests.chart.written` (`make chart`) writes these parts anew.

In `values.yaml` the block of settings, in `values.schema.json` what `settings`, `credentials` and `files` may hold, and
the gateway's version in `Chart.yaml`. So a new setting is reachable as soon as this was run: where it may also be given
as `…_FILE` it is one of the `credentials`, where it names a file it is one of the `files`, and else it stands in
`settings`. What the chart has to give in another way is named in `GIVEN_BY_THE_CHART`.
"""

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

from gateway import __version__
from gateway.settings.table import SETTINGS, Setting

CHART: Final = Path(__file__).parents[2] / "helm" / "recording-gateway"
VALUES: Final = CHART / "values.yaml"
SCHEMA: Final = CHART / "values.schema.json"
ABOUT: Final = CHART / "Chart.yaml"

GIVEN_BY_THE_CHART: Final = {"GATEWAY_REDIS_URL"}
"""What templates make of values of their own (`redis` and `valkey`)."""

DIFFERENT: Final = {"GATEWAY_HOST": "0.0.0.0"}
"""What has another default in a pod."""

NEEDED: Final = (
    "GATEWAY_HOST",
    "GATEWAY_PORT",
    "GATEWAY_UPSTREAM_TIMEOUT_SECONDS",
    "GATEWAY_SEND_WINDOW_SECONDS",
    "GATEWAY_SETTLE_SECONDS",
    "GATEWAY_REQUEST_DEADLINE_SECONDS",
)
"""What templates compute with: the port, and the times that make up the grace period."""

_BLOCK: Final = re.compile(r"(?<=  # <settings>\n).*(?=  # </settings>)", re.DOTALL)


def plain() -> list[Setting]:
    """Return the settings that stand in `settings`."""
    apart = {row.variable for row in (*credentials(), *files())} | GIVEN_BY_THE_CHART
    return [row for row in SETTINGS if row.variable not in apart]


def credentials() -> list[Setting]:
    """Return the settings that are mounted as files and may be rotated."""
    return [row for row in SETTINGS if row.has_file and row.variable not in GIVEN_BY_THE_CHART]


def files() -> list[Setting]:
    """Return the settings that name a file."""
    return [row for row in SETTINGS if row.variable.endswith("_FILE")]


def unreachable() -> list[str]:
    """Say of each setting that none of the three can hold what has to be done."""
    return [
        f"{row.variable} is {'secret' if row.secret else 'required'}, and must not stand in `settings`: give it "
        "has_file=True in gateway/settings/table.py, or have templates/_container.tpl make it of a value of its own, "
        "and name it in GIVEN_BY_THE_CHART in tests/chart/written.py"
        for row in plain()
        if row.secret or row.required
    ]


def values() -> str:
    """Return values.yaml as it has to be."""
    lines: list[str] = []
    for row in plain():
        default = DIFFERENT.get(row.variable, row.default)
        lines += [f"  # {line}" for line in textwrap.wrap(row.doc, 112)]
        shown = "" if default is None else _yaml(row, default)
        lines.append(
            f"  {row.variable}: {shown}" if row.variable in NEEDED else f"  # {row.variable}: {shown}".rstrip()
        )
    return _BLOCK.sub(lambda _: "".join(f"{line}\n" for line in lines), VALUES.read_text())


def schema() -> str:
    """Return values.schema.json as it has to be."""
    document = json.loads(SCHEMA.read_text())
    properties = document["properties"]
    properties["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "required": list(NEEDED),
        "properties": {row.variable: _schema(row) for row in plain()},
    }
    held = properties["credentials"]["properties"]
    held["keys"]["properties"] = {row.variable: {"$ref": "#/definitions/secretKey"} for row in credentials()}
    held["values"]["properties"] = {row.variable: _schema(row) for row in credentials()}
    named = {row.variable: {"description": row.doc, "$ref": "#/definitions/file"} for row in files()}
    properties["files"]["properties"] = named
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def about() -> str:
    """Return Chart.yaml as it has to be."""
    return re.sub(r"(?m)^appVersion: .*$", f'appVersion: "{__version__}"', ABOUT.read_text())


def _schema(row: Setting) -> dict[str, Any]:
    return {"description": row.doc, **row.value_type.schema}


def _yaml(row: Setting, text: str) -> str:
    """Write a value the way YAML reads it back; `off` would be read as false."""
    numeric = row.value_type.schema.get("type") in {"integer", "number"}
    return text if numeric else json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    for path, text in ((VALUES, values()), (SCHEMA, schema()), (ABOUT, about())):
        path.write_text(text)
    sys.exit("\n".join(unreachable()) or 0)
