"""UDP sessions: payloads between a client's flow and a connected socket, super-datagrams whole where both ends can."""

from __future__ import annotations

import errno
import socket
import struct
import time

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.offramps import sockets
from proxy.settings.model import Timeouts
from proxy.stream.datagrams import DatagramFlow, DatagramPlane
from proxy.wire import icmp, ip, udp, virtio
from proxy.wire.checksum import fold, ones_sum

DNS = 53

_get16 = struct.Struct("!H").unpack_from
_segment = struct.Struct("=H")
_payload = bytearray(65_536)
_view = memoryview(_payload)


class UdpSession(DatagramFlow):
    """One flow; `from_client` is memoised for its packets."""

    __slots__ = ("_addresses", "_headers", "_ports", "_pseudo", "_super")

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        super().__init__(plane, flow)
        flow.level = "stream"
        self._addresses = flow.destination + flow.source
        self._ports = flow.destination_port, flow.source_port
        self._headers = (20 if len(flow.source) == 4 else 40) + udp.HEADER_BYTES
        self._pseudo = fold(ones_sum(self._addresses) + ip.UDP)
        self._super = plane.udp_offload and flow.carrier.header_bytes > 0

    def dial(self) -> socket.socket:
        flow, egress = self.flow, self.flow.carrier.tenant.settings.egress
        sock = sockets.dial_udp(flow.destination, flow.destination_port, gro=self._super, device=egress)
        self.flow.carrier.sessions[self.flow.key] = self.from_client
        return sock

    def timeout_s(self) -> float:
        return session_timeout_s(self.plane.timeouts, self.flow)

    def from_client(self, buffer: bytearray, l4: int, end: int) -> DropReason | None:
        """The memoised path of a packet whose IP lengths were checked: check the datagram, send its payload."""
        start, is_ipv4 = self.flow.carrier.header_bytes, len(self._addresses) == 8
        length = _get16(buffer, l4 + 4)[0]
        if length < 8 or l4 + length > end:
            return DropReason.TRUNCATED
        if start and buffer[0] & virtio.NEEDS_CSUM:
            if not virtio.is_plausible(buffer, end - start):
                return DropReason.BAD_OFFLOAD
        elif buffer[l4 + 6] or buffer[l4 + 7]:
            # A good IPv4 header adds nothing to a sum: one sum for header and datagram, and neither goes unchecked.
            whole = buffer[l4 - 20 if is_ipv4 else l4 : l4 + length]
            if fold(ones_sum(whole) + self._pseudo + length) != 0xFFFF:
                is_payload = not is_ipv4 or _has_good_header(buffer, l4)
                return DropReason.BAD_L4_CHECKSUM if is_payload else DropReason.BAD_IP_CHECKSUM
        elif not is_ipv4:
            return DropReason.BAD_L4_CHECKSUM
        elif not _has_good_header(buffer, l4):
            return DropReason.BAD_IP_CHECKSUM
        if self.sock is None:
            return DropReason.STRAY
        ttl = buffer[l4 - 12] if is_ipv4 else buffer[l4 - 33]
        hop = ttl, not is_ipv4 or buffer[l4 - 14] & 0x40 != 0
        if hop != self._hop:
            if ttl <= 1:
                quoted = bytes(buffer[start:end])
                self.plane.errors.quote(self.flow.carrier, icmp.TTL_EXCEEDED, quoted, time.monotonic())
                return DropReason.TTL_EXPIRED
            self.set_hop(self.sock, *hop)
        return self.send(self.sock, buffer, l4, end)

    def send(self, sock: socket.socket, buffer: bytearray, l4: int, end: int) -> DropReason | None:
        flow = self.flow
        end = l4 + _get16(buffer, l4 + 4)[0]
        size = end - l4 - udp.HEADER_BYTES
        segment = virtio.gso_size(buffer) if flow.carrier.header_bytes else 0
        path = flow.client_path
        path.packets += -(-size // segment) if segment else 1
        path.octets += size + self._headers
        flow.client_payload += size
        payload = memoryview(buffer)[l4 + udp.HEADER_BYTES : end]
        for _ in range(2):  # an error that waited on the socket is reported instead of sending (udp(7))
            try:
                if segment and size > segment:
                    sock.sendmsg([payload], [(socket.IPPROTO_UDP, sockets.UDP_SEGMENT, _segment.pack(segment))])
                else:
                    sock.send(payload)
                return None
            except BlockingIOError:
                return DropReason.ORIGIN_FULL
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return self.too_big(sock, self.quote(bytes(payload)))
                self.report_error()
        return DropReason.ORIGIN_ERROR

    def receive(self, sock: socket.socket) -> None:
        if not self._super:
            n = sock.recv_into(_payload)
            self._deliver(_view[:n])
            return
        n, ancillary, _, _ = sock.recvmsg_into([_payload], 64)
        segment = 0
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_UDP and kind == sockets.UDP_GRO:
                segment = int.from_bytes(data[:4], "little")
        if segment and n > segment:
            self._deliver_super(_view[:n], segment)
        else:
            self._deliver(_view[:n])

    def _deliver(self, payload: memoryview) -> None:
        """One datagram to the client, in fragments when it is larger than the tunnel's MTU."""
        flow = self.flow
        size = len(payload)
        self.count_reply(size + self._headers, size)
        head = ip.header(flow.destination, flow.source, ip.UDP, udp.HEADER_BYTES + size)
        carrier = flow.carrier
        if carrier.header_bytes and size + self._headers <= carrier.mtu:
            body = udp.partial(self._addresses, *self._ports, payload)
            carrier.send(virtio.udp_header(len(head)) + head + body)
        else:
            carrier.deliver(head + udp.datagram(self._addresses, *self._ports, payload))

    def _deliver_super(self, payload: memoryview, segment: int) -> None:
        """Many datagrams of `segment` bytes (the last may be shorter) as one super-packet, where they fit the MTU."""
        flow = self.flow
        if segment + self._headers > flow.carrier.mtu:
            for at in range(0, len(payload), segment):
                self._deliver(payload[at : at + segment])
            return
        size = len(payload)
        self.count_reply(size + self._headers, size, -(-size // segment))
        head = ip.header(flow.destination, flow.source, ip.UDP, udp.HEADER_BYTES + size)
        body = udp.partial(self._addresses, *self._ports, payload)
        flow.carrier.send(virtio.udp_header(len(head), segment) + head + body)

    def quote(self, payload: bytes) -> bytes:
        flow = self.flow
        addresses = flow.source + flow.destination
        body = udp.datagram(addresses, flow.source_port, flow.destination_port, payload)
        return ip.header(flow.source, flow.destination, ip.UDP, len(body)) + body


def _has_good_header(buffer: bytearray, l4: int) -> bool:
    """Whether the IPv4 header without options before `l4` has its checksum."""
    return ones_sum(buffer[l4 - 20 : l4]) == 0xFFFF


def session_timeout_s(timeouts: Timeouts, flow: Flow) -> float:
    """How long a session may be idle: little before its first answer, and as a resolver."""
    if not flow.origin_path.packets:
        return timeouts.udp_unreplied_s
    return timeouts.dns_idle_s if flow.destination_port == DNS else timeouts.udp_idle_s
