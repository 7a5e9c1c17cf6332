"""The addresses behind the on-ramps of each network, according to the namespace's routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

import msgspec

from proxy.device.routing import Route
from proxy.kernel.ruleset import Way


class Sites:
    """The interfaces of on-ramps that lead to hosts of their network, and the routes to these.

    An interface with a default route, or by which a network leaves, is an uplink and not a site.
    """

    def __init__(
        self, ways: Iterable[Way] = (), main: Iterable[Route] = (), names: Mapping[int, str] | None = None
    ) -> None:
        """`main`: the routes of the main table. `names`: interface names by index."""
        self._by_zone: dict[int, set[str]] = {}
        self._routes: dict[int, list[Route]] = {}
        self._found: dict[int, dict[int, dict[int, dict[int, str]]]] = {}  # by zone, bits, prefix length, prefix
        ways, main, names = list(ways), list(main), names or {}
        self._existing = set(names.values())
        self.uplinks = {way.egress.interface for way in ways} | {
            names.get(route.index or 0) for route in main if ip_network(route.prefix).prefixlen == 0
        }
        for way in ways:
            if way.is_on_ramp:
                self._by_zone.setdefault(way.zone, set()).update(self._of(way))
        for zone, interfaces in self._by_zone.items():
            for route in main:
                name, prefix = names.get(route.index or 0, ""), ip_network(route.prefix)
                if name not in interfaces or prefix.is_link_local:
                    continue
                self._routes.setdefault(zone, []).append(route)
                bits, length = prefix.max_prefixlen, prefix.prefixlen
                lengths = self._found.setdefault(zone, {}).setdefault(bits, {})
                lengths.setdefault(length, {}).setdefault(int(prefix.network_address) >> (bits - length), name)

    def complete(self, way: Way) -> Way:
        """The way with its sites filled in."""
        return msgspec.structs.replace(way, sites=self._of(way))

    def routes(self, zone: int) -> list[Route]:
        """The routes of the main table to the sites of the network in this zone."""
        return self._routes.get(zone, [])

    def behind(self, zone: int, address: bytes) -> str | None:
        """The interface of the site that has this address in the network of `zone`, or None."""
        bits, number = 8 * len(address), int.from_bytes(address, "big")
        lengths = self._found.get(zone, {}).get(bits, {})
        for length in sorted(lengths, reverse=True):
            if (name := lengths[length].get(number >> (bits - length))) is not None:
                return name
        return None

    def carriers(self) -> set[str]:
        """The existing interfaces between which packets of on-ramps are forwarded: their own, and the uplinks."""
        return self._existing & self.uplinks.union(*self._by_zone.values())

    def _of(self, way: Way) -> tuple[str, ...]:
        return tuple(name for name in way.interfaces if name not in self.uplinks)
