"""Choose the route of each flow: `hooks: "examples.routing:ByDepartment"` in proxy.yaml."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from proxy.hooks import FlowContext, Hooks, Verdict

FINANCE = ip_network("100.96.8.0/24")
PAYMENTS = {443, 8443}
OLD_WIKI, NEW_WIKI = "203.0.113.80", ("203.0.113.90", 8080)


class ByDepartment(Hooks):
    """Sends Finance's payments through the site in Berlin, regardless of routes; redirects the old wiki."""

    async def route(self, flow: FlowContext) -> str | Verdict | None:
        if flow.dst == OLD_WIKI and flow.protocol == "tcp":
            return Verdict(origin=NEW_WIKI, reason="the wiki has moved")
        if ip_address(flow.src) in FINANCE and flow.dst_port in PAYMENTS:
            return "site:berlin"
        return None
