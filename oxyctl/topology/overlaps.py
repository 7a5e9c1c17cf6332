"""Overlapping subnets, which are allowed as long as no node has routes to both.

A proxy may have both when each of its tenants is bound to a network: it then never chooses a network by address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oxyctl.topology.addresses import Subnet
from oxyctl.topology.model import Lab, Node
from oxyctl.topology.nodes import ProxyNode
from oxyctl.topology.shortest_paths import regions


def overlap_conflict(lab: Lab, network: str, other: str) -> str | None:
    """Why subnets of `network` and `other` must not overlap, to complete a message; None: they may."""
    if network == other:
        return "and it is the same network"
    region = regions(lab)
    if region[network] == region[other]:
        return "and routers connect the two"
    for name, node in lab.nodes.items():
        own = {region[attached] for attached in node.attached if attached in region}
        if {region[network], region[other]} <= own and not _chooses_by_tenant(node):
            advice = "; set the `network` of each of its tenants" if isinstance(node, ProxyNode) else ""
            return f"and node '{name}' is in both{advice}"
    return None


def overlapping(known: Mapping[str, Sequence[Subnet]], subnet: Subnet) -> list[tuple[str, Subnet]]:
    """The subnets that `subnet` overlaps, with their networks."""
    return [
        (network, earlier)
        for network, subnets in known.items()
        for earlier in subnets
        if earlier.version == subnet.version and earlier.overlaps(subnet)
    ]


def _chooses_by_tenant(node: Node) -> bool:
    return isinstance(node, ProxyNode) and all(tenant.network is not None for tenant in node.tenants.values())
