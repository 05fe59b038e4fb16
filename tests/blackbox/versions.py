"""Another version of the gateway, to run beside this one."""

import shutil
from pathlib import Path
from typing import Final

__all__ = ["other_version"]

_PROJECT: Final = Path(__file__).parents[2]


def other_version(folder: Path) -> Path:
    """Put another version's package into a folder, and return from where it is to be run.

    Nothing has been released, so no earlier format of records has to be understood: the other version is today's with
    other texts of its scripts. To Redis these are other scripts, which is what two versions side by side come down to.
    """
    shutil.copytree(_PROJECT / "gateway", folder / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    for script in folder.glob("gateway/*/*.lua"):
        script.write_text(f"-- Another version's.\n{script.read_text()}")
    return folder
