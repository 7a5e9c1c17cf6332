"""Derived properties of sites: identifiers, addresses of both tunnel ends, MTU.

The tunnel of the k-th site has 10.255.k.2 and fd00:255:k::2 at the site's end, 10.255.k.1 and fd00:255:k::1 at the
proxy's end.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from oxyctl.topology.addresses import Interface
from oxyctl.topology.links import mtu_of
from oxyctl.topology.model import ErrorAt, Lab
from oxyctl.topology.nodes import GreSiteNode, GueSiteNode, ProxyNode, SiteNode
from proxy.wire.gue import Context, header

Assigned = Mapping[str, Mapping[str, Sequence[Interface]]]
ETHERNET_MTU = 1500
IP_BYTES, UDP_BYTES, GRE_BYTES, GRE_WORD = {4: 20, 6: 40}, 8, 4, 4  # RFC 791, 8200, 768, 2784
INNER_PREFIX = {4: 30, 6: 64}
MIN_IPV6_MTU = 1280  # RFC 8200 section 5


def sites_of(lab: Lab) -> dict[str, SiteNode]:
    """All sites, in the order of the file."""
    return {name: node for name, node in lab.nodes.items() if isinstance(node, SiteNode)}


def number_of(lab: Lab, name: str) -> int:
    """The number of a site, from 1."""
    return list(sites_of(lab)).index(name) + 1


def id_of(lab: Lab, name: str) -> int:
    """The site's id in contexts: its number among the tenant's sites, from 1."""
    own = lab.nodes[name]
    assert isinstance(own, SiteNode)
    owner = own.via, own.tenant
    return [other for other, site in sites_of(lab).items() if (site.via, site.tenant) == owner].index(name) + 1


def tenant_id(lab: Lab, proxy: str, tenant: str) -> int:
    """The tenant's id in contexts: set in the file, or the first free number. KeyError: unknown tenant."""
    node = lab.nodes[proxy]
    assert isinstance(node, ProxyNode)
    ids = {name: each.id for name, each in node.tenants.items()}
    taken, number = set(ids.values()), 0
    for name, id_ in ids.items():
        if id_ is None:
            number += 1
            while number in taken:
                number += 1
        if name == tenant:
            return number if id_ is None else id_
    raise KeyError(tenant)


def inner_addresses(lab: Lab, name: str) -> tuple[list[Interface], list[Interface]]:
    """The addresses inside a site's tunnel, one of each family of its LAN: the site's, and the proxy's."""
    number, site = number_of(lab, name), lab.nodes[name]
    assert isinstance(site, SiteNode)
    families = [version for version, text in ((4, site.lan.ipv4), (6, site.lan.ipv6)) if text is not False]
    return (
        [_inner(number, version, 2) for version in families],
        [_inner(number, version, 1) for version in families],
    )


def _inner(number: int, version: int, host: int) -> Interface:
    text = f"10.255.{number}.{host}" if version == 4 else f"fd00:255:{number:x}::{host}"
    return ipaddress.ip_interface(f"{text}/{INNER_PREFIX[version]}")


def outer_family(site: SiteNode, lab: Lab) -> int:
    """The IP version of the outer packets."""
    return site.outer or site.outer_families(lab)[0]


def outer_addresses(lab: Lab, assigned: Assigned, name: str) -> tuple[str, str]:
    """The outer addresses of a site's tunnel: the site's, and the proxy's."""
    site = lab.nodes[name]
    assert isinstance(site, SiteNode)
    assert site.via is not None
    assert site.outer_network is not None
    family = outer_family(site, lab)
    ends = [assigned[node][site.outer_network] for node in (name, site.via)]
    own, proxy = (next(str(each.ip) for each in end if each.version == family) for end in ends)
    return own, proxy


def context_of(lab: Lab, name: str) -> Context:
    """The context in the packets of a site's tunnel, if they have one."""
    site = lab.nodes[name]
    assert isinstance(site, SiteNode)
    token = site.token.encode() if isinstance(site, GueSiteNode) and site.token is not None else None
    return Context(tenant_id(lab, site.via or "", site.tenant), id_of(lab, name), token)


def overhead(lab: Lab, name: str) -> int:
    """Bytes of headers before each packet in the tunnel. The kernel and user space send the same headers."""
    site = lab.nodes[name]
    assert isinstance(site, SiteNode)
    outer = IP_BYTES[outer_family(site, lab)]
    if isinstance(site, GreSiteNode):
        return outer + GRE_BYTES + GRE_WORD * (site.checksum + (site.key is not None))
    assert isinstance(site, GueSiteNode)
    if site.version == 1:
        return outer + UDP_BYTES
    with_context = site.may_have_context and site.tunnel != "kernel"
    return outer + UDP_BYTES + len(header(4, context_of(lab, name) if with_context else None))


def automatic_mtu(lab: Lab, name: str) -> int:
    """The size in bytes of the longest packet that a site's tunnel carries unfragmented."""
    site = lab.nodes[name]
    assert isinstance(site, SiteNode)
    assert site.outer_network is not None
    links = [mtu_of(lab, node, site.outer_network) or ETHERNET_MTU for node in (name, site.via or "")]
    return min(links) - overhead(lab, name)


def check_mtu(lab: Lab, name: str, error_at: ErrorAt) -> None:
    """Raise `error_at(...)` for an MTU that is too large for a site's tunnel, or too small for IPv6."""
    site = lab.nodes[name]
    assert isinstance(site, SiteNode)
    limit = automatic_mtu(lab, name)
    if site.mtu is not None and site.mtu > limit:
        raise error_at(f"the tunnel carries at most {limit} bytes here", "mtu")
    if (site.mtu or limit) < MIN_IPV6_MTU and site.lan.ipv6 is not False:
        raise error_at(f"IPv6 needs an MTU of at least {MIN_IPV6_MTU}: set it, or `lan: {{ipv6: false}}`", "mtu")
