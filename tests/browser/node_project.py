"""Small Node projects that tests keep: copied, given what their lock file names, and run there."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness import skip_unless_ci

__all__ = ["installed", "run"]

_KEPT = Path(__file__).parents[2] / "build" / "node"


def installed(project: Path, folder: Path) -> Path:
    """Copy a project, and give it what its lock file names, installed without running any install scripts."""
    shutil.copytree(project, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    modules = folder / "node_modules"
    modules.unlink(missing_ok=True)  # of an earlier run in a folder that lasts
    modules.symlink_to(_modules(project), target_is_directory=True)
    return folder


def _modules(project: Path) -> Path:
    """Return what a lock file names: installed once for all workers and sessions, because npm computes for seconds."""
    lock = (project / "package-lock.json").read_bytes()
    kept = _KEPT / f"{project.parent.name}-{hashlib.sha256(lock).hexdigest()[:16]}"
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        skip_unless_ci("npm is not installed")
    if not kept.is_dir():
        _KEPT.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=_KEPT, ignore_cleanup_errors=True) as place:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(project / name, place)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=90)
            if done.returncode != 0:
                skip_unless_ci(f"npm could not install the packages: {done.stderr.strip()[-300:]}")
            with suppress(OSError):  # another worker was faster
                Path(place).rename(kept)
    return kept / "node_modules"


async def run(*command: str | Path, cwd: Path, given: bytes = b"", timeout: float = 60) -> tuple[int, str, str]:
    """Run a command to its end, in its directory; return its exit code, what it wrote and what it complained about."""
    # Settings of the machine (proxies, gateways) are not for it: only where to find programs and a home.
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env={**kept, "NO_COLOR": "1"}, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
