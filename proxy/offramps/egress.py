"""External addresses of flows: configured, or chosen by this host's routes."""

from __future__ import annotations

import time

from proxy.kernel.facts import source_towards
from proxy.settings.egress import Egress

CACHE_S = 10.0
MAX_CACHED = 4096  # remembered at most


class EgressAddresses:
    """Gives each flow its address. The address towards a destination is cached for `CACHE_S`."""

    def __init__(self) -> None:
        self._found: dict[tuple[str | None, bytes], tuple[float, str | None]] = {}

    def forget(self) -> None:
        """Forget everything: addresses or routes have changed."""
        self._found.clear()

    def towards(self, destination: bytes, egress: Egress) -> str | None:
        """The source address of flows to that destination, as text, or None if there is no route."""
        fixed = egress.ipv4 if len(destination) == 4 else egress.ipv6
        if fixed is not None:
            return fixed
        now, place = time.monotonic(), (egress.interface, destination)
        found = self._found.get(place)
        if found is None or found[0] < now:
            if len(self._found) >= MAX_CACHED:
                self._found.clear()
            found = self._found[place] = now + CACHE_S, source_towards(destination, egress.interface)
        return found[1]
