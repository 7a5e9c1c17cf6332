"""Encodes and decodes connection tracking entries in netlink (linux/netfilter/nfnetlink_conntrack.h).

A key is the bytes of these packet fields: source and destination, then both ports (TCP, UDP, SCTP), the identifier of
an echo (ICMP, ICMPv6), or nothing (all other protocols).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

from proxy.wire.ip import ICMP, ICMPV6, SCTP, TCP, UDP
from proxy.wire.netlink import NESTED, attribute, attributes, nest, subsystem

NEW, GET, DELETE = 0x100, 0x101, 0x102  # message types
IPV4, IPV6 = 2, 10
SEEN_REPLY, ASSURED, SRC_NAT, DST_NAT = 0x2, 0x4, 0x10, 0x20  # status bits

TUPLE_ORIG, TUPLE_REPLY, STATUS, PROTOINFO, NAT_SRC, TIMEOUT, MARK = 1, 2, 3, 4, 6, 7, 8
COUNTERS_ORIG, COUNTERS_REPLY, NAT_DST, ZONE, MARK_MASK = 9, 10, 13, 18, 21
TUPLE_IP, TUPLE_PROTO, TUPLE_ZONE = 1, 2, 3
PROTO_NUM, SRC_PORT, DST_PORT = 1, 2, 3
ECHO = {ICMP: (4, 5, 6), ICMPV6: (7, 8, 9)}  # identifier, type, code
ECHO_TYPES = {ICMP: (8, 0), ICMPV6: (128, 129)}  # request, reply

_head = struct.Struct("=HH")
_short, _number = struct.Struct("!H"), struct.Struct("!I")
_FAMILY = subsystem.pack(IPV6, 0, 0), subsystem.pack(IPV4, 0, 0)
_LAYOUTS = 8  # cached for each message length

_new = tuple.__new__
_Path = tuple[int, ...]
_Offsets = dict[_Path, tuple[int, int]]  # start and end of each value
_NESTS: frozenset[_Path] = frozenset(
    {(kind,) for kind in (TUPLE_ORIG, TUPLE_REPLY, PROTOINFO, COUNTERS_ORIG, COUNTERS_REPLY)}
    | {(side, part) for side in (TUPLE_ORIG, TUPLE_REPLY) for part in (TUPLE_IP, TUPLE_PROTO)}
    | {(PROTOINFO, 1)}
)


class Entry(NamedTuple):
    """One connection. Packets and octets are 0 if the kernel does not count them, the timeout if none is running."""

    protocol: int
    original: bytes  # key
    reply: bytes  # key
    zone: int = 0  # of the original direction
    mark: int = 0
    status: int = 0
    timeout_s: int = 0
    original_packets: int = 0
    original_octets: int = 0
    reply_packets: int = 0
    reply_octets: int = 0
    tcp_state: int | None = None


class Decoder:
    """Decodes entries by their layout: if all headers equal those of an earlier message, so do the values' offsets.

    Measured: 2 us for an entry, whereas walking its attributes alone takes 10; 40 to learn a layout.
    """

    def __init__(self) -> None:
        self._layouts: dict[int, list[_Layout]] = {}

    def parse(self, buffer: bytes | bytearray, start: int, end: int) -> Entry | None:
        """The entry in the body of a message, which begins with nfgenmsg; None if it is malformed or not an entry."""
        octets = int.from_bytes(buffer[start:end], "little")
        layouts = self._layouts.setdefault(end - start, [])
        for layout in layouts:
            if octets & layout.mask == layout.fixed:
                return layout.read(buffer, start)
        learned = _learn(bytes(buffer[start:end]))
        if learned is None:
            return None
        if len(layouts) < _LAYOUTS:
            layouts.append(learned)
        return learned.read(buffer, start)


class _Layout:
    """The offsets of the values, for all messages that equal `fixed` in the bits of `mask`."""

    def __init__(self, body: bytes, offsets: _Offsets, headers: list[int], fields: list[_Field]) -> None:
        self._protocol = body[offsets[TUPLE_ORIG, TUPLE_PROTO, PROTO_NUM][0]]
        mask = bytearray(len(body))
        mask[0] = mask[offsets[TUPLE_ORIG, TUPLE_PROTO, PROTO_NUM][0]] = 0xFF
        for at in headers:
            mask[at : at + 4] = b"\xff" * 4
        self.mask = int.from_bytes(mask, "little")
        self.fixed = int.from_bytes(body, "little") & self.mask
        self._values, self._order, self._missing = _compile(offsets, fields)

    def read(self, buffer: bytes | bytearray, start: int) -> Entry:
        values = self._values.unpack_from(buffer, start) + self._missing
        a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, r = self._order(values)
        return _new(Entry, (self._protocol, a + b + c + d, e + f + g + h, i, j, k, m, n, o, p, q, r))


def _compile(
    offsets: _Offsets, fields: list[_Field]
) -> tuple[struct.Struct, Callable[[tuple[Any, ...]], tuple[Any, ...]], tuple[Any, ...]]:
    """Return what unpacks the values, what sorts them into the order of `fields`, and defaults for missing ones."""
    present = sorted((offsets[field.path][0], index) for index, field in enumerate(fields) if field.path in offsets)
    text, at = ">", 0
    for start, index in present:
        text += f"{start - at}x{fields[index].format}"
        at = start + struct.calcsize(">" + fields[index].format)
    positions = {index: position for position, (_, index) in enumerate(present)}
    missing = [index for index in range(len(fields)) if index not in positions]
    positions |= {index: len(present) + position for position, index in enumerate(missing)}
    order = itemgetter(*(positions[index] for index in range(len(fields))))
    return struct.Struct(text), order, tuple(fields[index].default for index in missing)


def _learn(body: bytes) -> _Layout | None:
    """The layout of a message; None if it is not a complete entry."""
    offsets: _Offsets = {}
    headers: list[int] = []
    version = {IPV4: 4, IPV6: 6}.get(body[0]) if len(body) > subsystem.size else None
    _walk(body, subsystem.size, len(body), (), offsets, headers)
    number_span = offsets.get((TUPLE_ORIG, TUPLE_PROTO, PROTO_NUM))
    if version is None or number_span is None or number_span[1] - number_span[0] != 1:
        return None
    fields = _fields(body[number_span[0]], version, (TUPLE_ORIG, TUPLE_ZONE) in offsets)
    for field in fields:
        start, end = offsets.get(field.path, (0, 0))
        if field.is_required if not end else end - start != struct.calcsize(">" + field.format):
            return None
    return _Layout(body, offsets, headers, fields)


def _walk(body: bytes, at: int, end: int, parent: _Path, offsets: _Offsets, headers: list[int]) -> None:
    for kind, start, stop in attributes(body, at, end):
        headers.append(start - 4)
        path = (*parent, kind)
        if path in _NESTS:
            _walk(body, start, stop, path, offsets, headers)
        else:
            offsets[path] = start, stop


class _Field(NamedTuple):
    """One value: the path of attribute types to it, its format for `struct`, and its default if it is missing."""

    path: _Path
    format: str
    default: Any = None
    is_required: bool = False


def _fields(protocol: int, version: int, has_direction: bool) -> list[_Field]:
    """The values of an entry: the four parts of each key, then the remaining values in the order of `Entry`."""
    source, destination = (1, 2) if version == 4 else (3, 4)
    address = "4s" if version == 4 else "16s"
    if protocol in (TCP, UDP, SCTP):
        ports: tuple[int, ...] = SRC_PORT, DST_PORT
    else:
        ports = ECHO[protocol][:1] if protocol in ECHO else ()
    fields = []
    for side in (TUPLE_ORIG, TUPLE_REPLY):
        fields += [_Field((side, TUPLE_IP, kind), address, is_required=True) for kind in (source, destination)]
        fields += [_Field((side, TUPLE_PROTO, kind), "2s", is_required=True) for kind in ports]
        fields += [_Field((), "2s", b"")] * (2 - len(ports))
    fields.append(_Field((TUPLE_ORIG, TUPLE_ZONE) if has_direction else (ZONE,), "H", 0))
    fields += [_Field((kind,), "I", 0) for kind in (MARK, STATUS, TIMEOUT)]
    fields += [_Field((side, kind), "Q", 0) for side in (COUNTERS_ORIG, COUNTERS_REPLY) for kind in (1, 2)]
    return [*fields, _Field((PROTOINFO, 1, 1), "B")]


def lookup(protocol: int, key: bytes, zone: int) -> bytes:
    """The body of a GET or DELETE of the entry with this key.

    The zone is beside the tuple. Inside it, the zone would apply to the original direction only, and the kernel would
    also search zone 0 of the replies, where it could find the reply of another connection.
    """
    body = _FAMILY[len(key) < 16] + _tuple(TUPLE_ORIG, protocol, key, 0)
    return body + attribute(ZONE, _short.pack(zone)) if zone else body


def by_mark(mark: int | None, mask: int | None) -> bytes:
    """The body of a dump or DELETE of all entries whose mark equals `mark` in the bits of `mask`; None: all entries."""
    body = subsystem.pack(0, 0, 0)
    if mark is not None:
        body += attribute(MARK, _number.pack(mark))
        body += attribute(MARK_MASK, _number.pack(0xFFFF_FFFF if mask is None else mask))
    return body


def creation(entry: Entry) -> bytes:
    """The body of a NEW. It requests translation where the reply differs from the reversed original."""
    protocol, original, reply, zone = entry[:4]
    untranslated, reply_reversed = reversed_key(protocol, original), reversed_key(protocol, reply)
    body = _FAMILY[len(original) < 16] + _tuple(TUPLE_ORIG, protocol, original, zone)
    body += _tuple(TUPLE_REPLY, protocol, untranslated, 0, reply=True)
    body += attribute(TIMEOUT, _number.pack(entry.timeout_s)) + attribute(MARK, _number.pack(entry.mark))
    body += attribute(STATUS, _number.pack(entry.status)) if entry.status else b""
    if entry.tcp_state is not None:
        body += nest(PROTOINFO, nest(1, attribute(1, bytes([entry.tcp_state]))))
    before, after = _endpoints(protocol, original), _endpoints(protocol, reply_reversed)
    for kind, old, new in zip((NAT_SRC, NAT_DST), before, after, strict=True):
        body += _translation(kind, *new) if old != new else b""
    return body


def reversed_key(protocol: int, key: bytes) -> bytes:
    """The key of packets in the reverse direction, without translation."""
    size = 4 if len(key) < 16 else 16
    source, destination, rest = key[:size], key[size : 2 * size], key[2 * size :]
    return destination + source + (rest if protocol in ECHO else rest[2:] + rest[:2])


def _endpoints(protocol: int, key: bytes) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """Address and port of the source and of the destination; the identifier of an echo is the port of its source."""
    size = 4 if len(key) < 16 else 16
    return (key[:size], key[2 * size : 2 * size + 2]), (key[size : 2 * size], key[2 * size + 2 :])


def _translation(kind: int, address: bytes, port: bytes) -> bytes:
    first, last = (1, 2) if len(address) == 4 else (4, 5)
    ports = nest(3, attribute(1, port), attribute(2, port)) if port else b""
    return nest(kind, attribute(first, address), attribute(last, address), ports)


def _tuple(kind: int, protocol: int, key: bytes, zone: int, *, reply: bool = False) -> bytes:
    size = 4 if len(key) < 16 else 16
    a, b, c, d, e = _frame(kind, protocol, size, zone > 0, reply)
    after = 2 * size
    first, second = key[after : after + 2], key[after + 2 :]
    if not first:
        first = second = b"\0\0"
    start = a + key[:size] + b + key[size:after] + c + first + d + second + e
    return start + attribute(TUPLE_ZONE, _short.pack(zone)) if zone else start


@cache
def _frame(kind: int, protocol: int, size: int, zone: bool, reply: bool) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The bytes before, between and after the four parts of a key in a tuple; that of an echo has no second port.

    Measured: building a request takes 1.2 us with this cache, and 2.2 without.
    """
    source, destination = (1, 2) if size == 4 else (3, 4)
    number = attribute(PROTO_NUM, bytes([protocol]))
    if protocol in ECHO:
        identifier, type_attribute, code = ECHO[protocol]
        first, second = _head.pack(6, identifier), b"\0\0"
        last = attribute(type_attribute, bytes([ECHO_TYPES[protocol][reply]])) + attribute(code, b"\0")
    else:  # the kernel ignores the ports of protocols without ports
        first, second, last = _head.pack(6, SRC_PORT), b"\0\0" + _head.pack(6, DST_PORT), b"\0\0"
    proto = 4 + len(number) + len(first) + 2 + len(second) + (0 if protocol in ECHO else 2) + len(last)
    addresses = 4 + 2 * (4 + size)
    prefix = _head.pack(4 + addresses + proto + 8 * zone, kind | NESTED) + _head.pack(addresses, TUPLE_IP | NESTED)
    return (
        prefix + _head.pack(4 + size, source),
        _head.pack(4 + size, destination),
        _head.pack(proto, TUPLE_PROTO | NESTED) + number + first,
        second,
        last,
    )
