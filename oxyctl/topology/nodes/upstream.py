"""Origin servers: one process, `python -m oxyctl.services`, serves all upstream nodes of a lab."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from oxyctl.topology.model import ErrorAt, Lab, Networks, Node
from proxy.settings import suggest

Port = Annotated[int, Meta(ge=1, le=65_535)]


class UpstreamNode(Node, kw_only=True, frozen=True, tag="upstream"):
    """`services`: the port of each by name. `root`: a directory beside the lab file that http and https serve."""

    services: Annotated[dict[str, Port], Meta(min_length=1)]
    networks: Networks = field(default_factory=dict)
    root: str | None = None

    def check(self, name: str, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an unknown service, a port used twice, or a missing root."""
        check_services(self.services, error_at)
        if self.root is not None and not (lab.base / self.root).is_dir():
            raise error_at(f"not a directory: {self.root}", "root")


def check_services(services: dict[str, int], error_at: ErrorAt) -> None:
    """Raise `error_at(...)` for an unknown service, or a port used twice."""
    from oxyctl.services.registry import SERVICES

    owners: dict[int, str] = {}
    for service, port in services.items():
        if service not in SERVICES:
            unknown = f"unknown service '{service}'{suggest(service, SERVICES)}"
            raise error_at(unknown, "services", service, at_key=True)
        if (owner := owners.setdefault(port, service)) != service:
            raise error_at(f"port {port} is already used by '{owner}'", "services", service)
