"""The kernel off-ramp: uninspected flows are forwarded, translated and tracked by the kernel.

tunnel --- pump --- oxkN ===> forwarding, nftables, conntrack ===> eth0      oxkN: one for each network, and offload
p0 =====> forwarding, nftables, conntrack ===> eth0                          decided flows of an interface on-ramp
   `----- oxiN --- decides --- oxiN ===> the same                            their first packets
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from proxy.device import routing
from proxy.errors import DropReason, ProxyError
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow, address_text
from proxy.flow.record import FlowRecord
from proxy.flow.tenant import Carrier, Tenant
from proxy.kernel import facts, nft
from proxy.kernel.conntrack import Conntrack
from proxy.kernel.host import Changes, needed
from proxy.kernel.policy_routing import PolicyRouting, interfaces, kernel_tenants, on_ramps
from proxy.kernel.resource_locks import ResourceLocks
from proxy.kernel.ruleset import MAX_WAYS, ON_RAMP, Ruleset, Way
from proxy.offramps.accounting import Accounting
from proxy.offramps.conntrack_limit import ConntrackLimit
from proxy.offramps.drops import kernel_drops
from proxy.offramps.egress import EgressAddresses
from proxy.offramps.exit import UNSOLICITED_NAME, Exit, InterfaceRamp, open_device
from proxy.offramps.unsolicited import UnsolicitedUDP
from proxy.packet.plane import Plane
from proxy.poller import IN, Poller
from proxy.settings import InterfaceOnRamp, Settings, TunOnRamp
from proxy.settings.egress import Egress, egress_of

log = logging.getLogger(__name__)

LEASE_S = 1.0  # between renewals of the table's lease


class KernelOffRamp:
    """The kernel off-ramp of one proxy. `start` opens it, `close` restores the namespace."""

    def __init__(
        self,
        settings: Settings,
        tenants: Mapping[str, Tenant],
        poller: Poller,
        store: Callable[[Flow], None] = lambda flow: None,
        tun: int = -1,
    ) -> None:
        """`store(flow)` stores, for a successor, a flow that the kernel carries. `tun`: see InterfaceRamp."""
        self._settings, self._own, self._tenants, self._poller = settings, settings.kernel, tenants, poller
        self._store, self._tun = store, tun
        self.ramps: list[InterfaceRamp] = []
        self.exits: list[Exit] = []
        self.ways: dict[Carrier, Way] = {}
        self._zones: dict[tuple[str, str], int] = {}
        self._ended: dict[tuple[int, bytes, int], None] = {}  # connections for conntrack to delete
        self._egress = EgressAddresses()
        self._changes = Changes(Path(settings.control + ".kernel"))
        self._locks: ResourceLocks | None = None
        self._watch_sockets: list[socket.socket] = []
        self._conntrack: Conntrack | None = None
        self._accounting: Accounting | None = None
        self._unsolicited: UnsolicitedUDP | None = None
        self._has_changed = False
        self._has_routing = self._has_table = False  # whether `close` has to remove them
        self._features = facts.Features()
        self._limit = ConntrackLimit(tenants)
        self._next_lease = 0.0
        self.repairs = 0
        self._is_damaged = False
        self._groups = self._own.mark >> 16, (self._own.mark >> 16) + 1 & 0xFFFF  # of NFLOG
        ends, asked = self._groups
        self._ruleset = Ruleset(self._own, settings.timeouts, ends_group=ends, asked_group=asked)
        self._routing = PolicyRouting(self._own, self._ruleset, self.ways)

    def start(self, plane: Plane, orphans: Sequence[FlowRecord] = ()) -> Sequence[FlowRecord]:
        """Open the devices and prepare the namespace. Raises ProxyError; `close` then undoes what was done.

        `orphans`: the flows that a killed proxy has recorded. They are recovered from conntrack. Returns those that
        are missing there.
        """
        self._locks = ResourceLocks(self._own)
        self._has_routing = self._has_table = self._changes.adopt()
        self._conntrack = Conntrack()
        for name in kernel_tenants(self._settings):
            for network in self._tenants[name].networks:
                self._open_exits(self._tenants[name], network, plane)
        for ramp in on_ramps(self._settings):
            self._open_ramp(ramp, plane)
        # the probe loads the conntrack module, whose sysctls exist only then
        self._features = facts.features(flowtable=bool(self.ramps) and self._own.flowtable)
        self._changes.make(needed(interfaces(self._settings), has_on_ramps=bool(self.ramps)))
        if self.ramps:
            self._open_accounting(self._conntrack)
        self._open_unsolicited(self._conntrack, plane)
        self._has_routing = True
        self._routing.start()
        if self._accounting is not None:
            self._accounting.recover(plane, orphans, self._own.mark)
        nft.run(self._text())
        self._has_table = True
        for sock, ready in ((nft.watch(), self._ruleset_changed), (routing.watch_changes(), self._namespace_changed)):
            self._watch_sockets.append(sock)
            self._poller.watch(sock.fileno(), IN, ready, self._crashed)
        self.tick(time.monotonic())
        return orphans if self._accounting is None else self._accounting.missing

    def close(self) -> None:
        """Restore the namespace."""
        for sock in self._watch_sockets:
            self._poller.forget(sock.fileno())
            sock.close()
        self._watch_sockets.clear()
        if self._accounting is not None:
            self._accounting.close(self._poller)
            self._accounting = None
        if self._unsolicited is not None:
            self._unsolicited.close(self._poller)
            self._unsolicited = None
        if self._locks is None:
            return
        self._forget_ended()
        for exit_ in self.exits:
            exit_.network.exits.pop(exit_.header_bytes, None)  # new flows leave by sockets from now on
            exit_.network.fast_paths.pop(exit_.header_bytes, None)
        for carrier in (*self.exits, *self.ramps):
            carrier.close()
        for ramp in self.ramps:
            ramp.network.ramps.clear()
        for undo in self._undo_steps():
            try:
                undo()
            except (OSError, ProxyError) as error:
                log.warning("the kernel off-ramp cannot undo what it did: %s", error)
        if self._conntrack is not None:
            self._conntrack.close()
            self._conntrack = None
        self._locks.close()
        self._locks = None

    def _undo_steps(self) -> Iterator[Callable[[], None]]:
        """Functions that undo everything that was made, or left by a killed proxy."""
        if self._has_routing:
            yield self._routing.remove
        if self._has_table:
            yield partial(nft.run, self._ruleset.removal())
        yield self._changes.undo
        if self._has_table and self._conntrack is not None:
            yield partial(self._conntrack.flush, self._own.mark, 0xFFFF_0000)

    def begin(self, flow: Flow) -> DropReason | None:
        """Admit a flow to the kernel, and fill in its egress address. Returns the reason if that is impossible."""
        assert flow.egress is not None
        way, is_inside = self.ways[flow.egress], self._site_of(flow) is not None
        flow.egress_ip = address_text(flow.source) if is_inside else self._egress.towards(flow.destination, way.egress)
        if flow.egress_ip is None:  # the kernel would report it too, but only five times, then once a second
            return DropReason.NO_ROUTE
        if not self._limit.reserve(flow.tenant):
            return DropReason.CONNTRACK_FULL
        self.enter(flow)
        if flow.protocol == "udp" and self._unsolicited is not None and not is_inside:
            self._unsolicited.add(flow)
        if flow.protocol == "tcp" and isinstance(flow.egress, (Exit, InterfaceRamp)) and not is_inside:
            flow.egress.cached_decisions.learn(flow.key, flow.egress_ip)
        return None

    def enter(self, flow: Flow) -> None:
        """Register a flow that leaves, or has left already; conntrack has room for it."""
        assert flow.egress is not None
        self._ended.pop((PROTOCOL_NUMBERS[flow.protocol], flow.key, self.ways[flow.egress].zone), None)
        if self._accounting is not None and isinstance(flow.carrier, InterfaceRamp):
            self._accounting.add(flow)

    def carrier_to_origin(self, flow: Flow) -> Carrier:
        """The on-ramp behind which the flow's origin is, or else the flow's own."""
        site = self._site_of(flow)
        return next((ramp for ramp in self.ramps if site in ramp.settings.interfaces), flow.carrier)

    def _site_of(self, flow: Flow) -> str | None:
        """The interface of an on-ramp of its network by which the flow leaves; None: it leaves the network."""
        way = self.ways[flow.carrier] if isinstance(flow.carrier, InterfaceRamp) else None
        return None if way is None else self._routing.sites.behind(way.zone, flow.destination)

    def end(self, flow: Flow) -> None:
        """Have conntrack delete the entry of a flow that has ended."""
        assert flow.egress is not None
        if flow.virtual is not None and self._unsolicited is not None:
            self._unsolicited.forget(flow)
        number = PROTOCOL_NUMBERS[flow.protocol]
        if flow.tenant.find(flow.carrier, number, flow.key) is flow:  # otherwise the entry is a later flow's
            self._ended[number, flow.key, self.ways[flow.egress].zone] = None

    def abort(self, flow: Flow) -> None:
        """End a flow's entry at once: if the kernel carries the flow by itself, its next packet comes up."""
        assert flow.egress is not None
        if isinstance(flow.carrier, InterfaceRamp):
            flow.carrier.revoke(flow)
            if self._accounting is not None:
                flow.virtual = self._accounting.external_endpoint(flow)
        self.end(flow)
        self._forget_ended()

    def settle(self, flow: Flow, done: Callable[[], None]) -> None:
        """Delete the entry of an ended flow, and call `done` when its totals are final."""
        if self._accounting is not None and isinstance(flow.carrier, InterfaceRamp):
            self._accounting.finish(flow, done)
        else:
            self.end(flow)
            done()

    def count(self, flows: Iterable[Flow]) -> None:
        """Update the totals of those flows that the kernel carries by itself."""
        if self._accounting is not None:
            carried = (flow for flow in flows if isinstance(flow.carrier, InterfaceRamp))
            self._accounting.count(flow for flow in carried if flow.offramp == "kernel" and not flow.is_recorded)

    def catch_up(self, flow: Flow) -> None:
        """Read what the kernel has logged about flows that it carries."""
        if self._accounting is not None and isinstance(flow.carrier, InterfaceRamp):
            self._accounting.catch_up(flow.carrier)

    def replace(self, flow: Flow) -> None:
        """Give the flow conntrack's counts so far, as a later flow with the same addresses and ports begins at 0."""
        if self._accounting is not None and not flow.is_recorded:
            self._accounting.replace(flow)

    def count_all(self, tenants: Iterable[Tenant]) -> None:
        """Update the totals of all such flows of these tenants."""
        self.count(flow for tenant in tenants for flow in tenant.live())

    def tick(self, now: float) -> None:
        """Do periodic work, a few times a second."""
        self._forget_ended()
        if self._accounting is not None:
            self._accounting.tick(now)
        self._limit.refresh()
        carriers: list[Exit | InterfaceRamp] = [*self.exits, *self.ramps]
        for carrier in carriers:
            carrier.cached_decisions.forget()
        if self._has_changed:
            self._has_changed = False
            self._egress.forget()
            uplinks = self._routing.sites.uplinks
            self._routing.refresh()
            if self._routing.sites.uplinks != uplinks and self.ramps:
                self._is_damaged = not self._rebuild_table()
        if self._is_damaged:
            self._repair()
        if self.ramps and now >= self._next_lease:
            self._next_lease = now + LEASE_S
            for ramp in self.ramps:
                ramp.renew_lease()

    @property
    def table(self) -> str:
        """The name of the nftables table."""
        return self._ruleset.name

    @property
    def devices(self) -> list[str]:
        """The names of our TUN devices."""
        return [way.device for way in self.ways.values()]

    @property
    def lost(self) -> int:
        """How many times reports of the kernel on its flows were lost because we were too slow."""
        return 0 if self._accounting is None else self._accounting.lost

    def drops(self) -> dict[DropReason, int]:
        """Drops by the table, conntrack and the UDP filter that belong to no tenant."""
        drops = kernel_drops(self._ruleset.name)
        if self._unsolicited is not None:
            drops.update(self._unsolicited.drops)
        return drops

    def remove_leftovers(self) -> None:
        """Remove what a killed proxy of this instance has left, if the settings have no kernel off-ramp any more."""
        if self._changes.adopt():
            self._has_routing = self._has_table = True
            self._locks = ResourceLocks(self._own)
            self._conntrack = Conntrack()
            self.close()

    def _open_accounting(self, conntrack: Conntrack) -> None:
        ramps = {self.ways[ramp].index: ramp for ramp in self.ramps}
        zones = {ramp: self.ways[ramp].zone for ramp in self.ramps}
        try:
            self._accounting = Accounting(ramps, zones, conntrack, self._groups[0], self._store)
        except OSError as error:
            raise ProxyError(f"interface on-ramps need nfnetlink_log and conntrack events: {error.strerror}") from error
        self._accounting.watch(self._poller)

    def _open_unsolicited(self, conntrack: Conntrack, plane: Plane) -> None:
        marks = {carrier: self._ruleset.mark(way) for carrier, way in self.ways.items()}
        device, _ = open_device(UNSOLICITED_NAME, offload=False)
        try:
            self._unsolicited = UnsolicitedUDP(self._groups[1], device, self.ways, marks, conntrack)
        except OSError as error:
            os.close(device)
            log.warning("UDP replies from other ports are dropped: no nfnetlink_log (%s)", error.strerror)
            return
        self._unsolicited.watch(self._poller, plane)

    def _open_exits(self, tenant: Tenant, name: str, plane: Plane) -> None:
        network = tenant.networks[name]
        configured = self._settings.tenants[tenant.name]
        egress = egress_of(configured, configured.networks.get(name))
        for offload in (False, True):
            exit_ = Exit(tenant, name, plane, self._poller, self._limit.reserve, offload=offload)
            self.exits.append(exit_)
            self._add_way(exit_, exit_.interface, len(self.exits), egress)
            network.exits[exit_.header_bytes] = exit_
            network.fast_paths[exit_.header_bytes] = exit_.cached_decisions.take
        network.is_host_address = self._is_host_address

    def _open_ramp(self, settings: InterfaceOnRamp, plane: Plane) -> None:
        tenant, configured = self._tenants[settings.tenant], self._settings.tenants[settings.tenant]
        egress = egress_of(configured, configured.networks.get(settings.network))
        self.ramps.append(ramp := InterfaceRamp(settings, tenant, plane, self._poller, self._tun, self._limit.reserve))
        self._add_way(ramp, ramp.interface, ON_RAMP | len(self.ramps), egress, tuple(settings.interfaces), ramp.back)
        ramp.network.ramps.append(ramp)
        ramp.network.can_reach = self._routing.can_reach
        tenant.attach(ramp)

    def _add_way(
        self,
        carrier: Exit | InterfaceRamp,
        device: str,
        index: int,
        egress: Egress,
        interfaces: tuple[str, ...] = (),
        back: str | None = None,
    ) -> None:
        if index & ~ON_RAMP > MAX_WAYS:
            raise ProxyError(f"more than {MAX_WAYS} ways into the kernel")
        place = carrier.tenant.name, carrier.network.name
        zone = self._zones.setdefault(place, self._own.first_zone + len(self._zones))
        self.ways[carrier] = Way(index, device, zone, egress, interfaces, back, carrier.tenant.dscp)

    def _text(self) -> str:
        ways = [self._routing.sites.complete(way) for way in self.ways.values()]
        closed = [ramp.device for ramp in self._settings.onramps if isinstance(ramp, TunOnRamp)]
        helpers, has_timeouts, has_flowtable = self._features
        fast = self._routing.sites.carriers() if has_flowtable else ()
        return self._ruleset.text(ways, helpers=helpers, has_timeouts=has_timeouts, closed=closed, fast=fast)

    def _is_host_address(self, address: bytes) -> bool:
        return address in self._routing.addresses

    def _forget_ended(self) -> None:
        if self._ended and self._conntrack is not None:
            ended, self._ended = list(self._ended), {}
            try:
                self._conntrack.delete(ended)
            except OSError as error:
                log.warning("cannot delete conntrack entries: %s", error)

    def _ruleset_changed(self, events: int) -> None:
        """Restore our table if a change of nftables has removed some of it."""
        sock = self._watch_sockets[0]
        if not nft.has_lost(sock, self._ruleset.name):
            return
        log.warning("table inet %s was flushed or changed by another program: rebuilding it", self._ruleset.name)
        self._is_damaged = True
        self._repair()

    def _repair(self) -> None:
        """Restore the table. If that fails, `tick` tries again."""
        if self._rebuild_table():
            self._is_damaged = False
            self.repairs += 1

    def _rebuild_table(self) -> bool:
        """Replace the table by a new one. Returns whether the kernel accepted it."""
        try:
            nft.run(self._text())
        except ProxyError as error:
            log.error("cannot rebuild the kernel off-ramp's nftables table: %s", error)
            return False
        nft.has_lost(self._watch_sockets[0], self._ruleset.name)  # discard the events of our own change
        self._next_lease = 0.0
        return True

    def _namespace_changed(self, events: int) -> None:
        try:
            while self._watch_sockets[1].recv(1 << 16):
                pass
        except OSError:
            pass
        self._has_changed = True

    def _crashed(self, error: BaseException) -> None:
        """Ignore the error, which is logged: the next change is handled."""
