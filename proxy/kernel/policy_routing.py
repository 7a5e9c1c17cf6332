"""Policy routing of the kernel off-ramp (ip-rule(8)): rules that match marks, and tables for each of our devices."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from proxy.device import routing
from proxy.device.routing import Route, Rule
from proxy.device.tun import OFF_RAMP_NAMES
from proxy.errors import ProxyError
from proxy.kernel.host import needed
from proxy.kernel.obstacles.judge import Obstacle, judge
from proxy.kernel.obstacles.survey import gather
from proxy.kernel.ruleset import OUTWARD, Ruleset, Way
from proxy.kernel.sites import Sites
from proxy.settings import InterfaceOnRamp, KernelOffRamp, Settings, TenantSettings, suggest
from proxy.settings.egress import egress_of
from proxy.settings.parts import DEFAULT_NETWORK

log = logging.getLogger(__name__)

FULL_MASK = 0xFFFF_FFFF
DECIDING = 0x1_0000  # added to an on-ramp's index: the table for packets still to be decided
SITES_TABLE = DECIDING | 0x8000  # added to a network's number: the table of the routes to its sites
LISTINGS = 3  # routes vanish with their devices while the kernel lists them, so one listing may be incomplete
DEFAULTS = {4: "0.0.0.0/0", 6: "::/0"}


class PolicyRouting:
    """Rules and tables in the namespace; `refresh` keeps them up to date with it."""

    def __init__(self, settings: KernelOffRamp, ruleset: Ruleset, ways: Mapping[Any, Way]) -> None:
        """`ways` may grow until `start`."""
        self._own, self._ruleset, self.ways = settings, ruleset, ways
        self.addresses: set[bytes] = set()  # this host's own
        self.sites = Sites()
        self._routes: list[Route] = []

    def start(self) -> None:
        """Make rules and tables as required. Missing ones are added before others are deleted, as packets of flows that
        the kernel carries pass meanwhile. Raises OSError if the kernel refuses."""
        wanted, present = list(self._rules()), self._own_rules()
        routing.add_rules(rule for rule in wanted if rule not in present)
        routing.delete_rules(rule for rule in present if rule not in wanted)
        self._routes = list(self._own_routes())
        self.refresh()

    def remove(self) -> None:
        """Remove all our rules and tables, found by mark and table, including those left by an earlier proxy."""
        routing.delete_rules(self._own_rules())
        for _ in range(LISTINGS):
            if not (left := list(self._own_routes())):
                break
            routing.delete_routes(left)

    def _own_rules(self) -> list[Rule]:
        mark, tables = self._own.mark, self._tables
        return [
            rule for rule in routing.rules()
            if rule.table in tables or (rule.mask == FULL_MASK and rule.mark & 0xFFFF_0000 == mark)
        ]  # fmt: skip

    def _own_routes(self) -> Iterator[Route]:
        return (route for version in DEFAULTS for route in routing.routes(version) if route.table in self._tables)

    @property
    def _tables(self) -> range:
        return range(self._own.first_table, self._own.first_table + 2 * DECIDING)

    def _rules(self) -> Iterator[Rule]:
        """Rules in this order: for ICMP errors of this host, to sites, leaving, returning, to be decided."""
        first, tables = self._own.priority, self._own.first_table
        zones = dict.fromkeys(way.zone for way in self.ways.values() if way.is_on_ramp)
        for zone in zones:
            for version in (4, 6):
                yield Rule(version, first + 1, self._sites_table(zone), self._ruleset.sites_mark(zone), FULL_MASK)
        for way in self.ways.values():
            out, back = self._ruleset.outward_mark(way), self._ruleset.mark(way)
            for version in (4, 6):
                yield Rule(version, first, tables + way.index, out, FULL_MASK, "lo")
                if way.zone in zones:
                    yield Rule(version, first + 1, self._sites_table(way.zone), out, FULL_MASK)
                if way.egress.interface is not None:
                    yield Rule(version, first + 2, tables + (OUTWARD | way.index), out, FULL_MASK)
                elif way.is_on_ramp:  # so that the `priority + 4` rule does not match it
                    yield Rule(version, first + 2, routing.RT_TABLE_MAIN, out, FULL_MASK)
                yield Rule(version, first + 3, tables + way.index, back, FULL_MASK)
                if way.is_on_ramp:
                    deciding, late = tables + DECIDING + way.index, self._ruleset.late_mark(way)
                    yield Rule(version, first, deciding, late, FULL_MASK, "lo")
                if way.back is not None:
                    yield Rule(version, first + 3, tables + way.index, interface=way.back)
                for name in way.interfaces:
                    yield Rule(version, first + 4, self._own.first_table + DECIDING + way.index, interface=name)

    def _wanted_routes(self) -> Iterator[Route]:
        indexes = {name: index for index, name in socket.if_nameindex()}
        main = [
            route for version in (4, 6) for route in routing.routes(version) if route.table == routing.RT_TABLE_MAIN
        ]
        self.sites = Sites(self.ways.values(), main, {index: name for name, index in indexes.items()})
        for zone in {way.zone for way in self.ways.values()}:
            for route in self.sites.routes(zone):
                yield msgspec.structs.replace(route, table=self._sites_table(zone))
        for way in self.ways.values():
            back, out, own = self._own.first_table + way.index, self._own.first_table + (OUTWARD | way.index), []
            device = indexes.get(way.device)
            for version, everything in DEFAULTS.items():
                if not way.is_on_ramp:
                    own.append(Route(version, everything, back, device))
                else:
                    table = self._own.first_table + DECIDING + way.index
                    own.append(Route(version, everything, table, device))
                    own.append(Route(version, everything, table, None, metric=routing.LAST_RESORT_METRIC))
                if way.egress.interface is not None:
                    own.append(Route(version, everything, out, None, metric=routing.LAST_RESORT_METRIC))
            yield from own
            for route in main:
                if way.is_on_ramp and route.index in [indexes.get(name) for name in way.interfaces]:
                    yield Route(route.version, route.prefix, back, route.index, route.gateway, route.metric)
                if way.egress.interface is not None and route.index == indexes.get(way.egress.interface):
                    yield Route(route.version, route.prefix, out, route.index, route.gateway, route.metric)

    def _sites_table(self, zone: int) -> int:
        return self._own.first_table + SITES_TABLE + zone - self._own.first_zone

    def can_reach(self, ramp: Any, address: bytes) -> bool:
        """Whether this address is behind one of the on-ramp's interfaces, by the routes of the namespace."""
        way = self.ways[ramp]
        return self.sites.behind(way.zone, address) in way.interfaces

    def refresh(self) -> None:
        """Follow changes of the namespace: its addresses, and the routes of interfaces that tenants are bound to."""
        self.addresses = routing.own_addresses()
        wanted = list(self._wanted_routes())
        routing.delete_routes(route for route in self._routes if route not in wanted)
        self._routes, failed = wanted, 0
        for route in wanted:
            try:
                routing.set_routes([route])
            except OSError as error:
                failed += 1
                log.warning("kernel off-ramp: %s", error)


def planned(settings: Settings) -> Iterator[str]:
    """The changes that the off-ramp would make to this namespace, in words."""
    own, names, ramps = settings.kernel, interfaces(settings), list(on_ramps(settings))
    networks = sum(1 + len(each.networks.keys() - {DEFAULT_NETWORK}) for each in kernel_tenants(settings).values())
    yield f"TUN devices: oxkN, two for each network: {2 * networks}; oxu0" + (
        f"; oxiN and oxbN for each interface on-ramp: {2 * len(ramps)}" if ramps else ""
    )
    yield f"nftables: the table inet oxy_{own.instance}, for packets of these devices{' and of on-ramps' * bool(ramps)}"
    yield f"routing: rules of priority {own.priority} to {own.priority + 4}, for marks {own.mark:#x}/0xffff0000"
    yield f"routing: tables from {own.first_table} on, one or two for each device"
    yield f"conntrack: zones from {own.first_zone} on, one for each network"
    for name in names:
        yield f"forwarding: between the proxy's devices and {name}"
    for change in needed(names, has_on_ramps=bool(ramps)):
        yield str(change)


def find_obstacles(settings: Settings) -> list[Obstacle]:
    """The obstacles to the off-ramp in this namespace. Raises ProxyError, as `interfaces` does."""
    ramps = [name for ramp in on_ramps(settings) for name in ramp.interfaces]
    names, bound = interfaces(settings), [name for name in _egresses(settings) if name is not None]
    return judge(gather(settings.kernel, interfaces=names, bound=bound, on_ramps=ramps))


def kernel_tenants(settings: Settings) -> dict[str, TenantSettings]:
    """The tenants whose unread flows leave by the kernel."""
    tenants = settings.tenants.items()
    return {name: tenant for name, tenant in tenants if (tenant.offramp or settings.offramp) == "kernel"}


def is_configured(settings: Settings) -> bool:
    """Whether any tenant's flows are to leave by the kernel."""
    return bool(kernel_tenants(settings))


def interfaces(settings: Settings) -> list[str]:
    """The interfaces through which packets leave and return. Raises ProxyError if an on-ramp names a missing one."""
    known = {index: name for index, name in socket.if_nameindex() if not name.startswith(OFF_RAMP_NAMES)}
    egresses = _egresses(settings)
    names = {name for name in egresses if name is not None}
    if None in egresses:  # wherever the routes lead
        main = (route for version in DEFAULTS for route in routing.routes(version))
        found = {route.index for route in main if route.table == routing.RT_TABLE_MAIN and route.index}
        names |= {known[index] for index in found if index in known}
    for name in (name for ramp in on_ramps(settings) for name in ramp.interfaces):
        if name not in known.values():
            raise ProxyError(f"on-ramp: no interface '{name}'{suggest(name, known.values())}")
        names.add(name)
    return sorted(name for name in names - {"lo"} if name in known.values())


def _egresses(settings: Settings) -> set[str | None]:
    """The interfaces through which networks leave; None stands for those that the routes choose."""
    return {
        egress_of(tenant, network).interface
        for tenant in kernel_tenants(settings).values()
        for network in (None, *tenant.networks.values())
    }


def on_ramps(settings: Settings) -> Iterator[InterfaceOnRamp]:
    """The on-ramps whose clients are visible to the kernel."""
    return (ramp for ramp in settings.onramps if isinstance(ramp, InterfaceOnRamp))
