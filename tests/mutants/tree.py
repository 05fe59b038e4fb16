"""Copies of the project, in which mutants are made, so that the checkout is never touched."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Project", "Tree", "copies"]

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

    def test_files(self) -> dict[str, str]:
        """Return the files of tests, each with a digest of its text and of what it shares with others."""
        names = [name for name in self.files() if name.startswith(("tests/", "pyproject.toml"))]
        names = [name for name in names if not name.startswith(_OURS)]
        digests = {name: hashlib.sha256((self.root / name).read_bytes()).hexdigest() for name in names}
        tests = {name for name in names if Path(name).name.startswith("test_") and name.endswith(".py")}
        return {test: _digest(digests, test, tests) for test in sorted(tests)}

    def sources(self) -> dict[str, str]:
        """Return the texts of the package's modules and scripts by their paths."""
        names = [
            name for name in self.files() if name.startswith(f"{self.package}/") and name.endswith((".py", ".lua"))
        ]
        return {name: (self.root / name).read_text("utf-8") for name in names}


def _digest(digests: Mapping[str, str], test: str, tests: Collection[str]) -> str:
    """Return a digest of a file of tests, with everything in its folder and in those above that is no file of tests."""
    above = {str(folder) for folder in Path(test).parents}
    shared = [name for name in digests if name not in tests and str(Path(name).parent) in above]
    text = "".join(digests[name] for name in (test, *sorted(shared)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def copies() -> Generator[Path]:
    """Have a folder for copies, which goes in the end, or when this is next called after its process was killed."""
    for left in Path(tempfile.gettempdir()).glob("mutants-*-*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"mutants-{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


class Tree:
    """A copy of a project.

    Args:
        project: Of what.
        folder: Where it goes; must not exist.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        self.folder = folder
        self.package = project.package
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
