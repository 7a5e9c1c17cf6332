"""Plans a lab: turns it into the steps that create it. Pure: the same lab gives the same plan."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from oxyctl.plan.draft import Draft
from oxyctl.plan.nodes import plan_node
from oxyctl.plan.steps import Plan
from oxyctl.topology.model import Lab


def make_plan(lab: Lab, run: Path, kernel_kinds: Collection[str] = ()) -> Plan:
    """The steps that create `lab`, with its files in `run`. `kernel_kinds`: tunnels that the kernel supports."""
    draft = Draft(lab, run, kernel_kinds)
    for name, node in lab.nodes.items():
        plan_node(name, node, draft)
    return draft.finish()
