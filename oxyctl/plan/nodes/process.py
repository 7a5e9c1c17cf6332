"""Plans a user's program: its namespace, its process, and its readiness probe."""

from __future__ import annotations

from urllib.parse import urlsplit

from oxyctl.plan.draft import Draft
from oxyctl.plan.steps import Exec, Http, Port, Probe, Process, Running
from oxyctl.topology.nodes import ProcessNode
from oxyctl.topology.nodes.ready import Ready
from oxyctl.topology.quantities import seconds

LOCAL = ["127.0.0.1", "::1"]
HTTP_PORT = 80


def plan_process(name: str, node: ProcessNode, draft: Draft) -> None:
    """Add a namespace, a process and a node to the draft."""
    draft.add_namespace(name)
    command, directory, environment = node.command, str(draft.base), draft.environment(name)
    draft.processes.append(Process(name=name, node=name, command=command, directory=directory, environment=environment))
    probe = Running() if node.ready is None else _probe(name, node.ready, draft)
    draft.add_node(name, node.kind, process=name, probe=probe)


def _probe(node: str, ready: Ready, draft: Draft) -> Probe:
    timeout_s = None if ready.timeout is None else seconds(ready.timeout)
    if ready.tcp is not None:
        return Port(addresses=[*LOCAL, *draft.addresses(node)], port=ready.tcp, timeout_s=timeout_s)
    if ready.exec is not None:
        directory, environment = str(draft.base), draft.environment(node)
        return Exec(command=ready.exec, directory=directory, environment=environment, timeout_s=timeout_s)
    parts = urlsplit(ready.http or "")
    host = parts.hostname or ""
    known = {"localhost": LOCAL} | {name: draft.addresses(name) for name in draft.lab.nodes}
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Http(
        addresses=known.get(host, [host]),
        port=parts.port or HTTP_PORT,
        host=parts.netloc,
        path=path,
        timeout_s=timeout_s,
    )
