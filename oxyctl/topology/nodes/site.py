"""A site: a customer's network behind a tunnel to the proxy. Shared by GRE sites and GUE sites.

    hosts (NAME-HOST) -- LAN (NAME-lan) -- site router (NAME) == tunnel == proxy

`oxyctl.topology.expand_sites` expands the network and the hosts before validation; from then on they are an ordinary
network and ordinary nodes. `oxyctl.plan.site_tunnels` plans the tunnel itself.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from msgspec import Meta, field

from oxyctl.topology.choices import Trust
from oxyctl.topology.model import Attachment, ErrorAt, Impaired, KeyPath, Lab, Node, Part
from oxyctl.topology.nodes.proxy import ProxyNode
from proxy.settings import suggest

Port = Annotated[int, Meta(ge=1, le=65_535)]
Seconds = Annotated[float, Meta(ge=0.05, le=60)]
TunnelMtu = Annotated[int, Meta(ge=576, le=65_535)]  # RFC 791: every host accepts this size
By = Literal["kernel", "userspace", "auto"]
DEFAULT_SERVICES = ["http", "echo"]
MAX_SITES = 255  # each has a subnet of INNER
INNER = (ipaddress.ip_network("10.255.0.0/16"), ipaddress.ip_network("fd00:255::/32"))  # addresses of tunnels


class Lan(Impaired, frozen=True):
    """The network behind a site's router. Missing subnets are chosen; `false` disables a family."""

    name: str | None = None  # of the network; NAME-lan by default
    ipv4: str | bool = True
    ipv6: str | bool = True
    router: list[str] = field(default_factory=list)  # the addresses of the site's router
    mtu: Annotated[int, Meta(ge=68, le=65_535)] | None = None


class SiteHost(Part, frozen=True):
    """A host on the LAN: the node NAME-HOST, of kind `upstream`."""

    services: list[str] | dict[str, Port] = field(default_factory=lambda: list(DEFAULT_SERVICES))
    addresses: list[str] = field(default_factory=list)
    root: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    trust: Trust | None = None


class TunnelProbe(Part, frozen=True):
    """How often each end sends an echo request through the tunnel, and how long it waits for the answer."""

    every_s: Seconds = 0.3
    timeout_s: Seconds = 1.0


class SiteNode(Node, kw_only=True, frozen=True):
    """The site's router; `lan` becomes a network, `hosts` become nodes."""

    tenant: str
    via: str | None = None  # the proxy; by default the only one
    on: str | dict[str, list[str] | Attachment] | None = None  # by default the proxy's only network
    lan: Lan = Lan()
    hosts: dict[str, SiteHost] = field(default_factory=dict)
    outer: Literal[4, 6] | None = None  # IP version of the outer packets; by default 4 if both ends have it
    tunnel: By = "auto"
    network: str = "default"  # a virtual network of the tenant
    mtu: TunnelMtu | None = None
    priority: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)] = 100
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    probe: TunnelProbe | bool = TunnelProbe()

    @property
    def attached(self) -> dict[str, list[str]]:
        """The network of the tunnel, then the LAN."""
        on = self.outer_network
        outer = {} if on is None else {on: self.attachment(on).addresses}
        return outer | ({} if self.lan.name is None else {self.lan.name: self.lan.router})

    def attachment(self, network: str) -> Attachment:
        """The settings of its link to `network`; the LAN's impairments apply to all its links."""
        setting = self.on[network] if isinstance(self.on, dict) and network in self.on else []
        return setting if isinstance(setting, Attachment) else Attachment(addresses=setting)

    def key_path_of(self, network: str) -> KeyPath:
        """Its link's place in the file: `on` for the network of the tunnel, `lan` for the LAN."""
        if network == self.lan.name:
            return ("lan",)
        return ("on", network) if isinstance(self.on, dict) else ("on",)

    def addresses_key_path(self, network: str) -> KeyPath:
        """The place of its addresses in `network` in the file."""
        if network == self.lan.name:
            return ("lan", "router")
        is_long = isinstance(self.on, dict) and isinstance(self.on.get(network), Attachment)
        return (*self.key_path_of(network), "addresses") if is_long else self.key_path_of(network)

    @property
    def outer_network(self) -> str | None:
        """The lab network that carries the tunnel."""
        return next(iter(self.on), None) if isinstance(self.on, dict) else self.on

    @property
    def probing(self) -> TunnelProbe | None:
        """The probing of the tunnel; None: neither end probes."""
        if isinstance(self.probe, TunnelProbe):
            return self.probe
        return TunnelProbe() if self.probe else None

    def outer_families(self, lab: Lab) -> list[int]:
        """The IP versions that both ends of the tunnel have in the network that carries it."""
        network = self.outer_network
        if network is None or self.via is None:
            return []
        subnets = {ipaddress.ip_network(text).version for text in lab.networks[network].subnets}
        ends = [node.attached[network] for node in (self, lab.nodes[self.via])]
        given = [{ipaddress.ip_address(text).version for text in end} or subnets for end in ends]
        return sorted(given[0] & given[1])

    def check(self, name: str, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an unknown proxy, tenant or network, or a LAN that overlaps tunnels."""
        proxy = self._check_proxy(lab, error_at)
        tenant = proxy.tenants.get(self.tenant)
        if tenant is None:
            unknown = f"proxy '{self.via}' has no tenant '{self.tenant}'"
            raise error_at(unknown + suggest(self.tenant, proxy.tenants), "tenant")
        if self.network not in (known := {"default", *tenant.networks}):
            unknown = f"tenant '{self.tenant}' has no network '{self.network}'{suggest(self.network, known)}"
            raise error_at(unknown, "network")
        self._check_outer(proxy, lab, error_at)
        self._check_lan(lab, error_at)
        sites = [other for other, node in lab.nodes.items() if isinstance(node, SiteNode)]
        if len(sites) > MAX_SITES and sites.index(name) == MAX_SITES:
            raise error_at(f"more than {MAX_SITES} sites", at_key=True)

    def _check_proxy(self, lab: Lab, error_at: ErrorAt) -> ProxyNode:
        proxies = {other: node for other, node in lab.nodes.items() if isinstance(node, ProxyNode)}
        if self.via is None:
            what = f"several proxies: {', '.join(proxies)}; name one of them" if proxies else "no proxy"
            raise error_at(f"the lab has {what}", "via")
        if self.via not in proxies:
            fault = f"node '{self.via}' is not a proxy" if self.via in lab.nodes else f"unknown node '{self.via}'"
            raise error_at(fault + suggest(self.via, proxies), "via")
        return proxies[self.via]

    def _check_outer(self, proxy: ProxyNode, lab: Lab, error_at: ErrorAt) -> None:
        outer = self.outer_network
        if outer is None or (isinstance(self.on, dict) and len(self.on) != 1):
            known = ", ".join(proxy.attached) or "none"
            raise error_at(f"name the network of the proxy that carries the tunnel ({known})", "on")
        if outer not in proxy.attached:
            known = suggest(outer, proxy.attached)
            raise error_at(f"proxy '{self.via}' is not in network '{outer}'{known}", *self.key_path_of(outer))
        families = self.outer_families(lab)
        if not families or (self.outer is not None and self.outer not in families):
            family = f"IPv{self.outer}" if self.outer else "a common family"
            raise error_at(f"the two ends of the tunnel do not both have {family} in network '{outer}'", "outer")

    def _check_lan(self, lab: Lab, error_at: ErrorAt) -> None:
        for version, text in ((4, self.lan.ipv4), (6, self.lan.ipv6)):
            if not isinstance(text, str):
                continue
            subnet = ipaddress.ip_network(text)
            if subnet.version != version:
                raise error_at(f"{subnet} is not an IPv{version} subnet", "lan", f"ipv{version}")
            for inner in INNER:
                if inner.version == subnet.version and inner.overlaps(subnet):
                    raise error_at(f"{subnet} overlaps {inner}, which tunnels use", "lan", f"ipv{version}")
        if self.lan.ipv4 is False and self.lan.ipv6 is False:
            raise error_at("a LAN needs an IPv4 or an IPv6 subnet", "lan")
