"""Egress of the kernel off-ramp: the interface, and the addresses and ports for source NAT."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from proxy.settings.document import Document, Place
from proxy.settings.parts import check_address

_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


class EgressSettings(Protocol):
    """The settings of a tenant or of one of its networks."""

    @property
    def egress(self) -> str | None: ...

    @property
    def snat(self) -> list[str]: ...

    @property
    def ports(self) -> str | None: ...


class Egress(msgspec.Struct, frozen=True):
    """The egress of one virtual network. None: determined by the routes, the interface or the client."""

    interface: str | None = None
    ipv4: str | None = None
    ipv6: str | None = None
    ports: str | None = None


def egress_of(tenant: EgressSettings, network: EgressSettings | None) -> Egress:
    """The egress of a network: its own settings, and those of the tenant for what it does not set."""
    own = network or tenant
    addresses = own.snat or tenant.snat
    return Egress(
        interface=own.egress or tenant.egress,
        ipv4=next((address for address in addresses if ":" not in address), None),
        ipv6=next((address for address in addresses if ":" in address), None),
        ports=own.ports or tenant.ports,
    )


def check_each_family(document: Document, addresses: Sequence[str], place: Place) -> None:
    """Check for at most one address of each family. DocumentError: the first mistake."""
    versions: set[int] = set()
    for index, text in enumerate(addresses):
        version = check_address(document, text, (*place, index)).version
        if version in versions:
            raise document.error(f"a second IPv{version} address", (*place, index))
        versions.add(version)


def check_egress(document: Document, snat: Sequence[str], ports: str | None, place: Place) -> None:
    """Check for at most one address of each family, and a valid port range. DocumentError: the first mistake."""
    check_each_family(document, snat, (*place, "snat"))
    if ports is not None:
        match = _RANGE.fullmatch(ports)
        if match is None or not 0 < int(match[1]) <= int(match[2]) < 65_536:
            raise document.error(f"expected a range of ports such as 2048-4095 (found '{ports}')", (*place, "ports"))
