"""The SSH keys of tenants: the host key used for all origins, and the CA of short-lived user certificates."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.ca.files import write
from proxy.errors import ProxyError

if TYPE_CHECKING:  # `cryptography` costs 60 ms: only inspection needs it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HOST_KEY, USER_CA = "ssh_host_ed25519_key", "ssh_user_ca"
KNOWN_HOSTS = "known_hosts"  # for clients: the host key for every host
PREVIOUS = ".previous.pub"
BACKDATED_S = 60  # for origins whose clock is behind
MAX_VALIDITY_S = 24 * 3600.0
PERMITS = ("permit-pty", "permit-user-rc")  # extensions of certificates: what users may do at an origin
MAX_PRINCIPALS = 256  # OpenSSH's SSHKEY_CERT_MAX_PRINCIPALS


class SSHKeys:
    """The keys of all tenants, in the proxy's state directory: created when first needed, in files of mode 0600."""

    def __init__(self, directory: str | Path, clock: Callable[[], float] = time.time) -> None:
        self._directory, self._clock = Path(directory) / "ssh", clock
        self._loaded: dict[Path, tuple[tuple[int, ...], Ed25519PrivateKey]] = {}  # and what its file was then

    def host_key(self, tenant: str) -> SigningKey:
        """The private key that clients of this tenant see for every origin."""
        return SigningKey(self._load(tenant, HOST_KEY))

    def host_public_key(self, tenant: str) -> str:
        """The public host key: `ssh-ed25519 AAAA...`."""
        return _public_text(self._load(tenant, HOST_KEY))

    def user_ca(self, tenant: str) -> str:
        """The public key for TrustedUserCAKeys of origins."""
        return _public_text(self._load(tenant, USER_CA))

    def rotate_host_key(self, tenant: str) -> str:
        """Create a new host key, and return its public key; the old public key stays readable."""
        return self._rotate(tenant, HOST_KEY)

    def previous_host_key(self, tenant: str) -> str | None:
        """The public host key before the last rotation."""
        try:
            return (self._directory / tenant / (HOST_KEY + PREVIOUS)).read_text().strip()
        except OSError:
            return None

    def sign(
        self, tenant: str, public_key: str, key_id: str, principals: Sequence[str], seconds: float,
        sources: Sequence[str] = (), permits: Sequence[str] = PERMITS,
    ) -> str:  # fmt: skip
        """A user certificate for `public_key`, valid for `seconds`. ProxyError: it cannot be made.

        `sources`: prefixes from which it may be used (critical option `source-address`); empty: from everywhere.
        `permits`: its extensions.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import (
            SSHCertificateBuilder,
            SSHCertificateType,
            load_ssh_public_key,
        )

        if not principals or len(principals) > MAX_PRINCIPALS or not all(principals):
            raise ProxyError("a user certificate needs 1 to 256 principals")  # without any it is valid for every user
        try:
            key = load_ssh_public_key(public_key.encode())
        except ValueError as error:
            raise ProxyError(f"the public key cannot be read: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ProxyError("only Ed25519 keys are signed")
        now = int(self._clock())
        builder = (
            SSHCertificateBuilder()
            .public_key(key)
            .serial(secrets.randbits(63))
            .type(SSHCertificateType.USER)
            .key_id(key_id.encode())
            .valid_principals([each.encode() for each in principals])
            .valid_after(now - BACKDATED_S)
            .valid_before(now + int(min(seconds, MAX_VALIDITY_S)))
        )
        if sources:
            builder = builder.add_critical_option(b"source-address", ",".join(sources).encode())
        for name in sorted(permits):
            builder = builder.add_extension(name.encode(), b"")
        return builder.sign(self._load(tenant, USER_CA)).public_bytes().decode()

    def _load(self, tenant: str, name: str) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        path = self._directory / tenant / name
        try:
            found = path.stat()
            version = found.st_mtime_ns, found.st_ino, found.st_size
            known = self._loaded.get(path)
            if known is not None and known[0] == version:
                return known[1]
            text = path.read_bytes()
        except FileNotFoundError:
            return self._make(path)
        except OSError as error:
            raise ProxyError(f"{path}: {error.strerror}") from error
        try:
            key = load_ssh_private_key(text, None)
        except (ValueError, TypeError) as error:
            raise ProxyError(f"{path}: the private key cannot be read: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ProxyError(f"{path}: expected an Ed25519 key")
        self._loaded[path] = version, key
        return key

    def _make(self, path: Path) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate()
        try:
            os.makedirs(path.parent, mode=0o700, exist_ok=True)
            write(path, _private_text(key), 0o600)
            write(path.with_name(path.name + ".pub"), _public_text(key).encode() + b"\n", 0o644)
            if path.name == HOST_KEY:
                write(path.with_name(KNOWN_HOSTS), b"* " + _public_text(key).encode() + b"\n", 0o644)
        except OSError as error:
            raise ProxyError(f"{path}: {error.strerror}") from error
        return key

    def _rotate(self, tenant: str, name: str) -> str:
        path, old = self._directory / tenant / name, _public_text(self._load(tenant, name))
        try:
            write(path.with_name(name + PREVIOUS), old.encode() + b"\n", 0o644)
        except OSError as error:
            raise ProxyError(f"{path}: {error.strerror}") from error
        return _public_text(self._make(path))


class SigningKey:
    """A private key that signs in this process, on behalf of processes that have only the public key."""

    def __init__(self, key: Any) -> None:
        """`key`: a private key of `cryptography`: Ed25519, ECDSA (NIST) or RSA."""
        self._key = key
        self.public = _public_text(key)
        self.blob = base64.b64decode(self.public.split()[1])

    @classmethod
    def load(cls, text: bytes) -> SigningKey:
        """Load a key in OpenSSH's or PEM format, without a passphrase. ProxyError: it cannot be read."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

        read = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in text else load_pem_private_key
        try:
            return cls(read(text, None))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ProxyError(f"the private key cannot be read: {error}") from error

    def sign(self, data: bytes, algorithm: str) -> bytes:
        """The signature with its algorithm's name (RFC 4253 6.6). ProxyError: the key does not have this algorithm."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

        key = self._key
        name = algorithm.encode()
        if isinstance(key, ed25519.Ed25519PrivateKey) and algorithm == "ssh-ed25519":
            return _string(name) + _string(key.sign(data))
        if isinstance(key, rsa.RSAPrivateKey) and algorithm in ("rsa-sha2-256", "rsa-sha2-512"):  # RFC 8332
            digest = hashes.SHA256() if algorithm.endswith("256") else hashes.SHA512()
            return _string(name) + _string(key.sign(data, padding.PKCS1v15(), digest))
        if isinstance(key, ec.EllipticCurvePrivateKey) and algorithm == self.public.split()[0]:  # RFC 5656 3.1.2
            digests = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
            r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(digests[key.curve.key_size])))
            return _string(name) + _string(_number(r) + _number(s))
        raise ProxyError(f"a key {self.public.split()[0]} makes no signatures {algorithm}")


def _string(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def _number(value: int) -> bytes:
    """Encode a positive `mpint` (RFC 4251 5)."""
    return _string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def fingerprint(public_key: str) -> str:
    """The fingerprint `SHA256:...`, as OpenSSH prints it."""
    digest = hashlib.sha256(_blob(public_key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def sshfp(public_key: str) -> str:
    """The data of an SSHFP record: algorithm 4 (Ed25519), type 2 (SHA-256), and the digest (RFC 7479, RFC 6594)."""
    return f"4 2 {hashlib.sha256(_blob(public_key)).hexdigest()}"


def _blob(public_key: str) -> bytes:
    blob = base64.b64decode(public_key.split()[1])
    (length,) = struct.unpack_from("!I", blob)
    if blob[4 : 4 + length] != b"ssh-ed25519":
        raise ValueError("not an Ed25519 key")
    return blob


def _private_text(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _public_text(key: Any) -> str:
    from cryptography.hazmat.primitives import serialization

    public: bytes = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode()
