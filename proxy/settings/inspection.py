"""Settings of inspection in `proxy.yaml`: for the whole proxy, and for each tenant."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proxy.settings.document import Document, Place
from proxy.settings.parts import Part, Seconds
from proxy.settings.ssh import SSHInspection, check_ssh, resolve_ssh_paths

InspectorCount = Literal["auto"] | Annotated[int, Meta(ge=0, le=256)]
ReadLevel = Literal["tls", "http"]
Minimum = Literal["TLSv1.2", "TLSv1.3"]

_DOMAIN = re.compile(r"\.?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class ImportedAuthority(Part, frozen=True):
    """An existing authority, root or intermediate: PEM with its chain, or PKCS#12."""

    file: str
    key: str | None = None  # if it is not in `file`
    password: str | None = None
    password_file: str | None = None  # a file with the password, in place of `password`


class Inspection(Part, frozen=True):
    """How a tenant's sessions are inspected if its level, a route, a hook or a policy requires it."""

    minimum: Minimum = "TLSv1.2"  # for both sides
    # if the origin's certificate cannot be verified: send an error page (HTTP; otherwise an alert) or a TLS alert, or
    # continue with a certificate that the client will not trust either
    bad_certificate: Literal["page", "alert", "untrusted"] = "page"
    trust: list[str] = msgspec.field(default_factory=list)  # PEM files with roots, in addition to the system's
    system_trust: bool = True
    # PEM files of certificate revocation lists. If there are any, each origin's certificate must be covered by a valid
    # one (RFC 5280 6.3): certificates without a list are refused
    crl: list[str] = msgspec.field(default_factory=list)
    ca: ImportedAuthority | None = None  # in place of one that is generated at the first start
    permitted: list[str] = msgspec.field(default_factory=list)  # name constraints of a new CA: domains, prefixes
    # UDP to port 443 of inspected flows: refuse it, so that clients use TLS over TCP, or pass it uninspected
    quic: Literal["refuse", "pass"] = "refuse"
    # if the origin requests a client certificate, whose key only the client has: pass such hosts, or continue without
    client_certificates: Literal["pass", "ignore"] = "pass"
    learn_pinned: bool = False  # pass hosts for a while to a client that has rejected their inspection
    pinned_s: Seconds = 86_400  # how long such hosts, and hosts that request a certificate, are passed
    key_log: str | None = None  # a file for TLS session secrets, which decrypt captured traffic
    alt_svc: Literal["strip", "keep"] = "strip"  # advertisements of HTTP/3, which is not inspected
    ssh: SSHInspection | None = None  # None: SSH is passed uninspected


def resolve_paths(inspection: Inspection, base: Path) -> Inspection:
    """`inspection` with paths, which are relative to `base`, made absolute."""
    replace, ca = msgspec.structs.replace, inspection.ca
    if ca is not None:
        key, password = (None if each is None else str(base / each) for each in (ca.key, ca.password_file))
        ca = replace(ca, file=str(base / ca.file), key=key, password_file=password)
    ssh = None if inspection.ssh is None else resolve_ssh_paths(inspection.ssh, base)
    key_log = None if inspection.key_log is None else str(base / inspection.key_log)
    trust, crl = ([str(base / each) for each in files] for files in (inspection.trust, inspection.crl))
    return replace(inspection, key_log=key_log, ssh=ssh, trust=trust, crl=crl, ca=ca)


def check_inspection(document: Document, inspection: Inspection, place: Place) -> None:
    """Check the settings. DocumentError: the first mistake."""
    if inspection.ssh is not None:
        check_ssh(document, inspection.ssh, (*place, "ssh"))
    for index, each in enumerate(inspection.permitted):
        try:
            ipaddress.ip_network(each)
        except ValueError:
            if "/" in each or not _DOMAIN.fullmatch(each):
                message = f"expected a domain or a prefix (found '{each}')"
                raise document.error(message, (*place, "permitted", index)) from None
    if inspection.ca is not None and None not in (inspection.ca.password, inspection.ca.password_file):
        raise document.error("'password' and 'password_file' exclude each other", (*place, "ca", "password_file"))
    if not inspection.system_trust and not inspection.trust:
        raise document.error("without system_trust some roots are needed in 'trust'", (*place, "system_trust"))
