"""A packet that no path is memoised for: check it, find or open its flow, hand it to whoever handles that flow."""

from __future__ import annotations

from typing import Protocol

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.record import Protocol as ProtocolName
from proxy.flow.tenant import Carrier
from proxy.packet.icmp_errors import IcmpErrors
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


class Plane:
    """The packet plane of all tenants. `handle` is called for each packet that has no memoised path."""

    def __init__(self, tcp: Opener, udp: Opener, echo: Opener, errors: IcmpErrors) -> None:
        self._openers = {ip.TCP: tcp, ip.UDP: udp, ip.ICMP: echo, ip.ICMPV6: echo}
        self._errors = errors
        self._opened = 0

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
        if not carrier.owns(packet.source):
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
        joined = carrier.tenant.fragments.add(buffer, packet, now)
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
            if problem := icmp.check(buffer, packet) or _echo_problem(buffer, packet):
                return problem
        else:
            self._errors.answer(carrier, icmp.PROTOCOL_UNREACHABLE, buffer, packet, now)
            return DropReason.PROTOCOL_UNSUPPORTED
        key = flow_key(buffer, packet)
        flow = carrier.tenant.find(protocol, key)
        if flow is None or (
            flow.is_ended and _opens(buffer, packet) and not flow.handler.is_repetition(buffer, packet)
        ):
            return self._open(carrier, buffer, packet, key, now, now_ns)
        if flow.carrier is not carrier:
            return DropReason.SPOOFED_SOURCE
        handler: Handler = flow.handler
        return handler.packet(carrier, buffer, packet)

    def _open(
        self, carrier: Carrier, buffer: bytearray, packet: IPPacket, key: bytes, now: float, now_ns: int
    ) -> DropReason | None:
        if not _opens(buffer, packet):
            if tcp.flags(buffer, packet) & tcp.RST:
                return DropReason.STRAY
            carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.NOT_SYN
        tenant = carrier.tenant
        if refusal := tenant.refusal(now):
            if refusal is DropReason.LIMIT_FLOWS and packet.protocol == ip.TCP:
                carrier.deliver(tcp.reset_for(buffer, packet))  # at the cap: say so; over the rate: a retry may pass
            return refusal
        self._opened += 1
        flow = Flow(
            f"{now_ns // 1000:014x}{self._opened & 0xFFFF:04x}", tenant, carrier, _NAMES[packet.protocol], key,
            packet.source, int.from_bytes(key[-4:-2] if len(key) in (12, 36) else key[-2:], "big"),
            packet.destination, int.from_bytes(key[-2:], "big") if len(key) in (12, 36) else 0, now, now_ns,
        )  # fmt: skip
        return self._openers[packet.protocol].open(flow, buffer, packet)


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


def _echo_problem(buffer: bytes | bytearray, packet: IPPacket) -> DropReason | None:
    return None if buffer[packet.l4] == icmp.ECHO_REQUESTS[packet.version] else DropReason.ICMP_UNSUPPORTED
