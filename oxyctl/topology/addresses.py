"""Addresses of nodes: those in the lab file, and the first free ones for nodes that have none there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from oxyctl.topology.model import Lab
from oxyctl.topology.nodes import WarpNode

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

# WARP devices get addresses from 100.96.0.0/12; the first of each subnet is reserved for the proxy
CLIENT_SUBNETS: Sequence[Subnet] = (ipaddress.ip_network("100.96.0.0/12"), ipaddress.ip_network("fd00:96::/64"))
FIRST_CLIENT = 2


class SubnetFull(Exception):
    """No address is left for `node` in `network`."""

    def __init__(self, node: str, network: str) -> None:
        super().__init__(f"no address is left in network '{network}'")
        self.node, self.network = node, network


def assign(lab: Lab) -> dict[str, dict[str, list[Interface]]]:
    """The addresses by node and network. The same lab always gives the same ones.

    Nodes get the first free addresses in the order of the file. SubnetFull: a network has none left.
    """
    result: dict[str, dict[str, list[Interface]]] = {name: {} for name in lab.nodes}
    for network, definition in lab.networks.items():
        subnets = [ipaddress.ip_network(subnet) for subnet in definition.subnets]
        members = {name: node.attached[network] for name, node in lab.nodes.items() if network in node.attached}
        taken = {ipaddress.ip_address(text) for given in members.values() for text in given}
        free = _free(subnets, taken)
        for name, given in members.items():
            if given:
                result[name][network] = [_within(subnets, ipaddress.ip_address(text)) for text in given]
            elif (chosen := next(free, None)) is not None:
                result[name][network] = chosen
            else:
                raise SubnetFull(name, network)
    return result


def assign_clients(lab: Lab) -> dict[str, list[str]]:
    """The addresses inside the tunnel, by client. Clients of different tenants or networks may have the same ones."""
    clients = {name: node for name, node in lab.nodes.items() if isinstance(node, WarpNode)}
    free: dict[tuple[str, str, str], Iterator[list[Interface]]] = {}
    for node in clients.values():
        group = node.proxy, node.tenant, node.network
        if group not in free:
            members = [other for other in clients.values() if (other.proxy, other.tenant, other.network) == group]
            given = (text for other in members for text in other.addresses)
            free[group] = _free(CLIENT_SUBNETS, {ipaddress.ip_address(text) for text in given}, FIRST_CLIENT)
    return {
        name: node.addresses or [str(chosen.ip) for chosen in next(free[node.proxy, node.tenant, node.network])]
        for name, node in clients.items()
    }


def _free(subnets: Sequence[Subnet], taken: Iterable[Address], first: int = 1) -> Iterator[list[Interface]]:
    """Free addresses: one of each subnet, with the same host number in all of them: 10.0.0.3 and fd00::3."""
    occupied = set(taken)
    for number in count(first):
        chosen = []
        for subnet in subnets:
            last = subnet.num_addresses - (2 if subnet.version == 4 else 1)  # IPv4: the last is broadcast
            if number > last:
                return
            chosen.append(ipaddress.ip_interface(f"{subnet[number]}/{subnet.prefixlen}"))
        if not any(interface.ip in occupied for interface in chosen):
            yield chosen


def _within(subnets: Sequence[Subnet], address: Address) -> Interface:
    subnet = next(subnet for subnet in subnets if address in subnet)
    return ipaddress.ip_interface(f"{address}/{subnet.prefixlen}")
