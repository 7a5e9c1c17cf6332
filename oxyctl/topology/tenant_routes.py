"""Validates the routes of a proxy's tenants: prefixes, and next hops, which must be the tenant's own."""

from __future__ import annotations

import ipaddress

from oxyctl.topology.model import Complaint, Lab
from oxyctl.topology.nodes import ProxyNode
from oxyctl.topology.sites import sites_of
from proxy.settings import suggest
from proxy.settings.sites import NEXT_HOPS, SITE


def check_routes(proxy: str, node: ProxyNode, lab: Lab, complain: Complaint) -> None:
    """Raise `complain(...)` for the first invalid route of a tenant of `proxy`."""
    for tenant, said in node.tenants.items():
        for network, parts in said.networks.items():
            sites = {
                SITE + name: (site.tenant, site.network) for name, site in sites_of(lab).items() if site.via == proxy
            }
            mine = [via for via, whose in sites.items() if whose == (tenant, network)]
            for number, route in enumerate(parts.routes):
                place = ("tenants", tenant, "networks", network, "routes", number)
                try:
                    ipaddress.ip_network(route.prefix)
                except ValueError as error:
                    raise complain(f"not a prefix: {error}", *place, "prefix") from None
                known = [*NEXT_HOPS, *mine]
                if route.via in known:
                    continue
                fault = f"unknown next hop '{route.via}'{suggest(route.via, known)}"
                if route.via in sites:
                    whose, where = sites[route.via]
                    fault = f"'{route.via}' is a site of tenant '{whose}', network '{where}'"
                raise complain(fault, *place, "via")
