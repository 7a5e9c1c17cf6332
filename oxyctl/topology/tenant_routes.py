"""Validates the routes of a proxy's tenants: prefixes, and next hops, which must be the tenant's own."""

from __future__ import annotations

import ipaddress

from oxyctl.topology.model import ErrorAt, Lab
from oxyctl.topology.nodes import ProxyNode
from oxyctl.topology.sites import sites_of
from proxy.settings import suggest
from proxy.settings.sites import NEXT_HOPS, SITE


def check_routes(proxy: str, node: ProxyNode, lab: Lab, error_at: ErrorAt) -> None:
    """Raise `error_at(...)` for the first invalid route of a tenant of `proxy`."""
    for tenant, settings in node.tenants.items():
        for network, network_settings in settings.networks.items():
            sites = {
                SITE + name: (site.tenant, site.network) for name, site in sites_of(lab).items() if site.via == proxy
            }
            own = [via for via, owner in sites.items() if owner == (tenant, network)]
            for number, route in enumerate(network_settings.routes):
                key_path = ("tenants", tenant, "networks", network, "routes", number)
                try:
                    ipaddress.ip_network(route.prefix)
                except ValueError as error:
                    raise error_at(f"not a prefix: {error}", *key_path, "prefix") from None
                known = [*NEXT_HOPS, *own]
                if route.via in known:
                    continue
                fault = f"unknown next hop '{route.via}'{suggest(route.via, known)}"
                if route.via in sites:
                    owner, owner_network = sites[route.via]
                    fault = f"'{route.via}' is a site of tenant '{owner}', network '{owner_network}'"
                raise error_at(fault, *key_path, "via")
