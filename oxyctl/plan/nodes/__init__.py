"""The planners, one for each kind of node: each adds steps to a draft. A new kind is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oxyctl.plan.draft import Draft
from oxyctl.plan.nodes.process import plan_process
from oxyctl.plan.nodes.proxy import plan_proxy
from oxyctl.plan.nodes.router import plan_router
from oxyctl.plan.nodes.site import plan_site
from oxyctl.plan.nodes.upstream import plan_upstream
from oxyctl.plan.nodes.warp import plan_warp
from oxyctl.topology.model import Node
from oxyctl.topology.nodes import ProcessNode, ProxyNode, RouterNode, SiteNode, UpstreamNode, WarpNode

Planner = Callable[[str, Any, Draft], None]  # node's name, its definition, draft to add to

PLANNERS: dict[type[Node], Planner] = {
    ProcessNode: plan_process,
    ProxyNode: plan_proxy,
    RouterNode: plan_router,
    SiteNode: plan_site,
    UpstreamNode: plan_upstream,
    WarpNode: plan_warp,
}


def plan_node(name: str, node: Node, draft: Draft) -> None:
    """Add the steps for the node `name` to `draft`, with the planner of its class or nearest base class."""
    planner = next(PLANNERS[kind] for kind in type(node).__mro__ if kind in PLANNERS)
    planner(name, node, draft)
