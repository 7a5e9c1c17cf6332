"""What to capture: nodes, single interfaces, networks, or the whole lab; and the properties of each interface."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec

from oxyctl.capture import pcapng
from oxyctl.errors import NothingMatched
from oxyctl.plan.steps import Plan
from proxy.settings import suggest

ALL = "all"
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772  # linux/if_arp.h


class Target(NamedTuple):
    """An interface of a node; None: all except its loopback and the devices of a proxy's kernel off-ramp."""

    node: str
    interface: str | None = None


class Interface(NamedTuple):
    """An existing interface and its properties."""

    node: str
    name: str
    hardware: int  # ARPHRD_*
    mtu: int
    tenant: str | None = None
    namespace: int = 0  # the number of the network namespace

    @property
    def title(self) -> str:
        """`node:interface`."""
        return f"{self.node}:{self.name}"

    @property
    def is_ethernet(self) -> bool:
        """Whether its packets have an Ethernet header; all others begin with an IP header."""
        return self.hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK)

    @property
    def link_type(self) -> int:
        """The pcapng link type."""
        return pcapng.ETHERNET if self.is_ethernet else pcapng.RAW_IP


def resolve(texts: Iterable[str], plan: Plan) -> list[Target]:
    """The interfaces that `all`, NODE, NODE:INTERFACE, NODE:NETWORK or NETWORK mean, each once. NothingMatched."""
    targets = [target for text in texts for target in _resolve(text, plan)]
    whole_nodes = {target.node for target in targets if target.interface is None}
    return [
        target
        for target in dict.fromkeys(targets)
        if target.interface is None or target.node not in whole_nodes or target.interface == "lo"
    ]


def names(plan: Plan) -> list[str]:
    """All words that `resolve` accepts, as far as the plan shows."""
    nodes = [node.name for node in plan.nodes]
    networks = [bridge.network for bridge in plan.bridges]
    interfaces = [f"{link.node}:{link.interface}" for link in plan.links]
    interfaces += [f"{client['node']}:{client['interface']}" for client in clients(plan)]
    interfaces += [f"{device.node}:{device.name}" for device in plan.devices]
    return [ALL, *dict.fromkeys([*nodes, *networks]), *interfaces]


def clients(plan: Plan) -> list[dict[str, Any]]:
    """The settings of the agents in a plan: `node`, `interface`, `socket` and `context` of each client."""
    for file in plan.files:
        if PurePath(file.path).name == "agents.json":
            with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError):
                entries = msgspec.json.decode(file.text)["clients"]
                return [client for client in entries if {"node", "interface", "socket", "context"} <= client.keys()]
    return []


def tenants(plan: Plan) -> dict[str, str]:
    """Nodes whose packets all belong to one tenant, and that tenant."""
    tenant_by_node = {client["node"]: client["context"]["tenant"] for client in clients(plan)}
    lans = {tunnel.lan: tunnel.tenant for tunnel in plan.tunnels}
    tenant_by_node |= {link.node: lans[link.network] for link in plan.links if link.network in lans}
    return tenant_by_node


def _resolve(text: str, plan: Plan) -> Sequence[Target]:
    nodes = [node.name for node in plan.nodes]
    if text == ALL:
        return [Target(node) for node in nodes]
    node, colon, interface = text.partition(":")
    if node in nodes:
        return [Target(node, _interface(node, interface, plan) if colon else None)]
    if links := [link for link in plan.links if link.network == text]:
        return [Target(link.node, link.interface) for link in links]
    raise NothingMatched(f"lab '{plan.lab}' has no node and no network '{node}'{suggest(node, names(plan))}")


def _interface(node: str, name: str, plan: Plan) -> str:
    """The name of the interface `name`, or of the node's interface in the network `name`."""
    own = {link.network: link.interface for link in plan.links if link.node == node}
    return name if name in own.values() else own.get(name, name)
