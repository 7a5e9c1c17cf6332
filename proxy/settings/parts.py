"""Building blocks for the structure of `proxy.yaml`: types of values, and shared checks."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec
from msgspec import Meta

from proxy.settings.document import Document, Place

Seconds = Annotated[float, Meta(gt=0, le=10 * 365 * 86_400)]  # ten years: infinity is a mistake
Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Word32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]

EVERYWHERE = ("0.0.0.0/0", "::/0")
DEFAULT_NETWORK = "default"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A mapping with known keys only."""


def check_prefix(document: Document, prefix: str, place: Place) -> Network:
    """Parse `prefix`. DocumentError: it is invalid, at `place`."""
    try:
        return ipaddress.ip_network(prefix)
    except ValueError as error:
        raise document.error(f"not a prefix: {error}", place) from None


def check_address(document: Document, address: str, place: Place) -> Address:
    """Parse `address`. DocumentError: it is invalid, at `place`."""
    try:
        return ipaddress.ip_address(address)
    except ValueError as error:
        raise document.error(f"not an address: {error}", place) from None


def endpoint(text: str) -> tuple[Address, int]:
    """Address and port of `192.0.2.1:6080` or `[2001:db8::1]:6080`. ValueError: it is invalid, for the reason given."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError(f"expected address:port or [address]:port (found '{text}')")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"expected a port, 1 to 65535, after the address (found '{text}')")
    return ipaddress.ip_address(host.strip("[]")), int(port)


def check_endpoint(document: Document, text: str, place: Place) -> tuple[Address, int]:
    """The address and port in `text`. DocumentError: it is invalid, at `place`."""
    try:
        return endpoint(text)
    except ValueError as error:
        raise document.error(str(error), place) from None
