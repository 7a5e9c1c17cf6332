"""Static routes: destination, link and next hop, and their errors."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping, Sequence

from oxyctl.topology.addresses import Interface, Subnet

EVERYTHING: Sequence[Subnet] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
Assigned = Mapping[str, Mapping[str, Sequence[Interface]]]
Place = tuple[str | int, ...]


class RouteError(Exception):
    """An invalid route, with its place in the lab file."""

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place: Place = place


@dataclasses.dataclass(frozen=True)
class Hop:
    """Packets to `to` leave through the link to `network`, with the next hop `via`."""

    to: Subnet
    network: str
    via: str
    place: Place | None = None  # in the lab file; None: a derived route
    metric: int = 0
