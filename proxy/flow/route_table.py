"""The routes of one virtual network, and longest-prefix match."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from proxy.settings.sites import Route


class RouteTable:
    """The routes of one virtual network, of both families."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        tables: dict[tuple[int, int], dict[int, list[Route]]] = {}
        for route in self.routes:
            prefix = ip_network(route.prefix)
            length = prefix.prefixlen
            number = int(prefix.network_address) >> (prefix.max_prefixlen - length)
            tables.setdefault((prefix.max_prefixlen, length), {}).setdefault(number, []).append(route)
        self._tables = {
            bits: [(length, tables[bits, length]) for family, length in sorted(tables, reverse=True) if family == bits]
            for bits in (32, 128)
        }

    def match(self, destination: bytes) -> list[Route]:
        """The routes of the longest prefix that contains `destination`."""
        bits, number = 8 * len(destination), int.from_bytes(destination, "big")
        for length, table in self._tables[bits]:
            if (routes := table.get(number >> (bits - length))) is not None:
                return routes
        return []
