"""What is tried here is what gets shipped."""

from pathlib import Path

import pytest

from tests.image.production import install


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what production needs."""
    return install(tmp_path_factory.mktemp("production"))
