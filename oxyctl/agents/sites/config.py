"""The schema of CONFIG.json: for each end of a tunnel its namespace, its two sides, and the probe through it."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proxy.wire import gue

U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
MAX_PACKET = 65_535


class Part(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A mapping that accepts known keys only."""


class GreConfig(Part, frozen=True):
    """Outer addresses, of either family, and the options of packets sent; received packets may have any options."""

    local: str
    remote: str
    key: U32 | None = None  # received packets must have it too
    checksum: bool = False
    sequence: bool = False  # received packets must have one too, and arrive in order

    def __post_init__(self) -> None:
        _same_family(ipaddress.ip_address(self.local), ipaddress.ip_address(self.remote))


class ContextConfig(Part, frozen=True):
    """The tunnel's owner, as the context of each packet names it."""

    tenant: U32 | None = None
    site: U32 | None = None
    token: str | None = None

    @property
    def wire(self) -> gue.Context:
        return gue.Context(self.tenant, self.site, None if self.token is None else self.token.encode())


class GueConfig(Part, frozen=True):
    """Endpoints of the outer datagrams (`192.0.2.1:6080`, `[2001:db8::1]:6080`), and the header of inner packets."""

    local: str  # where the peer's answers arrive
    remote: str
    context: ContextConfig | None = None
    version: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        _same_family(endpoint(self.local)[0], endpoint(self.remote)[0])
        if self.context is not None:
            if self.version == 1:
                raise ValueError("version 1 has no header for a context")
            gue.header(4, self.context.wire)


class ProbeConfig(Part, frozen=True):
    """Echo requests from `source` to `address` through `device`."""

    device: str
    address: str
    source: str
    every_s: Seconds = 0.3
    timeout_s: Seconds = 1.0

    def __post_init__(self) -> None:
        _same_family(ipaddress.ip_address(self.address), ipaddress.ip_address(self.source))


class TunnelConfig(Part, frozen=True):
    """One end of a tunnel: two of the three kinds of sides, or a probe only."""

    node: str  # the node at this end
    end: Literal["site", "edge", "probe"]
    netns: str
    mtu: Annotated[int, Meta(ge=576, le=MAX_PACKET)] = MAX_PACKET  # of inner packets
    device: str | None = None
    gre: GreConfig | None = None
    gue: GueConfig | None = None
    probe: ProbeConfig | None = None
    far_end: int = 0  # changes when the far end is restarted: earlier probe results no longer apply

    def __post_init__(self) -> None:
        sides = len(self.sides)
        if sides != 2 and (sides or self.probe is None):
            raise ValueError("a tunnel has two of 'device', 'gre' and 'gue', or only a 'probe'")

    @property
    def sides(self) -> list[str]:
        """The kinds of its sides; the one towards the proxy comes last."""
        return [kind for kind in ("device", "gre", "gue") if getattr(self, kind) is not None]

    @property
    def name(self) -> tuple[str, str]:
        """Unique among all ends."""
        return self.node, self.end


class Config(Part, frozen=True):
    """All ends; the report repeats `generation`, and `status` is the Unix socket that serves the counters."""

    tunnels: list[TunnelConfig]
    generation: int = 0
    status: str | None = None


def endpoint(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """Address and port of `text`. ValueError: it is not an endpoint."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r} is not an address with a port")
    if host.startswith("[") and host.endswith("]"):
        return ipaddress.IPv6Address(host[1:-1]), int(port)
    return ipaddress.IPv4Address(host), int(port)


def _same_family(
    local: ipaddress.IPv4Address | ipaddress.IPv6Address, remote: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    if local.version != remote.version:
        raise ValueError(f"{local} and {remote} are of different families")
