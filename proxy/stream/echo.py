"""Echo flows: a ping asks the real origin over a socket of its own, and the answer bears the client's identifier."""

from __future__ import annotations

import errno
import os
import socket

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.offramps import sockets
from proxy.stream.datagrams import DatagramFlow, DatagramPlane
from proxy.wire import icmp, ip

_message = bytearray(65_536)


class EchoFlow(DatagramFlow):
    """One identifier of one client towards one destination (RFC 5508 3.1)."""

    __slots__ = ("_addresses", "_family", "_is_raw", "_raw_identifier", "_version")

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        super().__init__(plane, flow)
        self._version = 4 if len(flow.source) == 4 else 6
        self._addresses = flow.destination + flow.source
        self._family = socket.AF_INET if self._version == 4 else socket.AF_INET6
        self._is_raw = False
        self._raw_identifier = 0

    def dial(self) -> socket.socket:
        sock, self._is_raw = sockets.dial_echo(self.flow.destination, self.flow.carrier.tenant.settings.egress)
        if self._is_raw:  # a datagram socket has an identifier of its own, as a port
            self._raw_identifier = int.from_bytes(os.urandom(2), "big")
        return sock

    def timeout_s(self) -> float:
        return self.plane.timeouts.icmp_idle_s

    def send(self, sock: socket.socket, buffer: bytearray, l4: int, end: int) -> DropReason | None:
        flow = self.flow
        _, sequence = icmp.echo_identity(buffer, l4)
        body = memoryview(buffer)[l4 + icmp.HEADER_BYTES : end]
        flow.client_path.packets += 1
        flow.client_path.octets += end - flow.carrier.header_bytes
        flow.client_payload += len(body)
        kind = icmp.ECHO_REQUESTS[self._version]
        rest = self._raw_identifier << 16 | sequence
        request = icmp.message(
            self._addresses, kind, 0, rest, body
        )  # the kernel sums ICMPv6 anew, with its own address
        for _ in range(2):
            try:
                sock.send(request)
                return None
            except BlockingIOError:
                return DropReason.ORIGIN_FULL
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return self.too_big(sock, self.quote(request))
                self.report_error()
        return DropReason.ORIGIN_ERROR

    def receive(self, sock: socket.socket) -> None:
        n, sender = sock.recvfrom_into(_message)
        if socket.inet_pton(self._family, sender[0].partition("%")[0]) != self.flow.destination:
            return  # a datagram socket for echo is given every answer that bears its identifier, whoever sent it
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
        packet = ip.header(flow.destination, flow.source, protocol, len(reply)) + reply
        self.count_reply(len(packet), len(body))
        flow.carrier.deliver(packet)

    def quote(self, payload: bytes) -> bytes:
        flow = self.flow
        sequence = icmp.echo_identity(payload, 0)[1] if len(payload) >= icmp.HEADER_BYTES else 0
        addresses = flow.source + flow.destination
        rest = flow.source_port << 16 | sequence
        body = icmp.message(addresses, icmp.ECHO_REQUESTS[self._version], 0, rest, payload[icmp.HEADER_BYTES :])
        protocol = ip.ICMP if self._version == 4 else ip.ICMPV6
        return ip.header(flow.source, flow.destination, protocol, len(body)) + body
