"""Configures interfaces in the calling thread's network namespace, without the cost of importing a library."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from proxy.wire.netlink import NLM_F_ACK, NLM_F_CREATE, attribute, error_code, header, message

SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
SIOCSIFADDR, SIOCSIFNETMASK = 0x8916, 0x891C
SIOCGIFMTU, SIOCSIFMTU, SIOCGIFINDEX = 0x8921, 0x8922, 0x8933
RTM_NEWLINK, RTM_NEWROUTE, IFLA_TXQLEN, RTA_DST, RTA_OIF = 16, 24, 13, 1, 4
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST = 254, 4, 253, 1
IFF_UP = 0x1
USABLE_TIMEOUT_S = 2.0  # for the kernel to add an address; with duplicate address detection it takes 1 s

_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def bring_up(name: str, *, mtu: int | None = None, queue: int | None = None, addresses: Iterable[str] = ()) -> None:
    """Set MTU, transmit queue length (packets) and addresses (`198.18.0.1/15`) of `name`, and bring it up.

    When this returns, packets can be sent and received with its addresses.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as v4,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as v6,
    ):
        if mtu is not None:
            fcntl.ioctl(v4, SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))
        if queue is not None:
            _set_queue(name, queue)
        _add_flags(v4, name, IFF_UP)
        for text in addresses:
            _add_address(v4, v6, name, ipaddress.ip_interface(text))


def add_route(name: str, prefix: str) -> None:
    """Route `prefix` (`240.0.0.0/5`) to the interface `name`, which must be up."""
    network = ipaddress.ip_network(prefix)
    family, packed = (socket.AF_INET, socket.AF_INET6)[network.version == 6], network.network_address.packed
    fields = family, network.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST, 0
    attributes = attribute(RTA_DST, packed) + attribute(RTA_OIF, struct.pack("=I", socket.if_nametoindex(name)))
    _netlink(name, RTM_NEWROUTE, NLM_F_CREATE, struct.pack("=8BI", *fields) + attributes)


def mtu_of(name: str) -> int:
    """The MTU of an interface in bytes. OSError: it does not exist."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        reply = fcntl.ioctl(sock, SIOCGIFMTU, struct.pack("16s24x", name.encode()))
    (mtu,) = struct.unpack_from("i", reply, 16)
    return int(mtu)


def set_sysctl(name: str, value: object) -> bool:
    """Set the sysctl `name` (`net/ipv4/ip_forward`) in the calling thread's namespace. False: the kernel refused."""
    try:
        Path("/proc/sys", name).write_text(f"{value}\n")
    except OSError:
        return False
    return True


def _set_queue(name: str, packets: int) -> None:
    """Set the transmit queue length by netlink: the ioctl needs privileges outside our user namespace."""
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(name), 0, 0)
    _netlink(name, RTM_NEWLINK, 0, body + attribute(IFLA_TXQLEN, struct.pack("=I", packets)))


def _netlink(name: str, kind: int, flags: int, body: bytes) -> None:
    """Send one request about the interface `name` (rtnetlink(7)). OSError: the kernel refused it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.send(message(kind, NLM_F_ACK | flags, 1, body))
        answer = sock.recv(4096)
    if code := error_code(answer, header.size, len(answer)):
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _add_flags(sock: socket.socket, name: str, flags: int) -> None:
    reply = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
    (current,) = struct.unpack_from("H", reply, 16)
    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), current | flags))


def _add_address(v4: socket.socket, v6: socket.socket, name: str, interface: _Interface) -> None:
    if isinstance(interface, ipaddress.IPv4Interface):
        for request, address in ((SIOCSIFADDR, interface.ip), (SIOCSIFNETMASK, interface.netmask)):
            sockaddr = struct.pack("HH4s8x", socket.AF_INET, 0, address.packed)
            fcntl.ioctl(v4, request, struct.pack("16s16s8x", name.encode(), sockaddr))
        return
    reply = fcntl.ioctl(v6, SIOCGIFINDEX, struct.pack("16si20x", name.encode(), 0))
    (index,) = struct.unpack_from("i", reply, 16)
    fcntl.ioctl(v6, SIOCSIFADDR, struct.pack("16sIi", interface.ip.packed, interface.network.prefixlen, index))
    _wait_until_usable(interface.ip, index)


def _wait_until_usable(address: ipaddress.IPv6Address, index: int) -> None:
    """Return when the new address is usable: until then its packets are dropped, and connections use another source.

    The kernel finishes adding an address in a work queue, after the request has returned.
    """
    deadline = time.monotonic() + USABLE_TIMEOUT_S
    while not _is_usable(address, index) and time.monotonic() < deadline:
        time.sleep(0.001)


def _is_usable(address: ipaddress.IPv6Address, index: int) -> bool:
    """Whether the address is no longer tentative (RFC 4862 section 2), and has its route."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind((str(address), 0, 0, index))
        except OSError:
            return False
    return f"{address.packed.hex()} 80 " in Path("/proc/thread-self/net/ipv6_route").read_text()
