"""A WARP-like client: a TUN device in its own namespace, and an agent that moves packets between it and a proxy."""

from __future__ import annotations

import ipaddress

from msgspec import field

from oxyctl.topology.model import ErrorAt, Impaired, Lab, Node
from oxyctl.topology.nodes.proxy import ProxyNode
from oxyctl.topology.nodes.upstream import Port, check_services
from proxy.context import Mtu, Posture
from proxy.settings import suggest

MIN_IPV6_MTU = 1280  # RFC 8200 section 5


class WarpNode(Node, kw_only=True, frozen=True, tag="warp"):
    """A device of `tenant`. Without `addresses` it gets one of each family; without `token`, the tenant's."""

    proxy: str
    tenant: str
    user: str | None = None
    device: str | None = None
    groups: list[str] = field(default_factory=list)  # of the user
    posture: Posture | None = None  # checks of the device that have passed or failed
    token: str | None = None
    addresses: list[str] = field(default_factory=list)
    mtu: Mtu = 1280
    offload: bool = True
    network: str = "default"  # a virtual network of the tenant
    services: dict[str, Port] = field(default_factory=dict)
    tunnel: Impaired = Impaired()

    def check(self, name: str, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an unknown proxy, tenant or network, or an address that is not the tenant's."""
        proxy = lab.nodes.get(self.proxy)
        if not isinstance(proxy, ProxyNode):
            proxies = [other for other, node in lab.nodes.items() if isinstance(node, ProxyNode)]
            fault = f"unknown node '{self.proxy}'" if proxy is None else f"node '{self.proxy}' is not a proxy"
            raise error_at(fault + suggest(self.proxy, proxies), "proxy")
        tenant = proxy.tenants.get(self.tenant)
        if tenant is None:
            unknown = f"proxy '{self.proxy}' has no tenant '{self.tenant}'"
            raise error_at(unknown + suggest(self.tenant, proxy.tenants), "tenant")
        if self.network not in (known := {"default", *tenant.networks}):
            unknown = f"tenant '{self.tenant}' has no network '{self.network}'{suggest(self.network, known)}"
            raise error_at(unknown, "network")
        check_services(self.services, error_at)
        prefixes = [ipaddress.ip_network(prefix) for prefix in tenant.prefixes]
        for index, text in enumerate(self.addresses):
            address = _parse(text, error_at, index)
            if not any(address in prefix for prefix in prefixes):
                raise error_at(f"{text} is in no prefix of tenant '{self.tenant}'", "addresses", index)
            if address.version == 6 and self.mtu < MIN_IPV6_MTU:
                raise error_at(f"IPv6 needs an MTU of at least {MIN_IPV6_MTU}", "mtu")


def _parse(text: str, error_at: ErrorAt, index: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise error_at(f"not an address: {error}", "addresses", index) from None
