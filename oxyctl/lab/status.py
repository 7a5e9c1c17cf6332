"""What is told about a running lab: the structure of `lab status`, and how each node's state is found."""

from __future__ import annotations

from typing import Literal

import msgspec

from oxyctl.lab.processes import Program
from oxyctl.lab.steps import PlannedNode, Services, Tunnel

NodeState = Literal["starting", "ready", "degraded", "exited"]


class NodeStatus(msgspec.Struct, kw_only=True):
    """One node. The PID is the one inside the lab, as `lab exec NODE -- ps` shows it."""

    name: str
    kind: str
    state: NodeState
    addresses: list[str]
    pid: int | None = None
    exit_code: int | None = None  # negative: the signal that killed it
    detail: str | None = None  # why it is not ready, or what of it is not there


class SupervisorStatus(msgspec.Struct, kw_only=True):
    """PID 1 of the lab. The PID is the one outside."""

    pid: int
    started: float  # Unix seconds


class LabStatus(msgspec.Struct, kw_only=True):
    """One lab."""

    name: str
    source: str
    state: Literal["starting", "up", "degraded"]
    directory: str
    supervisor: SupervisorStatus
    nodes: list[NodeStatus] = []
    remarks: list[str] = []  # what this machine did not permit


def node_status(node: PlannedNode, program: Program, is_ready: bool) -> NodeStatus:
    """The state of `node`, which `program` serves and which was ready once or not."""
    state: NodeState = "ready" if is_ready else "starting"
    status = NodeStatus(name=node.name, kind=node.kind, state=state, addresses=node.addresses)
    if not program.is_running:
        status.state, status.exit_code, status.detail = "exited", program.exited.result(), program.describe_exit()
        return status
    status.pid = program.pid
    if isinstance(node.probe, Tunnel):
        _add_tunnel(status, program)
    elif isinstance(node.probe, Services):
        status.detail = _unavailable(node.name, program) or None
    return status


def _add_tunnel(status: NodeStatus, program: Program) -> None:
    """The last thing that the agent said of this client."""
    last = next((report for report in reversed(program.reports) if report.get("node") == status.name), None)
    if last is not None and last.get("event") != "accepted":
        status.state = "degraded"
        status.detail = f"tunnel {last.get('event')}: {last.get('detail')}"


def _unavailable(node: str, program: Program) -> str:
    services = [service for report in program.reports for service in report.get("services", [])]
    missing = [s for s in services if s.get("node") == node and s.get("state") != "listening"]
    return "; ".join(f"{s.get('service')} unavailable: {s.get('detail')}" for s in missing)
