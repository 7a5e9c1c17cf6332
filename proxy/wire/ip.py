"""IPv4 and IPv6 headers: parsed, checked and built (RFC 791, RFC 8200)."""

from __future__ import annotations

import struct

import msgspec

from proxy.errors import DropReason
from proxy.wire.checksum import checksum, ones_sum

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
GRE, ESP, AH, SCTP = 47, 50, 51, 132
NO_NEXT_HEADER = 59
HOP_BY_HOP, FRAGMENT, DESTINATION = 0, 44, 60  # routing headers are not supported: no source routing
MAX_EXTENSION_HEADERS = 8
MAX_PACKET = 65_575  # an IPv6 packet with the longest payload

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_FRAGMENT = struct.Struct("!BBHI")
_DONT_FRAGMENT, _MORE_FRAGMENTS = 0x4000, 0x2000


class IPPacket(msgspec.Struct, gc=False):
    """The offsets of the parts of one packet, from the start of its buffer, and fields of its headers."""

    version: int
    start: int  # of the IP header
    l4: int  # of the transport header
    end: int  # of the packet; the buffer may be longer
    protocol: int  # of the transport header, after any extension headers
    ttl: int  # or hop limit
    source: bytes  # 4 or 16 bytes
    destination: bytes
    tos: int
    dont_fragment: bool
    fragment_id: int = 0
    fragment_offset: int = 0  # bytes
    more_fragments: bool = False

    @property
    def is_fragment(self) -> bool:
        return self.more_fragments or self.fragment_offset > 0


def parse(buffer: bytes | bytearray, start: int, end: int) -> IPPacket | DropReason:
    """The packet in `buffer[start:end]`, or why it is invalid. Checks lengths and the checksum of an IPv4 header."""
    if end <= start:
        return DropReason.EMPTY
    version = buffer[start] >> 4
    if version == 4:
        return _parse_ipv4(buffer, start, end)
    if version == 6:
        return _parse_ipv6(buffer, start, end)
    return DropReason.BAD_VERSION


def _parse_ipv4(buffer: bytes | bytearray, start: int, end: int) -> IPPacket | DropReason:
    if end - start < 20:
        return DropReason.TRUNCATED
    first, tos, length, ident, fragment, ttl, protocol, _, source, destination = _IPV4.unpack_from(buffer, start)
    header = (first & 15) * 4
    if header < 20 or length < header:
        return DropReason.BAD_HEADER
    if length > end - start:
        return DropReason.TRUNCATED
    if ones_sum(buffer[start : start + header]) != 0xFFFF:
        return DropReason.BAD_IP_CHECKSUM
    return IPPacket(
        4, start, start + header, start + length, protocol, ttl, source, destination, tos,
        bool(fragment & _DONT_FRAGMENT), ident, (fragment & 0x1FFF) * 8, bool(fragment & _MORE_FRAGMENTS),
    )  # fmt: skip


def _parse_ipv6(buffer: bytes | bytearray, start: int, end: int) -> IPPacket | DropReason:
    if end - start < 40:
        return DropReason.TRUNCATED
    first, length, following, hop_limit, source, destination = _IPV6.unpack_from(buffer, start)
    if length > end - start - 40:
        return DropReason.TRUNCATED
    packet = IPPacket(
        6, start, start + 40, start + 40 + length, following, hop_limit, source, destination, first >> 20 & 0xFF, True
    )
    return _skip_extension_headers(buffer, packet)


def _skip_extension_headers(buffer: bytes | bytearray, packet: IPPacket) -> IPPacket | DropReason:
    at = packet.l4
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        following = packet.protocol
        if following not in (HOP_BY_HOP, FRAGMENT, DESTINATION) or packet.fragment_offset:
            packet.l4 = at
            return packet
        if packet.end - at < 8:
            return DropReason.TRUNCATED
        if following == FRAGMENT:
            if packet.is_fragment:
                return DropReason.BAD_HEADER
            packet.protocol, _, offset, packet.fragment_id = _FRAGMENT.unpack_from(buffer, at)
            packet.fragment_offset, packet.more_fragments = offset & 0xFFF8, bool(offset & 1)
            at += 8
        else:
            packet.protocol = buffer[at]
            at += 8 + buffer[at + 1] * 8
        if at > packet.end:
            return DropReason.TRUNCATED
    return DropReason.BAD_HEADER


def bare(start: int, end: int, protocol: int, source: bytes, destination: bytes) -> IPPacket:
    """As `parse`, for a packet that is known to have no options. Its header is not read."""
    version, header = (4, 20) if len(source) == 4 else (6, 40)
    return IPPacket(version, start, start + header, end, protocol, 0, source, destination, 0, True)


def protocol_offset(buffer: bytes | bytearray, packet: IPPacket) -> int:
    """The offset of the next-header field with the transport protocol of an IPv6 packet, in bytes from its start."""
    field, at, following = 6, packet.start + 40, buffer[packet.start + 6]
    while at < packet.l4:
        field = at - packet.start
        at += 8 if following == FRAGMENT else 8 + buffer[at + 1] * 8
        following = buffer[packet.start + field]
    return field


def ipv4_header(
    source: bytes, destination: bytes, protocol: int, payload: int, *,
    ttl: int = 64, tos: int = 0, ident: int = 0, offset: int = 0, more: bool = False, dont_fragment: bool = False,
) -> bytes:  # fmt: skip
    """A header without options for `payload` bytes; `offset` in bytes, a multiple of 8."""
    fragment = offset >> 3 | (_MORE_FRAGMENTS if more else 0) | (_DONT_FRAGMENT if dont_fragment else 0)
    fields = (0x45, tos, 20 + payload, ident, fragment, ttl, protocol)
    total = checksum(_IPV4.pack(*fields, 0, source, destination))
    return _IPV4.pack(*fields, total, source, destination)


def ipv6_header(
    source: bytes, destination: bytes, protocol: int, payload: int, *, hop_limit: int = 64, traffic_class: int = 0
) -> bytes:
    """A header for `payload` bytes, extension headers included."""
    return _IPV6.pack(6 << 28 | traffic_class << 20, payload, protocol, hop_limit, source, destination)


def fragment_header(protocol: int, ident: int, offset: int, more: bool) -> bytes:
    """An IPv6 fragment header (RFC 8200 4.5); `offset` in bytes, a multiple of 8."""
    return _FRAGMENT.pack(protocol, 0, offset | more, ident)


def header(source: bytes, destination: bytes, protocol: int, payload: int, *, ttl: int = 64, tos: int = 0) -> bytes:
    """A header of the addresses' family."""
    if len(source) == 4:
        return ipv4_header(source, destination, protocol, payload, ttl=ttl, tos=tos)
    return ipv6_header(source, destination, protocol, payload, hop_limit=ttl, traffic_class=tos)


def is_unicast(address: bytes) -> bool:
    """Whether `address` may belong to a host: not multicast, broadcast, loopback, unspecified or IPv4-mapped."""
    if len(address) == 4:
        first = address[0]
        return first != 0 and first != 127 and first < 224
    return address[0] != 0xFF and address[:15] != bytes(15) and address[:12] != bytes(10) + b"\xff\xff"
