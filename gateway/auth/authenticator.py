"""Identifies a caller by what it shows in `Authorization: Bearer …`: an API key, a join token or an OIDC token."""

from typing import Final

import jwt

from gateway.auth.api_keys import ANYONE, KEY_PREFIX, Caller, CallersFile, Sort
from gateway.auth.join_tokens import JoinTokens
from gateway.auth.oidc_tokens import ALGORITHMS, OidcTokens
from gateway.errors import Unauthenticated

__all__ = ["Authenticator"]

_JOIN_ALGORITHM: Final = "HS256"


class Authenticator:
    """Identifies callers by the credentials that are configured; a sort that is None is not accepted.

    Args:
        callers: API keys.
        join_tokens: VideoSDK's join tokens.
        oidc_tokens: JWTs of the company's identity provider.
        anyone: Accepts every request as `ANYONE`, whatever it shows.
    """

    def __init__(
        self,
        callers: CallersFile | None = None,
        join_tokens: JoinTokens | None = None,
        oidc_tokens: OidcTokens | None = None,
        *,
        anyone: bool = False,
    ) -> None:
        self._callers = callers
        self._join_tokens = join_tokens
        self._oidc_tokens = oidc_tokens
        self._anyone = anyone

    @property
    def warnings(self) -> list[str]:
        """What is wrong at the moment, in fixed words."""
        if self._callers is None:
            return []
        self._callers.refresh()
        return ["callers-file-broken"] if self._callers.broken else []

    def vouches(self, caller: Caller) -> bool:
        """Tell whether what a caller was let in with is still in force: its key, and what the callers file allows it.

        A token is good until it expires.
        """
        if self._callers is None or caller.sort is Sort.ANYONE:
            return self._anyone or caller.sort not in {Sort.KEY, Sort.ANYONE}
        return self._callers.current.vouches(caller.grant)

    async def identify(self, authorization: str | None) -> Caller:
        """Return the caller that sent this header.

        Raises:
            Unauthenticated: It carries nothing that is valid here.
            IdentityUnavailable: The keys to check it cannot be had at the moment.
        """
        if self._anyone:
            return ANYONE
        if not authorization:
            raise Unauthenticated("The request carries no key and no token.")
        scheme, _, rest = authorization.partition(" ")
        shown = rest.strip()
        if scheme.lower() != "bearer" or not shown:
            raise Unauthenticated("The Authorization header must read `Bearer <key or token>`.")
        if shown.startswith(KEY_PREFIX) and self._callers is not None:
            return self._callers.identify(shown)
        # The token's own header only chooses who checks it: each accepts its own algorithms and no other.
        algorithm = _algorithm(shown)
        if algorithm == _JOIN_ALGORITHM and self._join_tokens is not None:
            return self._join_tokens.identify(shown)
        if algorithm in ALGORITHMS and self._oidc_tokens is not None:
            return await self._oidc_tokens.identify(shown)
        raise Unauthenticated("The key or token is not of a sort that is known here.")


def _algorithm(token: str) -> str | None:
    try:
        return jwt.get_unverified_header(token).get("alg")
    except jwt.PyJWTError:
        return None
