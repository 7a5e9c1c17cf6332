"""The algorithms offered to clients and accepted from origins: none that ssh-audit reports as weak.

No SHA-1, no CBC, no group below 2,048 bits, no MAC below 128 bits, and no encrypt-and-MAC. asyncssh implements strict
key exchange (CVE-2023-48795). ChaCha20-Poly1305 is excluded: without strict key exchange it is vulnerable to Terrapin,
and it takes more CPU time than AES-GCM here, though clients prefer it. Finite-field Diffie-Hellman is only for origins
that offer nothing else: an exchange of 4,096 bits takes 0.4 s of CPU time, which any client could make the proxy spend
(CVE-2002-20001).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from proxy.session.ssh import SSHRules

KEX = (
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
)
KEX_OF_ORIGINS = (*KEX, "diffie-hellman-group16-sha512")
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
HOST_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa-sha2-512", "rsa-sha2-256")
SIGNATURES = (  # of users' keys; `sk-` is for hardware tokens
    "ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com", "rsa-sha2-512", "rsa-sha2-256",
)  # fmt: skip


def connection_options(rules: SSHRules, kex: tuple[str, ...]) -> dict[str, Any]:
    """asyncssh's keyword arguments for both connections of a session. `kex`: the permitted key exchanges."""
    exchanges, ciphers, macs = available(kex)
    return {
        "config": [],
        "kex_algs": exchanges,
        "encryption_algs": ciphers,
        "mac_algs": macs,
        "signature_algs": list(SIGNATURES),
        "compression_algs": None,
        "x509_trusted_certs": None,
        "gss_host": None,
        "login_timeout": rules.login_s,
        "keepalive_interval": rules.keepalive_s,
        "keepalive_count_max": 3,
    }


@cache
def available(kex: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """The key exchanges of `kex`, and the ciphers and MACs above, that this machine's libraries support."""
    from asyncssh.encryption import get_encryption_algs
    from asyncssh.kex import get_kex_algs
    from asyncssh.mac import get_mac_algs

    return (
        _of(kex, get_kex_algs()),
        _of(CIPHERS, get_encryption_algs()),
        _of(MACS, get_mac_algs()),
    )


def _of(wanted: tuple[str, ...], found: list[bytes]) -> list[str]:
    names = {each.decode() for each in found}
    return [each for each in wanted if each in names]
