"""The callers file: API keys, each assigned to a caller, and what that caller or the bearer of a token may ask for.

A key is `gw_<prefix>_<256 random bits>`. The file holds only SHA-256 hashes: a key has so much entropy that a slow hash
would protect nothing more. The prefix is for people, to tell keys apart without seeing them.
"""

import hashlib
import hmac
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import structlog
from jwt.types import Options
from msgspec import Struct
from msgspec.structs import replace

from gateway.auth.policy import JOIN_TOKENS, JWTS, Policy, PolicyError, Scope
from gateway.errors import Unauthenticated
from gateway.recordings import Target
from gateway.secrets import WatchedFile, WrongTextError, decoded

__all__ = [
    "ANYONE",
    "DEFAULT_JOIN_TOKENS",
    "DEFAULT_JWTS",
    "KEY_PREFIX",
    "LEEWAY_SECONDS",
    "UNUSED_CLAIMS",
    "Caller",
    "Callers",
    "CallersFile",
    "CallersFileError",
    "Key",
    "Sort",
    "TokenTable",
    "expiry",
    "new_key",
    "participant_name",
]

KEY_PREFIX: Final = "gw_"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A name that needs no quotes in TOML, and looks like itself in a log."""
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")
_MAX_KEYS: Final = 2
"""The one in use, and the one that replaces it. A third is a key that was forgotten there."""
_MAX_PER_MINUTE: Final = 1_000_000

_log = structlog.get_logger("gateway.identities")


class Sort(StrEnum):
    """How a caller proves who it is."""

    KEY = "key"
    JOIN_TOKEN = "join-token"  # noqa: S105 - the name of a sort
    JWT = "jwt"
    ANYONE = "anyone"


_MODERATOR: Final = "moderator:"


def participant_name(participant_id: str, *, moderates: bool = False) -> str:
    """Return the name of a join token's bearer."""
    return f"{_MODERATOR if moderates else 'participant:'}{participant_id}"


class Caller(Struct, frozen=True):
    """An authenticated app, service or participant."""

    name: str
    """What logs and recordings call it. An API key's has no colon (`lesson-service`), all others' begin with their sort
    and one: `participant:ada`, `moderator:ben`, `jwt:lesson-service`."""

    policy: Policy = Policy()
    """What it may ask for."""

    account: str = ""
    """What its limits and idempotency keys are stored under; unlike the name, two callers never share it."""

    starts_per_minute: int | None = None
    """Its own limit; None where the setting's applies, 0 for no limit."""

    expires: float | None = None
    """When what it showed ceases to be valid, in seconds since 1970; None is never."""

    sort: Sort = Sort.KEY
    """How it proved who it is."""

    grant: str = ""
    """Names the entry of the callers file that it got its policy from: another one when that changes."""

    def may_stop(self, target: Target, starter: str | None) -> bool:
        """Tell whether it may stop a target's recording that a caller of this name started; None: it is not known."""
        if self.policy.stop_others:
            return True
        if starter is None:
            return False
        if self.sort is Sort.JOIN_TOKEN:
            return starter.startswith(_MODERATOR) or starter == participant_name(target.participant_id)
        return starter == self.name


ANYONE: Final = Caller("anyone", account="anyone", sort=Sort.ANYONE)
"""Every caller where `GATEWAY_AUTH=none`."""


class Key(Struct, frozen=True):
    """One key of a caller, as the gateway knows it."""

    digest: bytes
    """SHA-256 of the key."""

    expires: datetime | None = None
    """When it ceases to be valid."""


class TokenTable(Struct, frozen=True):
    """What the bearers of one sort of tokens may ask for, beside what the tokens say."""

    policy: Policy
    starts_per_minute: int | None = None
    grant: str = ""


DEFAULT_JOIN_TOKENS: Final = TokenTable(JOIN_TOKENS)
DEFAULT_JWTS: Final = TokenTable(JWTS)

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
    """What a callers file says. Never changed: another file makes another.

    Args:
        keys: The caller of each key.
        join_tokens: What join tokens allow at most.
        jwts: What JWTs allow at most.
    """

    def __init__(
        self,
        keys: Mapping[Key, Caller],
        join_tokens: TokenTable = DEFAULT_JOIN_TOKENS,
        jwts: TokenTable = DEFAULT_JWTS,
    ) -> None:
        self._keys = {key: _caller_of(key, caller) for key, caller in keys.items()}
        self.tables: Final = {Sort.JOIN_TOKEN: join_tokens, Sort.JWT: jwts}
        self._grants: Final = {
            *(caller.grant for caller in self._keys.values()), *(table.grant for table in self.tables.values())
        }  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "Callers":
        """Read a file of callers.

        Raises:
            CallersFileError: The file cannot be read or understood.
        """
        try:
            text = decoded(path.read_bytes())
            tables = tomllib.loads(text)
        except OSError as error:
            raise CallersFileError(f"{path} cannot be read: {error.strerror}") from None
        except WrongTextError as error:
            raise CallersFileError(f"{path} cannot be read: it {error}") from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise CallersFileError(f"{path} cannot be read: {_mistake(error)}") from None
        if not tables.keys() & _TABLES.keys() and not _has_callers(tables):
            raise CallersFileError(f"{path} names no caller: expected tables [callers.<name>]")
        if others := tables.keys() - {"callers", *_TABLES}:
            raise CallersFileError(f"{path}: {min(others)[:64]!r} is none of callers, {', '.join(_TABLES)}")
        join_tokens, jwts = (_read_tokens(path, text, tables.get(name), name) for name in _TABLES)
        return cls(_read_callers(path, text, tables.get("callers", {})), join_tokens, jwts)

    def vouches(self, grant: str) -> bool:
        """Tell whether the entry of this name is still there, and unchanged."""
        return grant in self._grants

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
        return match[1]


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
        self._watched = WatchedFile(path, clock, rests=True)
        self._callers = Callers.load(path)
        self.broken: str = ""
        """Why the file cannot be used as it is now; empty where it can."""

    def identify(self, key: str) -> Caller:
        """Return the caller that this key belongs to.

        Raises:
            Unauthenticated: It belongs to no caller, or has expired.
        """
        return self.current.identify(key)

    @property
    def current(self) -> Callers:
        """What the file says; what the last good one said while it cannot be used."""
        self.refresh()
        return self._callers

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


def new_key(name: str, scopes: Iterable[Scope] = (Scope.START, Scope.STOP, Scope.READ)) -> tuple[str, str]:
    """Make a key for a caller with these scopes.

    Returns:
        The key, to be shown once, and the lines that make it valid in the callers file.

    Raises:
        ValueError: The name would need quoting.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a caller's name is made of up to 64 letters (A to Z), digits, `_` and `-`")
    prefix = secrets.token_hex(4)
    key = f"{KEY_PREFIX}{prefix}_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    entry = f'[callers.{name}]\nkeys = [{{ prefix = "{KEY_PREFIX}{prefix}", sha256 = "{digest}" }}]\n'
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    return key, f"{entry}scopes = [{listed}]\n"


# --- how the file is read ----------------------------------------------------------------------------------------


def _mistake(error: Exception) -> str:
    """Say what is wrong with TOML, and where; not what stands there, which may be a key in a wrong place."""
    said, _, place = str(error).partition(" (at ")
    plain = re.sub(r"""\(?['"].*['"],?\)?""", "…", said)
    return f"{place.rstrip(')') or type(error).__name__}: {plain}"


def _place(text: str, *names: str) -> str:
    """Find the line that a table begins in; empty where it is written in another way."""
    dotted = r"\s*\.\s*".join(rf"""["']?{re.escape(name)}["']?""" for name in names)
    begins = re.compile(rf"\s*\[\s*{dotted}\s*\]")
    lines = text.split("\n")
    return next((f"line {number}: " for number, line in enumerate(lines, 1) if begins.match(line)), "")


_TABLES: Final[Mapping[str, tuple[Sort, Policy]]] = {
    "join_tokens": (Sort.JOIN_TOKEN, JOIN_TOKENS),
    "jwt": (Sort.JWT, JWTS),
}
"""The tables of tokens, in the order in which `Callers` takes them."""


def _has_callers(tables: Mapping[str, object]) -> bool:
    return isinstance(tables.get("callers"), dict) and bool(tables["callers"])


def _grant(*parts: object) -> str:
    """Name an entry: the same on every replica that has the same one, and without a key."""
    return hashlib.blake2b(msgspec.json.encode(parts, order="sorted"), digest_size=16).hexdigest()


def _caller_of(key: Key, caller: Caller) -> Caller:
    """Return a caller as the bearer of one of its keys is known."""
    expires = None if key.expires is None else key.expires.timestamp()
    # Another `expires` makes another grant: a stream that was opened before is timed by the earlier one.
    return replace(caller, expires=expires, grant=_grant(key.digest.hex(), expires, caller.policy))


def _read_callers(path: Path, text: str, callers: object) -> dict[Key, Caller]:
    if not isinstance(callers, dict):
        raise CallersFileError(f"{path} names no caller: expected tables [callers.<name>]")
    keys: dict[Key, Caller] = {}
    owners: dict[bytes, str] = {}
    for name, entry in cast("dict[str, Any]", callers).items():
        place = f"{path}, {_place(text, 'callers', name)}"
        try:
            caller, own = _read_caller(name, entry)
        except CallersFileError as error:
            raise CallersFileError(f"{place}{error}") from None
        for key in own:
            if owners.setdefault(key.digest, name) != name:
                raise CallersFileError(f"{place}callers {owners[key.digest]!r} and {name!r} have a key in common")
            keys[key] = caller
    return keys


def _read_tokens(path: Path, text: str, entry: object, name: str) -> TokenTable:
    sort, unless_said = _TABLES[name]
    if entry is None:
        return TokenTable(unless_said, grant=_grant(name))
    table = dict(cast("dict[str, object]", entry)) if isinstance(entry, dict) else {}
    try:
        policy, per_minute = _read_policy(table, unless_said, placeholders=sort is Sort.JOIN_TOKEN)
    except PolicyError as error:
        raise CallersFileError(f"{path}, {_place(text, name)}[{name}]: {error}") from None
    return TokenTable(policy, per_minute, _grant(name, policy))


def _read_policy(
    table: dict[str, object], unless_said: Policy | None = None, *, placeholders: bool = False
) -> tuple[Policy, int | None]:
    per_minute = table.pop("starts_per_minute", None)
    # Python counts True and False as whole numbers.
    if per_minute is not None and (type(per_minute) is not int or not 0 <= per_minute <= _MAX_PER_MINUTE):
        raise PolicyError("starts_per_minute must be a whole number, 0 for no limit")
    policy = Policy.from_table(table, unless_said, placeholders=placeholders)
    if "scopes" not in table:
        # A file that was cut short must not allow more than the whole one.
        raise PolicyError("scopes is missing: it says what may be done at all")
    return policy, per_minute


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
    own = [_read_key(name, key) for key in listed]
    try:
        policy, per_minute = _read_policy(table)
    except PolicyError as error:
        raise CallersFileError(f"caller {name!r}: {error}") from None
    return Caller(name, policy, f"key:{name}", per_minute), own


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
