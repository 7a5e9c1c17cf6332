"""Plans a site's router: its namespace, and its tunnel to the proxy, by `plan.site_tunnels`."""

from __future__ import annotations

from oxyctl.plan.draft import Draft
from oxyctl.plan.site_tunnels import plan_tunnel
from oxyctl.topology.nodes import SiteNode


def plan_site(name: str, node: SiteNode, draft: Draft) -> None:
    """Add the router's namespace and both ends of its tunnel to the draft."""
    plan_tunnel(name, node, draft)
