"""Tokens as identity providers issue them: made and published by another library than the one that checks them."""

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import JWKRegistry, Key

from gateway.auth.join_tokens import JoinTokens
from gateway.auth.oidc_tokens import ALGORITHMS, ClaimNames, OidcTokens
from gateway.errors import IdentityUnavailable, Unauthenticated
from gateway.sandbox.identities import demo_join_token
from gateway.secrets import Secret
from tests import harness

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:EdDSA is deprecated")]

MINTED = partial(demo_join_token, harness.API_KEY, harness.SECRET)
_MATERIAL = frozenset({"kty", "crv", "x", "y", "n", "e", "d", "p", "q", "dp", "dq", "qi"})
"""Members of a key that say nothing of its use."""


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time it stands at."""
        return self.now


class Company:
    """An identity provider that uses another library than the gateway does."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.broken = False
        self.fetches = 0

    def publish(
        self, algorithm: str, *, alg: bool = True, kid: str | None = "key-1", use: str = "sig", listed: bool = True
    ) -> Key:
        """Make a key for an algorithm, and publish it."""
        kind, what = {"E": ("EC", f"P-{algorithm[2:].replace('512', '521')}")}.get(algorithm[0], ("RSA", 2048))
        kind, what = ("OKP", "Ed25519") if algorithm == "EdDSA" else (kind, what)
        named: Any = {"use": use} | ({"alg": algorithm} if alg else {}) | ({"kid": kid} if kid else {})
        key = JWKRegistry.generate_key(kind, what, named, private=True)
        if listed:
            self.list(key)
        return key

    def list(self, key: Key) -> None:
        """Publish a key."""
        self.keys.append(dict(key.as_dict(private=False)))

    def token(self, key: Key, algorithm: str, *, kid: str | None = "", **claims: object) -> str:
        """Make a token with a key: with the key's own name unless another is given."""
        header = {"alg": algorithm, "typ": "JWT"}
        if kid is not None and (name := kid or key.as_dict().get("kid")):
            header["kid"] = str(name)
        said = {"iss": "me", "aud": "gateway", "sub": "ada", "exp": int(time.time()) + 600, **claims}
        bare = JWKRegistry.import_key({k: v for k, v in key.as_dict(private=True).items() if k in _MATERIAL})
        return jws.serialize_compact(header, json.dumps(said), bare, algorithms=[algorithm])

    def reader(self, claims: ClaimNames | None = None, clock: Callable[[], float] = time.monotonic) -> OidcTokens:
        """Return what reads its tokens."""
        return OidcTokens(self._fetch, "me", "gateway", claims or ClaimNames(), clock)

    async def _fetch(self) -> bytes:
        self.fetches += 1
        if self.broken:
            raise OSError("down")
        return json.dumps({"keys": self.keys}).encode()


@pytest.mark.parametrize("named", [True, False], ids=["with alg", "without alg"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_oidc_token_of_every_algorithm_is_read(algorithm: str, *, named: bool) -> None:
    """Made and published by another library, with the key's `alg` or without."""
    company = Company()
    key = company.publish(algorithm, alg=named)
    assert (await company.reader().identify(company.token(key, algorithm))).name == "jwt:ada"


async def test_oidc_token_of_another_algorithm_than_its_key_names_is_refused() -> None:
    """A key that names its algorithm is good for no other; one for encryption checks no signature."""
    for published, signed in (("RS256", "RS512"), ("RS256", "PS256"), ("PS384", "RS384")):
        company = Company()
        key = company.publish(published)
        with pytest.raises(Unauthenticated):
            await company.reader().identify(company.token(key, signed))
    company = Company()
    key = company.publish("RS256", alg=False, use="enc")
    with pytest.raises(Unauthenticated):
        await company.reader().identify(company.token(key, "RS256"))


async def test_oidc_token_without_a_key_id_is_read_where_one_key_fits() -> None:
    """The token, or the key, or both have none; where several keys fit nothing is guessed."""
    company = Company()
    nameless = company.publish("ES256", kid=None)
    company.publish("RS256", kid="another-kind")
    reader = company.reader()
    assert (await reader.identify(company.token(nameless, "ES256"))).name == "jwt:ada"
    assert (await reader.identify(company.token(nameless, "ES256", kid="unpublished"))).name == "jwt:ada"
    named = Company()
    key = named.publish("RS256", kid="one")
    assert (await named.reader().identify(named.token(key, "RS256", kid=None))).name == "jwt:ada"
    with pytest.raises(Unauthenticated):
        await named.reader().identify(named.token(key, "RS256", kid="two"))
    named.publish("PS256", kid="two", alg=False)
    with pytest.raises(Unauthenticated):
        await named.reader().identify(named.token(key, "RS256", kid=None))


async def test_oidc_token_with_odd_claims_that_are_not_used_is_read() -> None:
    """Their types are the provider's affair, and so is when a token was made."""
    company = Company()
    key = company.publish("RS256")
    odd: dict[str, Any] = {
        "jti": 7,
        "iat": "yesterday",
        "azp": [1],
        "roles": {"a": 1},
        "auth_time": None,
        "at_hash": 1.5,
    }
    assert (await company.reader().identify(company.token(key, "RS256", **odd))).name == "jwt:ada"
    by_mail = company.reader(ClaimNames(name="email"))
    token = company.token(key, "RS256", sub=42, email="ada@example.com", iat=time.time() + 3600)
    assert (await by_mail.identify(token)).name == "jwt:ada@example.com"


async def test_tokens_of_a_clock_that_differs_by_a_minute_are_read() -> None:
    """Of providers and of those who make join tokens: 50 s are forgiven, 70 s are not."""
    company, now = Company(), int(time.time())
    key = company.publish("RS256")
    join = JoinTokens(lambda: harness.API_KEY, lambda: Secret(harness.SECRET), "on")
    for claims, good in (({"exp": now - 50}, True), ({"nbf": now + 50, "iat": now + 50}, True),
                         ({"exp": now - 70}, False), ({"nbf": now + 70}, False)):  # fmt: skip
        said: dict[str, Any] = {"exp": now + 600, **claims}
        tokens = [
            (company.reader().identify, company.token(key, "RS256", **said)),
            (partial(asyncio.to_thread, join.identify), MINTED(room="r", participant="p", **said)),
        ]
        for identify, token in tokens:
            if not good:
                with pytest.raises(Unauthenticated):
                    await identify(token)
                continue
            # And for what is done with it: a ticket or a stream is not over before it has begun.
            expires = (await identify(token)).expires
            assert expires is not None
            assert expires > now


async def test_oidc_keys_that_cannot_be_had_once_cost_a_second() -> None:
    """Who has an unknown key is asked to come back in a second, and then the keys are fetched; known keys go on."""
    company, clock = Company(), Clock()
    old, new = company.publish("RS256"), company.publish("ES256", listed=False)
    reader = company.reader(clock=clock)
    company.broken = True
    with pytest.raises(IdentityUnavailable) as refused:
        await reader.identify(company.token(old, "RS256"))
    assert refused.value.retry_after == 1
    company.broken = False
    clock.now += 1
    assert (await reader.identify(company.token(old, "RS256"))).name == "jwt:ada"

    company.list(new)
    company.broken = True
    clock.now += 3601
    fetches = company.fetches
    for _ in range(5):
        assert (await reader.identify(company.token(old, "RS256"))).name == "jwt:ada"
    assert company.fetches == fetches + 1
    clock.now += 1
    with pytest.raises(IdentityUnavailable):
        await reader.identify(company.token(new, "ES256"))
    assert company.fetches == fetches + 2
    company.broken = False
    clock.now += 1
    assert (await reader.identify(company.token(new, "ES256"))).name == "jwt:ada"
