"""A real Helm, and what it makes of the chart."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.chart.written import CHART

VALUES = Path(__file__).parent / "values"
SETS = sorted(path.stem for path in VALUES.glob("*.yaml"))
"""Values that operators might give."""

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm did not take the values; the message says why."""


class Helm:
    """Renders the chart.

    Args:
        binary: The program.
        home: A directory of its own.
    """

    def __init__(self, binary: Path, home: Path) -> None:
        self._binary = binary
        kept = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
        self._environment = {**kept, **{f"HELM_{name}_HOME": str(home) for name in ("CACHE", "CONFIG", "DATA")}}

    def run(self, *arguments: str | Path, given: str = "") -> str:
        """Run a command and return what it writes.

        Raises:
            Refused: It failed.
        """
        done = subprocess.run(
            [self._binary, *arguments], env=self._environment, input=given, capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise Refused(done.stdout + done.stderr)
        return done.stdout

    def render(self, values: Manifest, chart: Path = CHART, version: str = "1.30.0") -> list[Manifest]:
        """Return the manifests that a release called `gw` in the namespace `lessons` would apply.

        Raises:
            Refused: The values are not taken.
        """
        options = ("--namespace", "lessons", "--kube-version", version, "--values", "-")
        text = self.run("template", "gw", chart, *options, given=yaml.safe_dump(values))
        return [document for document in yaml.safe_load_all(text) if document]

    def notes(self, values: Manifest, folder: Path) -> str:
        """Return what Helm tells people after the installation."""
        # `helm template` leaves the notes out; as part of a manifest they are rendered like anything else.
        chart = folder / "chart"
        shutil.copytree(CHART, chart)
        notes = chart / "templates" / "NOTES.txt"
        text = notes.read_text()
        notes.unlink()
        (chart / "templates" / "notes.yaml").write_text(
            f'{{{{ define "notes" }}}}{text}{{{{ end }}}}kind: Notes\ntext: {{{{ include "notes" . | toJson }}}}\n'
        )
        return one(self.render(values, chart), "Notes")["text"]


def values_of(name: str) -> Manifest:
    """Return one of the sets of values."""
    return yaml.safe_load((VALUES / f"{name}.yaml").read_text())


def kind(manifests: list[Manifest], name: str) -> list[Manifest]:
    """Return the manifests of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == name]


def one(manifests: list[Manifest], name: str) -> Manifest:
    """Return the only manifest of a kind; of several, the gateway's own."""
    found = kind(manifests, name)
    own = [item for item in found if labels(item).get("app.kubernetes.io/component") != "valkey"]
    assert len(own) == 1, [item["metadata"]["name"] for item in found]
    return own[0]


def labels(manifest: Manifest) -> dict[str, str]:
    """Return a manifest's labels."""
    return manifest.get("metadata", {}).get("labels", {})


def container(manifests: list[Manifest]) -> Manifest:
    """Return the gateway's container."""
    return one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """Return every pod's spec, with its labels beside it."""
    templates = [item["spec"]["template"] for item in kind(manifests, "Deployment")] + kind(manifests, "Pod")
    return [{**item["spec"], "labels": labels(item)} for item in templates]
