"""One flow whose packets are forwarded unread, by a tunnel or by the kernel, from its first packet to its end."""

from __future__ import annotations

import time

from proxy.errors import DropReason
from proxy.flow.flow import AS_REQUESTED, PROTOCOL_NUMBERS, Flow
from proxy.flow.path import KernelPath, KernelTCPPath, Path
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier, is_kernel_forwarded
from proxy.flow.tracking import Direction, acknowledged, sequence
from proxy.offramps.packet_flows import PacketFlows
from proxy.offramps.tracked_flow import TIMESTAMPS, TrackedFlow
from proxy.packet.forward import HEADERS, for_kernel, forward, hops, memoise, take_hops
from proxy.packet.observed import SentSYN
from proxy.packet.plane import UNREACHABLE, Inject
from proxy.packet.routes import Hop, choose, flow_hash, resolve_exit
from proxy.verdict import Verdict
from proxy.wire import icmp, tcp
from proxy.wire.ip import IPPacket
from proxy.wire.virtio import NEEDS_CSUM

LAST_PACKETS_S = 2.0  # after both FINs, for the last acknowledgements and retransmissions
ABORTED_S = 60.0  # after an end unknown to the hosts, whose next segments are answered with RST
CLOSED = ("client_closed", "origin_closed")
ABORTS = ("denied", "admin_killed", "policy_revoked", "tunnel_closed", "proxy_error")
FAILURES = ("origin_refused", "origin_unreachable", "origin_timeout")  # of the connection attempt


class ForwardedFlow(TrackedFlow):
    """One flow whose packets are forwarded unread."""

    __slots__ = ("_is_started", "has_stale_route")

    def __init__(self, plane: PacketFlows, flow: Flow) -> None:
        super().__init__(plane, flow)
        self._is_started = False
        self.has_stale_route = False  # if so, the next packet looks for a new one

    def start(self, held: bytes, packet: IPPacket) -> None:
        """Send the first packet of the allowed flow, which is in `held`."""
        flow = self.flow
        self._is_started = True
        flow.level, flow.origin = "packet", AS_REQUESTED
        if flow.offramp == "kernel" and (reason := self._leave_by_kernel()):
            flow.tenant.drops[reason] += 1
            kind = UNREACHABLE.get(reason, icmp.HOST_UNREACHABLE)
            self._plane.errors.answer(flow.carrier, kind, held, packet, time.monotonic())
            self.end("origin_unreachable" if reason is DropReason.NO_ROUTE else "proxy_error")
            return
        if flow.protocol == "tcp":
            flow.tracked = Direction(), Direction()
        if flow.protocol != "tcp":
            flow.history = "D"
            self._connected()
        elif tcp.flags(held, packet) & (tcp.SYN | tcp.ACK) != tcp.SYN:  # the connection began before the proxy saw it
            self._connected()
        else:
            self._watch_idle()
        if dropped := self.packet(flow.carrier, bytearray(held), packet):
            flow.tenant.drops[dropped] += 1

    def resume(self) -> None:
        """Resume a flow that the kernel carried while no proxy was running."""
        flow = self.flow
        self._is_started = True
        flow.level, flow.origin, flow.state = "packet", AS_REQUESTED, "established"
        if flow.protocol == "tcp":
            flow.history, flow.tracked = "ShA", (Direction(), Direction())
            for direction in flow.tracked:  # unknown by now; nearly all hosts use the option
                direction.options = direction.first_options = TIMESTAMPS

    def start_sent(self, syn: SentSYN) -> None:
        """Take over a flow whose SYN was sent before (`proxy.offramps.cached_decisions`)."""
        flow, client = self.flow, self.flow.client_path
        self._is_started = True
        flow.origin = AS_REQUESTED
        if self._plane.connections is not None:
            self._plane.connections.enter(flow)
        flow.tracked = Direction(), Direction()
        client.packets, client.octets = 1, syn.octets
        self._track(syn.last, tcp.SYN, 0, True)
        if flow.egress is not None and flow.egress is not flow.carrier:
            self._watch_idle()
            self._await_syn(flow.egress)

    def start_inbound(self, inject: Inject, verdict: Verdict) -> None:
        """Act on the verdict on a flow that the origin opened."""
        flow = self.flow
        if verdict.is_denial:
            self.end(verdict.ending)
            return
        if flow.parent_id is None and verdict.level not in (None, "packet"):  # it is to be read, but has begun before
            self.end("policy_revoked")
            return
        self._is_started = True
        flow.level, flow.origin = "packet", AS_REQUESTED
        reason = self._leave_by_kernel()
        if flow.protocol == "tcp":
            flow.tracked = Direction(), Direction()
        if reason is None:
            self._connected()
            reason = inject()
        if reason is not None:
            flow.tenant.drops[reason] += 1
            self.end("proxy_error")

    def _leave_by_kernel(self) -> DropReason | None:
        connections = self._plane.connections
        return None if connections is None else connections.begin(self.flow)

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Handle a checked packet of either direction for which no path is memoised."""
        flow = self.flow
        flags = tcp.flags(buffer, packet) if flow.protocol == "tcp" else 0
        if not self._is_started and flow.close_reason not in ABORTS:
            return DropReason.STRAY if flow.is_ended else DropReason.HELD
        if flow.close_reason in ABORTS:
            if flow.protocol == "tcp" and not flags & tcp.RST:
                if packet.source == flow.source:
                    self._end_origin(buffer, packet)
                carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.STRAY
        is_outward = packet.source == flow.source
        if is_outward and self.has_stale_route and (reason := self._reroute(buffer, packet)):
            return reason
        assert flow.egress is not None
        if flow.egress is flow.carrier:
            return self._carry(carrier, buffer, packet, flags, is_outward)
        arrival, egress = (flow.carrier, flow.egress) if is_outward else (flow.egress, flow.carrier)
        path = flow.client_path if is_outward else flow.origin_path
        size = packet.end - packet.start
        last = bytes(buffer[packet.l4 + 4 : packet.l4 + 16]) if flow.protocol == "tcp" else b""
        payload = tcp.payload_bytes(buffer, packet) if last else 1
        if reason := self._send(buffer, packet, arrival, egress):
            return reason
        if not is_outward and not path.packets:
            self._answered(flags)
        path.packets += 1
        path.octets += size
        if last:
            self._track(last, flags, payload, is_outward)
        if not flow.is_ended:
            self._memoise(path, arrival, egress, is_outward)
            if flags & tcp.SYN and flow.offramp == "kernel":
                if not is_outward:
                    self._memoise(flow.client_path, flow.carrier, flow.egress, True)
                elif flow.state == "new":
                    self._await_syn(flow.egress)
        return None

    def _await_syn(self, egress: Carrier) -> None:
        """Memoise the path of the origin's first packet, which then bypasses the packet plane."""
        flow, path = self.flow, self.flow.origin_path
        memoise(path, 4 if len(flow.source) == 4 else 6, egress, flow.carrier, self._number)
        path.flagged, path.send = self._origin_syn_fin_or_rst, self._await_first_byte
        egress.paths[flow.reply_key] = path

    def _origin_syn_fin_or_rst(self, data: memoryview, l4: int, last: bytes) -> None:
        """Handle a SYN, FIN or RST of the origin."""
        flow, flags = self.flow, data[l4 + 13]
        if not flags & tcp.SYN:
            self._origin_fin_or_rst(data, l4, last)
            return
        carrier, egress = flow.carrier, flow.egress
        assert egress is not None
        mss = min(carrier.mtu, egress.mtu) - HEADERS[4 if len(flow.source) == 4 else 6]
        tcp.clamp_mss(data, l4, mss, partial_checksum=bool(carrier.header_bytes and data[0] & NEEDS_CSUM))
        payload = len(data) - l4 - (data[l4 + 12] >> 4) * 4
        flow.origin_path.packets += 1
        flow.origin_path.octets += len(data) - carrier.header_bytes
        carrier.sender(self._number)(data)
        if flow.is_ended:
            return
        self._answered(flags)
        self._track(last, flags, payload, False)
        self._memoise(flow.origin_path, egress, carrier, False)
        self._memoise(flow.client_path, carrier, egress, True)

    def _carry(
        self, ramp: Carrier, buffer: bytearray, packet: IPPacket, flags: int, is_outward: bool
    ) -> DropReason | None:
        """Give a packet that came up by an on-ramp back to the kernel, which carries the following ones. It is the
        client's, or a reply from another site of the network."""
        flow, last = self.flow, b""
        if flow.protocol == "tcp":
            last = bytes(buffer[packet.l4 + 4 : packet.l4 + 16])
        path = flow.client_path if is_outward else flow.origin_path
        path.packets += 1
        path.octets += packet.end - packet.start
        payload = tcp.payload_bytes(buffer, packet) if last else 0
        self._return_to_kernel(ramp, buffer, packet)
        if last:
            if flags & tcp.SYN and not is_outward:
                self._answered(flags)
            self._track(last, flags, payload, is_outward)
        elif not is_outward and "d" not in flow.history:
            flow.add_history("d")
        return None

    def _return_to_kernel(self, ramp: Carrier, buffer: bytearray, packet: IPPacket) -> None:
        assert ramp.exit is not None
        take_hops(buffer, packet, -1)  # TTL + 1, as the kernel decrements it again: it has done so once before
        for piece in for_kernel(buffer, packet, next(self._plane.idents)):
            ramp.exit(piece)

    def error(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Forward an ICMP error about a packet of this flow, unchanged, to the host that sent the packet."""
        flow = self.flow
        if flow.egress is None or not self._is_started:
            return DropReason.STRAY
        if flow.egress is flow.carrier:  # the kernel knows the flow, and the host concerned
            self._return_to_kernel(carrier, buffer, packet)
            return None
        arrival, egress = flow.egress, flow.carrier
        is_for_client = icmp.quoted_source(buffer, packet) == flow.source
        if not is_for_client:
            arrival, egress = egress, arrival
        kind_and_code = buffer[packet.l4], buffer[packet.l4 + 1]
        fails = is_for_client and flow.protocol == "tcp" and flow.state == "new"
        if reason := self._send(buffer, packet, arrival, egress):
            return reason
        if fails:
            self._end_unreachable(packet.version, *kind_and_code)
        return None

    def catch_up(self, number: int) -> None:
        """Learn what the kernel has logged about the flow, before a SYN with this sequence number is handled."""
        flow, connections = self.flow, self._plane.connections
        if flow.egress is flow.carrier and flow.tracked is not None and flow.tracked[0].initial != number:
            assert connections is not None
            connections.catch_up(flow)

    def replaced(self) -> None:
        """Clear the paths: a later flow has the same addresses and ports."""
        if self.is_carried and self._plane.connections is not None:
            self._plane.connections.replace(self.flow)
        self.forget()

    def expired(self, now: float) -> None:
        """Act on the idle timer, or at the end of the time after the flow's end."""
        if self.flow.is_ended:
            self._remove()
        elif self._plane.lifecycle.is_idle(self.flow, self._timeout_s(), now):
            is_silent = self.flow.protocol == "tcp" and self.flow.state == "new"
            self.end("origin_timeout" if is_silent else "client_idle_timeout")

    def end(self, reason: CloseReason) -> None:
        """End the flow. The last packets of a TCP connection still pass, or are answered with RST."""
        flow = self.flow
        is_new = flow.protocol == "tcp" and flow.state == "new"
        if not flow.close(reason, time.time_ns()):
            return
        if flow.offramp != "kernel" or reason not in CLOSED:  # otherwise the last packets pass as before
            self.forget()
        if is_new and reason in FAILURES:
            self._plane.lifecycle.connect_failed(flow)
        wait_s = ABORTED_S if reason in ABORTS else LAST_PACKETS_S
        if reason in ABORTS:
            self._abort()
        if flow.protocol != "tcp" or reason in ("drain", "client_idle_timeout", "origin_timeout"):
            self._remove()
            return
        if reason in ABORTS:
            self._plane.lifecycle.ended(flow)
        self._plane.lifecycle.wheel.arm(flow, time.monotonic() + wait_s)

    def _abort(self) -> None:
        """End the connection at both hosts by an RST with the sequence number that each expects.

        The numbers of a flow that the kernel carries are unknown, so a probe makes the client send its own in a packet
        that comes up.
        """
        flow, connections = self.flow, self._plane.connections
        if not self._is_started or flow.egress is None:
            return
        ports = flow.source_port, flow.destination_port
        if flow.protocol == "tcp" and not self.is_carried:
            to_origin = acknowledged(flow.origin_path.last)
            if to_origin is None:
                to_origin = sequence(flow.client_path.last)
            to_client = acknowledged(flow.client_path.last)
            if to_origin is not None and not flow.egress.is_closed:
                flow.egress.deliver(tcp.reset(flow.source, flow.destination, ports, to_origin))
            if to_client is not None and not flow.carrier.is_closed:
                flow.carrier.deliver(tcp.reset(flow.destination, flow.source, ports[::-1], to_client))
        if flow.offramp == "kernel" and connections is not None:
            connections.abort(flow)
        if flow.protocol == "tcp" and self.is_carried:
            flow.carrier.deliver(tcp.probe(flow.destination, flow.source, ports[::-1]))

    def _end_origin(self, buffer: bytearray, packet: IPPacket) -> None:
        """Send the origin an RST with the number that the client has sent, from the address that the origin knows."""
        flow, connections = self.flow, self._plane.connections
        if not self.is_carried or flow.virtual is None or connections is None:
            return
        external, flow.virtual = flow.virtual, None
        ports = int.from_bytes(external[-2:], "big"), flow.destination_port
        reset = tcp.reset(external[:-2], flow.destination, ports, tcp.sequence(buffer, packet))
        connections.carrier_to_origin(flow).deliver(reset)

    def invalidate_route(self) -> None:
        """Choose a new route with the next packet, as the current one has changed."""
        self.has_stale_route = True
        self._forget_path(self.flow.carrier, self.flow.key, self.flow.client_path)

    def _send(self, buffer: bytearray, packet: IPPacket, arrival: Carrier, egress: Carrier) -> DropReason | None:
        ident = packet.fragment_id if packet.version == 4 else next(self._plane.idents)
        if packet.ttl < 2 and packet.ttl <= hops(arrival, egress):  # the kernel, from which it comes up, has taken one
            self._plane.errors.answer(arrival, icmp.TTL_EXCEEDED, buffer, packet, time.monotonic())
            return DropReason.TTL_EXPIRED
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
        """Choose the flow's next hop again. Returns the reason if there is none."""
        flow, tenant, protocol = self.flow, self.flow.tenant, PROTOCOL_NUMBERS[self.flow.protocol]
        hop = choose(flow.carrier.network, flow.destination, flow_hash(protocol, flow.key))
        if isinstance(hop, Hop):
            hop = resolve_exit(hop, flow.carrier, flow.destination)
        if isinstance(hop, DropReason):
            self._plane.errors.answer(flow.carrier, UNREACHABLE[hop], buffer, packet, time.monotonic())
            return hop
        if hop.carrier is None:  # a flow cannot be lifted midway: end it, so that a new one begins
            self.end("tunnel_closed")
            if flow.protocol == "tcp":
                flow.carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.STRAY
        if hop.carrier is not flow.egress:
            if tenant.collides(protocol, flow, hop.carrier):
                return DropReason.FLOW_COLLISION
            self.forget()
            tenant.move(protocol, flow, hop.carrier)
            flow.offramp = "kernel" if is_kernel_forwarded(flow.carrier, hop.carrier) else "tunnel"
            if flow.offramp == "tunnel":
                flow.use_full_paths()
        flow.route, self.has_stale_route = str(hop) or None, False
        return None

    def _memoise(self, path: Path, arrival: Carrier, egress: Carrier, is_outward: bool) -> None:
        flow = self.flow
        paths = arrival.paths if flow.protocol == "tcp" else arrival.forwards if flow.protocol == "udp" else None
        if paths is None:
            return
        awaits_client = (
            not self.is_carried and flow.protocol == "tcp" and "S" in flow.history and "A" not in flow.history
        )
        if is_outward and awaits_client and (flow.offramp != "kernel" or "h" not in flow.history):
            return
        memoise(path, 4 if len(flow.source) == 4 else 6, arrival, egress, self._number)
        if flow.protocol == "tcp" and flow.offramp == "kernel" and "h" in flow.history and not self.is_carried:
            path.flagged = self._client_fin_or_rst if is_outward else self._origin_syn_fin_or_rst
            if is_outward and awaits_client:
                path.exit = self._complete_handshake
            elif not is_outward and flow.ttfb_ms is None:
                path.send = self._await_first_byte
        paths[flow.key if is_outward else flow.reply_key] = path

    def forget(self) -> None:
        """Forget memoised paths: the next packet of each direction is examined."""
        flow = self.flow
        self._forget_path(flow.carrier, flow.key, flow.client_path)
        if flow.egress is not None:
            self._forget_path(flow.egress, flow.reply_key, flow.origin_path)

    def _forget_path(self, carrier: Carrier, key: bytes, path: KernelPath) -> None:
        for paths in (carrier.paths, carrier.forwards):
            if paths.get(key) is path:
                del paths[key]
        path.send = path.exit = None  # they may refer to this handler: breaks the reference cycle
        if isinstance(path, KernelTCPPath):
            path.flagged = None

    def _remove(self) -> None:
        connections = self._plane.connections
        if self.flow.offramp == "kernel" and connections is not None:
            connections.settle(self.flow, self._settled)
        else:
            self._settled()

    def _settled(self) -> None:
        """Publish the end record, as the totals are final, and remove the flow."""
        lifecycle = self._plane.lifecycle
        if self.flow.handler is not self:  # removed before: the proxy is stopping
            return
        if self.flow.egress is not self.flow.carrier:  # otherwise nothing was memoised
            self.forget()
        if not self.flow.is_recorded:
            lifecycle.ended(self.flow)
        lifecycle.removed(self.flow)
