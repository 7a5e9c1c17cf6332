"""Destinations whose TCP sessions are inspected, which QUIC to the same destination would evade."""

from __future__ import annotations

from collections import OrderedDict

from proxy.flow.flow import Flow

MAX_PLACES = 4_096  # origin addresses, of all tenants together
READ = ("tls", "http")  # levels


class ReadPlaces:
    """Remembers the origins, per tenant, whose last session was inspected. The oldest are forgotten."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def note(self, flow: Flow) -> None:
        """Note whether the flow's session is inspected."""
        place = flow.tenant.name, flow.destination
        if flow.level not in READ:
            self._places.pop(place, None)
            return
        self._places[place] = None
        self._places.move_to_end(place)
        if len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)

    def has(self, flow: Flow) -> bool:
        """Whether the last TCP session of this tenant with the same address was inspected."""
        return (flow.tenant.name, flow.destination) in self._places
