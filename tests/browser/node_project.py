"""Small Node projects that tests keep: installed from their lock file into a directory of their own, and run there."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.harness import skip_unless_ci

__all__ = ["installed", "run"]


def installed(project: Path, folder: Path) -> Path:
    """Copy a project and install what its lock file names, without running any install scripts."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        skip_unless_ci("npm is not installed")
    shutil.copytree(project, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90)
    if done.returncode != 0:
        skip_unless_ci(f"npm could not install the packages: {done.stderr.strip()[-300:]}")
    return folder


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
