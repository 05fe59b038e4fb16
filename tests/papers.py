"""Certificates for tests of TLS: an unknown authority, and what it signed."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["Papers", "make_papers"]


class Papers(NamedTuple):
    """A server's certificate and key, and the authority that signed it."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def arguments(self) -> list[str]:
        """What makes a server present them, and ask clients for none."""
        return [
            *("--tls-ca-cert-file", str(self.authority), "--tls-cert-file", str(self.certificate)),
            *("--tls-key-file", str(self.key), "--tls-auth-clients", "no"),
        ]


def make_papers(folder: Path) -> Papers:
    """Make an unknown authority, and a certificate of its making for 127.0.0.1."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority, server = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "redis"))
    now = datetime.now(UTC)

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(authority).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        # What RFC 5280 asks for, and Python from 3.13 on.
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        return builder.add_extension(signer, False)

    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signs = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    own = certificate(authority, authority_key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
    own = own.add_extension(x509.KeyUsage(True, key_cert_sign=True, crl_sign=True, **signs), True)
    signed = certificate(server, key.public_key()).add_extension(loopback, False)
    papers = Papers(folder / "authority.pem", folder / "redis.pem", folder / "redis.key")
    papers.authority.write_bytes(own.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    papers.certificate.write_bytes(signed.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    papers.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return papers
