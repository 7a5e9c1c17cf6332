"""The host keys of a lab's SSH servers, and the lab's authority that certifies them (PROTOCOL.certkeys of OpenSSH).

One line of known_hosts, `@cert-authority *`, is all that a proxy of the lab needs.
"""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh

from oxyctl.services.host import Host
from oxyctl.services.service import ServiceError

HOST_CA, KNOWN_HOSTS, USER_CAS = "ssh_host_ca", "ssh_known_hosts", "ssh_user_cas"


def host_authority(state: Path) -> asyncssh.SSHKey:
    """The key that certifies hosts, kept in `state` beside its line of known_hosts. ServiceError."""
    key = _key(state / HOST_CA)
    line = f"@cert-authority * {key.export_public_key().decode().strip()}\n"
    known = state / KNOWN_HOSTS
    if not known.exists() or known.read_text() != line:
        _replace(known, line.encode(), 0o644)
    return key


def host_key(host: Host) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
    """The node's key, and a certificate for its name and addresses. ServiceError."""
    path = host.keys() / "ssh_host_ed25519_key"
    key = _key(path)
    certificate = host_authority(host.state).generate_host_certificate(
        key, host.name, principals=[host.name, *host.addresses]
    )
    certificate.write_certificate(path.with_name(path.name + "-cert.pub"))
    return key, certificate


def _key(path: Path) -> asyncssh.SSHKey:
    try:
        return asyncssh.read_private_key(path)
    except FileNotFoundError:
        key = asyncssh.generate_private_key("ssh-ed25519")
        _replace(path, key.export_private_key(), 0o600)
        return key
    except asyncssh.KeyImportError as error:
        raise ServiceError(f"{path} cannot be read: {error}") from error


def _replace(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    temporary.replace(path)
