"""Tokens: what VideoSDK is shown, when it is replaced, and that it is shown nowhere else."""

from datetime import timedelta

import jwt
import pytest

from gateway.secrets import Secret
from gateway.videosdk.tokens import FixedToken, MintedTokens, Tokens

SECRET = Secret("0123456789abcdef" * 4)
NOW = 1_800_000_000.75


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """Return the time it stands at."""
        return self.now


def claims(token: str) -> dict[str, object]:
    """Check a token's signature and return its claims, whatever time it is."""
    return jwt.decode(token, SECRET.reveal(), algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False})


def test_minted_tokens_are_the_vendors_management_tokens():
    """The claims are those of the vendor's own client, signed with HS256 and valid for a day."""
    token = MintedTokens("our-key", SECRET, clock=Clock()).current()
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    assert claims(token) == {
        "apikey": "our-key",
        "permissions": ["allow_join", "allow_mod"],
        "version": 2,
        "roles": ["crawler"],
        "iat": 1_800_000_000,
        "exp": 1_800_086_400,
    }


def test_minted_tokens_are_kept_until_a_minute_is_left():
    """One token serves until less than 60 s are left of it; then there is a new one."""
    clock = Clock()
    tokens = MintedTokens("our-key", SECRET, lifetime=timedelta(minutes=5), clock=clock)
    first = tokens.current()
    clock.now = 1_800_000_000 + 240
    assert tokens.current() == first
    clock.now += 0.001
    second = tokens.current()
    assert second != first
    assert claims(second)["exp"] == 1_800_000_240 + 300


def test_token_renewal_mints_at_once():
    """After a refusal there is a newer token, although the old one would have been valid for long."""
    clock = Clock()
    tokens = MintedTokens("our-key", SECRET, clock=clock)
    first = tokens.current()
    clock.now += 1
    assert tokens.renew()
    second = tokens.current()
    assert second != first
    assert claims(second)["iat"] == 1_800_000_001


def test_token_refused_for_many_at_once_is_renewed_once():
    """Requests that were refused together each get the newer token, not the first of them alone."""
    tokens = MintedTokens("our-key", SECRET, clock=Clock())
    assert [tokens.renew() for _ in range(3)] == [True, True, True]


def test_fixed_token_is_given_as_it_is():
    """A token from outside is used unchanged and cannot be renewed."""
    tokens = FixedToken(Secret("abc.def.ghi"))
    assert tokens.current() == "abc.def.ghi"
    assert not tokens.renew()
    assert tokens.current() == "abc.def.ghi"


@pytest.mark.parametrize("tokens", [FixedToken(SECRET), MintedTokens("our-key", SECRET)])
def test_token_reprs_show_no_secret(tokens: Tokens):
    """Neither the secret, the key nor the token is in a repr."""
    token = tokens.current()
    for hidden in (token, SECRET.reveal(), "our-key"):
        assert hidden not in f"{tokens!r} {tokens}"


def test_lifetime_must_outlast_the_spare_minute():
    """A lifetime under which every call would mint is refused."""
    with pytest.raises(ValueError, match="longer than 60 s"):
        MintedTokens("our-key", SECRET, lifetime=timedelta(seconds=60))
