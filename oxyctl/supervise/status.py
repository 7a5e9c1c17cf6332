"""The structure of `lab status`, and how the state of each node is determined."""

from __future__ import annotations

from typing import Literal

import msgspec

from oxyctl.net.impairment import Impairment
from oxyctl.plan.diff import entries, tunnel_impairment
from oxyctl.plan.steps import Plan, PlannedNode, Services, SiteOpen, Tunnel
from oxyctl.supervise.impairment_relay import link_name
from oxyctl.supervise.links import By, Links
from oxyctl.supervise.probes import site_reports
from oxyctl.supervise.processes import Program, describe_exit
from oxyctl.supervise.site_status import TunnelStatus
from oxyctl.topology.choices import Restart

NodeState = Literal["starting", "ready", "degraded", "exited", "stopped"]


class NodeStatus(msgspec.Struct, kw_only=True):
    """One node. The PID is the one inside the lab, as `lab exec NODE -- ps` shows it."""

    name: str
    kind: str
    state: NodeState
    addresses: list[str]
    pid: int | None = None
    exit_code: int | None = None  # negative: the signal that killed it
    detail: str | None = None  # why it is not ready, or which services are unavailable
    restart: Restart = "never"  # after its program has ended by itself
    restarts: int = 0  # how often it was restarted, by policy or on request


class LifecycleState(msgspec.Struct, kw_only=True, frozen=True):
    """What the supervisor knows of a node besides its program. `is_stopped`: on request."""

    is_stopped: bool = False
    exit_code: int | None = None
    restarts_in_s: float | None = None
    restarts: int = 0


INITIAL = LifecycleState()


class LinkStatus(msgspec.Struct, kw_only=True):
    """A node's link to a network (NODE:NETWORK), or a client's tunnel (NODE:tunnel)."""

    name: str
    mtu: int | None = None
    impairment: Impairment
    by: By | None = None  # what impairs it; None: nothing
    detail: str = ""  # the impairment in words, and problems
    frames: dict[str, int] = {}  # counts of frames that the relay has passed, lost and dropped


class SupervisorStatus(msgspec.Struct, kw_only=True):
    """PID 1 of the lab, with its PID outside."""

    pid: int
    started: float  # Unix seconds


class LabStatus(msgspec.Struct, kw_only=True):
    """The status of one lab."""

    name: str
    source: str
    state: Literal["starting", "up", "degraded"]
    directory: str
    supervisor: SupervisorStatus
    nodes: list[NodeStatus] = []
    links: list[LinkStatus] = []
    tunnels: list[TunnelStatus] = []  # of sites
    remarks: list[str] = []  # limitations of this machine


def link_statuses(plan: Plan, links: Links, counters: dict[str, dict[str, int]]) -> list[LinkStatus]:
    """The status of all links and clients' tunnels of `plan`, in its order."""
    relay = links.relay.program
    statuses = []
    for link in plan.links:
        name, by, detail = link_name(link), links.by(link), link.impairment.describe()
        if by == "user space" and relay is not None and not relay.is_running:
            detail = f"{detail}; its relay {relay.describe_exit()}"
        frames = counters.get(name, {}) if by == "user space" else {}
        statuses.append(
            LinkStatus(name=name, mtu=link.mtu, impairment=link.impairment, by=by, detail=detail, frames=frames)
        )
    for node, entry in entries(plan, "agents").items():
        impairment = tunnel_impairment(entry)
        by = "user space" if impairment.is_shaped or impairment.down else None
        mtu = entry["context"]["mtu"]
        statuses.append(
            LinkStatus(name=f"{node}:tunnel", mtu=mtu, impairment=impairment, by=by, detail=impairment.describe())
        )
    return statuses


def node_status(
    node: PlannedNode, program: Program | None, is_ready: bool, lifecycle: LifecycleState = INITIAL
) -> NodeStatus:
    """The status of `node`, which `program` serves. `is_ready`: whether it has become ready."""
    status = NodeStatus(
        name=node.name,
        kind=node.kind,
        state="ready" if is_ready else "starting",
        addresses=node.addresses,
        restart=node.restart,
        restarts=lifecycle.restarts,
    )
    if lifecycle.is_stopped:
        status.state, status.detail = "stopped", f"`oxyctl lab start {node.name}` starts it"
        return status
    exit_code = program.exited.result() if program is not None and not program.is_running else lifecycle.exit_code
    if program is None or exit_code is not None:
        status.state, status.exit_code = "exited", exit_code
        status.detail = None if exit_code is None else describe_exit(exit_code)
        if lifecycle.restarts_in_s is not None:
            status.detail = f"{status.detail}; restarts in {lifecycle.restarts_in_s:.1f} s"
        return status
    status.pid = program.pid
    if isinstance(node.probe, Tunnel):
        _add_tunnel(status, program)
    elif isinstance(node.probe, SiteOpen):
        _add_site(status, program)
    elif isinstance(node.probe, Services):
        status.detail = _unavailable(node.name, program) or None
    return status


def _add_tunnel(status: NodeStatus, program: Program) -> None:
    """Add the agent's last report of this client's tunnel."""
    last = next((report for report in reversed(program.reports) if report.get("node") == status.name), None)
    if last is not None and last.get("event") != "accepted":
        status.state = "degraded"
        status.detail = f"tunnel {last.get('event')}: {last.get('detail')}"


def _add_site(status: NodeStatus, program: Program) -> None:
    """Add the agents' last reports of the site's tunnel."""
    for (end, what), report in site_reports(program, status.name).items():
        if report.get("event") == "refused":
            status.state, status.detail = "degraded", f"tunnel ({end}): {report.get('detail')}"
        elif what == "health" and report.get("health") != "healthy":
            status.state, status.detail = "degraded", f"tunnel {report.get('health')}"


def _unavailable(node: str, program: Program) -> str:
    services = [service for report in program.reports for service in report.get("services", [])]
    missing = [s for s in services if s.get("node") == node and s.get("state") != "listening"]
    return "; ".join(f"{s.get('service')} unavailable: {s.get('detail')}" for s in missing)
