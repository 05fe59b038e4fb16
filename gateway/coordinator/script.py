"""Lua scripts and the buckets that their keys lie in."""

import hashlib
import zlib
from importlib import resources
from typing import Final

__all__ = ["BUCKETS", "Script", "bucket_of"]

BUCKETS: Final = 16
"""Slots the keys are spread over. A part of the key format: changing it orphans every record."""


class Script:
    """One script, with the prelude in front, and the name Redis caches it by.

    Args:
        name: Its file, without the ending.
        prelude: Whether it shares what the protocol's scripts share.
    """

    def __init__(self, name: str, *, prelude: bool = True) -> None:
        folder = resources.files("gateway.coordinator")
        parts = ["prelude", name] if prelude else [name]
        self.text = "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def bucket_of(name: str) -> str:
    """Return the beginning of every key that belongs to this name; the braces are the Cluster's hash tag."""
    return f"rec:{{{zlib.crc32(name.encode()) % BUCKETS:02d}}}"
