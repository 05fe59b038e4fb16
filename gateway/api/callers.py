"""Who asks: callers and their API keys.

A key is `gw_<prefix>_<256 random bits>`. The file of callers holds only SHA-256 hashes: a key has so much entropy that
a slow hash would protect nothing more. The prefix is for people, to tell keys apart without seeing them.
"""

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from msgspec import Struct

from gateway.errors import Unauthenticated

__all__ = ["ANYONE", "Caller", "Callers", "CallersFileError", "new_key"]


_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A name that needs no quotes in TOML, and looks like itself in a log."""
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")


class Caller(Struct, frozen=True):
    """An authenticated app or service."""

    name: str


ANYONE: Final = Caller("anyone")
"""Who everybody is where `GATEWAY_AUTH=none`."""


class CallersFileError(Exception):
    """The file of callers cannot be used; the message says what is wrong, without a key or a hash."""


class Callers:
    """The callers there are, by their keys.

    Args:
        keys: Caller's name by the SHA-256 of a key, as hex.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = {bytes.fromhex(digest): Caller(name) for digest, name in keys.items()}

    @classmethod
    def load(cls, path: Path) -> "Callers":
        """Read a file of callers.

        Raises:
            CallersFileError: The file cannot be read or understood.
        """
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise CallersFileError(f"the callers file cannot be read: {type(error).__name__}") from None
        callers = document.get("callers")
        if not isinstance(callers, dict) or not callers:
            raise CallersFileError("the callers file names nobody: expected tables [callers.<name>]")
        keys: dict[str, str] = {}
        for name, entry in cast("dict[str, Any]", callers).items():
            for digest in _digests(name, entry):
                if keys.setdefault(digest, name) != name:
                    raise CallersFileError(f"callers {keys[digest]!r} and {name!r} have a key in common")
        return cls(keys)

    def identify(self, authorization: str | None) -> Caller:
        """Return whose key an `Authorization` header carries.

        Raises:
            Unauthenticated: It carries none that is known.
        """
        if not authorization:
            raise Unauthenticated("The request carries no key.")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("The Authorization header must read `Bearer <key>`.")
        digest = hashlib.sha256(key.strip().encode()).digest()
        found = None
        # Every key is compared, each in constant time: how long this takes says nothing about which came close.
        for known, caller in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthenticated("The key is not known.")
        return found


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
    key = f"gw_{prefix}_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    return key, f'[callers.{name}]\nkeys = [{{ prefix = "gw_{prefix}", sha256 = "{digest}" }}]\n'


def _digests(name: str, entry: object) -> list[str]:
    keys = cast("dict[str, Any]", entry).get("keys") if isinstance(entry, dict) else None
    if not isinstance(keys, list) or not keys:
        raise CallersFileError(f"caller {name!r}: expected keys = [{{ prefix = …, sha256 = … }}]")
    digests: list[str] = []
    for key in cast("list[Any]", keys):
        digest = cast("dict[str, Any]", key).get("sha256") if isinstance(key, dict) else None
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise CallersFileError(f"caller {name!r}: a key's sha256 is not 64 hexadecimal digits")
        digests.append(digest.lower())
    return digests
