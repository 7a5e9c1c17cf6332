"""Sockets of the proxy's own host for leaving traffic: TCP, UDP and ICMP echo, and the network's errors."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from proxy.errors import DropReason
from proxy.flow.record import CloseReason
from proxy.kernel.tos import UDP_GRO, receive_tos, set_tos
from proxy.wire import icmp
from proxy.wire.icmp import ErrorKind, Report

IP_RECVERR, IPV6_RECVERR = 11, 25
SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6 = 2, 3
UDP_SEGMENT = 103
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 10, 0, 2
IP_MTU, IPV6_MTU = 14, 24
SO_MEMINFO = 55
UDP_BUFFER_BYTES = 4 << 20
SO_RCVBUFFORCE = 33
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 300, 30, 4

_EXTENDED_ERROR = struct.Struct("=IBBBxII")


def dial_tcp(address: bytes, port: int, device: str | None = None, tos: int = 0) -> tuple[socket.socket, int]:
    """A non-blocking socket, and its state: 0 connected, EINPROGRESS, or the errno of an immediate failure.

    If `device` is given, the three kinds of sockets here use that interface only. Raises OSError if there is no socket.
    """
    sock = _socket(address, socket.SOCK_STREAM, device=device)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    if tos:
        set_tos(sock, tos)
    return sock, connect(sock, (_text(address), port))


def connect(sock: socket.socket, address: tuple[str, int]) -> int:
    """Begin to connect. Returns 0 if connected already, EINPROGRESS, or the errno of a failure.

    An origin on this host has answered before connect(2) returns EINPROGRESS, so a second call, which costs less than
    an event of the poller (bench/connections.py), finds the result.
    """
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        code = sock.connect_ex(address)
    return errno.EINPROGRESS if code == errno.EALREADY else code


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel probe an origin that has been silent for long."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def forgive_errors(sock: socket.socket, address: bytes) -> None:
    """Treat ICMP errors about an established connection as hints again: TCP retransmits, and survives (RFC 5461)."""
    if len(address) == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 0)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 0)


def open_udp(family: int, *, gro: bool, device: str | None = None) -> socket.socket:
    """A non-blocking unconnected socket. With `gro` one read may return several coalesced datagrams."""
    sock = _new_socket(family, socket.SOCK_DGRAM, device=device)
    try:
        _enlarge_receive_buffer(sock)
        receive_tos(sock)
        if gro:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def source_address(address: bytes, port: int, device: str | None = None) -> str:
    """The source address that the kernel chooses towards this destination. Raises OSError if unreachable."""
    with _connected(address, port, device) as sock:
        return str(sock.getsockname()[0])


def path_mtu_to(address: bytes, port: int, device: str | None = None) -> int:
    """The path MTU to a destination, as known to the kernel."""
    with _connected(address, port, device) as sock:
        return path_mtu(sock, 4 if len(address) == 4 else 6)


@contextlib.contextmanager
def _connected(address: bytes, port: int, device: str | None) -> Iterator[socket.socket]:
    with _socket(address, socket.SOCK_DGRAM, device=device) as sock:
        sock.connect((_text(address), port))
        yield sock


def dial_echo(address: bytes, device: str | None = None) -> tuple[socket.socket, bool]:
    """A connected socket for echo requests, and whether it is raw. Raises PermissionError if neither kind is allowed.

    A datagram socket needs net.ipv4.ping_group_range, a raw one CAP_NET_RAW.
    """
    protocol = socket.IPPROTO_ICMP if len(address) == 4 else socket.IPPROTO_ICMPV6
    try:
        sock, raw = _socket(address, socket.SOCK_DGRAM, protocol, device), False
    except PermissionError:
        sock, raw = _socket(address, socket.SOCK_RAW, protocol, device), True
    try:
        _enlarge_receive_buffer(sock)
        receive_tos(sock)
        sock.connect((_text(address), 0))
    except BaseException:
        sock.close()
        raise
    return sock, raw


def network_error(sock: socket.socket) -> Report | None:
    """The oldest ICMP error queued on `sock`, or None. Errors of the host itself are skipped."""
    while True:
        try:
            quoted, ancillary, _, name = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return None
        for level, kind, data in ancillary:
            if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
                _, origin, icmp_type, code, info, _ = _EXTENDED_ERROR.unpack_from(data)
                if origin in (SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6):
                    return Report(icmp_type, code, info, _offender(data), quoted, _destination(sock, name))


def set_ttl(sock: socket.socket, version: int, ttl: int, dont_fragment: bool) -> None:
    """Set the TTL of later packets, and DF. With DF, sending what is too big raises EMSGSIZE."""
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        discover = IP_PMTUDISC_DO if dont_fragment else IP_PMTUDISC_DONT
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discover)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, dont_fragment)


def path_mtu(sock: socket.socket, version: int) -> int:
    """The path MTU of the connected socket, as known to the kernel."""
    if version == 4:
        return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)
    return sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


def overflows(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped since the socket's buffer was full (SO_MEMINFO, linux/sock_diag.h)."""
    memory = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * 9)
    return int.from_bytes(memory[32:36], "little") if len(memory) >= 36 else 0


def local_address(sock: socket.socket) -> str | None:
    """The source address that the kernel chose, or None."""
    try:
        return str(sock.getsockname()[0])
    except OSError:
        return None


def connect_failure(code: int) -> tuple[CloseReason, ErrorKind | None]:
    """The close reason for an errno of connect(2), and the ICMP error for the client; None is RST or silence."""
    if code == errno.ECONNREFUSED:
        return "origin_refused", None
    if code == errno.ECONNRESET:
        return "origin_reset", None
    if code == errno.ETIMEDOUT:
        return "origin_timeout", None
    if code in (errno.ENETUNREACH, errno.ENETDOWN):
        return "origin_unreachable", icmp.NET_UNREACHABLE
    if code in (errno.EHOSTUNREACH, errno.EHOSTDOWN):
        return "origin_unreachable", icmp.HOST_UNREACHABLE
    if code in (errno.EACCES, errno.EPERM):
        return "origin_unreachable", icmp.PROHIBITED
    return "proxy_error", icmp.HOST_UNREACHABLE


def shortage(code: int) -> DropReason | None:
    """The exhausted resource of this host that an errno stands for, or None."""
    if code in (errno.EADDRNOTAVAIL, errno.EAGAIN):  # no local port left towards this destination
        return DropReason.PORTS_EXHAUSTED
    return DropReason.NO_DESCRIPTORS if code in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS) else None


def _socket(address: bytes, kind: int, protocol: int = 0, device: str | None = None) -> socket.socket:
    return _new_socket(socket.AF_INET if len(address) == 4 else socket.AF_INET6, kind, protocol, device)


def _new_socket(family: int, kind: int, protocol: int = 0, device: str | None = None) -> socket.socket:
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    if device is not None:
        _bind_to(sock, device)
    return sock


def _bind_to(sock: socket.socket, device: str) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())  # unprivileged since Linux 5.7
    except BaseException:
        sock.close()
        raise


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _destination(sock: socket.socket, name: tuple[str, int] | None) -> tuple[bytes, int] | None:
    """The destination address and port of the quoted packet."""
    return (socket.inet_pton(sock.family, name[0].partition("%")[0]), name[1]) if name else None


def _offender(data: bytes) -> bytes | None:
    rest = data[_EXTENDED_ERROR.size :]
    family = int.from_bytes(rest[:2], "little") if len(rest) >= 2 else 0
    if family == socket.AF_INET:
        return rest[4:8]
    return rest[8:24] if family == socket.AF_INET6 else None


def _enlarge_receive_buffer(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, UDP_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)


def raise_descriptor_limit() -> int:
    """Raise the limit of descriptors as far as the kernel allows (for root to `fs.nr_open`), and return it."""
    import resource

    most = int(Path("/proc/sys/fs/nr_open").read_text())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # without CAP_SYS_RESOURCE the hard limit applies
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
