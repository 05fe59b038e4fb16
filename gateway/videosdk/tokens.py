"""The token VideoSDK asks for: given as it is, or minted from the project's key and secret; in memory only."""

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Protocol, TypeVar

import jwt
from msgspec import Struct

from gateway.secrets import Secret

_LIFETIME: Final = timedelta(hours=24)

_SPARE: Final = timedelta(seconds=60)
"""A token is replaced when less than this is left of it, as the vendor's own client does: a call must not outlive its
token."""


_T = TypeVar("_T", str, Secret)


def _getter(value: _T | Callable[[], _T]) -> Callable[[], _T]:
    return value if callable(value) else lambda: value


class Lifetime(Struct, frozen=True):
    """How old a token is, and how much longer the operator has to replace it; in seconds, None where it is unknown."""

    age: float | None
    left: float | None


class Tokens(Protocol):
    """Where the upstream client gets its token from."""

    @property
    def lifetime(self) -> Lifetime:
        """Of the token in use."""
        ...

    def current(self) -> str:
        """Return a token to send now."""
        ...

    def renew(self) -> bool:
        """Replace the token after VideoSDK refused it.

        Returns:
            Whether a newer token could be had, so that asking once more makes sense.
        """
        ...


class FixedToken:
    """A token made elsewhere, which may be replaced while the gateway runs.

    Args:
        token: The token, or what gives it as it is now.
    """

    __slots__ = ("_sent", "_token")

    def __init__(self, token: Secret | Callable[[], Secret]) -> None:
        self._token: Final = _getter(token)
        self._sent: Secret | None = None

    def current(self) -> str:
        """Return the token as it was given."""
        self._sent = self._token()
        return self._sent.reveal()

    def renew(self) -> bool:
        """Say whether another token than the last one is there by now."""
        return self._token() != self._sent

    @property
    def lifetime(self) -> Lifetime:
        """As the token itself says; one that does not expire has for ever."""
        try:
            claims = jwt.decode(self._token().reveal(), options={"verify_signature": False})
            made, ends = claims.get("iat"), claims.get("exp", math.inf)
            age = None if made is None else max(time.time() - float(made), 0.0)
            return Lifetime(age, float(ends) - time.time())
        except (jwt.InvalidTokenError, TypeError, ValueError):
            return Lifetime(None, None)

    def __repr__(self) -> str:
        return "FixedToken()"


class MintedTokens:
    """Tokens signed with the project's secret, each used until it is about to expire or key or secret are replaced."""

    __slots__ = ("_api_key", "_clock", "_expires", "_lifetime", "_made_with", "_secret", "_token")

    def __init__(
        self,
        api_key: str | Callable[[], str],
        secret: Secret | Callable[[], Secret],
        *,
        lifetime: timedelta = _LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep what is needed to mint.

        Args:
            api_key: The project's key, the claim `apikey`, or what gives it as it is now.
            secret: The project's secret, which signs, or what gives it as it is now.
            lifetime: How long a token is valid.
            clock: Seconds since the epoch.

        Raises:
            ValueError: If tokens would have to be replaced as soon as they are made.
        """
        if lifetime <= _SPARE:
            message = f"lifetime must be longer than {_SPARE.total_seconds():g} s"
            raise ValueError(message)
        self._api_key: Final = _getter(api_key)
        self._secret: Final = _getter(secret)
        self._made_with: tuple[str, Secret] | None = None
        self._lifetime: Final = lifetime
        self._clock: Final = clock
        self._token: Secret | None = None
        self._expires = 0.0

    def current(self) -> str:
        """Return the token in use, or a new one when that has less than a minute left or key or secret changed."""
        token = self._token
        if (
            token is None
            or self._made_with != (self._api_key(), self._secret())
            or self._expires - self._clock() < _SPARE.total_seconds()
        ):
            token = self._mint()
        return token.reveal()

    def renew(self) -> bool:
        """Mint another token, however long the present one would still be valid.

        Returns:
            Always true. Many requests may be refused with one token; a later one in the same second mints the
            same newer token again, and must not conclude that there is none.
        """
        self._mint()
        return True

    @property
    def lifetime(self) -> Lifetime:
        """Of the token minted last; the gateway itself replaces it."""
        made = self._expires - self._lifetime.total_seconds()
        return Lifetime(None if self._token is None else max(self._clock() - made, 0.0), math.inf)

    def _mint(self) -> Secret:
        api_key, secret = self._api_key(), self._secret()
        issued = int(self._clock())
        expires = issued + int(self._lifetime.total_seconds())
        claims: dict[str, object] = {
            "apikey": api_key,
            "permissions": ["allow_join", "allow_mod"],
            "version": 2,
            # Good for the REST API and for nothing else: such a token cannot join a room.
            "roles": ["crawler"],
            "iat": issued,
            "exp": expires,
        }
        token = Secret(jwt.encode(claims, secret.reveal(), algorithm="HS256"))
        self._token, self._expires, self._made_with = token, float(expires), (api_key, secret)
        return token

    def __repr__(self) -> str:
        return "MintedTokens()"
