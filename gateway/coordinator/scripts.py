"""The protocol's scripts and the keys they touch. Each script says what it decides and why that must be one step."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.store.connection import Connection
from gateway.store.scripts import Script, bucket_in, bucket_of, key_of

__all__ = ["SCRIPTS", "Scripts", "due_times", "end_times", "events_of", "load_script", "record_key"]

SCRIPTS: Final = ("claim", "finish", "renew", "release", "invalidate", "confirm", "move_end", "room", "mark")


def load_script(name: str) -> Script:
    """Load one of `SCRIPTS`, with what all of them share in front."""
    return Script("gateway.coordinator", "prelude", name)


class Scripts:
    """The protocol's scripts, as one process runs them.

    Args:
        connection: How Redis is reached.
        lasting: Arguments that all of them get every time.
    """

    def __init__(self, connection: Connection, lasting: Mapping[str, Any]) -> None:
        self._connection = connection
        self._lasting = lasting
        self._all = {name: load_script(name) for name in SCRIPTS}

    @property
    def names(self) -> dict[str, str]:
        """Their names by what Redis caches them by."""
        return {script.sha: name for name, script in self._all.items()}

    async def run(self, name: str, key: str, arguments: Mapping[str, Any]) -> bytes:
        """Run one on a target.

        Args:
            name: Which.
            key: The target's record.
            arguments: Its own.

        Raises:
            CoordinationUnavailable: Redis did not answer. The script may still run later.
        """
        script = self._all[name]
        bucket = bucket_in(key)
        project, room = _project_of(key), _room_of(key)
        keys = (key, f"{project}:due", f"{bucket}:epoch", f"{room}:targets", f"{room}:events", f"{project}:ends")
        argument = msgspec.json.encode({**self._lasting, **arguments})
        return await self._connection.evaluate(script.text, script.sha, keys, argument)


def record_key(project: str, room: str, *parts: str) -> str:
    """Return the key of the record that these parts name within its room."""
    return f"{bucket_of(f'{project}/{room}')}:{key_of(project, room, *parts)}"


def due_times(bucket: int, project: str) -> str:
    """Return the name of the due times of one project's records in a bucket.

    Each project has its own: another project's gateway would look for these targets in an account where they are not.
    """
    return f"rec:{{{bucket:02d}}}:{project}:due"


def end_times(bucket: int, project: str) -> str:
    """Return the name of the moments at which one project's recordings in a bucket have to end."""
    return f"rec:{{{bucket:02d}}}:{project}:ends"


def events_of(key: str) -> str:
    """Return the name of the events of a record's room, and of the channel of their ids."""
    return f"{_room_of(key)}:events"


def _room_of(key: str) -> str:
    """Return what the names of all keys of a record's room begin with."""
    return ":".join(key.split(":", 4)[:4])


def _project_of(key: str) -> str:
    """Return what the names of all keys of a record's project and bucket begin with."""
    return ":".join(key.split(":", 3)[:3])
