"""The lab's certificate authority, and the certificates of its nodes (X.509 with P-256, RFC 5280)."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from oxyctl.services.host import Host
from oxyctl.services.service import ServiceError

CA_DAYS = 3650
LEAF_DAYS = 397  # the maximum that browsers accept
WRONG_NAME = "another.invalid"
Fault = Literal["expired", "self-signed", "wrong-name"]
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class Authority:
    """A certificate authority and its key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate, self._key = certificate, key

    @classmethod
    def load_or_create(cls, state: Path) -> Authority:
        """The authority kept in the directory `state` as ca.pem and ca.key, created on first use."""
        certificate_file, key_file = state / "ca.pem", state / "ca.key"
        if certificate_file.exists() and key_file.exists():
            try:
                key = load_pem_private_key(key_file.read_bytes(), None)
                certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            except ValueError as error:
                raise ServiceError(f"{certificate_file} or {key_file} cannot be read: {error}") from error
            if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
                raise ServiceError(f"{key_file} is not the key of {certificate_file}")
            return cls(certificate, key)
        authority = cls._create()
        _write_private(key_file, _key_pem(authority._key))
        certificate_file.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
        return authority

    @classmethod
    def _create(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "oxyctl lab authority")])
        builder = (
            _builder(name, name, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    def issue(self, host: Host, fault: Fault | None = None) -> bytes:
        """Return in PEM a new key, a certificate for the node's name and addresses, and the authority's certificate.

        With a `fault`, the certificate expired yesterday, is self-signed, or is for a name that no node has.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host.name)]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in host.addresses]
        if fault == "wrong-name":
            names = [x509.DNSName(WRONG_NAME)]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, WRONG_NAME if fault == "wrong-name" else host.name)])
        is_own = fault == "self-signed"
        issuer, signer = (name, key) if is_own else (self.certificate.subject, self._key)
        days = -1 if fault == "expired" else LEAF_DAYS
        builder = (
            _builder(name, issuer, key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        leaf = builder.sign(signer, hashes.SHA256())
        chain = [leaf] if is_own else [leaf, self.certificate]
        return b"".join([_key_pem(key), *(each.public_bytes(Encoding.PEM) for each in chain)])


def server_context(host: Host, versions: Sequence[str], fault: Fault | None = None) -> ssl.SSLContext:
    """A server context for `host` with a fresh certificate of the lab's authority; ALPN offers `versions`.

    `fault`: a fault that the certificate has.
    """
    pem = host.keys() / f"tls-{fault or 'valid'}.pem"
    _write_private(pem, Authority.load_or_create(host.state).issue(host, fault))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(versions)
    return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1 if days > 0 else LEAF_DAYS))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in _KEY_USAGES})


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically by one that only its owner can read."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)
