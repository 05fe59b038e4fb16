"""What is measured: the gateway as it is shipped, on other servers, and programs that promise less."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct

from gateway.auth.api_keys import new_key
from tests import harness
from tests.browser import node_project

__all__ = ["FASTAPI", "GATEWAY", "NODE", "OTHER_SERVERS", "Program", "Surroundings", "node"]

_REFERENCES: Final = Path(__file__).parent / "references"
_BIND: Final = ("--host", "127.0.0.1")
_BUILD: Final = "gateway.serving.server:build"
_UVICORN: Final = (sys.executable, "-m", "uvicorn", "--no-access-log", "--no-server-header", *_BIND)
_GRANIAN: Final = (sys.executable, "-m", "granian", "--interface", "asgi", "--no-ws", "--log-level", "warning", *_BIND)


class Program(Struct, frozen=True):
    """A program that starts and stops recordings.

    Attributes:
        name: In the table.
        command: Serves, on the port that it is given.
        port_option: What the port follows at the end of the command; by default it is a variable.
        plain: It promises nothing, and does what is plain alone.
        ready: Path that it answers with success once it serves.
        times: How many times as many requests it gets: for a compiler to be done, and for a turn to last.
    """

    name: str
    command: tuple[str, ...]
    port_option: str | None = None
    plain: bool = False
    ready: str = "/readyz"
    times: int = 1


GATEWAY: Final = Program("gateway", (sys.executable, "-m", "gateway", "serve"))
OTHER_SERVERS: Final = (
    Program("gateway, h11", (*_UVICORN, "--http", "h11", "--factory", _BUILD), "--port"),
    Program("gateway, granian", (*_GRANIAN, "--workers", "1", "--factory", _BUILD), "--port"),
)
FASTAPI: Final = Program(
    "fastapi", (*_UVICORN, "tests.bench.references.plain:app"), "--port", plain=True, ready="/livez"
)
NODE: Final = "node"


def node(folder: Path) -> Program | None:
    """Install the program for Node into a folder; None where there is no Node or its packages cannot be had."""
    if shutil.which("node") is None:
        return None
    try:
        node_project.installed(_REFERENCES, folder)
    except pytest.skip.Exception:
        return None
    return Program(NODE, ("node", str(folder / "server.mjs")), plain=True, ready="/livez", times=10)


class Surroundings(Struct, frozen=True):
    """What all programs work with: a Redis, an upstream and one caller."""

    redis_url: str
    upstream_url: str
    key: str
    callers_file: Path

    @classmethod
    def make(cls, folder: Path, redis_url: str, upstream_url: str) -> "Surroundings":
        """Make the caller: known by a key, with limits that are counted and never reached."""
        key, entry = new_key("bench")
        file = folder / "callers.toml"
        file.write_text(f"{entry}starts_per_minute = 1000000\n")
        return cls(redis_url, upstream_url, key, file)

    def environ(self, port: int) -> Mapping[str, str]:
        """Return the settings of whichever program: production's, except that what it is sure of it stays sure of."""
        settings = harness.environment(self.redis_url, self.upstream_url, self.callers_file, **harness.CALM)
        own = {
            "GATEWAY_PORT": str(port),
            "GATEWAY_TRACK_STARTS_PER_MINUTE": "1000000",
            # A call for something else would be counted as if a request had caused it.
            "GATEWAY_TRUST_SECONDS": "3600",
            # As with a Redis that has been up for longer than a benchmark takes.
            "GATEWAY_VERIFY_ABSENT": "never",
        }
        plain = {"PORT": str(port), "REDIS_URL": self.redis_url, "UPSTREAM_URL": self.upstream_url, "KEY": self.key}
        return {**settings, **own, **plain}
