"""Plans a router: a namespace that forwards."""

from __future__ import annotations

from oxyctl.plan.draft import FORWARDING, Draft
from oxyctl.plan.steps import Services
from oxyctl.topology.nodes import RouterNode


def plan_router(name: str, node: RouterNode, draft: Draft) -> None:
    """Add a namespace that forwards. The only program in it is the lab's resolver, which serves every node."""
    draft.add_namespace(name, FORWARDING)
    draft.add_node(name, node.kind, process="names", probe=Services(addresses=[], services={}))
