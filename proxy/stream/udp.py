"""UDP sessions: payloads between a client's flow and a socket; super-datagrams stay whole if both ends support them."""

from __future__ import annotations

import errno
import socket
import struct
import time

from proxy.errors import DropReason
from proxy.flow.flow import Flow, address_text
from proxy.flow.tenant import Carrier
from proxy.offramps import sockets
from proxy.offramps.sockets import connect_failure
from proxy.settings.model import Timeouts
from proxy.stream.datagrams import DatagramPlane
from proxy.stream.mapping import EndpointSession, Mapping, endpoint_of
from proxy.stream.metering import Meter
from proxy.verdict import Verdict
from proxy.wire import icmp, ip, udp, virtio
from proxy.wire.checksum import fold, ones_sum
from proxy.wire.ip import IPPacket

DNS, DNS_HEADER = 53, 12
MAX_PENDING_QUERIES = 64  # unanswered DNS queries remembered per session
DNS_ANSWERED_IDLE_S = 1.0  # idle timeout once every query is answered

_get16 = struct.Struct("!H").unpack_from
_segment = struct.Struct("=H")


class UdpSession(EndpointSession):
    """One flow. `from_client` is its memoised path. It uses the socket of the client's endpoint."""

    __slots__ = ("_address", "_addresses", "_headers", "_mapping", "_meter", "_pending_queries", "_ports",
                 "_pseudo_sum")  # fmt: skip

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        super().__init__(plane, flow)
        flow.level = "stream"
        self._addresses = flow.destination + flow.source
        self._ports = flow.destination_port, flow.source_port
        self._headers = (20 if len(flow.source) == 4 else 40) + udp.HEADER_BYTES
        self._pseudo_sum = fold(ones_sum(self._addresses) + ip.UDP)
        self._address = address_text(flow.target[0]), flow.target[1]  # destination of `sendto`
        self._mapping: Mapping | None = None
        self._meter: Meter | None = None
        self._pending_queries: set[int] | None = set() if flow.destination_port == DNS else None

    def reserve(self) -> bool:
        plane, flow = self.plane, self.flow
        mapping: Mapping | None = plane.mappings.get(endpoint_of(flow))
        if mapping is None:
            mapping = Mapping(plane, flow)
            if not plane.lifecycle.descriptors.take(flow.tenant, 1, mapping):
                return False
            plane.mappings[endpoint_of(flow)] = mapping
        mapping.users[self] = None
        self._mapping = mapping
        return True

    def connect(self) -> None:
        mapping, flow = self._mapping, self.flow
        assert mapping is not None
        flow.egress_ip, flow.origin = mapping.open(flow), flow.target_text
        mapping.add(self)
        self._meter = self.plane.lifecycle.admission.pacer.meter(flow)
        flow.carrier.sessions[flow.key] = self.from_client
        self.connected()

    def release(self) -> None:
        mapping, self._mapping = self._mapping, None
        self.flow.carrier.sessions.pop(self.flow.key, None)
        if mapping is not None:
            mapping.remove(self)

    def admitted(self, payload: bytes, segment: int, tos: int, verdict: Verdict) -> None:
        """Act on the verdict on a flow that its origin opened."""
        if verdict.is_denial:
            self.end(verdict.ending)
            return
        try:
            self.connect()
        except OSError as error:  # the route has gone in the meantime
            self.end(connect_failure(error.errno or 0)[0])
            return
        self.forward_reply(memoryview(payload), segment, tos)
        self.send_held()

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        if self.flow.state != "established":
            return self.hold(buffer, packet)
        hop = packet.ttl, packet.dont_fragment, packet.tos
        size = _get16(buffer, packet.l4 + 4)[0] - udp.HEADER_BYTES
        return self._send(buffer, packet.l4, size, hop)

    def timeout_s(self) -> float:
        if self._pending_queries is not None and not self._pending_queries and self.flow.origin_path.packets:
            return DNS_ANSWERED_IDLE_S
        return session_timeout_s(self.plane.timeouts, self.flow)

    def from_client(self, buffer: bytearray, l4: int, end: int) -> DropReason | None:
        """The memoised path of packets whose IP lengths were checked: check the datagram and send its payload."""
        start, is_ipv4 = self.flow.carrier.header_bytes, len(self._addresses) == 8
        length = _get16(buffer, l4 + 4)[0]
        if length < 8 or l4 + length > end:
            return DropReason.TRUNCATED
        if start and buffer[0] & virtio.NEEDS_CSUM:
            if not virtio.is_plausible(buffer, end - start):
                return DropReason.BAD_OFFLOAD
        elif buffer[l4 + 6] or buffer[l4 + 7]:
            # A valid IPv4 header sums to zero, so one sum covers header and datagram, and both are checked.
            whole = buffer[l4 - 20 if is_ipv4 else l4 : l4 + length]
            if fold(ones_sum(whole) + self._pseudo_sum + length) != 0xFFFF:
                is_header_good = not is_ipv4 or _has_good_header(buffer, l4)
                return DropReason.BAD_L4_CHECKSUM if is_header_good else DropReason.BAD_IP_CHECKSUM
        elif not is_ipv4:
            return DropReason.BAD_L4_CHECKSUM
        elif not _has_good_header(buffer, l4):
            return DropReason.BAD_IP_CHECKSUM
        mapping = self._mapping
        if mapping is None:
            return DropReason.STRAY
        if is_ipv4:
            ttl = buffer[l4 - 12]
            hop = ttl, buffer[l4 - 14] & 0x40 != 0, buffer[l4 - 19]
        else:
            ttl = buffer[l4 - 33]
            hop = ttl, True, (buffer[l4 - 40] & 15) << 4 | buffer[l4 - 39] >> 4
        if ttl <= 1:
            quoted = bytes(buffer[start:end])
            self.plane.errors.quote(self.flow.carrier, icmp.TTL_EXCEEDED, quoted, time.monotonic())
            return DropReason.TTL_EXPIRED
        return self._send(buffer, l4, length - udp.HEADER_BYTES, hop)

    def _send(self, buffer: bytearray, l4: int, size: int, hop: tuple[int, bool, int]) -> DropReason | None:
        """Send the `size` payload bytes of the datagram at `l4` to the origin, with its packet's TTL, TOS and DF."""
        flow, mapping = self.flow, self._mapping
        if mapping is None or mapping.sock is None:
            return DropReason.STRAY
        if self._meter is not None and not self._meter.allows_outbound(size):
            return DropReason.LIMIT_BYTES
        if hop != mapping.hop:
            mapping.set_ttl(hop)
        segment = virtio.gso_size(buffer) if flow.carrier.header_bytes else 0
        path = flow.client_path
        path.packets += -(-size // segment) if segment else 1
        path.octets += size + self._headers
        self.details.client_payload += size
        payload = memoryview(buffer)[l4 + udp.HEADER_BYTES : l4 + udp.HEADER_BYTES + size]
        if self._pending_queries is not None:
            self._add_query(payload)
        sock, address = mapping.sock, self._address
        for _ in range(2):  # an error pending on the socket is reported in place of sending (udp(7))
            try:
                if segment and size > segment:
                    ancillary_data = [(socket.IPPROTO_UDP, sockets.UDP_SEGMENT, _segment.pack(segment))]
                    sock.sendmsg([payload], ancillary_data, 0, address)
                else:
                    sock.sendto(payload, address)
                return None
            except BlockingIOError:
                return DropReason.ORIGIN_FULL
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return self._too_big(payload)
                mapping.report_errors()
                if mapping.sock is None:
                    break
        return DropReason.ORIGIN_ERROR

    def _too_big(self, payload: memoryview) -> DropReason:
        """Send the client an ICMP error with the path MTU to the origin."""
        flow = self.flow
        mtu = sockets.path_mtu_to(*flow.target, flow.tenant.settings.egress)
        self.plane.errors.quote(flow.carrier, icmp.TOO_BIG, self.quote(bytes(payload)), time.monotonic(), rest=mtu)
        return DropReason.TOO_BIG

    def _add_query(self, payload: memoryview) -> None:
        """Remember the ID of a DNS query. After too many, forget all, so that no answer is taken for the last one."""
        if len(payload) >= DNS_HEADER and not payload[2] & 0x80 and self._pending_queries is not None:
            self._pending_queries.add(payload[0] << 8 | payload[1])
            if len(self._pending_queries) > MAX_PENDING_QUERIES:
                self._pending_queries = None

    def _match_answer(self, payload: memoryview) -> None:
        """End the session early once every query is answered."""
        if len(payload) < DNS_HEADER or not payload[2] & 0x80 or not self._pending_queries:
            return
        self._pending_queries.discard(payload[0] << 8 | payload[1])
        if not self._pending_queries:
            self.plane.lifecycle.watch_idle(self.flow, DNS_ANSWERED_IDLE_S, time.monotonic())

    def forward_reply(self, payload: memoryview, segment: int, tos: int) -> None:
        """Forward data from the origin: one datagram, or several of `segment` bytes each."""
        if self.flow.state != "established":
            self.flow.tenant.drops[DropReason.HELD] += 1
            return
        if self._meter is not None and not self._meter.allows_inbound(len(payload)):
            self.flow.tenant.drops[DropReason.LIMIT_BYTES] += 1
            return
        tos = self.flow.tenant.remark_tos(tos)
        if segment and len(payload) > segment:
            self._deliver_super(payload, segment, tos)
        else:
            self._deliver(payload, tos)
            if self._pending_queries is not None:
                self._match_answer(payload)

    def _deliver(self, payload: memoryview, tos: int) -> None:
        """Deliver one datagram to the client, in fragments if it is larger than the tunnel's MTU."""
        flow = self.flow
        size = len(payload)
        self.count_reply(size + self._headers, size)
        head = ip.header(flow.destination, flow.source, ip.UDP, udp.HEADER_BYTES + size, tos=tos)
        carrier = flow.carrier
        if carrier.header_bytes and size + self._headers <= carrier.mtu:
            body = udp.partial(self._addresses, *self._ports, payload)
            carrier.send(virtio.udp_header(len(head)) + head + body)
        else:
            carrier.deliver(head + udp.datagram(self._addresses, *self._ports, payload))

    def _deliver_super(self, payload: memoryview, segment: int, tos: int) -> None:
        """Deliver datagrams of `segment` bytes (the last may be shorter) as one super-packet, if they fit the MTU."""
        flow = self.flow
        if segment + self._headers > flow.carrier.mtu:
            for at in range(0, len(payload), segment):
                self._deliver(payload[at : at + segment], tos)
            return
        size = len(payload)
        self.count_reply(size + self._headers, size, -(-size // segment))
        head = ip.header(flow.destination, flow.source, ip.UDP, udp.HEADER_BYTES + size, tos=tos)
        body = udp.partial(self._addresses, *self._ports, payload)
        flow.carrier.send(virtio.udp_header(len(head), segment) + head + body)

    def quote(self, payload: bytes) -> bytes:
        """The client's packet with `payload`, as much of it as an ICMP error must quote."""
        flow = self.flow
        addresses = flow.source + flow.destination
        body = udp.datagram(addresses, flow.source_port, flow.destination_port, payload)
        return ip.header(flow.source, flow.destination, ip.UDP, len(body)) + body


def _has_good_header(buffer: bytearray, l4: int) -> bool:
    """Whether the checksum of the IPv4 header, without options, before `l4` is valid."""
    return ones_sum(buffer[l4 - 20 : l4]) == 0xFFFF


def session_timeout_s(timeouts: Timeouts, flow: Flow) -> float:
    """The idle timeout of a session in seconds: shorter before its first answer, and for DNS."""
    if not flow.origin_path.packets:
        return timeouts.udp_unreplied_s
    return timeouts.dns_idle_s if flow.destination_port == DNS else timeouts.udp_idle_s
