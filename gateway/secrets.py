"""Values that may be used but not shown, and the files they come from, which are replaced while the gateway runs.

Imports nothing of the gateway, so that every layer may hold a secret.
"""

import codecs
import hmac
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

__all__ = [
    "MAX_FILE_BYTES",
    "Secret",
    "SecretFile",
    "WatchedFile",
    "WrongTextError",
    "decoded",
    "known_secrets",
    "read_file",
    "read_value",
]

MAX_FILE_BYTES: Final = 64 * 1024
"""The longest file that can hold a value."""
_LOOK_EVERY_SECONDS: Final = 1.0

_log = structlog.get_logger("gateway.secrets")
_SHOWN: Final = "[secret]"
_SHORTEST_KNOWN: Final = 8
"""Shorter ones would be found in the middle of words."""
_MAX_RELEASED: Final = 64
"""Tokens are minted and dropped without end; what was in use a while ago is in no message any more."""

_held: dict[str, int] = {}
"""How many secrets hold a text. As long as one does it is masked, however many come and go meanwhile."""
_released: dict[str, None] = {}
"""The latest texts that no secret holds any more: a library's message may still hold one."""
_lock: Final = threading.RLock()


def known_secrets() -> tuple[str, ...]:
    """Return the texts of the secrets in use in this process, so that they can be masked wherever they turn up.

    Of those that were replaced the latest are among them.
    """
    # `list` copies in one step: neither another thread nor the garbage collector changes a dict within it.
    return (*list(_held), *list(_released))


def _register(text: str) -> None:
    if len(text) >= _SHORTEST_KNOWN:
        with _lock:
            _held[text] = _held.get(text, 0) + 1


def _unregister(text: str) -> None:
    if len(text) < _SHORTEST_KNOWN:
        return
    with _lock:
        if _held[text] > 1:
            _held[text] -= 1
            return
        # Added here before it is removed there: a reader in between finds it in one of the two.
        _released.pop(text, None)
        _released[text] = None
        del _held[text]
        while len(_released) > _MAX_RELEASED:
            del _released[next(iter(_released))]


class Secret:
    """Hold text that must not appear in logs, errors, reprs or encoded output.

    Only `reveal` gives the text back, so every place that uses it can be found by that name. Encoders that know only
    plain types refuse it, encoders that fall back to `repr` or `str` show `[secret]`, and it cannot be pickled.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        _register(text)
        self._text: Final = text

    def __del__(self) -> None:
        if text := getattr(self, "_text", ""):
            _unregister(text)

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return _SHOWN

    def __str__(self) -> str:
        return _SHOWN

    def __format__(self, spec: str) -> str:
        return format(_SHOWN, spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # In constant time: secrets are also compared with what callers send.
        return hmac.compare_digest(self._text.encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Secret":
        return self

    def __reduce__(self) -> NoReturn:
        message = "a Secret is not written out"
        raise TypeError(message)


class WrongTextError(Exception):
    """A text is not what its variable expects; the message says why, without the text."""


def read_file(path: str, size: int) -> bytes:
    """Read at most `size` bytes of a file.

    Raises:
        WrongTextError: It cannot be read; the message does not repeat the path, since a secret may stand in its place.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(size)
    except OSError as error:
        message = f"cannot be read ({error.strerror or type(error).__name__})"
    except ValueError:
        message = "is not a path"
    # Raised out here so that the error, which holds the path, is not attached: a secret may stand in its place.
    raise WrongTextError(message)


def decoded(content: bytes) -> str:
    """Return a file's text, whatever editor wrote it: without a byte-order mark, its lines ended by line feeds.

    Raises:
        WrongTextError: It is not UTF-8; the message names the line.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise WrongTextError("is UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
    # Raised out here: the error holds the content.
    raise WrongTextError(f"is not UTF-8 in line {line}")


def read_value(path: str) -> str:
    """Read the text of a variable from a file.

    Raises:
        WrongTextError: If it cannot be read, is no text, is empty, or is longer than any value.
    """
    content = read_file(path, MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise WrongTextError("is longer than any value")
    text = decoded(content).strip()
    if not text:
        raise WrongTextError("is empty")
    return text


class WatchedFile:
    """Tells when a file has changed, looking at most once a second.

    Args:
        path: The file.
        clock: Seconds that never step.
        rests: Whether a file that was written in place within the last second counts as changed only once it has rested
            from one look to the next: until then it may be half written. One that replaces another is whole.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, *, rests: bool = False) -> None:
        self.path = path
        self._rests = rests
        self._clock = clock
        self._looked = clock()
        self._seen = self._last = self._state()

    def changed(self) -> bool:
        """Return whether it is another file, has another content, or is gone, unlike when this last said so."""
        if self._clock() - self._looked < _LOOK_EVERY_SECONDS:
            return False
        self._looked = self._clock()
        state, last = self._state(), self._last
        self._last = state
        if state == self._seen or (self._rests and _may_grow(state, last)):
            return False
        self._seen = state
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            # A mounted file is a link that is turned to another file; `stat` follows it.
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def _may_grow(state: tuple[int, int, int] | None, last: tuple[int, int, int] | None) -> bool:
    """Tell whether a file was written since the last look, and so lately that this may go on."""
    if state is None or last is None or state == last or state[0] != last[0]:
        return False
    return time.time() - state[1] / 1e9 < _LOOK_EVERY_SECONDS


class SecretFile:
    """The secret in a file, as it is now; the last good one while the file holds none that can be used.

    Args:
        path: The file.
        first: What it held when the gateway started.
        clock: Seconds that never step.
        parse: Makes the secret of the text, or raises `WrongTextError`.
    """

    def __init__(
        self,
        path: Path,
        first: Secret,
        clock: Callable[[], float] = time.monotonic,
        *,
        parse: Callable[[str], Secret] = Secret,
    ) -> None:
        self._watched = WatchedFile(path, clock)
        self._secret = first
        self._parse = parse
        # It may have been replaced since `first` was read.
        self._read()

    def __call__(self) -> Secret:
        """Return the secret."""
        if self._watched.changed():
            self._read()
        return self._secret

    def _read(self) -> None:
        try:
            secret = self._parse(read_value(str(self._watched.path)))
        except WrongTextError as wrong:
            _log.warning("mounted.unusable", file=self._watched.path.name, reason=str(wrong))
            return
        if secret != self._secret:
            self._secret = secret
            _log.info("mounted.replaced", file=self._watched.path.name)

    def __repr__(self) -> str:
        return "SecretFile()"
