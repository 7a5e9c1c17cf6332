"""Links, addresses and routes by rtnetlink: requests are values, sent in one batch, and every answer is checked.

Requests that only build labs are encoded by pyroute2 (`messages`). Those that agents also send are packed here: loading
pyroute2 takes 80 ms and 13 MB in each process, and an agent needs three kinds of requests for one interface.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oxyctl.net import messages

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# linux/rtnetlink.h, linux/netlink.h
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 20, 24
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x01, 0x04, 0x200, 0x400
NLMSG_ERROR, NLM_F_CAPPED, NLM_F_ACK_TLVS = 2, 0x100, 0x200
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NLMSGERR_ATTR_MSG = 270, 10, 11, 1
# linux/if_link.h, linux/if.h
IFLA_MTU, IFLA_TXQLEN, IFF_UP = 4, 13, 1
# linux/if_addr.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_F_NODAD = 1, 2, 8, 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 254, 4, 0, 253
RTN_UNICAST, RTN_UNREACHABLE = 1, 7

LOOPBACK_INDEX = 1
BATCH = 64  # requests per system call: their answers fit into the default receive buffer

_header = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_link = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
_address = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_route = struct.Struct("=BBBBBBBBI")  # family, two prefix lengths, TOS, table, protocol, scope, type, flags


class NetlinkError(OSError):
    """The kernel refused a request; `str()` names the request and the kernel's reason."""


class Request(NamedTuple):
    """One rtnetlink message. `what`: its description in errors."""

    what: str
    kind: int
    flags: int
    body: bytes


def new_bridge(name: str, index: int) -> Request:
    """Create a bridge that is up and floods multicast (neighbour discovery) to every port."""
    kind = messages.link_kind("bridge", [("IFLA_BR_MCAST_SNOOPING", 0)])
    body = messages.link(index, [("IFLA_IFNAME", name), kind], flags=IFF_UP, changed=IFF_UP)
    return Request(f"bridge {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


class Veth(NamedTuple):
    """A veth pair: `port` in a bridge of this namespace, `peer` in another one. The indexes may be any free ones.

    The far end gets its index only if the near end's is given as well (drivers/net/veth.c).
    """

    port: str
    port_index: int
    bridge_index: int
    peer: str
    peer_index: int
    mac: bytes


def new_veth(veth: Veth, namespace_fd: int) -> Request:
    """Create a veth pair with its far end in the namespace `namespace_fd`, down: it cannot be up before this end."""
    far_end = {
        "index": veth.peer_index,
        "attrs": [
            ("IFLA_IFNAME", veth.peer),
            ("IFLA_ADDRESS", veth.mac.hex(":")),
            ("IFLA_NET_NS_FD", namespace_fd),
        ],
    }
    attributes = [
        ("IFLA_IFNAME", veth.port),
        ("IFLA_MASTER", veth.bridge_index),
        messages.link_kind("veth", [("VETH_INFO_PEER", far_end)]),
    ]
    body = messages.link(veth.port_index, attributes, flags=IFF_UP, changed=IFF_UP)
    return Request(f"link {veth.port}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_link(index: int, *, mtu: int | None = None, queue: int | None = None) -> Request:
    """Bring the link `index` up; set its MTU in bytes and its transmit queue in packets if given."""
    body = _link.pack(socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP)
    body += b"" if mtu is None else _number(IFLA_MTU, mtu)
    body += b"" if queue is None else _number(IFLA_TXQLEN, queue)
    return Request(f"interface {index} up", RTM_NEWLINK, 0, body)


def add_address(index: int, interface: Interface) -> Request:
    """Add an address, usable at once: without duplicate address detection (RFC 4862 section 5.4)."""
    packed = interface.packed
    flags = IFA_F_NODAD if interface.version == 6 else 0
    body = (
        _address.pack(_family(interface), interface.network.prefixlen, 0, RT_SCOPE_UNIVERSE, index)
        + _attribute(IFA_LOCAL, packed)
        + _attribute(IFA_ADDRESS, packed)
        + _number(IFA_FLAGS, flags)
    )
    return Request(f"address {interface}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def add_route(
    destination: Network, index: int, gateway: str | None = None, metric: int = 0, table: int = RT_TABLE_MAIN
) -> Request:
    """Add a route to `destination` through the link `index`, via `gateway` if given. Metric 0: the kernel's default."""
    scope = RT_SCOPE_LINK if gateway is None else RT_SCOPE_UNIVERSE
    body = _route_to(destination, table, scope, RTN_UNICAST)
    body += _attribute(RTA_GATEWAY, ipaddress.ip_address(gateway).packed) if gateway else b""
    body += _number(RTA_OIF, index)
    body += _number(RTA_PRIORITY, metric) if metric else b""
    return Request(f"route {destination}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def add_unreachable_route(destination: Network, metric: int, table: int) -> Request:
    """Make `destination` unreachable in `table`, unless a route there has a lower metric."""
    body = _route_to(destination, table, RT_SCOPE_UNIVERSE, RTN_UNREACHABLE) + _number(RTA_PRIORITY, metric)
    return Request(f"unreachable {destination}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def _route_to(destination: Network, table: int, scope: int, kind: int) -> bytes:
    length, short = destination.prefixlen, table if table < 256 else 0
    body = _route.pack(_family(destination), length, 0, 0, short, RTPROT_STATIC, scope, kind, 0)
    body += _number(RTA_TABLE, table) if table != RT_TABLE_MAIN else b""
    return body + (_attribute(RTA_DST, destination.network_address.packed) if length else b"")


def run(requests: Iterable[Request]) -> None:
    """Send `requests` in the calling thread's network namespace. NetlinkError: the first refusal."""
    pending = list(requests)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        for start in range(0, len(pending), BATCH):
            _run_batch(sock, pending[start : start + BATCH])


def _run_batch(sock: socket.socket, requests: Sequence[Request]) -> None:
    batch = []
    for sequence, request in enumerate(requests):
        flags = NLM_F_REQUEST | NLM_F_ACK | request.flags
        batch.append(_header.pack(_header.size + len(request.body), request.kind, flags, sequence, 0) + request.body)
    sock.send(b"".join(batch))
    refusals = [refusal for _ in requests if (refusal := _read_answer(sock.recv(65_536), requests)) is not None]
    if refusals:
        raise refusals[0]


def _read_answer(answer: bytes, requests: Sequence[Request]) -> NetlinkError | None:
    if len(answer) < _header.size:
        raise NetlinkError(f"rtnetlink answered with {len(answer)} bytes, not a message")
    _, kind, flags, sequence, _ = _header.unpack_from(answer)
    if kind != NLMSG_ERROR or len(answer) < _header.size + 4 or sequence >= len(requests):
        raise NetlinkError(f"rtnetlink gave an unknown answer: a message of type {kind}, {len(answer)} bytes")
    code = -struct.unpack_from("=i", answer, _header.size)[0]
    if code == 0:
        return None
    reason = _extended_reason(answer[_header.size + 4 + _header.size :]) if flags & NLM_F_ACK_TLVS else ""
    return NetlinkError(code, f"{requests[sequence].what}: {reason or os.strerror(code)}")


def _extended_reason(attributes: bytes) -> str:
    """The kernel's error text, or "" (NETLINK_CAP_ACK keeps the request itself out of the answer)."""
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if kind == NLMSGERR_ATTR_MSG:
            return attributes[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max(4, (length + 3) & ~3)
    return ""


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _family(value: Interface | Network) -> int:
    return socket.AF_INET if value.version == 4 else socket.AF_INET6
