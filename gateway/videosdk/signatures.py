"""Tells VideoSDK's webhooks from whatever else reaches the same address.

VideoSDK signs the raw bytes of a webhook's body: RSA, PKCS#1 v1.5, SHA-256, in base64, in the header
`videosdk-signature` (docs.videosdk.live, and the source of its Node package 0.1.1).
"""

import base64
import binascii
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway.settings.pem import Keys
from gateway.videosdk.webhook_keys import KeySource

__all__ = ["SIGNATURE_HEADER", "SignatureVerdict", "Signatures"]

SIGNATURE_HEADER: Final = "videosdk-signature"
_SIGNATURE_BYTES: Final = range(256, 1025)


class SignatureVerdict(StrEnum):
    """What a signature proves about a body."""

    GENUINE = "genuine"
    UNSIGNED = "unsigned"
    FORGED = "forged"
    UNDECIDED = "undecided"
    """No known key fits, and VideoSDK cannot be asked for a newer one at the moment."""


class Signatures:
    """Checks webhooks.

    Args:
        keys: Where the keys come from.
    """

    def __init__(self, keys: KeySource) -> None:
        self._keys = keys

    def refused(self, signatures: Sequence[bytes]) -> SignatureVerdict | None:
        """Say why signatures do not count whatever the body is; None where that depends on the body."""
        if not any(signatures):
            return SignatureVerdict.UNSIGNED
        if len(signatures) != 1 or _decoded(signatures[0]) is None:
            return SignatureVerdict.FORGED
        return None

    async def judge(self, body: bytes, signatures: Sequence[bytes]) -> SignatureVerdict:
        """Say whether VideoSDK signed a body.

        Args:
            body: The bytes as they came.
            signatures: The value of every signature header there was. Of two, each reader could pick another: refused.
        """
        refused = self.refused(signatures)
        signature = _decoded(signatures[0]) if refused is None else None
        if refused is not None or signature is None:
            return refused or SignatureVerdict.FORGED
        keys = await self._keys.current()
        if _signed(keys, body, signature):
            return SignatureVerdict.GENUINE
        renewed = await self._keys.renewed()
        if renewed is not keys and _signed(renewed, body, signature):
            return SignatureVerdict.GENUINE
        return SignatureVerdict.FORGED if self._keys.certain else SignatureVerdict.UNDECIDED


def _decoded(header: bytes) -> bytes | None:
    """Read base64 as VideoSDK writes it: one text for one signature, and of a length that signatures have."""
    try:
        signature = base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        return None
    return signature if len(signature) in _SIGNATURE_BYTES and base64.b64encode(signature) == header else None


def _signed(keys: Keys, body: bytes, signature: bytes) -> bool:
    return any(_verifies(key, body, signature) for key in keys)


def _verifies(key: RSAPublicKey, body: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, body, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True
