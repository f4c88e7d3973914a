"""X.509, as little of it as a fleet needs: one authority, servers and clients below it. ECDSA P-256, no JAX."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lwd.errors import ConfigError

BACKDATED_S = 86400.0
"""A robot whose clock is slow by less than this still accepts the server."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> str:
        """PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        """PEM, not encrypted: the file's mode protects it."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()


def load(certificate_pem: bytes, key_pem: bytes) -> Issued:
    """Read what `Issued` wrote; ConfigError if it is something else."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"the fleet's authority cannot be read: {error}.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"the fleet's authority has a key of type {type(key).__name__}, expected ECDSA P-256."
        )
    return Issued(certificate, key)


def make_authority(fleet: str, now: float, days: float) -> Issued:
    """A certificate that signs others, and itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{fleet} fleet authority", fleet)
    builder = _begin(name, name, key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    return Issued(builder.sign(key, hashes.SHA256()), key)


def issue_server(authority: Issued, fleet: str, hosts: Sequence[str], now: float, days: float) -> Issued:
    """A server's certificate for these host names and addresses."""
    names = [_general_name(host) for host in hosts]
    return _issue(authority, _name(hosts[0], fleet), names, ExtendedKeyUsageOID.SERVER_AUTH, now, days)


def issue_client(authority: Issued, fleet: str, name: str, identity: str, now: float, days: float) -> Issued:
    """A client's certificate. The broker maps its URI `identity` to a user."""
    names = [x509.UniformResourceIdentifier(identity)]
    return _issue(authority, _name(name, fleet), names, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)


def _issue(
    authority: Issued,
    subject: x509.Name,
    names: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    now: float,
    days: float,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _begin(subject, authority.certificate.subject, key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(above, critical=False)
    return Issued(builder.sign(authority.key, hashes.SHA256()), key)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, days: float
) -> x509.CertificateBuilder:
    begin = datetime.datetime.fromtimestamp(now - BACKDATED_S, datetime.UTC)
    end = datetime.datetime.fromtimestamp(now + days * 86400.0, datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(end)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(own, critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str, fleet: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
        ]
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
