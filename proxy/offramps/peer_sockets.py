"""Packets to a site: GUE headers are added, and packets sent from several UDP ports so that ECMP spreads flows."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Protocol

from proxy.errors import DropReason, ProxyError
from proxy.offramps.sockets import IP_MTU, IPV6_MTU
from proxy.wire import gue
from proxy.wire.ecn import traffic_class

IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2
SEND_BUFFER_BYTES = 4 << 20
SO_SNDBUFFORCE = 32
OUTER_HEADERS = {4: 28, 6: 48}  # IP and UDP


class Sender(Protocol):
    """The tunnel that sends the packets."""

    def count(self, reason: DropReason) -> None: ...

    def learn_mtu(self, mtu: int) -> None: ...


class PeerSocket:
    """One source port towards one peer. `headers`: the GUE headers for inner packets of IP version 4 and 6."""

    __slots__ = ("_level", "_sender", "_tos", "_version", "headers", "octets", "packets", "raw", "sock")

    def __init__(self, sock: socket.socket, headers: dict[int, bytes], sender: Sender) -> None:
        self.sock, self.headers, self._sender = sock, headers, sender
        # For packets without DSCP and ECN. The caller counts, and passes errors to `failed`.
        self.raw: Callable[[bytes], int] = sock.send
        self.packets = self.octets = 0
        self._version = 4 if sock.family == socket.AF_INET else 6
        self._level = socket.IPPROTO_IP if self._version == 4 else socket.IPPROTO_IPV6
        self._tos = socket.IP_TOS if self._version == 4 else socket.IPV6_TCLASS

    def send(self, packet: bytes | memoryview) -> None:
        """Encapsulate and send one packet. The outer header gets its DSCP and ECN (RFC 6040 4.1)."""
        try:
            self._send(packet)
        except OSError as error:
            self.failed(error, packet)
        else:
            self.packets += 1
            self.octets += len(packet)

    def _send(self, packet: bytes | memoryview) -> None:
        header, mark = self.headers[packet[0] >> 4], traffic_class(packet, 0)
        if mark:
            self.sock.sendmsg([header, packet], [(self._level, self._tos, mark.to_bytes(4, "little"))])
        else:
            self.raw(header + packet)

    def failed(self, error: OSError, packet: bytes | memoryview) -> None:
        """Handle a send error: count it, or send again if it was a pending ICMP error of earlier packets (udp(7))."""
        if isinstance(error, BlockingIOError):
            self._sender.count(DropReason.TUNNEL_FULL)
            return
        if error.errno == errno.EMSGSIZE:
            mtu = self.sock.getsockopt(self._level, IP_MTU if self._version == 4 else IPV6_MTU)
            self._sender.learn_mtu(mtu - OUTER_HEADERS[self._version] - len(self.headers[packet[0] >> 4]))
            self._sender.count(DropReason.TOO_BIG)
            return
        try:
            self._send(packet)
        except OSError:
            self._sender.count(DropReason.PEER_UNREACHABLE)
            return
        self.packets += 1
        self.octets += len(packet)


def open_peer_socket(source: str, peer: tuple[str, int], number: int) -> socket.socket:
    """A socket whose source port stands for a share of the inner flows, connected to `peer`, with DF set.

    The search for a free port begins at `number`. Raises ProxyError if the peer cannot be reached from `source`.
    """
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _bind(sock, source, number)
        sock.connect(peer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # peers send to the port that we listen on
        _set(sock, SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
    except OSError as error:
        sock.close()
        raise ProxyError(f"peer {peer[0]}: {error.strerror or error}") from error
    return sock


def _bind(sock: socket.socket, source: str, number: int) -> None:
    for attempt in range(len(gue.ENTROPY_PORTS)):
        try:
            sock.bind((source, gue.source_port(number + attempt)))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no source port is free")


def _set(sock: socket.socket, forced: int, option: int, value: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, value)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
