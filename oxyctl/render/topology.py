"""The contents of a drawing of a lab: nodes, their networks, and the tunnels between them."""

from __future__ import annotations

import ipaddress
from pathlib import PurePath

import msgspec

from oxyctl.capture.targets import clients
from oxyctl.plan.steps import Plan


class Attachment(msgspec.Struct, kw_only=True, frozen=True):
    """A node's interface in a network. Addresses without prefix lengths."""

    network: str
    interface: str
    addresses: list[str]


class Tunnel(msgspec.Struct, kw_only=True, frozen=True):
    """A tunnel from a client or, with a `carrier` (gre or gue), from a site's router, to its proxy."""

    proxy: str
    tenant: str
    interface: str
    addresses: list[str]
    carrier: str | None = None


class DrawnNode(msgspec.Struct, kw_only=True, frozen=True):
    """One node and its connections."""

    name: str
    kind: str
    attachments: list[Attachment]
    tunnel: Tunnel | None = None


class DrawnNetwork(msgspec.Struct, kw_only=True, frozen=True):
    """One network."""

    name: str
    subnets: list[str]


class Topology(msgspec.Struct, kw_only=True, frozen=True):
    """One lab."""

    lab: str
    networks: list[DrawnNetwork]
    nodes: list[DrawnNode]


def topology(plan: Plan) -> Topology:
    """The topology that `plan` would build, or has built."""
    tunnels = _tunnels(plan)
    return Topology(
        lab=plan.lab,
        networks=[DrawnNetwork(name=b.network, subnets=_subnets(plan, b.network)) for b in plan.bridges],
        nodes=[
            DrawnNode(
                name=node.name, kind=node.kind, attachments=_attachments(plan, node.name), tunnel=tunnels.get(node.name)
            )
            for node in plan.nodes
        ],
    )


def _tunnels(plan: Plan) -> dict[str, Tunnel]:
    """Tunnels by client and site. A client's proxy is the one whose directory has its socket."""
    sites = {
        tunnel.site: Tunnel(
            proxy=tunnel.proxy,
            tenant=tunnel.tenant,
            interface=tunnel.interface,
            addresses=[text.partition("/")[0] for text in tunnel.addresses],
            carrier=tunnel.kind,
        )
        for tunnel in plan.tunnels
    }
    return sites | {
        client["node"]: Tunnel(
            proxy=PurePath(client["socket"]).parent.name,
            tenant=client["context"]["tenant"],
            interface=client["interface"],
            addresses=client["context"].get("addresses", []),
        )
        for client in clients(plan)
    }


def _attachments(plan: Plan, node: str) -> list[Attachment]:
    return [
        Attachment(
            network=link.network,
            interface=link.interface,
            addresses=[text.partition("/")[0] for text in link.addresses],
        )
        for link in plan.links
        if link.node == node
    ]


def _subnets(plan: Plan, network: str) -> list[str]:
    texts = [text for link in plan.links if link.network == network for text in link.addresses]
    return list(dict.fromkeys(str(ipaddress.ip_interface(text).network) for text in texts))
