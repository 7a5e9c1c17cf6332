"""Certificates that nodes trust: the lab's authority, and bundles that replace the system's."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from oxyctl.errors import OxyctlError
from oxyctl.plan.steps import Bundle, Plan
from oxyctl.services.service import ServiceError

# Bundles of distributions: Debian, Arch and Gentoo; Fedora and derivatives; openSUSE; Alpine
SYSTEM = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


def make_trust(plan: Plan) -> None:
    """Create the lab's authority, if the plan has one, and the bundles. OSError, OxyctlError."""
    if plan.authority is not None:
        from oxyctl.services.certificates import Authority  # `cryptography` takes 0.1 s to import: only if needed

        directory = Path(plan.authority)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            Authority.load_or_create(directory)
            if plan.terminates_ssh:
                from oxyctl.services.ssh.authority import host_authority  # asyncssh takes 0.3 s to import

                host_authority(directory)
        except ServiceError as error:
            raise OxyctlError(str(error)) from None
    for bundle in plan.bundles:
        path = Path(bundle.path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_bytes(_system_certificates())
        complete(bundle)


def complete(bundle: Bundle) -> bool:
    """Add missing certificates of authorities to `bundle`. Returns whether it now has those of all of them.

    Certificates are only appended: concurrent readers never see a partial bundle, and after a rotation the old one is
    still trusted, as needed for the certificates that it has signed.
    """
    path = Path(bundle.path)
    known, is_complete = path.read_bytes(), True
    for authority in bundle.authorities:
        try:
            certificates: list[bytes] = _CERTIFICATE.findall(Path(authority).read_bytes())
        except OSError:
            is_complete = False
            continue
        missing = [each.rstrip() + b"\n" for each in certificates if each.rstrip() not in known]
        if missing:
            with path.open("ab") as file:
                file.write(b"".join(missing))
            known += b"".join(missing)
    return is_complete


def replacements(bundle: str | None) -> dict[str, str]:
    """The system's bundles by path, each replaced by `bundle`; empty without one."""
    return {} if bundle is None else dict.fromkeys(_system_bundles(), bundle)


def _system_bundles() -> Sequence[str]:
    """The bundles of this system, with symbolic links resolved and without duplicates."""
    return sorted({os.path.realpath(path) for path in SYSTEM if os.path.isfile(path)})


def _system_certificates() -> bytes:
    return next((Path(path).read_bytes().rstrip(b"\n") + b"\n" for path in _system_bundles()), b"")
