"""A router: forwards packets of both families between the networks that it is in."""

from __future__ import annotations

from msgspec import field

from oxyctl.topology.model import ErrorAt, Lab, Networks, Node


class RouterNode(Node, kw_only=True, frozen=True, tag="router"):
    """It has the shortest routes to all networks behind other routers; its own `routes` precede them."""

    networks: Networks = field(default_factory=dict)

    def check(self, name: str, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for fewer than two networks, or a restart policy."""
        if len(self.attached) < 2:
            raise error_at("a router needs two networks or more", "networks")
        if self.restart != "never":
            raise error_at("the kernel does the routing: a router has no program to restart", "restart")
