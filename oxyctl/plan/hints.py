"""Suggested commands for a running lab."""

from __future__ import annotations

from collections.abc import Iterator

from oxyctl.plan.steps import Plan, PlannedNode, Services
from oxyctl.topology.library import DEFAULT_LAB
from oxyctl.topology.policies import POLICIES


def hints(plan: Plan, *, is_default_lab: bool = True) -> Iterator[str]:
    """Commands that show what this lab does. `is_default_lab`: commands without a lab's name apply to it."""
    clients = [node for node in plan.nodes if node.kind == "warp"] or [n for n in plan.nodes if n.kind == "process"]
    origins = [node for node in plan.nodes if isinstance(node.probe, Services) and node.probe.services]
    lab = f" --lab {plan.lab}" if plan.lab != DEFAULT_LAB or not is_default_lab else ""
    if clients:
        yield from (f"oxyctl lab exec{lab} {clients[0].name} -- {command}" for command in _commands(plan, origins))
    if any(node.control for node in plan.nodes):
        yield f"oxyctl flows{lab} --all-tenants"
    yield f"oxyctl lab status {plan.lab}"
    yield f"oxyctl lab down {plan.lab}"


def _commands(plan: Plan, origins: list[PlannedNode]) -> Iterator[str]:
    has_policies = any(f"/{POLICIES}/" in file.path for file in plan.files)
    for node in origins[:1]:
        has_http = isinstance(node.probe, Services) and "http" in node.probe.services
        if not (has_http and has_policies):  # policies rather let services pass than echo requests
            yield f"ping -c3 {node.name}"
        if isinstance(node.probe, Services) and has_http:
            port = node.probe.services["http"]
            yield f"curl -sS http://{node.name}{'' if port == 80 else f':{port}'}/"
