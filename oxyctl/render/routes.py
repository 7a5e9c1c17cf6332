"""Routes as rows, in the order in which they are considered."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from oxyctl.render.tables import Column, Table
from proxy.control.schema import RouteInfo

_COLUMNS = [
    Column("TENANT"),
    Column("NETWORK", rank=1),
    Column("PREFIX"),
    Column("VIA"),
    Column("PRIORITY", right=True, rank=3),
    Column("COST", right=True),
    Column("WEIGHT", right=True, rank=4),
    Column("LEVEL", rank=5),
    Column("FLOWS", right=True, rank=2),
]


def print_routes(routes: Sequence[RouteInfo]) -> None:
    """Print each virtual network's routes: longest prefix first, then cheapest; unusable ones last."""
    Table(_COLUMNS).write([_row(route) for route in sorted(routes, key=_order)])


def _order(route: RouteInfo) -> tuple[object, ...]:
    prefix = ipaddress.ip_network(route.prefix, strict=False)
    cost = (route.cost is None, route.cost or 0)
    return route.tenant, route.network, prefix.version, -prefix.prefixlen, prefix.network_address, cost, route.via


def _row(route: RouteInfo) -> list[str]:
    return [
        route.tenant,
        route.network,
        route.prefix,
        route.via,
        str(route.priority),
        "not connected" if route.cost is None else str(route.cost),
        str(route.weight),
        "stream" if "stream" in (route.level, route.via) else "packet",
        str(route.flows),
    ]
