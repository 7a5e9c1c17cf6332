"""Static routes: destination, link and next hop, and their errors."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping, Sequence

from oxyctl.topology.addresses import Interface, Subnet
from oxyctl.topology.model import KeyPath

EVERYTHING: Sequence[Subnet] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
Assigned = Mapping[str, Mapping[str, Sequence[Interface]]]


class RouteError(Exception):
    """An invalid route, with its position in the lab file."""

    def __init__(self, message: str, *key_path: str | int) -> None:
        super().__init__(message)
        self.key_path: KeyPath = key_path


@dataclasses.dataclass(frozen=True)
class Hop:
    """Packets to `to` leave through the link to `network`, with the next hop `via`."""

    to: Subnet
    network: str
    via: str
    key_path: KeyPath | None = None  # in the lab file; None: a derived route
    metric: int = 0
