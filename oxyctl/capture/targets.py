"""What to capture: nodes, single interfaces, networks, or the whole lab; and the facts about each interface."""

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


class Wanted(NamedTuple):
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


def resolve(words: Iterable[str], plan: Plan) -> list[Wanted]:
    """The interfaces that `all`, NODE, NODE:INTERFACE, NODE:NETWORK or NETWORK mean, each once. NothingMatched."""
    found = [wanted for word in words for wanted in _resolve(word, plan)]
    whole = {wanted.node for wanted in found if wanted.interface is None}
    return [w for w in dict.fromkeys(found) if w.interface is None or w.node not in whole or w.interface == "lo"]


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
                found = msgspec.json.decode(file.text)["clients"]
                return [client for client in found if {"node", "interface", "socket", "context"} <= client.keys()]
    return []


def tenants(plan: Plan) -> dict[str, str]:
    """Nodes whose packets all belong to one tenant, and that tenant."""
    found = {client["node"]: client["context"]["tenant"] for client in clients(plan)}
    lans = {tunnel.lan: tunnel.tenant for tunnel in plan.tunnels}
    found |= {link.node: lans[link.network] for link in plan.links if link.network in lans}
    return found


def _resolve(word: str, plan: Plan) -> Sequence[Wanted]:
    nodes = [node.name for node in plan.nodes]
    if word == ALL:
        return [Wanted(node) for node in nodes]
    node, colon, interface = word.partition(":")
    if node in nodes:
        return [Wanted(node, _interface(node, interface, plan) if colon else None)]
    if links := [link for link in plan.links if link.network == word]:
        return [Wanted(link.node, link.interface) for link in links]
    raise NothingMatched(f"lab '{plan.lab}' has no node and no network '{node}'{suggest(node, names(plan))}")


def _interface(node: str, said: str, plan: Plan) -> str:
    """The name of the interface `said`, or of the node's interface in the network `said`."""
    own = {link.network: link.interface for link in plan.links if link.node == node}
    return said if said in own.values() else own.get(said, said)
