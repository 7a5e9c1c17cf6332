"""Static routes that form a loop, in which packets would circulate until their TTL expires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oxyctl.topology.addresses import Subnet
from oxyctl.topology.model import Lab
from oxyctl.topology.nodes import RouterNode
from oxyctl.topology.routes import Assigned, Hop, RouteError


def check_loops(lab: Lab, assigned: Assigned, routes: Mapping[str, Sequence[Hop]]) -> None:
    """Raise the RouteError for the first route in the file that leads back to its own router."""
    owners = {
        (network, str(interface.ip)): name
        for name, networks in assigned.items()
        for network, interfaces in networks.items()
        for interface in interfaces
    }
    for name in lab.nodes:
        for hop in routes[name]:
            if hop.key_path is not None and isinstance(lab.nodes[name], RouterNode):
                _follow(lab, assigned, routes, owners, name, hop)


def _follow(
    lab: Lab,
    assigned: Assigned,
    routes: Mapping[str, Sequence[Hop]],
    owners: Mapping[tuple[str, str], str],
    start: str,
    first: Hop,
) -> None:
    """Follow packets to `first.to` from router to router. RouteError: they come back to `start`."""
    visited, hop = [start], first
    while True:
        current = owners.get((hop.network, hop.via))
        if (
            current is None
            or not isinstance(lab.nodes[current], RouterNode)
            or _is_connected(assigned, current, first.to)
        ):
            return
        if current in visited:
            break
        visited.append(current)
        following = _best(routes[current], first.to)
        if following is None:
            return
        hop = following
    if current == start:  # a loop further on is reported at one of its own routes
        assert first.key_path is not None
        what = "default routes" if first.to.prefixlen == 0 else f"routes to {first.to}"
        raise RouteError(f"{what} form a loop: {' -> '.join([*visited, current])}", *first.key_path, "via")


def _is_connected(assigned: Assigned, node: str, to: Subnet) -> bool:
    return any(_contains(interface.network, to) for interfaces in assigned[node].values() for interface in interfaces)


def _best(hops: Sequence[Hop], to: Subnet) -> Hop | None:
    """The route with the longest prefix that contains all of `to`."""
    return max((hop for hop in hops if _contains(hop.to, to)), key=lambda hop: hop.to.prefixlen, default=None)


def _contains(wide: Subnet, narrow: Subnet) -> bool:
    if wide.version != narrow.version:
        return False
    return narrow.subnet_of(wide)  # type: ignore[arg-type]  # the versions are equal, as checked above
