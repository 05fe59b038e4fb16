"""Lua scripts and the buckets that their keys lie in."""

import hashlib
import zlib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

import msgspec

from gateway.store.connection import Connection

__all__ = ["BUCKETS", "SCRIPTS", "Script", "Scripts", "bucket_in", "bucket_of", "due_times", "events_of"]

BUCKETS: Final = 16
"""Slots the keys are spread over. A part of the key format: changing it orphans every record."""

SCRIPTS: Final = ("claim", "finish", "renew", "release", "suspect_since", "observe", "room", "revoke")
"""Those of the protocol. Each says itself what it decides and why that must be one step."""


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


class Scripts:
    """The protocol's scripts, as one process runs them.

    Args:
        connection: How Redis is reached.
        lasting: Arguments that all of them get every time.
    """

    def __init__(self, connection: Connection, lasting: Mapping[str, Any]) -> None:
        self._connection = connection
        self._lasting = lasting
        self._all = {name: Script(name) for name in SCRIPTS}

    @property
    def names(self) -> dict[str, str]:
        """Their names by what Redis caches them by."""
        return {script.sha: name for name, script in self._all.items()}

    async def run(self, name: str, key: str, arguments: Mapping[str, Any]) -> bytes:
        """Run one on a track.

        Args:
            name: Which.
            key: The track's record.
            arguments: Its own.

        Raises:
            CoordinationUnavailable: Redis did not answer. The script may still run later.
        """
        script = self._all[name]
        bucket = bucket_in(key)
        keys = (key, _due_times_of(key), f"{bucket}:epoch", f"{_room_of(key)}:tracks", events_of(key))
        argument = msgspec.json.encode({**self._lasting, **arguments})
        return await self._connection.evaluate(script.text, script.sha, keys, argument)


def bucket_in(key: str) -> str:
    """Return the beginning of a key: what all keys of its bucket begin with."""
    return key[: key.index("}") + 1]


def events_of(key: str) -> str:
    """Return the name of the events of a record's room, and of the channel of their ids."""
    return f"{_room_of(key)}:events"


def due_times(bucket: int, tenant: str) -> str:
    """Return the name of the due times of one project's records in a bucket.

    Each project has its own: another project's gateway would look for these tracks in an account where they are not.
    """
    return f"rec:{{{bucket:02d}}}:{tenant}:due"


def _due_times_of(key: str) -> str:
    """Return the name of the due times that a record's own is among."""
    return f"{':'.join(key.split(':', 3)[:3])}:due"


def _room_of(key: str) -> str:
    """Return what the names of all keys of a record's room begin with."""
    return key.rsplit(":", 2)[0]


def bucket_of(name: str) -> str:
    """Return the beginning of every key that belongs to this name; the braces are the Cluster's hash tag."""
    return f"rec:{{{zlib.crc32(name.encode()) % BUCKETS:02d}}}"
