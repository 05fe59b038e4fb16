"""Copies of the project, in which mutants are made, so that the checkout is never touched."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Project", "Tree"]

INSIDE: Final = Path(__file__).parent / "inside"
_PROVIDED: Final = ("build/servers", ".venv", ".git")
"""What tests find beside the sources: too large to copy, and not changed by them."""
_OURS: Final = "tests/mutants/"
"""Neither recorded nor run on mutants."""


@dataclass(frozen=True)
class Project:
    """What mutants are made of.

    Attributes:
        root: Its folder.
        package: The package that is changed.
    """

    root: Path
    package: str = "gateway"

    def files(self) -> list[str]:
        """Return its files, without what git ignores."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=self.root, capture_output=True, text=True
        )
        names = (
            listed.stdout.splitlines() if listed.returncode == 0 and (self.root / ".git").exists() else self._found()
        )
        return sorted(name for name in names if (self.root / name).is_file())

    def _found(self) -> list[str]:
        return [str(path.relative_to(self.root)) for path in self.root.rglob("*") if "__pycache__" not in path.parts]

    def state(self) -> str:
        """Return a name for the state of the sources and tests: what was recorded of another is of no use."""
        digest = hashlib.sha256()
        for name in self.files():
            if name.startswith((f"{self.package}/", "tests/", "pyproject.toml")) and not name.startswith(_OURS):
                digest.update(f"{name}\0".encode() + (self.root / name).read_bytes())
        return digest.hexdigest()[:16]

    def sources(self) -> dict[str, str]:
        """Return the texts of the package's modules and scripts by their paths."""
        names = [
            name for name in self.files() if name.startswith(f"{self.package}/") and name.endswith((".py", ".lua"))
        ]
        return {name: (self.root / name).read_text("utf-8") for name in names}


class Tree:
    """A copy of a project.

    Args:
        project: Of what.
        folder: Where it goes; must not exist.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        self.folder = folder
        self._changes = 0
        for name in project.files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project.root / name, folder / name)
        for name in _PROVIDED:
            if (project.root / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).symlink_to(project.root / name)

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables of processes that run in it: its own package comes before an installed one."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "PYTEST_"))}
        return {**kept, "PYTHONPATH": f"{self.folder}{os.pathsep}{INSIDE}"}

    @contextmanager
    def changed(self, name: str, text: str) -> Generator[None]:
        """Have another text in one of its files for a while."""
        file = self.folder / name
        before, status = file.read_bytes(), file.stat()
        self._changes += 1
        file.write_text(text, encoding="utf-8")
        # Python tells a stale cache by the second and the size.
        os.utime(file, (status.st_atime, status.st_mtime + 3600 + self._changes))
        try:
            yield
        finally:
            file.write_bytes(before)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
