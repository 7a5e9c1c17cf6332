"""A router: forwards packets of both families between the networks that it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import field

from oxyctl.lab.steps import Services
from oxyctl.nodes.base import Complaint, Networks, Node

if TYPE_CHECKING:
    from oxyctl.lab.model import Lab
    from oxyctl.lab.plan import Draft

SYSCTLS = {
    "net/ipv4/ip_forward": ["1"],
    "net/ipv6/conf/all/forwarding": ["1"],
}


class RouterNode(Node, kw_only=True, frozen=True, tag="router"):
    """It knows the shortest way to every network that other routers lead to; `routes` come before what it knows."""

    networks: Networks = field(default_factory=dict)

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """A router of one network would have nothing to do."""
        if len(self.attached) < 2:
            raise complain("a router needs two networks or more", "networks")
        if self.restart != "never":
            raise complain("a router is the kernel's work: it has no program that could be started again", "restart")

    def plan(self, name: str, draft: Draft) -> None:
        """A namespace that forwards; nothing runs there but the lab's resolver, which serves every node."""
        draft.add_namespace(name, SYSCTLS)
        draft.add_node(name, self.kind, process="names", probe=Services(addresses=[], services={}))
