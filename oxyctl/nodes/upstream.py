"""Origin servers: all upstream nodes of a lab are served by one process, `python -m oxyctl.services`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from oxyctl.lab.steps import Services
from oxyctl.net.namespaces import MOUNTS
from oxyctl.nodes.base import Complaint, Networks, Node
from proxy.settings import suggest

if TYPE_CHECKING:
    from oxyctl.lab.model import Lab
    from oxyctl.lab.plan import Draft

Port = Annotated[int, Meta(ge=1, le=65_535)]


class UpstreamNode(Node, kw_only=True, frozen=True, tag="upstream"):
    """`services` by name, each with its port; `root`, a directory beside the lab file, is what http and https serve."""

    services: Annotated[dict[str, Port], Meta(min_length=1)]
    networks: Networks = field(default_factory=dict)
    root: str | None = None

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """Every service is known, and no two want the same port."""
        check_services(self.services, complain)
        if self.root is not None and not (lab.base / self.root).is_dir():
            raise complain(f"not a directory: {self.root}", "root")

    def plan(self, name: str, draft: Draft) -> None:
        """A namespace, and an entry in what the shared process serves."""
        draft.add_namespace(name)
        draft.services.append(service_entry(name, self.services, self.root, draft))
        probe = Services(addresses=draft.addresses(name), services=self.services)
        draft.add_node(name, self.kind, process="services", probe=probe)


def check_services(services: dict[str, int], complain: Complaint) -> None:
    """Each is known, and no two want the same port."""
    from oxyctl.services.registry import SERVICES

    owners: dict[int, str] = {}
    for service, port in services.items():
        if service not in SERVICES:
            unknown = f"unknown service '{service}'{suggest(service, SERVICES)}"
            raise complain(unknown, "services", service, at_key=True)
        if (owner := owners.setdefault(port, service)) != service:
            raise complain(f"port {port} is taken by '{owner}'", "services", service)


def service_entry(name: str, services: dict[str, int], root: str | None, draft: Draft) -> dict[str, object]:
    """What the shared process is told of the services of a node."""
    node = draft.lab.nodes[name]
    return {
        "name": name,
        "netns": str(draft.namespace_file(name)),
        "utsns": str(draft.namespace_file(name, "uts")),
        "mntns": str(draft.namespace_file(name, MOUNTS)) if node.files else None,
        "env": node.env,
        "addresses": draft.addresses(name),
        "services": services,
        "root": None if root is None else str(draft.base / root),
    }
