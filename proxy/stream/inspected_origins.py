"""Destinations whose TCP sessions are inspected, which QUIC to the same destination would evade."""

from __future__ import annotations

from collections import OrderedDict

from proxy.flow.flow import Flow

MAX_ORIGINS = 4_096  # origin addresses, of all tenants together
INSPECTED_LEVELS = ("tls", "http")


class InspectedOrigins:
    """Remembers the origins, per tenant, whose last session was inspected. The oldest are forgotten."""

    def __init__(self) -> None:
        self._origins: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def update(self, flow: Flow) -> None:
        """Remember whether the flow's session is inspected."""
        origin = flow.tenant.name, flow.destination
        if flow.level not in INSPECTED_LEVELS:
            self._origins.pop(origin, None)
            return
        self._origins[origin] = None
        self._origins.move_to_end(origin)
        if len(self._origins) > MAX_ORIGINS:
            self._origins.popitem(last=False)

    def includes(self, flow: Flow) -> bool:
        """Whether the last TCP session of this tenant with the same address was inspected."""
        return (flow.tenant.name, flow.destination) in self._origins
