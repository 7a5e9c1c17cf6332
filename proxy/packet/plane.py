"""A packet that no path is memoised for: check it, find or open its flow, hand it to whoever handles that flow."""

from __future__ import annotations

from typing import Protocol

from proxy.errors import DropReason
from proxy.flow.flow import Flow, new_flow_id
from proxy.flow.network import reverse_key
from proxy.flow.record import Protocol as ProtocolName
from proxy.flow.tenant import Carrier
from proxy.packet.forward import quoted_key
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.routes import SOCKETS, Hop, choose, flow_hash
from proxy.wire import icmp, ip, tcp, udp, virtio
from proxy.wire.ip import IPPacket


class Handler(Protocol):
    """What moves the packets of one flow once it is open."""

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None: ...

    def is_repetition(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether this packet, which could open a flow, is one that the ended flow has seen."""
        ...


class Opener(Protocol):
    """Who opens flows of one protocol: sets `flow.handler`, or says why not."""

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None: ...


class OffRamp(Protocol):
    """Who opens flows whose next hop is a tunnel."""

    def open(self, flow: Flow, hop: Hop, buffer: bytearray, packet: IPPacket) -> DropReason | None: ...


class Plane:
    """The packet plane of all tenants. `handle` is called for each packet that has no memoised path."""

    def __init__(
        self, tcp: Opener, udp: Opener, echo: Opener, errors: IcmpErrors, tunnels: OffRamp | None = None
    ) -> None:
        """`tunnels` may be missing where no network has routes."""
        self._openers = {ip.TCP: tcp, ip.UDP: udp, ip.ICMP: echo, ip.ICMPV6: echo}
        self._errors, self._tunnels = errors, tunnels

    def handle(self, carrier: Carrier, buffer: bytearray, end: int, now: float, now_ns: int) -> DropReason | None:
        """Why the packet in `buffer[:end]` went no further, or None when it did. The caller counts the reason."""
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
        if not carrier.owns(packet.source) and not self._may_report(carrier, buffer, packet):
            return DropReason.SPOOFED_SOURCE
        if not ip.is_unicast(packet.destination) or packet.source == packet.destination:
            return DropReason.BAD_ADDRESS
        if packet.ttl <= 1:
            self._errors.answer(carrier, icmp.TTL_EXCEEDED, buffer, packet, now)
            return DropReason.TTL_EXPIRED
        if packet.is_fragment:
            return self._fragment(carrier, buffer, packet, now, now_ns)
        return self._whole(carrier, buffer, packet, now, now_ns)

    def _fragment(
        self, carrier: Carrier, buffer: bytearray, packet: IPPacket, now: float, now_ns: int
    ) -> DropReason | None:
        joined = carrier.tenant.fragments.add(buffer, packet, now, scope=carrier)
        if not isinstance(joined, bytes):
            return joined
        start = carrier.header_bytes
        rebuilt = bytearray(start) + joined  # fragments carry full checksums: no offload for the whole
        whole = ip.parse(rebuilt, start, len(rebuilt))
        if isinstance(whole, DropReason):
            return whole
        whole.dont_fragment = False
        return self._whole(carrier, rebuilt, whole, now, now_ns)

    def _whole(
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
                return self._report(carrier, buffer, packet)
        else:
            pointer = ip.protocol_offset(buffer, packet) if packet.version == 6 else 0
            self._errors.answer(carrier, icmp.PROTOCOL_UNREACHABLE, buffer, packet, now, rest=pointer)
            return DropReason.PROTOCOL_UNSUPPORTED
        key = flow_key(buffer, packet)
        flow = carrier.tenant.find(carrier, protocol, key)
        if protocol in _ECHO and (problem := _echo_problem(buffer, packet, flow)):
            return problem
        if flow is None or (
            flow.is_ended and _opens(buffer, packet) and not flow.handler.is_repetition(buffer, packet)
        ):
            return self._route(carrier, buffer, packet, key, now, now_ns)
        handler: Handler = flow.handler
        return handler.packet(carrier, buffer, packet)

    def _may_report(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether this is an ICMP error of a router inside a site, about a flow of that site's."""
        if carrier.site is None or packet.is_fragment or packet.protocol not in _ECHO or packet.end - packet.l4 < 8:
            return False
        is_error = icmp.is_error(packet.version, buffer[packet.l4])
        return is_error and ip.is_unicast(packet.source) and self._quoted_flow(carrier, buffer, packet) is not None

    def _quoted_flow(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> Flow | None:
        """The flow one of whose packets, sent into this tunnel, an ICMP error quotes."""
        quoted = quoted_key(buffer, packet)
        if quoted is None or buffer[packet.l4] not in icmp.REPORTS[packet.version]:
            return None
        protocol, key = quoted
        if key[: len(packet.source)] != packet.destination:  # it is for somebody else than who sent that
            return None
        return carrier.tenant.find(carrier, protocol, reverse_key(key))

    def _report(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """An ICMP error: for the flow that it quotes."""
        flow = self._quoted_flow(carrier, buffer, packet)
        take = None if flow is None else getattr(flow.handler, "error", None)
        if take is None:
            return DropReason.ICMP_UNSUPPORTED
        reason: DropReason | None = take(carrier, buffer, packet)
        return reason

    def _route(
        self, carrier: Carrier, buffer: bytearray, packet: IPPacket, key: bytes, now: float, now_ns: int
    ) -> DropReason | None:
        """A flow's first packet: where would it go?"""
        network = carrier.network
        hop: Hop | DropReason = SOCKETS
        if network.routes is not None:
            hop = choose(network, packet.destination, flow_hash(packet.protocol, key))
        if isinstance(hop, DropReason):
            self._errors.answer(carrier, UNREACHABLE[hop], buffer, packet, now)
            return hop
        if not _opens(buffer, packet) and (hop.is_stream or tcp.flags(buffer, packet) & tcp.RST):
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
                carrier.deliver(tcp.reset_for(buffer, packet))  # at the cap: say so; over the rate: a retry may pass
            return refusal
        flow = Flow(
            new_flow_id(now_ns), tenant, carrier, _NAMES[packet.protocol], key,
            packet.source, int.from_bytes(key[-4:-2] if len(key) in (12, 36) else key[-2:], "big"),
            packet.destination, int.from_bytes(key[-2:], "big") if len(key) in (12, 36) else 0, now, now_ns,
        )  # fmt: skip
        flow.dscp = packet.tos >> 2
        if hop.route is not None:
            flow.route = str(hop)
        if hop.carrier is None:
            return self._openers[packet.protocol].open(flow, buffer, packet)
        if tenant.collides(packet.protocol, flow, hop.carrier):
            return DropReason.FLOW_COLLISION
        flow.egress, flow.offramp = hop.carrier, "tunnel"
        assert self._tunnels is not None
        return self._tunnels.open(flow, hop, buffer, packet)


UNREACHABLE = {DropReason.NO_ROUTE: icmp.NET_UNREACHABLE, DropReason.NO_NEXT_HOP: icmp.HOST_UNREACHABLE}
_ECHO = (ip.ICMP, ip.ICMPV6)
_NAMES: dict[int, ProtocolName] = {ip.TCP: "tcp", ip.UDP: "udp", ip.ICMP: "icmp", ip.ICMPV6: "icmpv6"}


def flow_key(buffer: bytes | bytearray, packet: IPPacket) -> bytes:
    """Source, destination and ports as they stand in the packet; for echo requests the identifier in place of ports."""
    at = packet.l4 if packet.protocol in (ip.TCP, ip.UDP) else packet.l4 + 4
    size = 4 if packet.protocol in (ip.TCP, ip.UDP) else 2
    return packet.source + packet.destination + bytes(buffer[at : at + size])


def _opens(buffer: bytes | bytearray, packet: IPPacket) -> bool:
    """Whether this packet may be a flow's first: of TCP only a bare SYN may."""
    if packet.protocol != ip.TCP:
        return True
    return tcp.flags(buffer, packet) & (tcp.SYN | tcp.ACK | tcp.RST | tcp.FIN) == tcp.SYN


def _echo_problem(buffer: bytes | bytearray, packet: IPPacket, flow: Flow | None) -> DropReason | None:
    """Requests may open flows; answers must belong to one between tunnels."""
    kind = buffer[packet.l4]
    if kind == icmp.ECHO_REQUESTS[packet.version]:
        return None
    is_answer = kind == icmp.ECHO_REPLIES[packet.version] and flow is not None and flow.egress is not None
    return None if is_answer else DropReason.ICMP_UNSUPPORTED
