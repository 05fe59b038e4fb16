"""An earlier version of the gateway, to run beside this one."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

__all__ = ["EARLIER", "earlier_version", "known_to"]

EARLIER: Final = "e322360"
"""The oldest commit whose replicas may serve beside today's. To be moved only when records get a later format."""

_PROJECT: Final = Path(__file__).parents[2]


def earlier_version(folder: Path) -> Path:
    """Put an earlier version's package into a folder, and return from where it is to be run.

    Where history is not at hand (a shallow clone), it is today's with other texts of its scripts: to Redis these are
    other scripts, which is what two versions side by side come down to.
    """
    archive = subprocess.run(["git", "archive", EARLIER, "gateway"], cwd=_PROJECT, capture_output=True)
    if archive.returncode == 0:
        subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    else:
        shutil.copytree(_PROJECT / "gateway", folder / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
        for script in folder.glob("gateway/coordinator/*.lua"):
            script.write_text(f"-- An earlier version's.\n{script.read_text()}")
    return folder


def known_to(version: Path, settings: dict[str, str]) -> dict[str, str]:
    """Return those of the settings that a version has: it would refuse to run with others."""
    table = (version / "gateway" / "settings.py").read_text()
    return {name: value for name, value in settings.items() if f'"{name}"' in table}
