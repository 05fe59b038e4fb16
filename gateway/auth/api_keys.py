"""Callers with API keys: the keys, and the file that assigns each to a caller and says what that caller may ask for.

A key is `gw_<prefix>_<256 random bits>`. The file holds only SHA-256 hashes: a key has so much entropy that a slow hash
would protect nothing more. The prefix is for people, to tell keys apart without seeing them.
"""

import hashlib
import hmac
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import structlog
from jwt.types import Options
from msgspec import Struct
from msgspec.structs import replace

from gateway.auth.policy import Policy, PolicyError
from gateway.errors import Unauthenticated
from gateway.secrets import WatchedFile, WrongTextError, decoded

__all__ = [
    "ANYONE",
    "KEY_PREFIX",
    "LEEWAY_SECONDS",
    "UNUSED_CLAIMS",
    "Caller",
    "Callers",
    "CallersFile",
    "CallersFileError",
    "Key",
    "expiry",
    "new_key",
]

KEY_PREFIX: Final = "gw_"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A name that needs no quotes in TOML, and looks like itself in a log."""
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")
_MAX_KEYS: Final = 2
"""The one in use, and the one that replaces it. A third is a key that was forgotten there."""
_MAX_PER_MINUTE: Final = 1_000_000

_log = structlog.get_logger("gateway.identities")


class Caller(Struct, frozen=True):
    """An authenticated app, service or participant."""

    name: str
    """What logs and recordings call it."""

    policy: Policy = Policy()
    """What it may ask for."""

    account: str = ""
    """What its limits and idempotency keys are stored under; unlike the name, two callers never share it."""

    starts_per_minute: int | None = None
    """Its own limit; None where the setting's applies, 0 for no limit."""

    expires: float | None = None
    """When what it showed ceases to be valid, in seconds since 1970; None is never."""


ANYONE: Final = Caller("anyone", account="anyone")
"""Every caller where `GATEWAY_AUTH=none`."""


class Key(Struct, frozen=True):
    """One key of a caller, as the gateway knows it."""

    digest: bytes
    """SHA-256 of the key."""

    expires: datetime | None = None
    """When it ceases to be valid."""


LEEWAY_SECONDS: Final = 60
"""By how much the clocks of those who make tokens may differ from ours."""

UNUSED_CLAIMS: Options = {
    "verify_sub": False,
    "verify_jti": False,
    "verify_iat": False,
}
"""What the library would check of claims that decide nothing here: their types, and that a token was not made later."""


def expiry(claims: Mapping[str, Any]) -> float:
    """Return until when a JWT that was found valid is believed, in seconds since 1970."""
    # The token may hold any number; what floats cannot hold is as good as never.
    return float(min(int(claims["exp"]) + LEEWAY_SECONDS, 2**53))


class CallersFileError(Exception):
    """The file of callers cannot be used; the message says what is wrong, without a key or a hash."""


class Callers:
    """The callers there are, by their keys. Never changed: another file makes another.

    Args:
        keys: The caller of each key.
    """

    def __init__(self, keys: Mapping[Key, Caller]) -> None:
        self._keys = dict(keys)

    @classmethod
    def load(cls, path: Path) -> "Callers":
        """Read a file of callers.

        Raises:
            CallersFileError: The file cannot be read or understood.
        """
        try:
            text = decoded(path.read_bytes())
            callers = tomllib.loads(text).get("callers")
        except OSError as error:
            raise CallersFileError(f"{path} cannot be read: {error.strerror}") from None
        except WrongTextError as error:
            raise CallersFileError(f"{path} cannot be read: it {error}") from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise CallersFileError(f"{path} cannot be read: {_mistake(error)}") from None
        if not isinstance(callers, dict) or not callers:
            raise CallersFileError(f"{path} names no caller: expected tables [callers.<name>]")
        keys: dict[Key, Caller] = {}
        owners: dict[bytes, str] = {}
        for name, entry in cast("dict[str, Any]", callers).items():
            place = f"{path}, {_place(text, name)}"
            try:
                caller, own = _read_caller(name, entry)
            except CallersFileError as error:
                raise CallersFileError(f"{place}{error}") from None
            for key in own:
                if owners.setdefault(key.digest, name) != name:
                    raise CallersFileError(f"{place}callers {owners[key.digest]!r} and {name!r} have a key in common")
                keys[key] = caller
        return cls(keys)

    def identify(self, key: str) -> Caller:
        """Return the caller that this key belongs to.

        Raises:
            Unauthenticated: It belongs to no caller, or has expired.
        """
        digest = hashlib.sha256(key.encode()).digest()
        match: tuple[Key, Caller] | None = None
        # Every key is compared, each in constant time: how long this takes says nothing about which came close.
        for key_hash, caller in self._keys.items():
            if hmac.compare_digest(key_hash.digest, digest):
                match = key_hash, caller
        if match is None:
            raise Unauthenticated("The key is not known.")
        expires = match[0].expires
        if expires is not None and expires <= datetime.now(UTC):
            raise Unauthenticated("The key has expired.")
        return match[1] if expires is None else replace(match[1], expires=expires.timestamp())


class CallersFile:
    """The callers in a file, as it is now; those of the last good one while it cannot be used.

    Args:
        path: The file.
        clock: Seconds that never step.

    Raises:
        CallersFileError: It cannot be used now, so there is no last good one.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        # Before it is read: what is written in between then shows as a change.
        self._watched = WatchedFile(path, clock)
        self._callers = Callers.load(path)
        self.broken: str = ""
        """Why the file cannot be used as it is now; empty where it can."""

    def identify(self, key: str) -> Caller:
        """Return the caller that this key belongs to.

        Raises:
            Unauthenticated: It belongs to no caller, or has expired.
        """
        self.refresh()
        return self._callers.identify(key)

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        if not self._watched.changed():
            return
        try:
            self._callers = Callers.load(self._watched.path)
        except CallersFileError as error:
            self.broken = str(error)
            _log.error("callers.broken", reason=self.broken)
        else:
            self.broken = ""
            _log.info("callers.reloaded")


def new_key(name: str) -> tuple[str, str]:
    """Make a key for a caller.

    Returns:
        The key, to be shown once, and the lines that make it valid in the file of callers.

    Raises:
        ValueError: The name would need quoting.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a caller's name is made of up to 64 letters (A to Z), digits, `_` and `-`")
    prefix = secrets.token_hex(4)
    key = f"{KEY_PREFIX}{prefix}_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    return key, f'[callers.{name}]\nkeys = [{{ prefix = "{KEY_PREFIX}{prefix}", sha256 = "{digest}" }}]\n'


# --- how the file is read ----------------------------------------------------------------------------------------


def _mistake(error: Exception) -> str:
    """Say what is wrong with TOML, and where; not what stands there, which may be a key in a wrong place."""
    said, _, place = str(error).partition(" (at ")
    plain = re.sub(r"""\(?['"].*['"],?\)?""", "…", said)
    return f"{place.rstrip(')') or type(error).__name__}: {plain}"


def _place(text: str, name: str) -> str:
    """Find the line that a caller's table begins in; empty where it is written in another way."""
    begins = re.compile(rf"""\s*\[\s*callers\s*\.\s*["']?{re.escape(name)}["']?\s*\]""")
    lines = text.split("\n")
    return next((f"line {number}: " for number, line in enumerate(lines, 1) if begins.match(line)), "")


def _read_caller(name: str, entry: object) -> tuple[Caller, list[Key]]:
    if not _NAME.fullmatch(name):
        raise CallersFileError("a caller's name is made of up to 64 letters (A to Z), digits, `_` and `-`")
    table = dict(cast("dict[str, object]", entry)) if isinstance(entry, dict) else {}
    keys = table.pop("keys", None)
    if not isinstance(keys, list) or not keys:
        raise CallersFileError(f"caller {name!r}: expected keys = [{{ prefix = …, sha256 = … }}]")
    listed = cast("list[object]", keys)
    if len(listed) > _MAX_KEYS:
        raise CallersFileError(f"caller {name!r}: expected at most {_MAX_KEYS} keys, the old one and the new one")
    per_minute = table.pop("starts_per_minute", None)
    # Python counts True and False as whole numbers.
    if per_minute is not None and (type(per_minute) is not int or not 0 <= per_minute <= _MAX_PER_MINUTE):
        raise CallersFileError(f"caller {name!r}: starts_per_minute must be a whole number, 0 for no limit")
    try:
        policy = Policy.from_table(table)
    except PolicyError as error:
        raise CallersFileError(f"caller {name!r}: {error}") from None
    caller = Caller(name, policy, f"key:{name}", per_minute)
    return caller, [_read_key(name, key) for key in listed]


def _read_key(name: str, entry: object) -> Key:
    table = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    digest, expires = table.get("sha256"), table.get("expires")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise CallersFileError(f"caller {name!r}: a key's sha256 is not 64 hexadecimal digits")
    if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
        raise CallersFileError(f"caller {name!r}: a key's expires is not a time with its zone (2027-01-31T00:00:00Z)")
    if table.keys() - {"prefix", "sha256", "expires"}:
        raise CallersFileError(f"caller {name!r}: a key has more than prefix, sha256 and expires")
    return Key(bytes.fromhex(digest), expires)
