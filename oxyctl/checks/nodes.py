"""Steps that stop, start and kill nodes between checks; everything is restored at the end of the run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from oxyctl.checks.result import Verdict
from oxyctl.checks.session import Session
from oxyctl.operate.ask import ask_nodes, ask_status
from oxyctl.supervise.requests import Nodes
from oxyctl.supervise.status import NodeStatus
from oxyctl.topology.checks import NodeCheck
from oxyctl.topology.choices import Action


async def node(check: NodeCheck, _: str, session: Session) -> Verdict:
    """Stop, start, restart or kill nodes. OxyctlError: it failed."""
    if not session.was_running:
        session.at_end(restore)  # even if the run is interrupted
    if new := [name for name in check.nodes if name not in session.was_running]:
        status = await asyncio.to_thread(ask_status, session.lab)
        session.was_running.update({each.name: _is_running(each) for each in status.nodes if each.name in new})
    statuses = await _request(session, check.do, check.nodes, check.timeout_s)
    actual = "; ".join(f"{each.name}: {each.state}" + (f", {each.detail}" if each.detail else "") for each in statuses)
    return Verdict(True, f"node {check.summary()}", "the action to succeed", actual)


async def restore(session: Session) -> None:
    """Start nodes that ran before the run, stop those that did not. OxyctlError: it failed, and is not retried."""
    before, session.was_running = session.was_running, {}
    if not before:
        return
    status = await asyncio.to_thread(ask_status, session.lab)
    changed = [each for each in status.nodes if each.name in before and before[each.name] != _is_running(each)]
    for action in ("start", "stop"):
        if names := [each.name for each in changed if before[each.name] == (action == "start")]:
            await _request(session, action, names)


async def _request(session: Session, action: Action, names: Iterable[str], timeout_s: float = 60) -> list[NodeStatus]:
    request = Nodes(action=action, nodes=list(names), timeout_s=timeout_s)
    return await asyncio.to_thread(ask_nodes, session.lab, request)


def _is_running(status: NodeStatus) -> bool:
    return status.state not in ("exited", "stopped")
