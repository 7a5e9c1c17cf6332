"""Which programs serve the nodes of a plan, and which nodes are at the other ends of a proxy's tunnels. Pure."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from oxyctl.errors import UsageError
from oxyctl.plan.diff import SHARED, entries
from oxyctl.plan.steps import Plan, PlannedNode

NAMES = "names"  # the resolver serves every node, and belongs to the lab itself
SHARED_BY_NODES = SHARED.keys() - {NAMES}


class Serving:
    """The programs of each node and the nodes of each program, without the resolver."""

    def __init__(self, plan: Plan) -> None:
        self.nodes: dict[str, list[str]] = {process.name: [process.name] for process in plan.processes if process.node}
        for program in sorted(SHARED_BY_NODES):
            owners = dict.fromkeys(
                _owner(entry) for entry in _config_entries(plan, program) if entry.get("end") != "probe"
            )
            if owners:
                self.nodes[program] = list(owners)
        self.programs: dict[str, list[str]] = {}
        for program, nodes in self.nodes.items():
            for node in nodes:
                self.programs.setdefault(node, []).append(program)

    def runs_alone(self, node: str) -> bool:
        """Whether the node has a process of its own."""
        return self.programs[node] == [node]

    def require(self, node: PlannedNode) -> None:
        """Raise UsageError if no program serves the node."""
        if node.name not in self.programs:
            why = "the kernel carries its tunnel" if node.kind.endswith("-site") else "the kernel does the routing"
            raise UsageError(f"node '{node.name}' ({node.kind}) has no program to stop or start: {why}")


def clients_of(plan: Plan, proxy: str) -> set[str]:
    """The clients whose tunnels lead to `proxy`."""
    clients = entries(plan, "agents")
    return {node for node, entry in clients.items() if PurePath(entry["socket"]).parent.name == proxy}


def sites_of(plan: Plan, proxy: str) -> set[str]:
    """The sites whose tunnels lead to `proxy`."""
    return {tunnel.site for tunnel in plan.tunnels if tunnel.proxy == proxy}


def is_cut(plan: Plan, site: str) -> bool:
    """Whether impairments currently let nothing pass between a site and its proxy."""
    ends = {name for tunnel in plan.tunnels if tunnel.site == site for name in (tunnel.site, tunnel.proxy)}
    return any(link.node in ends and (link.impairment.down or link.impairment.loss >= 1) for link in plan.links)


def _config_entries(plan: Plan, program: str) -> list[dict[str, Any]]:
    text = next((file.text for file in plan.files if PurePath(file.path).name == f"{program}.json"), None)
    return [] if text is None else list(json.loads(text)[SHARED[program]])


def _owner(entry: dict[str, Any]) -> str:
    return str(entry.get("node") or entry.get("name"))
