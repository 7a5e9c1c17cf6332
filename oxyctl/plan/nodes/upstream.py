"""Plans origin servers: entries in the configuration of the shared process `python -m oxyctl.services`."""

from __future__ import annotations

from oxyctl.net.namespaces import MOUNTS
from oxyctl.plan.draft import Draft
from oxyctl.plan.steps import Services
from oxyctl.topology.nodes import UpstreamNode


def plan_upstream(name: str, node: UpstreamNode, draft: Draft) -> None:
    """Add a namespace, and an entry of the shared service process, to the draft."""
    draft.add_namespace(name)
    draft.services.append(service_entry(name, node.services, node.root, draft))
    probe = Services(addresses=draft.addresses(name), services=node.services)
    draft.add_node(name, node.kind, process="services", probe=probe)


def service_entry(name: str, services: dict[str, int], root: str | None, draft: Draft) -> dict[str, object]:
    """A node's entry in the configuration of the shared service process."""
    node = draft.lab.nodes[name]
    return {
        "name": name,
        "netns": str(draft.namespace_file(name)),
        "utsns": str(draft.namespace_file(name, "uts")),
        "mntns": str(draft.namespace_file(name, MOUNTS)) if node.files or node.trust else None,
        "env": draft.environment(name),
        "addresses": draft.addresses(name),
        "services": services,
        "root": None if root is None else str(draft.base / root),
    }
