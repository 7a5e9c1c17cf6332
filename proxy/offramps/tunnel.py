"""Flows that leave by a tunnel as packets: opened, routed, watched, ended. `packet/forward.py` moves their packets.

What the packets say is not looked at, but for the flags that begin and end a TCP connection.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from proxy.errors import DropReason
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow, Path
from proxy.flow.network import Network, reverse_key
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier
from proxy.hooks import HookRunner
from proxy.packet.forward import forward, memoise
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import UNREACHABLE, Opener
from proxy.packet.routes import Hop, choose, flow_hash
from proxy.settings.model import Timeouts
from proxy.wire import icmp, tcp
from proxy.wire.ip import IPPacket

if TYPE_CHECKING:
    from proxy.stream.lifecycle import Lifecycle

DNS = 53
LAST_PACKETS_S = 2.0  # after both FINs: the last acknowledgements and repetitions still pass
CUT_S = 60.0  # after an end that the hosts do not know of: their next segments are answered with RST
CUTS = ("denied", "admin_killed", "policy_revoked", "tunnel_closed", "proxy_error")
LEVELS = ("packet", "stream")


@dataclass(slots=True)
class TunnelOffRamp:
    """What all flows between tunnels share; opens them, or has them lifted to streams."""

    lifecycle: Lifecycle
    hooks: HookRunner
    errors: IcmpErrors
    timeouts: Timeouts
    streams: Mapping[str, Opener]  # by protocol: for flows that are lifted although they leave by a tunnel
    idents: itertools.count[int] = field(default_factory=lambda: itertools.count(1))  # of IPv6 fragments

    def open(self, flow: Flow, hop: Hop, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Ask whether the flow may be, and how high it is lifted; send its first packet on."""
        may_lift = flow.protocol in self.streams
        if may_lift and hop.is_stream and not self.hooks.has("level"):
            return self.streams[flow.protocol].open(flow, buffer, packet)
        handler = ForwardedFlow(self, flow, is_lifted=may_lift and hop.is_stream)
        held = bytes(buffer[: packet.end])
        self.lifecycle.begin(flow, handler, partial(handler.decided, held, packet))
        return None


class ForwardedFlow:
    """One flow between two tunnels."""

    __slots__ = ("_is_lifted", "_is_started", "_number", "_plane", "_protocol", "flow", "is_unrouted")

    def __init__(self, plane: TunnelOffRamp, flow: Flow, *, is_lifted: bool) -> None:
        self._plane, self.flow, self._is_lifted = plane, flow, is_lifted
        self._protocol = PROTOCOL_NUMBERS[flow.protocol]
        self._number = flow_hash(self._protocol, flow.key)
        self._is_started = False
        self.is_unrouted = False  # its route has changed: the next packet looks for a new one

    def decided(self, held: bytes, packet: IPPacket, denial: str | None) -> None:
        """Hooks and policy have spoken about the flow whose first packet stands in `held`."""
        flow, plane = self.flow, self._plane
        if flow.is_ended:
            return
        if not plane.lifecycle.decide(flow, denial):
            plane.errors.answer(flow.carrier, icmp.PROHIBITED, held, packet, time.monotonic())
            self.end("denied")
        elif flow.protocol in plane.streams and plane.hooks.has("level"):
            then = partial(self._chosen, held, packet)
            plane.hooks.choose_then("level", plane.lifecycle.look(flow), LEVELS, then)
        else:
            self._start(held, packet)

    def _chosen(self, held: bytes, packet: IPPacket, choice: str | None, denial: str | None) -> None:
        """The application has said how high the flow is lifted, or has not."""
        if self.flow.is_ended:
            return
        if denial is not None:
            self._plane.lifecycle.decide(self.flow, denial)
            self._plane.errors.answer(self.flow.carrier, icmp.PROHIBITED, held, packet, time.monotonic())
            self.end("denied")
        elif self._is_lifted if choice is None else choice == "stream":
            self._lift(held, packet)
        else:
            self._start(held, packet)

    def _lift(self, held: bytes, packet: IPPacket) -> None:
        """Hand the flow over to the stream plane."""
        flow = self.flow
        flags = tcp.flags(held, packet) if flow.protocol == "tcp" else tcp.SYN
        if flags & (tcp.SYN | tcp.ACK) != tcp.SYN:
            flow.carrier.deliver(tcp.reset_for(held, packet))
            flow.tenant.drops[DropReason.NOT_SYN] += 1
            self.end("unknown")
            return
        if reason := self._plane.streams[flow.protocol].open(flow, bytearray(held), packet):
            flow.tenant.drops[reason] += 1
            self.end("proxy_error")

    def _start(self, held: bytes, packet: IPPacket) -> None:
        flow = self.flow
        self._is_started = True
        flow.level, flow.offramp, flow.origin = "packet", "tunnel", flow.destination_text
        if flow.protocol != "tcp":
            flow.history = "D"
            self._connected()
        elif tcp.flags(held, packet) & (tcp.SYN | tcp.ACK) != tcp.SYN:  # begun before we were asked
            self._connected()
        else:
            self._watch()
        if dropped := self.packet(flow.carrier, bytearray(held), packet):
            flow.tenant.drops[dropped] += 1

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """A checked packet of either direction that no path is memoised for."""
        flow = self.flow
        if not self._is_started:
            return DropReason.STRAY if flow.is_ended else DropReason.HELD
        flags = tcp.flags(buffer, packet) if flow.protocol == "tcp" else 0
        if flow.close_reason in CUTS:
            if flow.protocol == "tcp" and not flags & tcp.RST:
                carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.STRAY
        is_outward = packet.source == flow.source
        if is_outward and self.is_unrouted and (reason := self._reroute(buffer, packet)):
            return reason
        assert flow.egress is not None
        arrival, egress = (flow.carrier, flow.egress) if is_outward else (flow.egress, flow.carrier)
        size = packet.end - packet.start
        if reason := self._send(buffer, packet, arrival, egress):
            return reason
        path = flow.client_path if is_outward else flow.origin_path
        if not is_outward and not path.packets:
            self._answered(flags)
        path.packets += 1
        path.octets += size
        if flow.protocol == "tcp" and flags & (tcp.SYN | tcp.FIN | tcp.RST):
            self._track(flags, is_outward)
        if not flow.is_ended:
            self._memoise(path, arrival, egress, is_outward)
        return None

    def error(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """An ICMP error about a packet of this flow: for the host that sent it, as it stands, by that host's tunnel."""
        flow = self.flow
        if flow.egress is None or not self._is_started:
            return DropReason.STRAY
        arrival, egress = flow.egress, flow.carrier
        if icmp.quoted_source(buffer, packet) != flow.source:
            arrival, egress = egress, arrival
        return self._send(buffer, packet, arrival, egress)

    def is_repetition(self, buffer: bytearray, packet: IPPacket) -> bool:
        """What could open a flow opens one: the ended one has nothing to say to it."""
        return False

    def replaced(self) -> None:
        """A later flow has its place."""
        self.forget()

    def expired(self, now: float) -> None:
        """The idle timer, or the time after the end."""
        if self.flow.is_ended:
            self._remove()
        elif self._plane.lifecycle.is_idle(self.flow, self._timeout_s(), now):
            is_silent = self.flow.protocol == "tcp" and self.flow.state == "new"
            self.end("origin_timeout" if is_silent else "client_idle_timeout")

    def end(self, reason: CloseReason) -> None:
        """The flow is over; of a TCP connection, the last packets still pass, or are answered with RST."""
        flow = self.flow
        if not flow.close(reason, time.time_ns()):
            return
        self.forget()
        wait_s = CUT_S if reason in CUTS else LAST_PACKETS_S
        if flow.protocol != "tcp" or reason in ("drain", "client_idle_timeout", "origin_timeout"):
            self._remove()
            return
        if reason in CUTS:
            self._plane.lifecycle.ended(flow)
        self._plane.lifecycle.wheel.arm(flow, time.monotonic() + wait_s)

    def unroute(self) -> None:
        """The route that it took has changed."""
        self.is_unrouted = True
        self._forget_path(self.flow.carrier, self.flow.key, self.flow.client_path)

    def _send(self, buffer: bytearray, packet: IPPacket, arrival: Carrier, egress: Carrier) -> DropReason | None:
        ident = packet.fragment_id if packet.version == 4 else next(self._plane.idents)
        pieces = forward(buffer, packet, arrival, egress, ident)
        if isinstance(pieces, DropReason):
            if pieces is DropReason.TOO_BIG:
                errors = self._plane.errors
                errors.answer(arrival, icmp.TOO_BIG, buffer, packet, time.monotonic(), rest=egress.mtu)
            return pieces
        send = egress.sender(self._number)
        for piece in pieces:
            send(piece)
        return None

    def _reroute(self, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Find the flow's next hop anew; why it has none."""
        flow, tenant = self.flow, self.flow.tenant
        hop = choose(flow.carrier.network, flow.destination, self._number)
        if isinstance(hop, DropReason):
            self._plane.errors.answer(flow.carrier, UNREACHABLE[hop], buffer, packet, time.monotonic())
            return hop
        if hop.carrier is None:  # it cannot be lifted in its middle: begin anew
            self.end("tunnel_closed")
            if flow.protocol == "tcp":
                flow.carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.STRAY
        if hop.carrier is not flow.egress:
            if tenant.collides(self._protocol, flow, hop.carrier):
                return DropReason.FLOW_COLLISION
            self.forget()
            tenant.move(self._protocol, flow, hop.carrier)
        flow.route, self.is_unrouted = str(hop) or None, False
        return None

    def _answered(self, flags: int) -> None:
        """The far host's first packet."""
        flow, now = self.flow, time.monotonic()
        if flow.protocol != "tcp":
            flow.ttfb_ms = (now - flow.started_at) * 1000
            flow.history += "d"
            self._watch()
        elif flags & tcp.SYN and flow.state == "new":
            flow.origin_tcp_ms = (now - flow.started_at) * 1000
            flow.history += "h"
            self._connected()

    def _connected(self) -> None:
        self._plane.lifecycle.connected(self.flow)
        self._watch()

    def _watch(self) -> None:
        self._plane.lifecycle.watch_idle(self.flow, self._timeout_s(), time.monotonic())

    def _timeout_s(self) -> float:
        flow, timeouts = self.flow, self._plane.timeouts
        if flow.protocol == "tcp":
            if flow.state == "new":
                return timeouts.connect_s
            return timeouts.tcp_half_closed_s if "F" in flow.history or "f" in flow.history else timeouts.tcp_idle_s
        if flow.protocol != "udp":
            return timeouts.icmp_idle_s
        if not flow.origin_path.packets:
            return timeouts.udp_unreplied_s
        return timeouts.dns_idle_s if flow.destination_port == DNS else timeouts.udp_idle_s

    def _track(self, flags: int, is_outward: bool) -> None:
        """What begins and ends a connection, in Zeek's letters: upper case from the client."""
        flow = self.flow
        letters = "RFS" if is_outward else "rfs"
        if flags & tcp.SYN:
            if is_outward and "S" not in flow.history:
                flow.history += "S"
            return
        letter = letters[0] if flags & tcp.RST else letters[1]
        is_first = "F" not in flow.history and "f" not in flow.history
        if letter not in flow.history:
            flow.history += letter
        if flags & tcp.RST:
            refused = not is_outward and flow.state == "new"
            self.end("origin_refused" if refused else "client_reset" if is_outward else "origin_reset")
        elif "F" in flow.history and "f" in flow.history:
            first = min("Ff", key=flow.history.index)
            self.end("client_closed" if first == "F" else "origin_closed")
        elif is_first:
            self._watch()

    def _memoise(self, path: Path, arrival: Carrier, egress: Carrier, is_outward: bool) -> None:
        flow = self.flow
        paths = arrival.paths if flow.protocol == "tcp" else arrival.forwards if flow.protocol == "udp" else None
        if paths is None:
            return
        memoise(path, 4 if len(flow.source) == 4 else 6, arrival, egress, self._number)
        paths[flow.key if is_outward else reverse_key(flow.key)] = path

    def forget(self) -> None:
        """Memoise nothing of it: the next packet of each direction is looked at."""
        flow = self.flow
        self._forget_path(flow.carrier, flow.key, flow.client_path)
        if flow.egress is not None:
            self._forget_path(flow.egress, reverse_key(flow.key), flow.origin_path)

    def _forget_path(self, carrier: Carrier, key: bytes, path: Path) -> None:
        for paths in (carrier.paths, carrier.forwards):
            if paths.get(key) is path:
                del paths[key]

    def _remove(self) -> None:
        lifecycle = self._plane.lifecycle
        if not self.flow.is_recorded:
            lifecycle.ended(self.flow)
        lifecycle.removed(self.flow)


def carrier_changed(carrier: Carrier) -> None:
    """Its health has: the flows that leave by it look for the best way again, and no others."""
    _unroute(flow for table in carrier.flows.values() for flow in table.values() if flow.egress is carrier)


def mtu_changed(carrier: Carrier) -> None:
    """Packets into it may be too big now: each is looked at again."""
    for table in carrier.flows.values():
        for flow in table.values():
            if isinstance(flow.handler, ForwardedFlow):
                flow.handler.forget()


def routes_changed(network: Network) -> None:
    """Flows that would now go another way look for it."""
    _unroute(flow for flow in network.tenant.live() if flow.carrier.network is network and _has_moved(flow))


def _has_moved(flow: Flow) -> bool:
    hop = choose(flow.carrier.network, flow.destination, flow_hash(PROTOCOL_NUMBERS[flow.protocol], flow.key))
    return isinstance(hop, DropReason) or hop.carrier is not flow.egress or str(hop) != (flow.route or "")


def _unroute(flows: Iterable[Flow]) -> None:
    for flow in flows:
        if isinstance(flow.handler, ForwardedFlow):
            flow.handler.unroute()
