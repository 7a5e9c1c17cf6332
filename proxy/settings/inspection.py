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
from proxy.settings.ssh import SSHInspection, absolute_ssh, check_ssh

InspectorCount = Literal["auto"] | Annotated[int, Meta(ge=0, le=256)]
ReadLevel = Literal["tls", "http"]
Minimum = Literal["TLSv1.2", "TLSv1.3"]

_DOMAIN = re.compile(r"\.?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class ImportedAuthority(Part, frozen=True):
    """An authority that exists already, perhaps an intermediate one: PEM with its chain, or PKCS#12."""

    file: str
    key: str | None = None  # where it is not in `file`
    password: str | None = None
    password_file: str | None = None  # instead, so that it need not stand here


class Inspection(Part, frozen=True):
    """How a tenant's sessions are read where level, route, hook or policy asks for it."""

    minimum: Minimum = "TLSv1.2"  # of either side
    # an origin whose certificate cannot be verified: an error page (of HTTP; else an alert), a TLS alert, or going on
    # with a certificate that the client will not trust either
    bad_certificate: Literal["page", "alert", "untrusted"] = "page"
    trust: list[str] = msgspec.field(default_factory=list)  # PEM files of roots beside the system's
    system_trust: bool = True
    # PEM files of certificate revocation lists. With some, each origin's certificate has to be on or off one that is in
    # force (RFC 5280 6.3): what no list is there for is refused
    crl: list[str] = msgspec.field(default_factory=list)
    ca: ImportedAuthority | None = None  # instead of one that is made at the first start
    permitted: list[str] = msgspec.field(default_factory=list)  # all that a new CA may sign for: domains, prefixes
    # UDP to port 443 of what is read: refused, so that clients take TLS over TCP instead, or let by unread
    quic: Literal["refuse", "pass"] = "refuse"
    # an origin that asks for a client's certificate, which only the client has: pass such hosts, or go on without
    client_certificates: Literal["pass", "ignore"] = "pass"
    learn_pinned: bool = False  # pass, for a while, what the client had refused as inspected
    pinned_s: Seconds = 86_400  # how long such a host is passed, also one that asks for a certificate
    key_log: str | None = None  # a file for secrets of TLS sessions: whoever has it can read what was captured
    alt_svc: Literal["strip", "keep"] = "strip"  # invitations to HTTP/3, which is not read
    ssh: SSHInspection | None = None  # None: SSH is passed unread


def absolute(inspection: Inspection, base: Path) -> Inspection:
    """The same, with paths that are relative to `base` made absolute."""
    replace, ca = msgspec.structs.replace, inspection.ca
    if ca is not None:
        key, password = (None if each is None else str(base / each) for each in (ca.key, ca.password_file))
        ca = replace(ca, file=str(base / ca.file), key=key, password_file=password)
    ssh = None if inspection.ssh is None else absolute_ssh(inspection.ssh, base)
    key_log = None if inspection.key_log is None else str(base / inspection.key_log)
    trust, crl = ([str(base / each) for each in files] for files in (inspection.trust, inspection.crl))
    return replace(inspection, key_log=key_log, ssh=ssh, trust=trust, crl=crl, ca=ca)


def check_inspection(document: Document, inspection: Inspection, place: Place) -> None:
    """DocumentError for the first mistake."""
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
