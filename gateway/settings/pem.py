"""The public keys that VideoSDK's webhooks are checked with, as text and as values."""

import re
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

__all__ = ["Keys", "WrongKeyError", "read_keys"]

Keys = tuple[RSAPublicKey, ...]

_BLOCK: Final = re.compile(r"-----BEGIN ((?:RSA )?PUBLIC KEY)-----[^-]+-----END \1-----")
_MAX_KEYS: Final = 4
_MIN_BITS: Final = 2048
_MAX_BITS: Final = 8192
"""A longer one would make each check slow, and no service signs with it."""


class WrongKeyError(Exception):
    """A text holds no key that webhooks can be checked with; the message says why, without the text."""


def read_keys(pem: str) -> Keys:
    """Read RSA public keys in PEM, as PKCS#1 (what VideoSDK publishes) or as SPKI.

    Several are for the days in which one replaces another.

    Raises:
        WrongKeyError: There is none, too many, or one that is no RSA key of a usual length.
    """
    if "PRIVATE KEY" in pem:
        raise WrongKeyError("holds a private key")
    blocks = [match[0] for match in _BLOCK.finditer(pem)]
    if not 0 < len(blocks) <= _MAX_KEYS:
        raise WrongKeyError("holds too many keys" if blocks else "holds no public key in PEM")
    return tuple(_read_key(block) for block in blocks)


def _read_key(block: str) -> RSAPublicKey:
    try:
        key = load_pem_public_key(block.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise WrongKeyError("holds a public key that cannot be read") from None
    if not isinstance(key, RSAPublicKey):
        raise WrongKeyError("holds a public key that is not RSA")
    if not _MIN_BITS <= key.key_size <= _MAX_BITS:
        raise WrongKeyError(f"holds a key that has not {_MIN_BITS} to {_MAX_BITS} bits")
    return key
