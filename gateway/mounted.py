"""Secrets in files that are replaced while the gateway runs, as Kubernetes does with what it mounts."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import structlog

from gateway.secrets import Secret, WrongTextError, read_value
from gateway.settings.values import SECRET, ValueType

__all__ = ["SecretFile", "WatchedFile"]

_LOOK_EVERY_SECONDS: Final = 1.0

_log = structlog.get_logger("gateway.secrets")


class WatchedFile:
    """Tells when a file has changed, looking at most once a second.

    Args:
        path: The file.
        clock: Seconds that never step.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._looked = clock()
        self._seen = self._state()

    def changed(self) -> bool:
        """Return whether it is another file, has another content, or is gone, unlike when this last said so."""
        if self._clock() - self._looked < _LOOK_EVERY_SECONDS:
            return False
        self._looked = self._clock()
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            # A mounted file is a link that is turned to another file; `stat` follows it.
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


class SecretFile:
    """The secret in a file, as it is now; the last good one while the file holds none that can be used.

    Args:
        path: The file.
        first: What it held when the gateway started.
        clock: Seconds that never step.
        value_type: What it has to be.
    """

    def __init__(
        self, path: Path, first: Secret, clock: Callable[[], float] = time.monotonic, *, value_type: ValueType = SECRET
    ) -> None:
        self._watched = WatchedFile(path, clock)
        self._secret = first
        self._type = value_type
        # It may have been replaced since `first` was read.
        self._read()

    def __call__(self) -> Secret:
        """Return the secret."""
        if self._watched.changed():
            self._read()
        return self._secret

    def _read(self) -> None:
        try:
            secret = cast("Secret", self._type.parse(read_value(str(self._watched.path))))
        except WrongTextError as wrong:
            _log.warning("mounted.unusable", file=self._watched.path.name, reason=str(wrong))
            return
        if secret != self._secret:
            self._secret = secret
            _log.info("mounted.replaced", file=self._watched.path.name)

    def __repr__(self) -> str:
        return "MountedSecret()"
