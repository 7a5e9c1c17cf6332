"""Packets without a memoised path: checked, then given to the handler of their flow, which may be new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.errors import DropReason
from proxy.flow.flow import HEADER_BYTES, PROTOCOL_NUMBERS, Flow, next_number
from proxy.flow.keys import reverse_key
from proxy.flow.path import KernelPath, KernelTCPPath, Path
from proxy.flow.record import Protocol as ProtocolName
from proxy.flow.tenant import Carrier, is_kernel_forwarded
from proxy.packet.forward import quoted_key
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.observed import SentSYN
from proxy.packet.routes import SOCKETS, Hop, choose, flow_hash, resolve_exit
from proxy.wire import icmp, ip, tcp, udp, virtio
from proxy.wire.ip import IPPacket

MAX_ADDRESSES = 65_536  # remembered, so that flows share one object
Inject = Callable[[], DropReason | None]  # sends a flow's first packet


class Opener(Protocol):
    """Opens flows of one protocol: sets `flow.handler`, or returns the reason for a drop."""

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None: ...


class FlowSetup(Protocol):
    """Asks whether flows are allowed, and opens them."""

    def open(self, flow: Flow, hop: Hop, buffer: bytearray, packet: IPPacket) -> DropReason | None: ...

    def open_inbound(self, flow: Flow, inject: Inject) -> None: ...

    def resume(self, flow: Flow) -> None: ...

    def open_sent(self, flow: Flow, syn: SentSYN) -> None: ...

    def asks(self) -> bool:
        """Whether policy or a hook decides about new flows."""
        ...


class Plane:
    """The packet plane of all tenants. `handle` is called for each packet that has no memoised path."""

    def __init__(self, setup: FlowSetup, errors: IcmpErrors, *, adopts_until: float = 0.0) -> None:
        """`adopts_until`: when origins' segments no longer resume connections of an earlier process."""
        self._setup, self._errors, self._adopts_until = setup, errors, adopts_until
        self._addresses: dict[bytes, bytes] = {}  # one object per address, shared by all its flows

    def handle(self, carrier: Carrier, buffer: bytearray, end: int, now: float, now_ns: int) -> DropReason | None:
        """Handle the packet in `buffer[:end]`. Returns the reason for a drop, which the caller counts, or None."""
        start = carrier.header_bytes
        if end <= start:
            return DropReason.EMPTY if end == 0 else DropReason.TRUNCATED
        if end - start > ip.MAX_PACKET:
            return DropReason.OVERSIZE
        if start and not virtio.is_plausible(buffer, end - start):
            return DropReason.BAD_OFFLOAD
        packet = ip.parse(buffer, start, end)
        if isinstance(packet, DropReason):
            return packet
        if not carrier.owns(packet.source) and not self._is_error_from_site(carrier, buffer, packet):
            return DropReason.SPOOFED_SOURCE
        if not ip.is_unicast(packet.destination) or packet.source == packet.destination:
            return DropReason.BAD_ADDRESS
        if packet.ttl + carrier.kernel_hops <= 1:
            self._errors.answer(carrier, icmp.TTL_EXCEEDED, buffer, packet, now)
            return DropReason.TTL_EXPIRED
        if packet.is_fragment:
            return self._reassemble(carrier, buffer, packet, now, now_ns)
        return self._dispatch(carrier, buffer, packet, now, now_ns)

    def _reassemble(
        self, carrier: Carrier, buffer: bytearray, packet: IPPacket, now: float, now_ns: int
    ) -> DropReason | None:
        joined = carrier.tenant.fragments.add(buffer, packet, now, scope=carrier)
        if not isinstance(joined, bytes):
            return joined
        start = carrier.header_bytes
        rebuilt = bytearray(start) + joined  # fragments have full checksums: no offload for the whole
        whole = ip.parse(rebuilt, start, len(rebuilt))
        if isinstance(whole, DropReason):
            return whole
        whole.dont_fragment = False
        return self._dispatch(carrier, rebuilt, whole, now, now_ns)

    def _dispatch(
        self, carrier: Carrier, buffer: bytearray, packet: IPPacket, now: float, now_ns: int
    ) -> DropReason | None:
        protocol = packet.protocol
        partial = bool(carrier.header_bytes and buffer[0] & virtio.NEEDS_CSUM)
        if protocol == ip.TCP:
            if problem := tcp.check(buffer, packet, partial_checksum=partial):
                return problem
        elif protocol == ip.UDP:
            if problem := udp.check(buffer, packet, partial_checksum=partial):
                return problem
        elif protocol == (ip.ICMP if packet.version == 4 else ip.ICMPV6):
            if problem := icmp.check(buffer, packet):
                return problem
            if icmp.is_error(packet.version, buffer[packet.l4]):
                return self._icmp_error(carrier, buffer, packet)
        elif protocol not in _KERNEL_ONLY or (not carrier.network.exits and carrier.exit is None):
            pointer = ip.protocol_offset(buffer, packet) if packet.version == 6 else 0
            self._errors.answer(carrier, icmp.PROTOCOL_UNREACHABLE, buffer, packet, now, rest=pointer)
            return DropReason.PROTOCOL_UNSUPPORTED
        elif packet.end - packet.l4 < _KERNEL_ONLY[protocol]:
            return DropReason.TRUNCATED
        key = flow_key(buffer, packet)
        flow: Flow | None = carrier.tenant.find(carrier, protocol, key)
        if flow is None and carrier.exit is not None and carrier.can_open_flows:
            flow = carrier.network.find_by_reply(protocol, key, carrier)
        if protocol in _ECHO and (problem := _echo_problem(buffer, packet, flow)):
            return problem
        handler = None if flow is None else flow.handler
        if flow is None or handler is None:
            return self._route(carrier, buffer, packet, key, now, now_ns)
        if (flow.is_ended or carrier.exit is not None) and _can_open_flow(buffer, packet):
            if carrier.exit is not None and protocol == ip.TCP and packet.source == flow.source:
                handler.catch_up(tcp.sequence(buffer, packet))  # the flow may have ended in the kernel meanwhile
            if flow.is_ended and not handler.is_retransmission(buffer, packet):
                return self._route(carrier, buffer, packet, key, now, now_ns)
        return handler.packet(carrier, buffer, packet)

    def _is_error_from_site(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether this is an ICMP error from a router inside a site, or from this host on the way there, about one of
        the site's flows."""
        if (
            (carrier.site is None and carrier.exit is None)
            or packet.is_fragment
            or packet.protocol not in _ECHO
            or packet.end - packet.l4 < 8
        ):
            return False
        is_error = icmp.is_error(packet.version, buffer[packet.l4])
        return is_error and ip.is_unicast(packet.source) and self._quoted_flow(carrier, buffer, packet) is not None

    def _quoted_flow(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> Flow | None:
        """The flow whose packet, sent into this tunnel, an ICMP error quotes."""
        quoted = quoted_key(buffer, packet)
        if quoted is None or buffer[packet.l4] not in icmp.REPORTS[packet.version]:
            return None
        protocol, key = quoted
        if key[: len(packet.source)] != packet.destination:  # its destination is not the sender of the quoted packet
            return None
        found: Flow | None = carrier.tenant.find(carrier, protocol, reverse_key(key))
        if found is None and carrier.exit is not None and carrier.can_open_flows:  # about a packet from another on-ramp
            found = carrier.network.find_by_reply(protocol, reverse_key(key), carrier)
        return found

    def _icmp_error(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Give an ICMP error to the flow whose packet it quotes."""
        flow = self._quoted_flow(carrier, buffer, packet)
        if flow is None or flow.handler is None:
            return DropReason.ICMP_UNSUPPORTED
        return flow.handler.error(carrier, buffer, packet)

    def _route(
        self, carrier: Carrier, buffer: bytearray, packet: IPPacket, key: bytes, now: float, now_ns: int
    ) -> DropReason | None:
        """Find the next hop for a flow's first packet, and open the flow."""
        if not carrier.can_open_flows:
            return self._open_from_outside(carrier, buffer, packet, key, now, now_ns)
        network = carrier.network
        hop: Hop | DropReason = SOCKETS
        if network.routes is not None:
            hop = choose(network, packet.destination, flow_hash(packet.protocol, key))
        if isinstance(hop, Hop):
            hop = resolve_exit(hop, carrier, packet.destination)
        if isinstance(hop, DropReason):
            self._errors.answer(carrier, UNREACHABLE[hop], buffer, packet, now)
            return hop
        if not _can_open_flow(buffer, packet) and (hop.is_stream or tcp.flags(buffer, packet) & tcp.RST):
            if tcp.flags(buffer, packet) & tcp.RST:
                return DropReason.STRAY
            carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.NOT_SYN
        return self._open(carrier, buffer, packet, key, hop, now, now_ns)

    def _open(
        self, carrier: Carrier, buffer: bytearray, packet: IPPacket, key: bytes, hop: Hop, now: float, now_ns: int
    ) -> DropReason | None:
        tenant = carrier.tenant
        if refusal := tenant.refusal(now):
            if refusal is DropReason.LIMIT_FLOWS and packet.protocol == ip.TCP:
                carrier.deliver(tcp.reset_for(buffer, packet))  # at the limit: refuse; over the rate: a retry may pass
            return refusal
        is_kernel_flow = is_kernel_forwarded(carrier, hop.carrier)
        flow = self._new_flow(carrier, packet.protocol, key, now, now_ns, is_kernel_flow=is_kernel_flow)
        flow.dscp = packet.tos >> 2
        if hop.route is not None:
            flow.route = str(hop)
        if hop.carrier is not None:
            if tenant.collides(packet.protocol, flow, hop.carrier):
                return DropReason.FLOW_COLLISION
            flow.egress, flow.offramp = hop.carrier, "kernel" if is_kernel_flow else "tunnel"
        return self._setup.open(flow, hop, buffer, packet)

    def _open_from_outside(
        self, exit_: Carrier, buffer: bytearray, packet: IPPacket, key: bytes, now: float, now_ns: int
    ) -> DropReason | None:
        """Open a connection from outside that the kernel expected because of a client's connection (active FTP), or
        resume one of a tunnel that it remembers of an earlier process."""
        is_expected = packet.protocol == ip.TCP and _can_open_flow(buffer, packet)
        if not (is_expected or self._is_adopted(exit_, buffer, packet, now)):
            return DropReason.STRAY
        held = bytearray(buffer[: packet.end])

        def inject() -> DropReason | None:
            flow = exit_.tenant.find(exit_, ip.TCP, key)
            return None if flow is None or flow.handler is None else flow.handler.packet(exit_, held, packet)

        if not is_expected:
            carrier = exit_.network.clients[packet.destination]
            flow = self._new_flow(carrier, ip.TCP, reverse_key(key), now, now_ns)
            flow.offramp = "kernel"
            return self._enter_inbound(flow, exit_, inject, now)
        flows = exit_.flows.get(ip.TCP, {}).values()
        ends = packet.destination, packet.source
        parent = next((flow for flow in flows if (flow.source, flow.destination) == ends and not flow.is_ended), None)
        if parent is None:
            return DropReason.UNSOLICITED
        return self.open_inbound(parent, reverse_key(key), inject, now, now_ns)

    def _is_adopted(self, exit_: Carrier, buffer: bytearray, packet: IPPacket, now: float) -> bool:
        """Whether this segment may resume a connection of a client that an earlier process carried."""
        if now >= self._adopts_until or packet.protocol != ip.TCP:
            return False
        if packet.destination not in exit_.network.clients:
            return False
        return not tcp.flags(buffer, packet) & (tcp.SYN | tcp.FIN | tcp.RST)

    def open_inbound(self, parent: Flow, key: bytes, inject: Inject, now: float, now_ns: int) -> DropReason | None:
        """Open a flow that begins with a reply to a mapping of `parent`. `key`: as in the client's packets.

        `inject` sends that reply on, once hooks and policy have allowed the flow.
        """
        flow = self._new_flow(parent.carrier, PROTOCOL_NUMBERS[parent.protocol], key, now, now_ns)
        flow.parent_id, flow.route, flow.offramp = parent.id, parent.route, parent.offramp
        assert parent.egress is not None
        return self._enter_inbound(flow, parent.egress, inject, now)

    def _enter_inbound(self, flow: Flow, egress: Carrier, inject: Inject, now: float) -> DropReason | None:
        """Open a flow that begins with a packet from `egress`, within the tenant's limits."""
        number = PROTOCOL_NUMBERS[flow.protocol]
        earlier = flow.tenant.find(flow.carrier, number, flow.key)
        if earlier is not None and not earlier.is_ended:
            return DropReason.STRAY
        if flow.tenant.collides(number, flow, egress):
            return DropReason.FLOW_COLLISION
        if refusal := flow.tenant.refusal(now):
            return refusal
        flow.egress = egress
        self._setup.open_inbound(flow, inject)
        return None

    def resume(self, carrier: Carrier, protocol: int, key: bytes, now: float, now_ns: int) -> Flow | None:
        """Resume a flow that the kernel carried while no proxy was running. Returns None if that is impossible."""
        if protocol not in _NAMES or carrier.tenant.find(carrier, protocol, key) is not None:
            return None
        flow = self._new_flow(carrier, protocol, key, now, now_ns)
        flow.egress, flow.offramp = carrier, "kernel"
        self._setup.resume(flow)
        return flow

    def open_sent(self, carrier: Carrier, protocol: int, syn: SentSYN, egress: Carrier) -> None:
        """Open a flow whose first packet `egress` has sent already, as neither policy nor hooks are asked, and the
        decision was known."""
        flow = self._new_flow(carrier, protocol, syn.key, syn.now, syn.now_ns)
        flow.dscp, flow.egress, flow.offramp, flow.egress_ip = syn.tos >> 2, egress, "kernel", syn.egress_ip
        self._setup.open_sent(flow, syn)

    def asks(self) -> bool:
        """Whether policy or a hook decides about new flows."""
        return self._setup.asks()

    def _new_flow(
        self, carrier: Carrier, protocol: int, key: bytes, now: float, now_ns: int, *, is_kernel_flow: bool = True
    ) -> Flow:
        size = 4 if len(key) < 16 else 16
        source, destination, ports = key[:size], key[size : 2 * size], key[2 * size :]
        path = (KernelTCPPath if protocol == ip.TCP else KernelPath) if is_kernel_flow else Path
        addresses = self._addresses
        if len(addresses) > MAX_ADDRESSES:
            addresses.clear()
        return Flow(
            next_number(), carrier.tenant, carrier, _NAMES[protocol], key,
            addresses.setdefault(source, source), int.from_bytes(ports[:2], "big"),
            addresses.setdefault(destination, destination), int.from_bytes(ports[2:], "big"), now, now_ns, path,
        )  # fmt: skip


_PORTS = {ip.TCP: (0, 4), ip.UDP: (0, 4), ip.SCTP: (0, 4), ip.ICMP: (4, 2), ip.ICMPV6: (4, 2)}
UNREACHABLE = {DropReason.NO_ROUTE: icmp.NET_UNREACHABLE, DropReason.NO_NEXT_HOP: icmp.HOST_UNREACHABLE}
_ECHO = (ip.ICMP, ip.ICMPV6)
_NAMES: dict[int, ProtocolName] = {number: name for name, number in PROTOCOL_NUMBERS.items()}
_KERNEL_ONLY = {number: HEADER_BYTES[_NAMES[number]] for number in (ip.SCTP, ip.GRE, ip.ESP, ip.AH)}  # minimum bytes


def flow_key(buffer: bytes | bytearray, packet: IPPacket) -> bytes:
    """Source, destination and ports as in the packet; for echo requests the identifier in place of ports; neither for
    protocols without them."""
    at, size = _PORTS.get(packet.protocol, (0, 0))
    return packet.source + packet.destination + bytes(buffer[packet.l4 + at : packet.l4 + at + size])


def _can_open_flow(buffer: bytes | bytearray, packet: IPPacket) -> bool:
    """Whether this packet may be a flow's first: for TCP, only a bare SYN."""
    if packet.protocol != ip.TCP:
        return True
    return tcp.flags(buffer, packet) & (tcp.SYN | tcp.ACK | tcp.RST | tcp.FIN) == tcp.SYN


def _echo_problem(buffer: bytes | bytearray, packet: IPPacket, flow: Flow | None) -> DropReason | None:
    """Check that replies belong to a flow between tunnels. Requests may open flows."""
    kind = buffer[packet.l4]
    if kind == icmp.ECHO_REQUESTS[packet.version]:
        return None
    is_answer = kind == icmp.ECHO_REPLIES[packet.version] and flow is not None and flow.egress is not None
    return None if is_answer else DropReason.ICMP_UNSUPPORTED
