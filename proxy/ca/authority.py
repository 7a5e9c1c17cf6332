"""One certificate authority, and the leaves that it signs for inspected sessions."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.ca.info import Certificate
from proxy.errors import ProxyError

CA_YEARS = 10
LEAF_DAYS = 90  # browsers want at most 398 (CA/Browser Forum baseline requirements, 6.3.2)
BACKDATED = datetime.timedelta(days=1)  # for clients whose clock is behind
MAX_COMMON_NAME = 64  # RFC 5280, ub-common-name

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Constraint = x509.DNSName | x509.IPAddress


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate with its chain, and its key, both PEM."""

    chain: bytes
    key: bytes
    not_after: float  # Unix seconds


class Authority:
    """A CA's certificate, the certificates between it and its root, and its key."""

    def __init__(self, certificates: Sequence[x509.Certificate], key: PrivateKey) -> None:
        """`certificates`: the CA's own first, then its issuers. ProxyError: they cannot sign; the message says why."""
        self.certificate, self.certificates, self._key = certificates[0], tuple(certificates), key
        _check(self.certificate, key)
        self._constraints = _constraints_of(self.certificate)
        # one key for all leaves: one process holds them all, and a key for each costs as much as its certificate
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key_pem = _private_pem(self._leaf_key)
        self._issuers_pem = b"".join(_pem(each) for each in certificates if each.issuer != each.subject)

    @classmethod
    def create(cls, name: str, permitted: Sequence[str] = ()) -> Authority:
        """Create one, EC P-256, for ten years. `permitted`: domains and prefixes that it may sign for; empty: all."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "oxyctl"),
            x509.NameAttribute(NameOID.COMMON_NAME, name[:MAX_COMMON_NAME]),
        ])  # fmt: skip
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + datetime.timedelta(days=365 * CA_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if permitted:
            builder = builder.add_extension(_name_constraints(permitted), critical=True)
        return cls([builder.sign(key, hashes.SHA256())], key)

    @classmethod
    def load(cls, certificates: bytes, key: bytes, password: str | None = None) -> Authority:
        """Load from PEM; certificates and key may be in the same text. ProxyError: it is not valid."""
        try:
            found = x509.load_pem_x509_certificates(certificates)
        except ValueError as error:
            raise ProxyError("no PEM certificate in it") from error
        try:
            private = serialization.load_pem_private_key(key, password.encode() if password else None)
        except (ValueError, TypeError) as error:
            raise ProxyError(f"its private key cannot be read: {error}") from error
        return cls(_own_first(found, private), _signing(private))

    @classmethod
    def load_pkcs12(cls, data: bytes, password: str | None = None) -> Authority:
        """Load from PKCS#12. ProxyError: it is not valid."""
        try:
            key, certificate, others = pkcs12.load_key_and_certificates(data, password.encode() if password else None)
        except ValueError as error:
            raise ProxyError(f"PKCS#12: {error}") from error
        if key is None or certificate is None:
            raise ProxyError("PKCS#12: a certificate and its private key are needed")
        return cls([certificate, *others], _signing(key))

    @property
    def certificate_pem(self) -> bytes:
        """The topmost known certificate, which clients must trust."""
        return _pem(self.certificates[-1])

    @property
    def chain_pem(self) -> bytes:
        """The CA's certificate and its issuers."""
        return b"".join(map(_pem, self.certificates))

    @property
    def key_pem(self) -> bytes:
        return _private_pem(self._key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA's certificate, in the form that browsers show."""
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def permitted(self) -> list[str]:
        """The names that its name constraints permit; empty: all."""
        return [str(each.value) for each in self._constraints]

    def permits(self, name: str) -> bool:
        """Whether its name constraints permit this host name or address."""
        if not self._constraints:
            return True
        address = _address(name)
        if address is not None:
            networks = [each.value for each in self._constraints if isinstance(each, x509.IPAddress)]
            return any(address in ipaddress.ip_network(str(network)) for network in networks)
        labels = f".{name.lower()}"
        return any(
            isinstance(each, x509.DNSName) and labels.endswith("." + each.value.lstrip(".").lower())
            for each in self._constraints
        )

    def mint(self, name: str) -> Leaf:
        """A certificate for a host name or an address that browsers accept (EC P-256, SAN, serverAuth)."""
        now = datetime.datetime.now(datetime.UTC)
        until = min(now + datetime.timedelta(days=LEAF_DAYS), self.certificate.not_valid_after_utc)
        address = _address(name)
        alternative = x509.DNSName(name) if address is None else x509.IPAddress(address)
        # an address has none: OpenSSL would hold it to the name constraints of domains
        has_common_name = address is None and len(name) <= MAX_COMMON_NAME
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if has_common_name else []
        key = self._leaf_key.public_key()
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - BACKDATED, self.certificate.not_valid_before_utc))
            .not_valid_after(until)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=not subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_key(self.certificate, identifier), critical=False)
            .sign(self._key, None if isinstance(self._key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
        )
        return Leaf(_pem(leaf) + self._issuers_pem, self._leaf_key_pem, until.timestamp())


def _check(certificate: x509.Certificate, key: PrivateKey) -> None:
    if certificate.public_key() != key.public_key():
        raise ProxyError("the private key is not that of the certificate")
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    if not is_ca:
        raise ProxyError(f"{certificate.subject.rfc4514_string()} is not a CA: basicConstraints has no CA:TRUE")
    if certificate.not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
        raise ProxyError(f"{certificate.subject.rfc4514_string()} expired at {certificate.not_valid_after_utc:%F}")


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """The certificates in a text; empty if there are none, or the text is damaged."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def normalized_names(permitted: Sequence[str]) -> list[str]:
    """Domains and prefixes in the form of certificates."""
    return [str(each.value) for each in _subtrees(permitted)]


def describe(certificate: x509.Certificate) -> Certificate:
    """The public description of a certificate."""
    return Certificate(
        subject=certificate.subject.rfc4514_string(),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        pem=_pem(certificate).decode(),
        permitted=[str(each.value) for each in _constraints_of(certificate)],
    )


def _own_first(certificates: Sequence[x509.Certificate], key: object) -> list[x509.Certificate]:
    """The certificates with that of `key` first: files list them in either order."""
    public = key.public_key() if hasattr(key, "public_key") else None
    own = [each for each in certificates if each.public_key() == public]
    return [*own, *(each for each in certificates if each not in own)]


def _signing(key: object) -> PrivateKey:
    if isinstance(key, PrivateKey):
        return key
    raise ProxyError(f"a key of this kind cannot sign here: {type(key).__name__} (expected EC, RSA or Ed25519)")


def _constraints_of(certificate: x509.Certificate) -> list[Constraint]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    except x509.ExtensionNotFound:
        return []
    return [each for each in found or () if isinstance(each, (x509.DNSName, x509.IPAddress))]


def _name_constraints(permitted: Sequence[str]) -> x509.NameConstraints:
    """Name constraints that exclude what is not permitted: a kind of name not mentioned is unconstrained (RFC 5280)."""
    subtrees = _subtrees(permitted)
    nowhere: list[x509.GeneralName] = []
    if not any(isinstance(each, x509.IPAddress) for each in subtrees):
        nowhere = [x509.IPAddress(ipaddress.ip_network(each)) for each in ("0.0.0.0/0", "::/0")]
    elif not any(isinstance(each, x509.DNSName) for each in subtrees):
        nowhere = [x509.DNSName("")]  # every domain is within it
    return x509.NameConstraints(subtrees, nowhere or None)


def _subtrees(permitted: Sequence[str]) -> list[x509.GeneralName]:
    subtrees: list[x509.GeneralName] = []
    for each in permitted:
        try:
            subtrees.append(x509.IPAddress(ipaddress.ip_network(each)))
        except ValueError:
            subtrees.append(x509.DNSName(each.lstrip(".")))
    return subtrees


def _authority_key(certificate: x509.Certificate, otherwise: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        own = otherwise
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _usage(**wanted: bool) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in every})


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
