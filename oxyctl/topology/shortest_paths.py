"""Shortest paths through routers, and which networks can reach each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from oxyctl.topology.model import Lab
from oxyctl.topology.nodes import RouterNode


class NextHop(NamedTuple):
    """A router (or an address) on a network."""

    router: str
    network: str


def shortest_paths(lab: Lab, first: Sequence[NextHop], known: Sequence[str]) -> Iterator[tuple[str, NextHop]]:
    """Each network that is not `known`, and the next hop of the shortest path to it; of equal paths the first."""
    routers = {name: node for name, node in lab.nodes.items() if isinstance(node, RouterNode)}
    networks, visited = set(known), set[str]()
    frontier = [(next_hop.router, next_hop) for next_hop in first]
    while frontier:
        reached: list[tuple[str, NextHop]] = []
        for router, next_hop in frontier:
            if router in visited:
                continue
            visited.add(router)
            for network in routers[router].attached:
                if network not in networks:
                    networks.add(network)
                    reached.append((network, next_hop))
        yield from reached
        frontier = [
            (name, next_hop)
            for network, next_hop in reached
            for name, node in routers.items()
            if network in node.attached
        ]


def regions(lab: Lab) -> dict[str, str]:
    """For each network, the name of its region: the first of the networks that routers connect it with."""
    result = {network: network for network in lab.networks}
    for node in lab.nodes.values():
        if isinstance(node, RouterNode):
            joined = {result[network] for network in node.attached}
            first = next(network for network in lab.networks if result[network] in joined)
            result = {network: result[first] if region in joined else region for network, region in result.items()}
    return result
