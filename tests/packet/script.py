"""A packet plane with everything around it in memory: packets in; reasons, replies and opened flows out."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, IPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)

from proxy.device.memory import MemoryTunnel
from proxy.errors import DropReason
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import Plane
from proxy.wire.ip import IPPacket
from tests.flows import make_tenant, make_tunnel
from tests.packets import decode

ICMPV6_ERRORS = (ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, ICMPv6ParamProblem)


class Opener:
    """Opens every flow that it is asked for, and keeps what it is given."""

    def __init__(self) -> None:
        self.opened: list[Flow] = []
        self.packets: list[tuple[Flow, bytes]] = []
        self.answer: DropReason | None = None

    def open(self, flow: Flow, *rest: Any) -> DropReason | None:
        """As a `packet.plane.Opener`, or, given a hop before the buffer, as who admits flows."""
        *_, buffer, packet = rest
        if self.answer is None:
            flow.handler = Handler(self, flow)
            flow.tenant.add(PROTOCOL_NUMBERS[flow.protocol], flow)
            self.opened.append(flow)
            self.packets.append((flow, bytes(buffer[packet.start : packet.end])))
        return self.answer


class Handler:
    def __init__(self, opener: Opener, flow: Flow) -> None:
        self.opener, self.flow = opener, flow
        self.has_seen = False

    def is_retransmission(self, buffer: bytearray, packet: IPPacket) -> bool:
        return self.has_seen

    def packet(self, carrier: Any, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        self.opener.packets.append((self.flow, bytes(buffer[packet.start : packet.end])))
        return None


class Script:
    """One tunnel of one tenant. `now` is whatever the test says."""

    def __init__(self, *, offload: bool = False, **limits: Any) -> None:
        self.tenant = make_tenant(**limits)
        self.tunnel = make_tunnel(self.tenant, offload=offload)
        self.opener = Opener()
        self.now = 1000.0
        self.plane = Plane(self.opener, IcmpErrors())

    def give(self, packet: bytes, tunnel: MemoryTunnel | None = None, header: bytes | None = None) -> DropReason | None:
        """Why the packet went no further, as the ramp would count it."""
        tunnel = tunnel or self.tunnel
        buffer = bytearray((bytes(tunnel.header_bytes) if header is None else header) + packet)
        return self.plane.handle(tunnel, buffer, len(buffer), self.now, int(self.now * 1e9))

    def replies(self) -> list[str]:
        """What the client has been sent since the last call, in short."""
        return [describe(packet) for packet in self.tunnel.take()]

    @property
    def flows(self) -> list[str]:
        return [f"{flow.protocol} {flow.source_text} -> {flow.destination_text}" for flow in self.opener.opened]

    @property
    def passed(self) -> list[bytes]:
        """The packets that reached their flow's handler."""
        return [packet for _, packet in self.opener.packets]


def describe(packet: bytes) -> str:
    """`10.50.0.10 > 100.96.0.2 RST/ACK seq 0 ack 1001`, `192.0.0.8 > 100.96.0.2 ICMP 11/0 about 10.50.0.10`."""
    decoded = decode(packet)
    addresses = f"{decoded.src} > {decoded.dst}"
    if TCP in decoded and not isinstance(decoded[TCP].underlayer, IPerror):
        segment = decoded[TCP]
        return f"{addresses} TCP {segment.flags} seq {segment.seq} ack {segment.ack}"
    if isinstance(decoded, IP) and ICMP in decoded and IPerror in decoded:
        return f"{addresses} ICMP {decoded[ICMP].type}/{decoded[ICMP].code} about {decoded[IPerror].dst}"
    if isinstance(decoded, IPv6):
        for kind in ICMPV6_ERRORS:
            if kind in decoded:
                error = decoded[kind]
                return f"{addresses} ICMPv6 {error.type}/{error.code} about {error.payload.dst}"
    return decoded.summary()
