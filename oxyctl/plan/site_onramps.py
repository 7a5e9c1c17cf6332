"""The part of `proxy.yaml` about sites: on-ramps with their sites, and the routes of tenants' virtual networks.

If a virtual network has sites and its tenant sets no routes, its routes are: each LAN to its site, the addresses of
clients to `clients`, everything else out of the proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import msgspec

from oxyctl.plan.draft import Draft
from oxyctl.plan.site_tunnels import FIRST_EDGE_PORT, LOOPBACK, edge_token, endpoint, tunnel_of
from oxyctl.plan.steps import SiteTunnel
from oxyctl.topology.addresses import CLIENT_SUBNETS
from oxyctl.topology.model import Lab
from oxyctl.topology.nodes import GueSiteNode, SiteNode, WarpNode
from oxyctl.topology.sites import context_of, inner_addresses, number_of, sites_of, tenant_id
from proxy.settings import GueOnRamp, NetworkSettings, Probe, Route, Site, TenantSettings
from proxy.settings.parts import EVERYWHERE
from proxy.settings.sites import SITE
from proxy.wire.gue import PORT


def on_ramps(proxy: str, draft: Draft) -> list[GueOnRamp]:
    """The on-ramps of `proxy`: one for each address that its sites send to; the edge's agent sends to loopback."""
    ramps: dict[str, list[Site]] = {}
    for name, node in sites_of(draft.lab).items():
        if node.via == proxy:
            tunnel = tunnel_of(name, node, draft)
            listen = LOOPBACK if tunnel.edge else tunnel.outer[1]
            ramps.setdefault(listen, []).append(_site(tunnel, node, draft))
    return [GueOnRamp(listen=endpoint(address, PORT), sites=sites) for address, sites in ramps.items()]


def _site(tunnel: SiteTunnel, node: SiteNode, draft: Draft) -> Site:
    lab, name = draft.lab, tunnel.site
    own, proxy = inner_addresses(lab, name)
    context = context_of(lab, name)
    has_context = tunnel.edge is not None or (
        isinstance(node, GueSiteNode) and node.may_have_context and tunnel.by == "user space"
    )
    token = edge_token(draft, name) if tunnel.edge else node.token if isinstance(node, GueSiteNode) else None
    peer = (LOOPBACK, FIRST_EDGE_PORT + number_of(lab, name)) if tunnel.edge else (tunnel.outer[0], PORT)
    probing = node.probing
    return Site(
        name=name,
        tenant=node.tenant,
        network=node.network,
        id=context.site,
        peers=[endpoint(*peer)],
        prefixes=[*lan_prefixes(node), *(host_prefix(str(each.ip)) for each in own)],
        context="required" if has_context else "none",
        version=node.version if isinstance(node, GueSiteNode) else 0,
        token=token if has_context else None,
        mtu=tunnel.mtu,
        status=str(draft.sites_status) if "user space" in (tunnel.by, tunnel.edge) else None,
        probe=None
        if probing is None
        else Probe(
            address=str(own[0].ip), source=str(proxy[0].ip), every_s=probing.every_s, timeout_s=probing.timeout_s
        ),
    )


def tenant_settings(proxy: str, name: str, settings: TenantSettings, lab: Lab) -> TenantSettings:
    """The settings of the tenant, with its id for contexts and its routes if the proxy has sites."""
    own = [site for site in sites_of(lab).values() if site.via == proxy]
    if not own:
        return settings
    networks = dict(settings.networks)
    for network in dict.fromkeys(site.network for site in own if site.tenant == name):
        if not (network in networks and networks[network].routes):
            networks[network] = NetworkSettings(routes=list(_routes(proxy, name, network, lab)))
    return msgspec.structs.replace(settings, id=tenant_id(lab, proxy, name), networks=networks)


def _routes(proxy: str, tenant: str, network: str, lab: Lab) -> Iterator[Route]:
    for name, site in sites_of(lab).items():
        if (site.via, site.tenant, site.network) == (proxy, tenant, network):
            own = [host_prefix(str(each.ip)) for each in inner_addresses(lab, name)[0]]
            for prefix in [*lan_prefixes(site), *own]:
                yield Route(prefix=prefix, via=SITE + name, priority=site.priority, weight=site.weight)
    for prefix in client_prefixes(proxy, tenant, network, lab):
        yield Route(prefix=prefix, via="clients")
    for prefix in EVERYWHERE:
        yield Route(prefix=prefix, via="kernel")


def client_prefixes(proxy: str, tenant: str, network: str, lab: Lab) -> list[str]:
    """Prefixes of a tenant's clients: the subnets for chosen addresses, and each other address."""
    given = [
        ipaddress.ip_address(text)
        for node in lab.nodes.values()
        if isinstance(node, WarpNode) and (node.proxy, node.tenant, node.network) == (proxy, tenant, network)
        for text in node.addresses
    ]
    others = [str(each) for each in given if not any(each in subnet for subnet in CLIENT_SUBNETS)]
    return [*map(str, CLIENT_SUBNETS), *map(host_prefix, dict.fromkeys(others))]


def lan_prefixes(site: SiteNode) -> list[str]:
    """The subnets of a site's LAN."""
    return [str(ipaddress.ip_network(text)) for text in (site.lan.ipv4, site.lan.ipv6) if isinstance(text, str)]


def host_prefix(address: str) -> str:
    """The prefix that contains only `address`."""
    return f"{address}/{128 if ':' in address else 32}"
