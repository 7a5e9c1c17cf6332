"""Certificates that nodes trust: the lab's authority, and bundles in the place of the system's."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from oxyctl.errors import OxyctlError
from oxyctl.plan.steps import Bundle, Plan
from oxyctl.services.service import ServiceError

# Where distributions keep the bundle that programs read: Debian, Arch and Gentoo; Fedora and its kin; openSUSE; Alpine
SYSTEM = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


def make_trust(plan: Plan) -> None:
    """The lab's authority where it has to be there before programs start, and the bundles. OSError, OxyctlError."""
    if plan.authority is not None:
        from oxyctl.services.certificates import (
            Authority,
        )  # `cryptography` costs 0.1 s: only labs that are read need it

        directory = Path(plan.authority)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            Authority.of(directory)
            if plan.terminates_ssh:
                from oxyctl.services.ssh.authority import host_authority  # asyncssh takes 0.3 s

                host_authority(directory)
        except ServiceError as error:
            raise OxyctlError(str(error)) from None
    for bundle in plan.bundles:
        path = Path(bundle.path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_bytes(_of_the_system())
        complete(bundle)


def complete(bundle: Bundle) -> bool:
    """Add the certificates of its authorities that are not in `bundle` yet; whether those of all are.

    Only ever appended to: who reads it meanwhile finds the same certificates, and after a rotation the old one is still
    trusted, as it has to be for what it has signed.
    """
    path = Path(bundle.path)
    known, is_whole = path.read_bytes(), True
    for authority in bundle.authorities:
        try:
            certificates: list[bytes] = _CERTIFICATE.findall(Path(authority).read_bytes())
        except OSError:
            is_whole = False
            continue
        missing = [each.rstrip() + b"\n" for each in certificates if each.rstrip() not in known]
        if missing:
            with path.open("ab") as file:
                file.write(b"".join(missing))
            known += b"".join(missing)
    return is_whole


def covered(bundle: str | None) -> dict[str, str]:
    """The files of this system that a node sees `bundle` in place of."""
    return {} if bundle is None else dict.fromkeys(_found(), bundle)


def _found() -> Sequence[str]:
    """The bundles that this system has, each once, whatever leads to it."""
    return sorted({os.path.realpath(path) for path in SYSTEM if os.path.isfile(path)})


def _of_the_system() -> bytes:
    return next((Path(path).read_bytes().rstrip(b"\n") + b"\n" for path in _found()), b"")
