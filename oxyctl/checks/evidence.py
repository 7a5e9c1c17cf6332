"""Evidence for a failure: the last flow records, and the last log lines of the nodes involved."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable

from oxyctl.checks.result import Evidence
from oxyctl.checks.session import Session
from oxyctl.errors import OxyctlError
from oxyctl.plan.steps import PlannedNode
from oxyctl.render.flows import columns, table_fields, texts
from oxyctl.render.tables import Table
from oxyctl.supervise.processes import tail
from oxyctl.topology.model import Check
from proxy.control.client import ControlError
from proxy.control.schema import FlowRecord

FLOWS, LINES = 5, 5


async def collect(check: Check, node: str | None, session: Session) -> list[Evidence]:
    """Whatever evidence is available; a failure to collect it is not an error."""
    evidence: list[Evidence] = []
    for proxy in [planned for planned in session.plan.nodes if planned.control]:
        with contextlib.suppress(ControlError, OxyctlError):
            pairs = [("all_tenants", "true"), ("since", str(session.started)), ("limit", str(FLOWS))]
            if records := await session.flows(proxy.name, pairs):
                evidence.append(Evidence(f"the last flows of {proxy.name}", flow_lines(records)))
    for planned in _involved(check, node, session):
        if lines := last_lines(session, planned):
            evidence.append(Evidence(f"the end of the log of {planned.name}", lines))
    return evidence


def flow_lines(records: Iterable[FlowRecord]) -> list[str]:
    """The records as `oxyctl flows --all-tenants` shows them."""
    names, out = table_fields(every_tenant=True, events=False), io.StringIO()
    Table(columns(names), out).write([texts(record, names) for record in records])
    return out.getvalue().splitlines()


def last_lines(session: Session, planned: PlannedNode, count: int = LINES) -> list[str]:
    """The last log lines of a node's program; of a shared program, only lines that contain the node's name."""
    lines = [line.strip() for line in tail(session.lab.log(planned.process)).splitlines()]
    own = lines if planned.process == planned.name else [line for line in lines if planned.name in line]
    return [] if own == ["(its log is empty)"] else own[-count:]


def _involved(check: Check, node: str | None, session: Session) -> list[PlannedNode]:
    """The node itself, the nodes in the check's targets, and all proxies."""
    targets = " ".join(str(getattr(check, name, "")) for name in ("url", "to", "server", "canary", "site", "link"))
    nodes = session.plan.nodes
    named = {node, *getattr(check, "nodes", ())}
    return [each for each in nodes if each.name in named or each.control or _is_named(each, targets)]


def _is_named(planned: PlannedNode, text: str) -> bool:
    words = text.replace("/", " ").replace("[", " ").replace("]", " ").split()
    hosts = {word.rpartition(":")[0] or word for word in words} | set(words)
    return bool(hosts & {planned.name, *planned.addresses})
