"""JWTs of the company's identity provider as identities.

The provider publishes its public keys (JWKS, RFC 7517); a token names the key that signed it. Only asymmetric
algorithms are read: with a shared one, a public key could be taken for a secret.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import jwt
import structlog
from msgspec import Struct

from gateway.auth.api_keys import Caller, expiry
from gateway.auth.policy import Policy, Scope
from gateway.errors import IdentityUnavailable, Unauthenticated

__all__ = ["ALGORITHMS", "ClaimNames", "OidcTokens"]

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_REFETCH_SECONDS: Final = 60.0
_STALE_SECONDS: Final = 3600.0
"""A key that the provider withdrew is good for an hour more at most, unless the provider does not answer."""
_LEEWAY_SECONDS: Final = 30

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
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        issuer: str,
        audience: str,
        claims: ClaimNames,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._issuer = issuer
        self._audience = audience
        self._claims = claims
        self._keys: dict[str, jwt.PyJWK] = {}
        self._clock = clock
        self._fetched: float | None = None
        self._tried: float | None = None
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
        key = await self._key(str(header.get("kid", "")))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
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
        return Caller(name[:128], Policy(scopes=scopes, rooms=rooms), f"company:{name}", expires=expiry(claims))

    async def _key(self, kid: str) -> jwt.PyJWK:
        if not self._has_fresh_key(kid):
            await self._refresh(kid)
        key = self._keys.get(kid)
        if key is None:
            if self._fetched is None:
                raise IdentityUnavailable("The identity provider's keys cannot be had.", retry_after=_REFETCH_SECONDS)
            raise Unauthenticated("The token is signed with a key that is not known.")
        return key

    def _has_fresh_key(self, kid: str) -> bool:
        return kid in self._keys and self._fetched is not None and self._clock() - self._fetched < _STALE_SECONDS

    async def _refresh(self, kid: str) -> None:
        async with self._fetching:
            # Not more than once a minute, for any caller and any key id: made-up key ids must not become requests.
            if self._has_fresh_key(kid) or (self._tried is not None and self._clock() - self._tried < _REFETCH_SECONDS):
                return
            self._tried = self._clock()
            try:
                document = (await self._fetch()).decode()
                published = jwt.PyJWKSet.from_json(document).keys
            except (OSError, UnicodeDecodeError, jwt.PyJWTError, ValueError) as error:
                _log.warning("jwks.unavailable", reason=type(error).__name__)
                return
            except Exception:  # noqa: BLE001 - such as a document of another shape: the keys there are stay in use
                _log.exception("jwks.failed")
                return
            self._keys = {key.key_id or "": key for key in published if key.key_type != "oct"}
            self._fetched = self._clock()


def _find(claims: Mapping[str, Any], path: str) -> object:
    value: object = claims
    for part in path.split("."):
        value = cast("Mapping[str, object]", value).get(part) if isinstance(value, Mapping) else None
    return value


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [item for item in cast("list[object]", value) if isinstance(item, str)] if isinstance(value, list) else []
