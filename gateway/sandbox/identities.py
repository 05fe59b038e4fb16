"""The identities of the sandbox: a participant with a join token, or known to a company's identity provider."""

import json
import time
from types import TracebackType
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from gateway.sandbox.wire import Exchange, Reply, Server

__all__ = ["IdentityProvider", "demo_join_token"]

_DAY: Final = 24 * 3600
_ALGORITHM: Final = "ES256"


def demo_join_token(api_key: str, secret: str, *, room: str | None, participant: str | None, **claims: object) -> str:
    """Make a VideoSDK join token as a project's own backend makes them; `claims` come on top."""
    now = int(time.time())
    said: dict[str, object] = {
        "apikey": api_key,
        "permissions": ["allow_join"],
        "version": 2,
        "roles": ["rtc"],
        "roomId": room,
        "participantId": participant,
        "iat": now,
        "exp": now + _DAY,
        **claims,
    }
    return jwt.encode({name: value for name, value in said.items() if value is not None}, secret, algorithm="HS256")


class IdentityProvider:
    """Plays a company's identity provider: publishes its keys, and makes tokens."""

    def __init__(self) -> None:
        self._server = Server(self._answer, host="127.0.0.1", port=0)
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._current = ""
        self.fetches = 0
        """How often its keys were asked for."""
        self.status = 200
        """The keys that it publishes."""
        self.rotate()

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    @property
    def issuer(self) -> str:
        """What `iss` of its tokens is."""
        return self._server.url

    @property
    def settings(self) -> dict[str, str]:
        """What has a gateway accept its tokens."""
        return {
            "GATEWAY_JWT_JWKS_URL": f"{self._server.url}/jwks.json",
            "GATEWAY_JWT_ISSUER": self.issuer,
            "GATEWAY_JWT_AUDIENCE": "recording-gateway",
        }

    def rotate(self, *, forget: bool = False) -> None:
        """Sign with a new key from now on; publish the old ones too, unless they are to be forgotten."""
        if forget:
            self._keys.clear()
        self._current = f"key-{time.time_ns()}"
        self._keys[self._current] = ec.generate_private_key(ec.SECP256R1())

    def token(self, subject: str, **claims: object) -> str:
        """Make a token, good for a day unless `claims` say otherwise; one that is None is left out."""
        now = int(time.time())
        said: dict[str, object] = {
            "iss": self.issuer,
            "aud": "recording-gateway",
            "sub": subject,
            "scope": "recordings:start recordings:stop recordings:read",
            "iat": now,
            "exp": now + _DAY,
            **claims,
        }
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, self._keys[self._current], algorithm=_ALGORITHM, headers={"kid": self._current})

    @property
    def document(self) -> dict[str, Any]:
        """The keys it publishes."""
        return {
            "keys": [
                ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig", "alg": _ALGORITHM}
                for kid, key in self._keys.items()
            ]
        }

    async def _answer(self, exchange: Exchange) -> None:
        self.fetches += 1
        exchange.reply(Reply(self.status, json.dumps(self.document).encode()))
