"""Routing rules, tables and addresses of the calling thread's namespace, by rtnetlink(7)."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from ipaddress import ip_network

import msgspec

from proxy.wire import netlink
from proxy.wire.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    error_code,
    message,
    messages,
    values,
)

RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40
RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 0x100, 0x400
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK = 3, 6, 10, 15, 16
FIB_RULE_INVERT = 0x2
FURTHER_CONDITIONS = frozenset({11, 17, 19, 20, 22, 23, 24})  # tunnel, outgoing interface, VRF, users, protocol, ports
IFA_ADDRESS, IFA_LOCAL = 1, 2
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 254, 4, 0, 253
RTN_UNICAST, RTN_UNREACHABLE, FR_ACT_TO_TBL = 1, 7, 1
NLM_F_REPLACE = 0x100
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
CHANGE_GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
LAST_RESORT_METRIC = 0xFFFF_FFFF  # the metric of routes of last resort

_ROUTE = struct.Struct("=8BI")  # family, dst length, src length, TOS, table, protocol, scope, type, flags


class Rule(msgspec.Struct, frozen=True):
    """Packets with this mark, or from this interface, are looked up in this table."""

    version: int
    priority: int
    table: int
    mark: int = 0
    mask: int = 0
    interface: str | None = None  # the incoming interface; `lo`: packets of this host itself
    is_narrow: bool = False  # has further conditions; only in rules of other programs
    is_inverted: bool = False  # matches all other packets; only in rules of other programs


class Route(msgspec.Struct, frozen=True):
    """The route to `prefix`: through an interface and perhaps a gateway; without an interface it is unreachable."""

    version: int
    prefix: str
    table: int
    index: int | None  # of the interface
    gateway: bytes | None = None
    metric: int = 0


def add_rules(rules: Iterable[Rule]) -> None:
    """Add rules. OSError: the kernel refused a rule; the message names it."""
    for rule in rules:
        _request(RTM_NEWRULE, NLM_F_CREATE, _rule_body(rule), repr(rule))


def delete_rules(rules: Iterable[Rule]) -> None:
    """Delete rules. Missing rules are no error."""
    for rule in rules:
        with _ignoring(errno.ENOENT):
            _request(RTM_DELRULE, 0, _rule_body(rule), repr(rule))


def rules() -> Iterator[Rule]:
    """All rules that look up a routing table."""
    for version, family in FAMILIES.items():
        for body in _dump(RTM_GETRULE, struct.pack("=B11x", family)):
            fields = values(body, 12, len(body))
            name = fields.get(FRA_IIFNAME)
            yield Rule(
                version,
                _u32(fields.get(FRA_PRIORITY)),
                _u32(fields.get(FRA_TABLE)) or body[4],
                _u32(fields.get(FRA_FWMARK)),
                _u32(fields.get(FRA_FWMASK)),
                None if name is None else name.rstrip(b"\0").decode(),
                bool(body[1] or body[2] or body[3] or FURTHER_CONDITIONS & fields.keys()),
                bool(_u32(body[8:12]) & FIB_RULE_INVERT),
            )


def set_routes(routes: Iterable[Route]) -> None:
    """Add routes. An existing one with the same prefix and metric is replaced."""
    for route in routes:
        _request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _route_body(route), repr(route))


def delete_routes(routes: Iterable[Route]) -> None:
    """Delete routes. Missing routes are no error: they may have been deleted with their interface."""
    for route in routes:
        with _ignoring(errno.ESRCH, errno.ENODEV):
            _request(RTM_DELROUTE, 0, _route_body(route), repr(route))


def routes(version: int) -> Iterator[Route]:
    """The unicast and unreachable routes of every table except the local one."""
    family = FAMILIES[version]
    for body in _dump(RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        _, length, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(body)
        if kind not in (RTN_UNICAST, RTN_UNREACHABLE) or flags & 0x200:  # RTM_F_CLONED: cached
            continue
        fields = values(body, _ROUTE.size, len(body))
        address = fields.get(RTA_DST, bytes(4 if version == 4 else 16))
        index = _u32(fields.get(RTA_OIF)) or None
        yield Route(
            version, f"{socket.inet_ntop(family, address)}/{length}", _u32(fields.get(RTA_TABLE)) or table,
            None if kind == RTN_UNREACHABLE else index, fields.get(RTA_GATEWAY), _u32(fields.get(RTA_PRIORITY)),
        )  # fmt: skip


def own_addresses() -> set[bytes]:
    """Every address of every interface, packed."""
    found = set()
    for body in _dump(RTM_GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
        fields = values(body, 8, len(body))
        found.add(fields.get(IFA_LOCAL) or fields.get(IFA_ADDRESS) or b"")
    return found - {b""}


def watch_changes() -> socket.socket:
    """A non-blocking socket that is readable when links, addresses or routes have changed."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    sock.bind((0, CHANGE_GROUPS))
    return sock


def _rule_body(rule: Rule) -> bytes:
    table = rule.table if rule.table < 256 else 0
    body = struct.pack("=8BI", FAMILIES[rule.version], 0, 0, 0, table, 0, 0, FR_ACT_TO_TBL, 0)
    body += _u32_attribute(FRA_PRIORITY, rule.priority) + _u32_attribute(FRA_TABLE, rule.table)
    if rule.mask:
        body += _u32_attribute(FRA_FWMARK, rule.mark) + _u32_attribute(FRA_FWMASK, rule.mask)
    if rule.interface is not None:
        body += attribute(FRA_IIFNAME, rule.interface.encode() + b"\0")
    return body


def _route_body(route: Route) -> bytes:
    network = ip_network(route.prefix)
    table = route.table if route.table < 256 else 0
    kind = RTN_UNREACHABLE if route.index is None else RTN_UNICAST
    scope = RT_SCOPE_LINK if route.version == 4 and route.gateway is None and route.index else RT_SCOPE_UNIVERSE
    body = _ROUTE.pack(FAMILIES[route.version], network.prefixlen, 0, 0, table, RTPROT_STATIC, scope, kind, 0)
    body += _u32_attribute(RTA_TABLE, route.table)
    if network.prefixlen:
        body += attribute(RTA_DST, network.network_address.packed)
    if route.index is not None:
        body += _u32_attribute(RTA_OIF, route.index)
    if route.gateway is not None:
        body += attribute(RTA_GATEWAY, route.gateway)
    if route.metric:
        body += _u32_attribute(RTA_PRIORITY, route.metric)
    return body


@contextlib.contextmanager
def _ignoring(*codes: int) -> Iterator[None]:
    """Ignore OSErrors with these numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise


def _request(kind: int, flags: int, body: bytes, what: str) -> None:
    with _socket() as sock:
        sock.send(message(kind, NLM_F_ACK | flags, 1, body))
        answer = sock.recv(8192)
    if code := error_code(answer, netlink.header.size, len(answer)):
        raise OSError(code, f"{os.strerror(code)}: {what}")


def _dump(kind: int, body: bytes) -> Iterator[bytes]:
    """Yield the body of each answer to a dump request."""
    with _socket() as sock:
        sock.send(message(kind, NLM_F_DUMP, 1, body))
        while True:
            data = sock.recv(1 << 16)
            for each in messages(data, len(data)):
                if each.kind == NLMSG_DONE:
                    return
                if each.kind == NLMSG_ERROR:
                    code = error_code(data, each.start, each.end)
                    raise OSError(code, os.strerror(code))
                yield data[each.start : each.end]


def _socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _u32_attribute(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _u32(value: bytes | None) -> int:
    return 0 if value is None else int.from_bytes(value[:4], sys.byteorder)
