"""The routes of each node beyond its own networks: those in the lab file, and those derived from it.

A host's default route goes to the gateway of its networks, or to the only router on them. With several routers, and on
routers themselves, there is a route to each network behind them: the shortest, and of equal ones the first in the file.
A node's own `routes` precede both. On a proxy whose tenants are bound to networks, each network has its own routes:
they never lead into another network.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator, Sequence

from oxyctl.topology.addresses import Subnet
from oxyctl.topology.model import KeyPath, Lab
from oxyctl.topology.nodes import ProxyNode, RouterNode, SiteNode, WarpNode
from oxyctl.topology.routes import EVERYTHING, Assigned, Hop, RouteError
from oxyctl.topology.routing_loops import check_loops
from oxyctl.topology.shortest_paths import NextHop, shortest_paths
from proxy.settings import suggest


def find_routes(lab: Lab, assigned: Assigned) -> dict[str, list[Hop]]:
    """The routes of each node. RouteError: one is invalid, or part of a loop."""
    for network in lab.networks:
        _check_gateway(lab, network, assigned)
    result = {name: _routes_of(lab, name, assigned) for name in lab.nodes}
    check_loops(lab, assigned, result)
    return result


def _routes_of(lab: Lab, name: str, assigned: Assigned) -> list[Hop]:
    domains = _routing_domains(lab, name)
    static = [hop for index in range(len(lab.nodes[name].routes)) for hop in _static_routes(lab, name, index, assigned)]
    result: list[Hop] = []
    for number, networks in enumerate(domains):
        metric = 100 + number if len(domains) > 1 else 0
        own = [hop for hop in static if hop.network in networks]
        interfaces = [interface for network in networks for interface in assigned[name][network]]
        connected, addresses = {each.network for each in interfaces}, {str(each.ip) for each in interfaces}
        known: dict[Subnet, Hop] = {}
        for hop in [*own, *_default(lab, name, networks, assigned), *_shortest(lab, name, networks, assigned)]:
            if hop.key_path is not None and (hop.to in connected or hop.to in known):
                fault = "is a network of the node itself" if hop.to in connected else "already has a route"
                raise RouteError(f"{hop.to} {fault}", *hop.key_path, "to")
            if hop.to not in connected and hop.via not in addresses:  # not on the gateway itself
                known.setdefault(hop.to, dataclasses.replace(hop, metric=metric))
        result += known.values()
    return result


def _routing_domains(lab: Lab, name: str) -> list[list[str]]:
    """Groups of the node's networks between which it may choose by address."""
    node = lab.nodes[name]
    networks = list(node.attached)
    is_bound = isinstance(node, ProxyNode) and any(tenant.network is not None for tenant in node.tenants.values())
    return [[network] for network in networks] if is_bound else [networks]


def _default(lab: Lab, name: str, networks: Sequence[str], assigned: Assigned) -> Iterator[Hop]:
    """The default routes, one for each family that both the node and its gateway have."""
    next_hop = _gateway(lab, name, networks)
    if next_hop is not None:
        own = {interface.version for interface in assigned[name][next_hop.network]}
        for to in EVERYTHING:
            if to.version in own and (via := _address(assigned, next_hop, to.version)):
                yield Hop(to, next_hop.network, via)


def _gateway(lab: Lab, name: str, networks: Sequence[str]) -> NextHop | None:
    if isinstance(lab.nodes[name], RouterNode | WarpNode | SiteNode):  # a site's default route is its tunnel
        return None
    for network in networks:
        gateway = lab.networks[network].gateway
        if isinstance(gateway, str) and gateway != name:
            return NextHop(gateway, network)
    routers = {next_hop.router: next_hop for next_hop in reversed(_routers(lab, name, networks))}
    return next(iter(routers.values())) if len(routers) == 1 else None


def _routers(lab: Lab, name: str, networks: Sequence[str]) -> list[NextHop]:
    """The routers on these networks, except those that a host must not use."""
    is_router = isinstance(lab.nodes[name], RouterNode)
    return [
        NextHop(other, network)
        for network in networks
        for other, node in lab.nodes.items()
        if other != name and isinstance(node, RouterNode) and network in node.attached
        if is_router or lab.networks[network].gateway is not False
    ]


def _shortest(lab: Lab, name: str, networks: Sequence[str], assigned: Assigned) -> Iterator[Hop]:
    """The routes to networks behind routers, for nodes without a default gateway."""
    if isinstance(lab.nodes[name], WarpNode) or _gateway(lab, name, networks) is not None:
        return
    for network, next_hop in shortest_paths(lab, _routers(lab, name, networks), networks):
        own = {interface.version for interface in assigned[name][next_hop.network]}
        for text in lab.networks[network].subnets:
            to = ipaddress.ip_network(text)
            if to.version in own and (via := _address(assigned, next_hop, to.version)):
                yield Hop(to, next_hop.network, via)


def _address(assigned: Assigned, next_hop: NextHop, version: int) -> str | None:
    """The next hop's address in this family; `next_hop` has a node's name, or an address."""
    if next_hop.router not in assigned:
        return next_hop.router if ipaddress.ip_address(next_hop.router).version == version else None
    own = assigned[next_hop.router].get(next_hop.network, ())
    return next((str(interface.ip) for interface in own if interface.version == version), None)


def _static_routes(lab: Lab, name: str, index: int, assigned: Assigned) -> Iterator[Hop]:
    route, key_path = lab.nodes[name].routes[index], ("nodes", name, "routes", index)
    next_hop = _next_hop(lab, name, route.via, assigned, (*key_path, "via"))
    is_reachable = False
    for to in _destinations(lab, route.to, (*key_path, "to")):
        if via := _address(assigned, next_hop, to.version):
            is_reachable = True
            yield Hop(to, next_hop.network, via, key_path)
    if not is_reachable:
        raise RouteError(f"'{route.via}' has no address of that family here", *key_path, "via")


def _destinations(lab: Lab, text: str, key_path: KeyPath) -> Sequence[Subnet]:
    if text == "default":
        return EVERYTHING
    if text in lab.networks:
        return [ipaddress.ip_network(subnet) for subnet in lab.networks[text].subnets]
    try:
        return [ipaddress.ip_network(text)]
    except ValueError as error:
        if any(mark in text for mark in ".:/"):
            raise RouteError(f"not a prefix: {error}", *key_path) from None
        unknown = f"unknown network '{text}'{suggest(text, [*lab.networks, 'default'])}"
        raise RouteError(unknown, *key_path) from None


def _next_hop(lab: Lab, name: str, via: str, assigned: Assigned, key_path: KeyPath) -> NextHop:
    own = assigned[name]
    if via in lab.nodes:
        shared = [network for network in own if network in assigned[via]]
        if via == name or not shared:
            fault = "is the node itself" if via == name else f"is in no network of node '{name}'"
            raise RouteError(f"node '{via}' {fault}", *key_path)
        return NextHop(via, shared[0])
    try:
        address = ipaddress.ip_address(via)
    except ValueError:
        raise RouteError(f"unknown node '{via}'{suggest(via, set(lab.nodes) - {name})}", *key_path) from None
    for network, interfaces in own.items():
        if any(address in interface.network for interface in interfaces):
            if any(address == interface.ip for interface in interfaces):
                raise RouteError(f"{via} is an address of node '{name}' itself", *key_path)
            return NextHop(via, network)
    raise RouteError(f"{via} is in no network of node '{name}'", *key_path)


def _check_gateway(lab: Lab, network: str, assigned: Assigned) -> None:
    gateway, key_path = lab.networks[network].gateway, ("networks", network, "gateway")
    if gateway is True:
        raise RouteError("the gateway is a node, an address, or false", *key_path)
    if not isinstance(gateway, str):
        return
    members = [name for name in lab.nodes if network in assigned[name]]
    if gateway in lab.nodes:
        if gateway not in members:
            raise RouteError(f"node '{gateway}' is not in network '{network}'", *key_path)
        return
    try:
        address = ipaddress.ip_address(gateway)
    except ValueError:
        raise RouteError(f"unknown node '{gateway}'{suggest(gateway, members)}", *key_path) from None
    if not any(address in ipaddress.ip_network(subnet) for subnet in lab.networks[network].subnets):
        raise RouteError(f"{gateway} is outside network '{network}'", *key_path)
