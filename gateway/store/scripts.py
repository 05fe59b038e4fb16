"""Lua scripts and the buckets that their keys lie in."""

import hashlib
import re
import zlib
from importlib import resources
from typing import Final
from urllib.parse import quote

__all__ = ["BUCKETS", "Script", "bucket_in", "bucket_of", "key_of"]

BUCKETS: Final = 16
"""Slots the keys are spread over. A part of the key format: changing it orphans every record."""
_is_plain: Final = re.compile(r"[A-Za-z0-9._~-]*", re.ASCII).fullmatch
"""Whether `quote` would leave a part as it is, which it takes long to find out."""


class Script:
    """A Lua script, and the name Redis caches it by.

    Args:
        package: Where its file lies.
        names: The files it is put together from, without the ending, in this order.
    """

    def __init__(self, package: str, *names: str) -> None:
        folder = resources.files(package)
        self.text = "".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def bucket_in(key: str) -> str:
    """Return the beginning of a key: what all keys of its bucket begin with."""
    return key[: key.index("}") + 1]


def bucket_of(name: str) -> str:
    """Return the beginning of every key that belongs to this name; the braces are the Cluster's hash tag."""
    return f"rec:{{{zlib.crc32(name.encode()) % BUCKETS:02d}}}"


def key_of(*parts: str) -> str:
    """Join parts of any text to a name in which each differs from the others, and no hash tag begins."""
    return ":".join(part if _is_plain(part) else quote(part, safe="") for part in parts)
