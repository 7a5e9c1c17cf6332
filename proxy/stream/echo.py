"""Echo flows: each ping is sent to the origin from a socket of its own, and the reply gets the client's identifier."""

from __future__ import annotations

import errno
import os
import socket
import time

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.tenant import Carrier
from proxy.kernel.tos import set_tos
from proxy.offramps import sockets
from proxy.poller import IN
from proxy.stream.datagrams import DatagramFlow, DatagramPlane
from proxy.wire import icmp, ip
from proxy.wire.ip import IPPacket

BUDGET = 64  # reads per readiness event

_message = bytearray(65_536)


class EchoFlow(DatagramFlow):
    """One ICMP identifier of one client to one destination (RFC 5508 3.1)."""

    __slots__ = ("_addresses", "_family", "_hop", "_is_raw", "_raw_identifier", "_version", "sock")

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        super().__init__(plane, flow)
        self._version = 4 if len(flow.source) == 4 else 6
        self._addresses = flow.destination + flow.source
        self._family = socket.AF_INET if self._version == 4 else socket.AF_INET6
        self._is_raw = False
        self._raw_identifier = 0
        self.sock: socket.socket | None = None
        self._hop: tuple[int, bool, int] | None = None

    def reserve(self) -> bool:
        return self.plane.lifecycle.descriptors.take(self.flow.tenant, 1, self)

    def release(self) -> None:
        if self.sock is not None:
            self.plane.poller.forget(self.sock.fileno())
            if lost := sockets.overflows(self.sock):
                self.flow.tenant.drops[DropReason.SOCKET_OVERFLOW] += lost
            self.sock.close()
            self.sock = None
        self.plane.lifecycle.descriptors.give(self.flow.tenant, 1, self)

    def activity(self) -> int:
        return self.flow.activity()

    def evict(self) -> None:
        """Give up the descriptor for another flow."""
        self.end("evicted")

    def connect(self) -> None:
        flow = self.flow
        self.sock, self._is_raw = sockets.dial_echo(flow.target[0], flow.carrier.tenant.settings.egress)
        if self._is_raw:  # a datagram socket's identifier is its own, chosen like a port
            self._raw_identifier = int.from_bytes(os.urandom(2), "big")
        flow.origin, flow.egress_ip = flow.target_text, sockets.local_address(self.sock)
        self.connected()
        self.plane.poller.watch(self.sock.fileno(), IN, self.ready, self.crashed)

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        if self.sock is None:
            return DropReason.STRAY
        if (packet.ttl, packet.dont_fragment, packet.tos) != self._hop:
            sockets.set_ttl(self.sock, self._version, packet.ttl - 1, packet.dont_fragment)
            set_tos(self.sock, self.flow.tenant.remark_tos(packet.tos))
            self._hop = packet.ttl, packet.dont_fragment, packet.tos
        return self.send(self.sock, buffer, packet.l4, packet.end)

    def timeout_s(self) -> float:
        return self.plane.timeouts.icmp_idle_s

    def ready(self, events: int) -> None:
        """Handle replies from the origin and errors from the network."""
        for _ in range(BUDGET):
            if self.sock is None:
                return
            try:
                self.receive(self.sock)
            except BlockingIOError:
                return
            except OSError:
                self.report_error()

    def report_error(self) -> None:
        """Pass the network's ICMP error to the client, with its original sender."""
        error = sockets.network_error(self.sock) if self.sock is not None else None
        if error is not None:
            self.plane.errors.pass_on(self.flow.carrier, error, self.quote(error.quoted), time.monotonic())

    def send(self, sock: socket.socket, buffer: bytearray, l4: int, end: int) -> DropReason | None:
        """Send the message in `buffer[l4:end]` to the origin."""
        flow = self.flow
        _, sequence = icmp.echo_identity(buffer, l4)
        body = memoryview(buffer)[l4 + icmp.HEADER_BYTES : end]
        flow.client_path.packets += 1
        flow.client_path.octets += end - flow.carrier.header_bytes
        self.details.client_payload += len(body)
        kind = icmp.ECHO_REQUESTS[self._version]
        rest = self._raw_identifier << 16 | sequence
        request = icmp.message(
            self._addresses, kind, 0, rest, body
        )  # the kernel recomputes the ICMPv6 checksum, with its own address
        for _ in range(2):
            try:
                sock.send(request)
                return None
            except BlockingIOError:
                return DropReason.ORIGIN_FULL
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    mtu, quoted = sockets.path_mtu(sock, self._version), self.quote(request)
                    self.plane.errors.quote(flow.carrier, icmp.TOO_BIG, quoted, time.monotonic(), rest=mtu)
                    return DropReason.TOO_BIG
                self.report_error()
        return DropReason.ORIGIN_ERROR

    def receive(self, sock: socket.socket) -> None:
        """Read one message from the origin and deliver it. Raises BlockingIOError if there is none."""
        n, ancillary_data, _, sender = sock.recvmsg_into([_message], 64)
        if socket.inet_pton(self._family, sender[0].partition("%")[0]) != self.flow.target[0]:
            return  # an ICMP datagram socket receives every reply with its identifier, from any sender
        at = (_message[0] & 15) * 4 if self._is_raw and self._version == 4 else 0
        if n - at < icmp.HEADER_BYTES or _message[at] != icmp.ECHO_REPLIES[self._version]:
            return
        identifier, sequence = icmp.echo_identity(_message, at)
        if self._is_raw and identifier != self._raw_identifier:
            return
        flow = self.flow
        body = memoryview(_message)[at + icmp.HEADER_BYTES : n]
        rest = flow.source_port << 16 | sequence
        reply = icmp.message(self._addresses, icmp.ECHO_REPLIES[self._version], 0, rest, body)
        protocol = ip.ICMP if self._version == 4 else ip.ICMPV6
        tos = flow.tenant.remark_tos(ancillary_data[0][2][0] if ancillary_data else 0)
        packet = ip.header(flow.destination, flow.source, protocol, len(reply), tos=tos) + reply
        self.count_reply(len(packet), len(body))
        flow.carrier.deliver(packet)

    def quote(self, payload: bytes) -> bytes:
        """The client's packet with `payload`, as much of it as an ICMP error must quote."""
        flow = self.flow
        sequence = icmp.echo_identity(payload, 0)[1] if len(payload) >= icmp.HEADER_BYTES else 0
        addresses = flow.source + flow.destination
        rest = flow.source_port << 16 | sequence
        body = icmp.message(addresses, icmp.ECHO_REQUESTS[self._version], 0, rest, payload[icmp.HEADER_BYTES :])
        protocol = ip.ICMP if self._version == 4 else ip.ICMPV6
        return ip.header(flow.source, flow.destination, protocol, len(body)) + body
