"""Plans a WARP-like client: its namespace, and its entry in the configuration of the shared agent."""

from __future__ import annotations

from typing import Any

import msgspec

from oxyctl.net.impairment import Impairment
from oxyctl.plan.draft import Draft
from oxyctl.plan.nodes.proxy import TUNNELS
from oxyctl.plan.nodes.upstream import service_entry
from oxyctl.plan.steps import Tunnel
from oxyctl.topology.nodes import ProxyNode, WarpNode
from proxy.context import TunnelContext

INTERFACE = "warp0"


def plan_warp(name: str, node: WarpNode, draft: Draft) -> None:
    """Add a namespace, and an entry of the shared agent, to the draft."""
    draft.add_namespace(name)
    draft.agents.append(_agent(name, node, draft))
    if node.services:
        draft.services.append(service_entry(name, node.services, None, draft))
    draft.add_node(name, node.kind, process="agents", probe=Tunnel(services=node.services))


def _agent(name: str, node: WarpNode, draft: Draft) -> dict[str, Any]:
    proxy = draft.lab.nodes[node.proxy]
    assert isinstance(proxy, ProxyNode)
    impairment = node.tunnel.impairment.over(Impairment())
    context = TunnelContext(
        tenant=node.tenant,
        token=node.token if node.token is not None else proxy.tenants[node.tenant].token,
        addresses=draft.addresses(name),
        user=node.user,
        device=node.device or name,
        groups=[*node.groups],
        posture=node.posture,
        network=None if node.network == "default" else node.network,
        mtu=node.mtu,
        # loss and rate apply to packets, not to super-packets
        offload="virtio-net" if node.offload and not impairment.is_shaped else None,
    )
    return {
        "node": name,
        "netns": str(draft.namespace_file(name)),
        "interface": INTERFACE,
        "socket": str(draft.home(node.proxy) / TUNNELS),
        "context": msgspec.to_builtins(context),
        "impairment": msgspec.to_builtins(impairment),
    }
