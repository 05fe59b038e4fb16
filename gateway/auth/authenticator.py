"""Who asks: what a caller shows in `Authorization: Bearer …`, and which sort of identity that is."""

from typing import Final

import jwt

from gateway.auth.api_keys import ANYONE, KEY_PREFIX, Caller, CallersFile
from gateway.auth.join_tokens import JoinTokens
from gateway.auth.oidc_tokens import ALGORITHMS, OidcTokens
from gateway.errors import Unauthenticated

__all__ = ["Authenticator"]

_JOIN_ALGORITHM: Final = "HS256"


class Authenticator:
    """Tells who asks, by the identities that are configured; a sort that is None is not accepted.

    Args:
        callers: API keys.
        join_tokens: VideoSDK's join tokens.
        oidc_tokens: JWTs of the company's identity provider.
        anyone: Lets in everybody, whatever they show.
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

    async def identify(self, authorization: str | None) -> Caller:
        """Return who sends this header.

        Raises:
            Unauthenticated: It carries nothing that is valid here.
            IdentityUnavailable: Nobody can tell at the moment.
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
        # What the token says of itself decides only who looks at it: each reads its own algorithms and no other.
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
