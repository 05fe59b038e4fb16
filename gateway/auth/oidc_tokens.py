"""JWTs of the company's identity provider as identities.

The provider publishes its public keys (JWKS, RFC 7517); a token names the key that signed it, or there is only one that
can have. Only asymmetric algorithms are read: with a shared one, a public key could be taken for a secret. A key that
names its algorithm is good for no other; one that does not, for all of its kind.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import jwt
import msgspec
import structlog
from msgspec import Struct

from gateway.auth.api_keys import DEFAULT_JWTS, LEEWAY_SECONDS, UNUSED_CLAIMS, Caller, Sort, TokenTable, expiry
from gateway.auth.policy import Policy, Scope
from gateway.errors import IdentityUnavailable, Unauthenticated

__all__ = ["ALGORITHMS", "ClaimNames", "OidcTokens"]

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_REFETCH_SECONDS: Final = 60.0
_UNKNOWN_SECONDS: Final = 2.0
"""How soon after the last time keys are fetched for one that is not known. Its bearer waits for that: where others make
up key ids without end, a key that was rotated is taken all the same, and the provider is asked no more often."""
_STALE_SECONDS: Final = 3600.0
"""A key that the provider withdrew is good for an hour more at most, unless the provider does not answer."""
_FAILED_SECONDS: Final = 1.0
"""After a failure the provider is asked again sooner for a key that is not known: its bearer cannot go on."""
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}

_log = structlog.get_logger("gateway.identities")


class ClaimNames(Struct, frozen=True):
    """Which claims say what; a dot leads into an object."""

    name: str = "sub"
    scopes: str = "scope"
    """A list, or one string with blanks between."""
    rooms: str = ""
    """A list of rooms or patterns; empty: the token does not restrict them. Named and absent: no room at all."""


class OidcTokens:
    """Reads the identity provider's tokens.

    Args:
        fetch: Gets the JWKS document; raises OSError where it cannot.
        issuer: What `iss` must be.
        audience: What `aud` must name.
        claims: Which claims say what.
        clock: Seconds that never step.
        table: Gives what the callers file says of JWTs.
        unknown_seconds: How far apart keys are fetched for ones that are not known.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        issuer: str,
        audience: str,
        claims: ClaimNames,
        clock: Callable[[], float] = time.monotonic,
        *,
        table: Callable[[], TokenTable] = lambda: DEFAULT_JWTS,
        unknown_seconds: float = _UNKNOWN_SECONDS,
    ) -> None:
        self._fetch = fetch
        self._table = table
        self._unknown_seconds = unknown_seconds
        self._issuer = issuer
        self._audience = audience
        self._claims = claims
        self._keys: list[dict[str, Any]] = []
        self._prepared: dict[tuple[int, str], jwt.PyJWK] = {}
        """Those of them that were used, for the algorithms that they were used for."""
        self._clock = clock
        self._fetched: float | None = None
        self._tried: float | None = None
        self._tries: int = 0
        self._failed = False
        """The last try to get the keys."""
        self._fetching = asyncio.Lock()

    async def identify(self, token: str) -> Caller:
        """Return the caller that a token names, and what it allows.

        Raises:
            Unauthenticated: It is not valid here.
            IdentityUnavailable: The provider's keys cannot be had, so the token cannot be checked.
        """
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise Unauthenticated("The token is not valid.") from None
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise Unauthenticated("The token is not valid.")
        key = await self._key(header.get("kid"), algorithm)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={**UNUSED_CLAIMS, "require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired.") from None
        except jwt.PyJWTError:
            # Not only what is wrong with the token: also a key of another sort than the algorithm it names.
            raise Unauthenticated("The token is not valid.") from None
        return self._caller(claims)

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        name = _find(claims, self._claims.name)
        if not isinstance(name, str) or not name:
            raise Unauthenticated("The token does not say whose it is.")
        valid = {scope.value for scope in Scope}
        scopes = frozenset(Scope(scope) for scope in _words(_find(claims, self._claims.scopes)) if scope in valid)
        rooms = tuple(_words(_find(claims, self._claims.rooms))) if self._claims.rooms else None
        table = self._table()
        return Caller(
            f"jwt:{name[:128]}",
            table.policy.narrowed(Policy(scopes=scopes, rooms=rooms)),
            f"company:{name}",
            table.starts_per_minute,
            expiry(claims),
            Sort.JWT,
            table.grant,
        )

    async def _key(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        key = self._known(kid, algorithm)
        if key is None or self._fetched is None or self._clock() - self._fetched >= _STALE_SECONDS:
            await self._refresh(lambda: self._known(kid, algorithm), known=key is not None)
            key = self._known(kid, algorithm)
        if key is None:
            if self._failed:
                raise IdentityUnavailable("The identity provider's keys cannot be had.", retry_after=_FAILED_SECONDS)
            raise Unauthenticated("The token is signed with a key that is not known.")
        if (prepared := self._prepared.get((id(key), algorithm))) is None:
            try:
                prepared = self._prepared[id(key), algorithm] = jwt.PyJWK(key, algorithm)
            except jwt.PyJWTError:
                raise Unauthenticated("The token is signed with a key that cannot be used.") from None
        return prepared

    def _known(self, kid: str | None, algorithm: str) -> dict[str, Any] | None:
        """Return the key of that name; where the token or the key has no name, the only one that fits."""
        fitting = [key for key in self._keys if _fits(key, algorithm)]
        if kid is not None and any(key.get("kid") == kid for key in fitting):
            return next(key for key in fitting if key.get("kid") == kid)
        unnamed = fitting if kid is None else [key for key in fitting if "kid" not in key]
        return unnamed[0] if len(unnamed) == 1 else None

    async def _refresh(self, look: Callable[[], object], *, known: bool) -> None:
        """Get the keys again, unless that was done just now.

        For a key that is known not more than once a minute, and its bearer waits for no other. For one that is not,
        after the pause that keeps made-up key ids from becoming as many requests; after a failure not within a second.
        """
        since = None if self._tried is None else self._clock() - self._tried
        if known and ((since is not None and since < _REFETCH_SECONDS) or self._fetching.locked()):
            return
        tries = self._tries
        async with self._fetching:
            if self._tries != tries or (not known and look() is not None):
                return  # another caller has fetched them meanwhile
            since = None if self._tried is None else self._clock() - self._tried
            if not known and since is not None:
                if self._failed and since < _FAILED_SECONDS:
                    return
                if not self._failed:
                    await asyncio.sleep(max(self._unknown_seconds - since, 0))
            self._tries += 1
            self._tried = self._clock()
            self._failed = True
            try:
                document = msgspec.json.decode(await self._fetch(), type=_Published)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                _log.warning("jwks.unavailable", reason=type(error).__name__)
                return
            except Exception:  # noqa: BLE001 - whatever went wrong, the keys there are stay in use
                _log.exception("jwks.failed")
                return
            self._keys, self._prepared = document.keys, {}
            self._fetched, self._failed = self._clock(), False


class _Published(Struct):
    keys: list[dict[str, Any]]


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    """Tell whether a published key is one that such a signature can be checked with."""
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return False
    if algorithm in _CURVES:
        return key.get("kty") == "EC" and key.get("crv") == _CURVES[algorithm]
    return key.get("kty") == ("OKP" if algorithm == "EdDSA" else "RSA")


def _find(claims: Mapping[str, Any], path: str) -> object:
    value: object = claims
    for part in path.split("."):
        value = cast("Mapping[str, object]", value).get(part) if isinstance(value, Mapping) else None
    return value


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [item for item in cast("list[object]", value) if isinstance(item, str)] if isinstance(value, list) else []
