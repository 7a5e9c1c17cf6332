"""Opens the sockets of tunnels in the namespaces of nodes. All functions raise OSError."""

from __future__ import annotations

import os
import random
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from proxy.wire import gre, gue

Address = IPv4Address | IPv6Address
Ancillary = list[tuple[int, int, bytes]]

# linux/in.h, linux/in6.h, linux/udp.h
IP_MTU_DISCOVER, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU = 10, 14, 23, 24
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
UDP_SEGMENT, UDP_GRO = 103, 104
RECEIVE_BYTES = 4 << 20  # requested; the kernel may allow less
ENTROPY_SOCKETS = 8
BIND_ATTEMPTS = 64

_INT = struct.Struct("=i")
_U16 = struct.Struct("=H")
CMSG_SPACE = 3 * socket.CMSG_SPACE(_INT.size)


def family_of(address: Address) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def open_gre(local: Address) -> socket.socket:
    """A raw socket for GRE to `local` that sends with DF set. It receives IPv4 packets with their header."""
    sock = socket.socket(family_of(local), _flags(socket.SOCK_RAW), gre.PROTOCOL)
    return _prepared(sock, local, 0)


def open_gue(local: Address, port: int) -> socket.socket:
    """A UDP socket that receives at `local`; datagrams of one size may arrive as one (UDP_GRO)."""
    sock = _prepared(socket.socket(family_of(local), _flags(socket.SOCK_DGRAM)), local, port)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    return sock


def open_entropy(local: Address) -> list[socket.socket]:
    """UDP sockets to send from, on different ports, so that routers on the path spread inner flows over links."""
    return [_on_any_port(local) for _ in range(ENTROPY_SOCKETS)]


def open_route(remote: Address) -> socket.socket:
    """A socket that never sends: once connected, it knows the path MTU. See `path_mtu`."""
    return socket.socket(family_of(remote), _flags(socket.SOCK_DGRAM))


def path_mtu(route: socket.socket, remote: Address) -> int:
    """The kernel's path MTU to `remote` in bytes, outer headers included."""
    route.connect((str(remote), gue.PORT))  # again, to pick up what the kernel has learned since
    if remote.version == 4:
        return route.getsockopt(socket.IPPROTO_IP, IP_MTU)
    return route.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


def set_may_fragment(sock: socket.socket, may: bool) -> None:
    """Allow the kernel to fragment what is sent next, or forbid it, which sets DF on IPv4 packets."""
    mode = PMTUDISC_DONT if may else PMTUDISC_DO
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, mode)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, mode)


def with_class(family: int, traffic_class: int) -> Ancillary:
    """The control message of sendmsg(2) that sets one packet's TOS or traffic class."""
    if traffic_class == 0:
        return []
    if family == socket.AF_INET:
        return [(socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(traffic_class))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(traffic_class))]


def segmented(size: int) -> Ancillary:
    """The control message that makes sendmsg(2) send datagrams of `size` bytes each."""
    return [(socket.IPPROTO_UDP, UDP_SEGMENT, _U16.pack(size))]


def read_ancillary(ancillary: Ancillary) -> tuple[int, int]:
    """TOS or traffic class, and the size of datagrams that were received as one; 0 for what the messages lack."""
    traffic_class = size = 0
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_UDP and kind == UDP_GRO:
            (size,) = _INT.unpack(data)
        elif (level, kind) in ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)):
            traffic_class = data[0] if len(data) < _INT.size else _INT.unpack(data)[0]
    return traffic_class, size


def _flags(kind: int) -> int:
    return kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


def _prepared(sock: socket.socket, local: Address, port: int) -> socket.socket:
    try:
        if local.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        set_may_fragment(sock, False)
        sock.bind((str(local), port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"{local}: {os.strerror(error.errno or 0)}") from None
    return sock


def _on_any_port(local: Address) -> socket.socket:
    sock = socket.socket(family_of(local), _flags(socket.SOCK_DGRAM))
    set_may_fragment(sock, False)
    for attempt in range(BIND_ATTEMPTS):
        try:
            sock.bind((str(local), random.choice(gue.ENTROPY_PORTS)))
            return sock
        except OSError as error:
            if attempt == BIND_ATTEMPTS - 1:
                sock.close()
                raise OSError(error.errno, f"{local}: {os.strerror(error.errno or 0)}") from None
    raise AssertionError
