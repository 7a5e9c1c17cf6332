"""A router: forwards packets of both families between the networks that it is in."""

from __future__ import annotations

from msgspec import field

from oxyctl.topology.model import Complaint, Lab, Networks, Node


class RouterNode(Node, kw_only=True, frozen=True, tag="router"):
    """It has the shortest routes to all networks behind other routers; its own `routes` precede them."""

    networks: Networks = field(default_factory=dict)

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """Raise `complain(...)` for fewer than two networks, or a restart policy."""
        if len(self.attached) < 2:
            raise complain("a router needs two networks or more", "networks")
        if self.restart != "never":
            raise complain("the kernel does the routing: a router has no program to restart", "restart")
