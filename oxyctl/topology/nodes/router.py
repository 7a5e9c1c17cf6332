"""A router: forwards packets of both families between the networks that it is in."""

from __future__ import annotations

from msgspec import field

from oxyctl.topology.model import Complaint, Lab, Networks, Node


class RouterNode(Node, kw_only=True, frozen=True, tag="router"):
    """It knows the shortest way to every network that other routers lead to; `routes` come before what it knows."""

    networks: Networks = field(default_factory=dict)

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """A router of one network would have nothing to do."""
        if len(self.attached) < 2:
            raise complain("a router needs two networks or more", "networks")
        if self.restart != "never":
            raise complain("a router is the kernel's work: it has no program that could be started again", "restart")
