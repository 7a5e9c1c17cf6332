"""Suggested commands for a running lab."""

from __future__ import annotations

from collections.abc import Iterator

from oxyctl.plan.steps import Plan, PlannedNode, Services
from oxyctl.topology.library import DEFAULT_LAB


def hints(plan: Plan, *, is_found_unnamed: bool = True) -> Iterator[str]:
    """Commands that show what this lab does. `is_found_unnamed`: commands that name no lab mean this one."""
    clients = [node for node in plan.nodes if node.kind == "warp"] or [n for n in plan.nodes if n.kind == "process"]
    origins = [node for node in plan.nodes if isinstance(node.probe, Services) and node.probe.services]
    lab = f" --lab {plan.lab}" if plan.lab != DEFAULT_LAB or not is_found_unnamed else ""
    if clients:
        yield from (f"oxyctl lab exec{lab} {clients[0].name} -- {command}" for command in _commands(origins))
    if any(node.control for node in plan.nodes):
        yield f"oxyctl flows{lab} --all-tenants"
    yield f"oxyctl lab status {plan.lab}"
    yield f"oxyctl lab down {plan.lab}"


def _commands(origins: list[PlannedNode]) -> Iterator[str]:
    for node in origins[:1]:
        yield f"ping -c3 {node.name}"
        if isinstance(node.probe, Services) and "http" in node.probe.services:
            port = node.probe.services["http"]
            yield f"curl -sS http://{node.name}{'' if port == 80 else f':{port}'}/"
