"""The package as production has it: a wheel, and beside it what the lock file names for production and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["PROJECT", "bin_of", "install"]

PROJECT = Path(__file__).parents[2]
_UV = Path(sys.executable).with_name("uv")


def install(folder: Path) -> Path:
    """Build the wheel and install it into an environment of its own; return the environment's folder."""
    environment, wheels = folder / "environment", folder / "wheels"
    settings = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment), "UV_PYTHON_DOWNLOADS": "never"}
    settings.pop("VIRTUAL_ENV", None)
    for arguments in (
        (
            "sync",
            "--frozen",
            "--no-dev",
            "--extra=tracing",
            "--no-install-project",
            "--no-build",
            f"--python={sys.executable}",
        ),
        ("build", "--wheel", "--no-build-isolation", f"--python={sys.executable}", f"--out-dir={wheels}"),
    ):
        _run(settings, *arguments)
    (wheel,) = wheels.glob("*.whl")
    _run(settings, "pip", "install", "--no-deps", "--offline", f"--python={bin_of(environment) / 'python'}", str(wheel))
    return environment


def bin_of(environment: Path) -> Path:
    """Return where an environment's programs lie."""
    return environment / "bin"


def _run(settings: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([_UV, *arguments], cwd=PROJECT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
