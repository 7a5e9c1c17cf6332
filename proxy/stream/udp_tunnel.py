"""UDP sessions between two tunnels: each datagram is taken out of its packet and sent on in a new one.

No socket is involved: every packet holds whole datagrams, so the kernel is not needed to extract them, or to send them
from the client's own address and port.
"""

from __future__ import annotations

import itertools
import struct
import time

from proxy.errors import DropReason
from proxy.flow.flow import Flow, address_text
from proxy.flow.keys import reverse_key
from proxy.flow.path import Path
from proxy.flow.tenant import Carrier
from proxy.packet.fragment import split
from proxy.packet.routes import flow_hash
from proxy.stream.datagrams import DatagramFlow, DatagramPlane
from proxy.stream.metering import Meter
from proxy.stream.udp import UdpSession, session_timeout_s
from proxy.wire import icmp, ip, udp, virtio
from proxy.wire.icmp import ErrorKind
from proxy.wire.ip import IPPacket

MIN_MTU = {4: 576, 6: 1280}  # smaller reported MTUs are ignored (RFC 1191 3, RFC 8201 4)

_idents = itertools.count(1)  # identifications of IPv6 packets that we fragment
_get16 = struct.Struct("!H").unpack_from


def open_session(plane: DatagramPlane, flow: Flow) -> DatagramFlow:
    """The session of a flow that leaves by a socket of the host, or by a tunnel."""
    return UdpSession(plane, flow) if flow.egress is None else UdpTunnelSession(plane, flow)


class UdpTunnelSession(DatagramFlow):
    """One flow. `outbound.memoised` and `inbound.memoised` are the paths of its packets."""

    __slots__ = ("inbound", "meter", "outbound")

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        super().__init__(plane, flow)
        assert flow.egress is not None
        flow.level, egress = "stream", flow.egress
        client_key, origin_key = flow.key, flow.outbound_key
        self.meter: Meter | None = None
        self.outbound = Direction(self, flow.carrier, egress, client_key, origin_key, flow.client_path)
        self.inbound = Direction(
            self, egress, flow.carrier, reverse_key(origin_key), reverse_key(client_key), flow.origin_path
        )

    def reserve(self) -> bool:
        """Return True: no descriptor is needed."""
        return True

    def connect(self) -> None:
        """Memoise both directions. Nothing is sent to the origin before the first datagram."""
        self.meter = self.plane.lifecycle.admission.pacer.meter(self.flow)
        self.outbound.memoise()
        self.inbound.memoise()
        self.flow.origin, self.flow.egress_ip = self.flow.target_text, address_text(self.flow.source)
        self.connected()

    def timeout_s(self) -> float:
        return session_timeout_s(self.plane.timeouts, self.flow)

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Handle a checked packet of either direction for which no path is memoised."""
        if self.flow.state != "established":
            return self.hold(buffer, packet)
        direction = self.outbound if packet.source == self.flow.source else self.inbound
        return direction.forward(buffer, packet)

    def error(self, carrier: Carrier, buffer: bytes | bytearray, packet: IPPacket) -> DropReason | None:
        """Pass an ICMP error about a packet sent into either tunnel to the sender of the datagram."""
        at, start = packet.l4, packet.l4 + icmp.HEADER_BYTES
        quoted = self._as_sent(buffer[start : packet.end])
        direction = self.outbound if icmp.quoted_source(buffer, packet) == self.flow.source else self.inbound
        kind_code, rest = (buffer[at], buffer[at + 1]), int.from_bytes(buffer[at + 4 : start], "big")
        if kind_code == (icmp.TOO_BIG.v4 if packet.version == 4 else icmp.TOO_BIG.v6):
            direction.learn_mtu(rest & 0xFFFF)
        now, errors = time.monotonic(), self.plane.errors
        errors.quote(direction.arrival, ErrorKind(kind_code, kind_code), quoted, now, source=packet.source, rest=rest)
        return None

    def _as_sent(self, quoted: bytes | bytearray) -> bytes:
        """A quoted packet of the flow as its sender sent it, to the destination before redirection."""
        flow, result = self.flow, bytearray(quoted)
        if flow.redirect is None:
            return bytes(result)
        size = len(flow.source)
        source_at, ports_at = (12, (result[0] & 15) * 4) if size == 4 else (8, 40)
        if result[source_at : source_at + size] == flow.source:
            result[source_at + size : source_at + 2 * size] = flow.destination
            result[ports_at + 2 : ports_at + 4] = flow.key[-2:]
        else:
            result[source_at : source_at + size] = flow.destination
            result[ports_at : ports_at + 2] = flow.key[-2:]
        return bytes(result)

    def release(self) -> None:
        self.outbound.forget()
        self.inbound.forget()


class Direction:
    """One direction: packets that arrive from one tunnel leave by the other."""

    __slots__ = ("_addresses", "_destination", "_egress", "_has_offload", "_headers", "_is_outbound", "_key", "_path",
                 "_ports", "_send_out", "_session", "_source", "_version", "arrival", "mtu")  # fmt: skip

    def __init__(
        self, session: UdpTunnelSession, arrival: Carrier, egress: Carrier, key: bytes, sent_key: bytes, path: Path
    ) -> None:
        """`key`: the key of packets that arrive; `sent_key`: of those sent on."""
        self._session, self.arrival, self._egress, self._key, self._path = session, arrival, egress, key, path
        self._version = 4 if len(key) == 12 else 6
        self._addresses = sent_key[:-4]
        self._source, self._destination = sent_key[: len(sent_key) // 2 - 2], sent_key[len(sent_key) // 2 - 2 : -4]
        self._ports = int.from_bytes(sent_key[-4:-2], "big"), int.from_bytes(sent_key[-2:], "big")
        self._headers = (20 if self._version == 4 else 40) + udp.HEADER_BYTES
        self._is_outbound = path is session.flow.client_path
        self._has_offload = session.plane.udp_offload and egress.header_bytes > 0
        self._send_out = egress.sender(flow_hash(ip.UDP, key))
        self.mtu = egress.mtu

    def memoise(self) -> None:
        self.arrival.sessions[self._key] = self.memoised

    def forget(self) -> None:
        if self.arrival.sessions.get(self._key) == self.memoised:
            del self.arrival.sessions[self._key]

    def learn_mtu(self, reported: int) -> None:
        """Lower the MTU, as a router on the path reported. Datagrams without DF are then fragmented to it."""
        self.mtu = min(self.mtu, max(reported, MIN_MTU[self._version]))

    def memoised(self, buffer: bytearray, l4: int, end: int) -> DropReason | None:
        """The memoised path of packets without options whose IP lengths were checked."""
        start = l4 - (20 if self._version == 4 else 40)
        packet = ip.parse(buffer, start, end)
        if isinstance(packet, DropReason):
            return packet
        partial = bool(start and buffer[0] & virtio.NEEDS_CSUM)
        if partial and not virtio.is_plausible(buffer, end - start):
            return DropReason.BAD_OFFLOAD
        if problem := udp.check(buffer, packet, partial_checksum=partial):
            return problem
        if packet.ttl <= 1:
            self._session.plane.errors.answer(self.arrival, icmp.TTL_EXCEEDED, buffer, packet, time.monotonic())
            return DropReason.TTL_EXPIRED
        return self.forward(buffer, packet)

    def forward(self, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Send a checked datagram on, in as many packets as the other tunnel's MTU and offload require."""
        payload = memoryview(buffer)[packet.l4 + udp.HEADER_BYTES : packet.l4 + _get16(buffer, packet.l4 + 4)[0]]
        if (meter := self._session.meter) is not None:
            allows = meter.allows_outbound if self._is_outbound else meter.allows_inbound
            if not allows(len(payload)):
                return DropReason.LIMIT_BYTES
        segment = virtio.gso_size(buffer) if packet.start else 0
        pieces = [payload]
        fits = (segment or len(payload)) + self._headers <= self.mtu
        if packet.dont_fragment and not fits:
            quoted, errors = bytes(buffer[packet.start : packet.end]), self._session.plane.errors
            errors.quote(self.arrival, icmp.TOO_BIG, quoted, time.monotonic(), rest=self.mtu)
            return DropReason.TOO_BIG
        if segment and not (self._has_offload and fits):
            pieces = [payload[at : at + segment] for at in range(0, len(payload), segment)]
        self._count(len(payload), -(-len(payload) // segment) if segment else 1)
        for number, piece in enumerate(pieces):
            self._send(piece, segment if len(piece) > segment else 0, packet, packet.fragment_id + number)
        return None

    def _send(self, payload: memoryview, segment: int, packet: IPPacket, ident: int) -> None:
        """Send one packet with the fields of the sender's header and TTL - 1."""
        size, out = udp.HEADER_BYTES + len(payload), self._egress
        if self._version == 4:
            head = ip.ipv4_header(
                self._source, self._destination, ip.UDP, size, ttl=packet.ttl - 1, tos=packet.tos,
                ident=ident & 0xFFFF, dont_fragment=packet.dont_fragment,
            )  # fmt: skip
        else:
            head = ip.ipv6_header(
                self._source, self._destination, ip.UDP, size, hop_limit=packet.ttl - 1, traffic_class=packet.tos
            )
        if out.header_bytes and (segment or len(payload)) + self._headers <= self.mtu:
            body = udp.partial(self._addresses, *self._ports, payload)
            self._send_out(virtio.udp_header(len(head), segment) + head + body)
            return
        whole = head + udp.datagram(self._addresses, *self._ports, payload)
        for piece in split(whole, self.mtu, ident if self._version == 4 else next(_idents)):
            self._send_out(virtio.NO_OFFLOAD[: out.header_bytes] + piece)

    def _count(self, payload: int, packets: int) -> None:
        if not self._is_outbound:
            self._session.count_reply(payload + self._headers, payload, packets)
            return
        path = self._path
        path.packets += packets
        path.octets += payload + self._headers
        self._session.details.client_payload += payload
