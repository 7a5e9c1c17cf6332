"""Origin servers: all upstream nodes of a lab are served by one process, `python -m oxyctl.services`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from oxyctl.lab.steps import Services
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
        from oxyctl.services.registry import SERVICES

        owners: dict[int, str] = {}
        for service, port in self.services.items():
            if service not in SERVICES:
                unknown = f"unknown service '{service}'{suggest(service, SERVICES)}"
                raise complain(unknown, "services", service, at_key=True)
            if (owner := owners.setdefault(port, service)) != service:
                raise complain(f"port {port} is taken by '{owner}'", "services", service)
        if self.root is not None and not (lab.base / self.root).is_dir():
            raise complain(f"not a directory: {self.root}", "root")

    def plan(self, name: str, draft: Draft) -> None:
        """A namespace, and an entry in what the shared process serves."""
        draft.add_namespace(name)
        addresses = draft.addresses(name)
        draft.services.append(
            {
                "name": name,
                "netns": str(draft.namespace_file(name)),
                "addresses": addresses,
                "services": self.services,
                "root": None if self.root is None else str(draft.base / self.root),
            }
        )
        probe = Services(addresses=addresses, services=self.services)
        draft.add_node(name, self.kind, process="services", probe=probe)
