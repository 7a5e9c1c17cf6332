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
from proxy.kernel.claims import Claims
from proxy.kernel.conntrack import Conntrack
from proxy.kernel.host import Changes, needed
from proxy.kernel.policy_routing import PolicyRouting, by_kernel, interfaces, on_ramps
from proxy.kernel.ruleset import MAX_WAYS, ON_RAMP, Ruleset, Way
from proxy.offramps.accounts import Accounts
from proxy.offramps.drops import kernel_drops
from proxy.offramps.egress import EgressAddresses
from proxy.offramps.exit import UNASKED_NAME, Exit, InterfaceRamp, open_device
from proxy.offramps.share import ConntrackShare
from proxy.offramps.unasked import Unasked
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
        remember: Callable[[Flow], None] = lambda flow: None,
        tun: int = -1,
    ) -> None:
        """`remember(flow)` stores, for a successor, a flow that the kernel carries. `tun`: see InterfaceRamp."""
        self._settings, self._own, self._tenants, self._poller = settings, settings.kernel, tenants, poller
        self._remember, self._tun = remember, tun
        self.ramps: list[InterfaceRamp] = []
        self.exits: list[Exit] = []
        self.ways: dict[Carrier, Way] = {}
        self._zones: dict[tuple[str, str], int] = {}
        self._ended: dict[tuple[int, bytes, int], None] = {}  # connections for conntrack to delete
        self._egress = EgressAddresses()
        self._changes = Changes(Path(settings.control + ".kernel"))
        self._claims: Claims | None = None
        self._watched: list[socket.socket] = []
        self._conntrack: Conntrack | None = None
        self._accounts: Accounts | None = None
        self._unasked: Unasked | None = None
        self._has_changed = False
        self._has_routing = self._has_table = False  # whether `close` has to remove them
        self._features = facts.Features()
        self._share = ConntrackShare(tenants)
        self._next_lease = 0.0
        self.repairs = 0
        self._is_torn = False
        self._groups = self._own.mark >> 16, (self._own.mark >> 16) + 1 & 0xFFFF  # of NFLOG
        ends, asked = self._groups
        self._ruleset = Ruleset(self._own, settings.timeouts, ends_group=ends, asked_group=asked)
        self._routing = PolicyRouting(self._own, self._ruleset, self.ways)

    def start(self, plane: Plane, left_over: Sequence[FlowRecord] = ()) -> Sequence[FlowRecord]:
        """Open the devices and prepare the namespace. Raises ProxyError; `close` then undoes what was done.

        `left_over`: the flows that a killed proxy has recorded. They are taken back from conntrack. Returns those that
        are gone.
        """
        self._claims = Claims(self._own)
        self._has_routing = self._has_table = self._changes.adopt()
        self._conntrack = Conntrack()
        for name in by_kernel(self._settings):
            for network in self._tenants[name].networks:
                self._open_exits(self._tenants[name], network, plane)
        for ramp in on_ramps(self._settings):
            self._open_ramp(ramp, plane)
        # the probe loads the conntrack module, whose sysctls exist only then
        self._features = facts.features(flowtable=bool(self.ramps) and self._own.flowtable)
        self._changes.make(needed(interfaces(self._settings), has_on_ramps=bool(self.ramps)))
        if self.ramps:
            self._open_accounts(self._conntrack)
        self._open_unasked(self._conntrack, plane)
        self._has_routing = True
        self._routing.start()
        if self._accounts is not None:
            self._accounts.recover(plane, left_over, self._own.mark)
        nft.run(self._text())
        self._has_table = True
        for sock, ready in ((nft.watch(), self._ruleset_changed), (routing.watch_changes(), self._namespace_changed)):
            self._watched.append(sock)
            self._poller.watch(sock.fileno(), IN, ready, self._crashed)
        self.tick(time.monotonic())
        return left_over if self._accounts is None else self._accounts.gone

    def close(self) -> None:
        """Restore the namespace."""
        for sock in self._watched:
            self._poller.forget(sock.fileno())
            sock.close()
        self._watched.clear()
        if self._accounts is not None:
            self._accounts.close(self._poller)
            self._accounts = None
        if self._unasked is not None:
            self._unasked.close(self._poller)
            self._unasked = None
        if self._claims is None:
            return
        self._forget_ended()
        for way_out in self.exits:
            way_out.network.exits.pop(way_out.header_bytes, None)  # new flows leave by sockets from now on
            way_out.network.fast_paths.pop(way_out.header_bytes, None)
        for carrier in (*self.exits, *self.ramps):
            carrier.close()
        for ramp in self.ramps:
            ramp.network.ramps.clear()
        for undo in self._undoing():
            try:
                undo()
            except (OSError, ProxyError) as error:
                log.warning("the kernel off-ramp cannot undo what it did: %s", error)
        if self._conntrack is not None:
            self._conntrack.close()
            self._conntrack = None
        self._claims.close()
        self._claims = None

    def _undoing(self) -> Iterator[Callable[[], None]]:
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
        if not self._share.reserve(flow.tenant):
            return DropReason.CONNTRACK_FULL
        self.enter(flow)
        if flow.protocol == "udp" and self._unasked is not None and not is_inside:
            self._unasked.add(flow)
        if flow.protocol == "tcp" and isinstance(flow.egress, (Exit, InterfaceRamp)) and not is_inside:
            flow.egress.repeated.learn(flow.key, flow.egress_ip)
        return None

    def enter(self, flow: Flow) -> None:
        """Register a flow that leaves, or has left already; conntrack has room for it."""
        assert flow.egress is not None
        self._ended.pop((PROTOCOL_NUMBERS[flow.protocol], flow.key, self.ways[flow.egress].zone), None)
        if self._accounts is not None and isinstance(flow.carrier, InterfaceRamp):
            self._accounts.add(flow)

    def beyond(self, flow: Flow) -> Carrier:
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
        if flow.virtual is not None and self._unasked is not None:
            self._unasked.forget(flow)
        number = PROTOCOL_NUMBERS[flow.protocol]
        if flow.tenant.find(flow.carrier, number, flow.key) is flow:  # otherwise the entry is a later flow's
            self._ended[number, flow.key, self.ways[flow.egress].zone] = None

    def cut(self, flow: Flow) -> None:
        """End a flow's entry at once: if the kernel carries the flow by itself, its next packet comes up."""
        assert flow.egress is not None
        if isinstance(flow.carrier, InterfaceRamp):
            flow.carrier.revoke(flow)
            if self._accounts is not None:
                flow.virtual = self._accounts.outside(flow)
        self.end(flow)
        self._forget_ended()

    def settle(self, flow: Flow, done: Callable[[], None]) -> None:
        """Delete the entry of an ended flow, and call `done` when its totals are final."""
        if self._accounts is not None and isinstance(flow.carrier, InterfaceRamp):
            self._accounts.finish(flow, done)
        else:
            self.end(flow)
            done()

    def count(self, flows: Iterable[Flow]) -> None:
        """Update the totals of those flows that the kernel carries by itself."""
        if self._accounts is not None:
            carried = (flow for flow in flows if isinstance(flow.carrier, InterfaceRamp))
            self._accounts.count(flow for flow in carried if flow.offramp == "kernel" and not flow.is_recorded)

    def catch_up(self, flow: Flow) -> None:
        """Read what the kernel has logged about flows that it carries."""
        if self._accounts is not None and isinstance(flow.carrier, InterfaceRamp):
            self._accounts.catch_up(flow.carrier)

    def replace(self, flow: Flow) -> None:
        """Give the flow conntrack's counts so far, as a later flow with the same addresses and ports begins at 0."""
        if self._accounts is not None and not flow.is_recorded:
            self._accounts.replace(flow)

    def count_all(self, tenants: Iterable[Tenant]) -> None:
        """Update the totals of all such flows of these tenants."""
        self.count(flow for tenant in tenants for flow in tenant.live())

    def tick(self, now: float) -> None:
        """Do periodic work, a few times a second."""
        self._forget_ended()
        if self._accounts is not None:
            self._accounts.tick(now)
        self._share.refresh()
        for repeated in [*(each.repeated for each in self.exits), *(each.repeated for each in self.ramps)]:
            repeated.forget()
        if self._has_changed:
            self._has_changed = False
            self._egress.forget()
            uplinks = self._routing.sites.uplinks
            self._routing.refresh()
            if self._routing.sites.uplinks != uplinks and self.ramps:
                self._is_torn = not self._make_again()
        if self._is_torn:
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
        return 0 if self._accounts is None else self._accounts.lost

    def drops(self) -> dict[DropReason, int]:
        """Drops by the table, conntrack and the UDP filter that belong to no tenant."""
        drops = kernel_drops(self._ruleset.name)
        if self._unasked is not None:
            drops.update(self._unasked.drops)
        return drops

    def remove_left_over(self) -> None:
        """Remove what a killed proxy of this instance has left, if the settings have no kernel off-ramp any more."""
        if self._changes.adopt():
            self._has_routing = self._has_table = True
            self._claims = Claims(self._own)
            self._conntrack = Conntrack()
            self.close()

    def _open_accounts(self, conntrack: Conntrack) -> None:
        ramps = {self.ways[ramp].index: ramp for ramp in self.ramps}
        zones = {ramp: self.ways[ramp].zone for ramp in self.ramps}
        try:
            self._accounts = Accounts(ramps, zones, conntrack, self._groups[0], self._remember)
        except OSError as error:
            raise ProxyError(f"interface on-ramps need nfnetlink_log and conntrack events: {error.strerror}") from error
        self._accounts.watch(self._poller)

    def _open_unasked(self, conntrack: Conntrack, plane: Plane) -> None:
        marks = {carrier: self._ruleset.mark(way) for carrier, way in self.ways.items()}
        device, _ = open_device(UNASKED_NAME, offload=False)
        try:
            self._unasked = Unasked(self._groups[1], device, self.ways, marks, conntrack)
        except OSError as error:
            os.close(device)
            log.warning("UDP answers from other ports are not let in: no nfnetlink_log (%s)", error.strerror)
            return
        self._unasked.watch(self._poller, plane)

    def _open_exits(self, tenant: Tenant, name: str, plane: Plane) -> None:
        network = tenant.networks[name]
        said = self._settings.tenants[tenant.name]
        egress = egress_of(said, said.networks.get(name))
        for offload in (False, True):
            way_out = Exit(tenant, name, plane, self._poller, self._share.reserve, offload=offload)
            self.exits.append(way_out)
            self._add_way(way_out, way_out.interface, len(self.exits), egress)
            network.exits[way_out.header_bytes] = way_out
            network.fast_paths[way_out.header_bytes] = way_out.repeated.take
        network.is_host_address = self._is_host_address

    def _open_ramp(self, settings: InterfaceOnRamp, plane: Plane) -> None:
        tenant, said = self._tenants[settings.tenant], self._settings.tenants[settings.tenant]
        egress = egress_of(said, said.networks.get(settings.network))
        self.ramps.append(ramp := InterfaceRamp(settings, tenant, plane, self._poller, self._tun, self._share.reserve))
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
                log.warning("conntrack does not forget: %s", error)

    def _ruleset_changed(self, events: int) -> None:
        """Restore our table if a change of nftables has removed some of it."""
        sock = self._watched[0]
        if not nft.has_lost(sock, self._ruleset.name):
            return
        log.warning("table inet %s was flushed or changed by somebody: it is made again", self._ruleset.name)
        self._is_torn = True
        self._repair()

    def _repair(self) -> None:
        """Restore the table. If that fails, `tick` tries again."""
        if self._make_again():
            self._is_torn = False
            self.repairs += 1

    def _make_again(self) -> bool:
        """Replace the table by a new one. Returns whether the kernel accepted it."""
        try:
            nft.run(self._text())
        except ProxyError as error:
            log.error("the kernel off-ramp has no table: %s", error)
            return False
        nft.has_lost(self._watched[0], self._ruleset.name)  # discard the events of our own change
        self._next_lease = 0.0
        return True

    def _namespace_changed(self, events: int) -> None:
        try:
            while self._watched[1].recv(1 << 16):
                pass
        except OSError:
            pass
        self._has_changed = True

    def _crashed(self, error: BaseException) -> None:
        """Ignore the error, which is logged: the next change is handled."""
