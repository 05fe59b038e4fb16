"""VideoSDK join tokens as identities: what a frontend already holds.

A join token is a JWT (HS256) that the project's own backend made for one participant (docs.videosdk.live). Its bearer
may do what the token says and no more: act in its room, and there on its own participant, or on every participant
where it may moderate; on recordings of other modes than tracks only where it may moderate; and of that only what the
callers file allows join tokens.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import jwt

from gateway.auth.api_keys import (
    DEFAULT_JOIN_TOKENS,
    LEEWAY_SECONDS,
    UNUSED_CLAIMS,
    Caller,
    Sort,
    TokenTable,
    expiry,
    participant_name,
)
from gateway.auth.policy import Policy, exactly
from gateway.errors import Unauthenticated
from gateway.recordings import Mode
from gateway.recordings.targets import is_id
from gateway.secrets import Secret
from gateway.store.scripts import key_of

__all__ = ["JoinTokens"]


class JoinTokens:
    """Reads join tokens.

    Args:
        api_key: The project's key: the token's `apikey` must be it.
        secret: Gives the project's secret, which may be replaced while the gateway runs.
        mode: `on`, or `any-room` to admit tokens that name no room.
        table: Gives what the callers file says of join tokens.
    """

    def __init__(
        self,
        api_key: Callable[[], str],
        secret: Callable[[], Secret],
        mode: Literal["on", "any-room"],
        table: Callable[[], TokenTable] = lambda: DEFAULT_JOIN_TOKENS,
    ) -> None:
        self._api_key = api_key
        self._secret = secret
        self._mode = mode
        self._table = table

    def identify(self, token: str) -> Caller:
        """Return the participant that a token was made for, and what it allows.

        Raises:
            Unauthenticated: It is not one of this project's, has expired, or is not for joining.
        """
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret().reveal(),
                algorithms=["HS256"],
                leeway=LEEWAY_SECONDS,
                options={**UNUSED_CLAIMS, "require": ["exp"], "verify_aud": False, "verify_iss": False},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The join token has expired.") from None
        except jwt.PyJWTError:
            raise Unauthenticated("The join token is not valid.") from None
        if claims.get("apikey") != self._api_key():
            raise Unauthenticated("The join token belongs to another VideoSDK project.")
        if "crawler" in _texts(claims.get("roles")):
            # Such a token is the REST API's own: its bearer needs no gateway, and should not hold it.
            raise Unauthenticated("The token is not a join token: its role is crawler.")
        return self._caller(claims, token)

    def _caller(self, claims: Mapping[str, Any], token: str) -> Caller:
        room, participant = _id(claims, "roomId"), _id(claims, "participantId")
        if room is None and self._mode != "any-room":
            raise Unauthenticated("The join token names no room.")
        moderates = "allow_mod" in _texts(claims.get("permissions"))
        own = () if participant is None else (exactly(participant),)
        table = self._table()
        policy = Policy(
            scopes=table.policy.scopes,
            rooms=None if room is None else (exactly(room),),
            # Without a participant of its own and without the right to moderate there is no participant it may act on.
            participants=None if moderates else own,
            modes=None if moderates else frozenset({Mode.TRACK}),
        )
        # The same name in another room is another account.
        account = key_of(room or "", participant) if participant else f":{_digest(token)}"
        return Caller(
            participant_name(participant or "", moderates=moderates),
            table.policy.filled(room, participant).narrowed(policy),
            f"join:{account}",
            table.starts_per_minute,
            expiry(claims),
            Sort.JOIN_TOKEN,
            table.grant,
        )


def _digest(token: str) -> str:
    """Name a token by what is signed of it: the signature itself can be written in several ways."""
    return hashlib.blake2b(token.rpartition(".")[0].encode(), digest_size=16).hexdigest()


def _id(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not is_id(value):
        raise Unauthenticated(f"The join token's {name} is not an id.")
    return value


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in cast("list[object]", value) if isinstance(item, str)] if isinstance(value, list) else []
