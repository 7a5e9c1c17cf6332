"""ICMP and ICMPv6: echo, and the errors that quote a packet (RFC 792, RFC 1812, RFC 4443)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from proxy.errors import DropReason
from proxy.wire.checksum import checksum, fold, ones_sum, pseudo_header_sum
from proxy.wire.ip import ICMP, ICMPV6, IPPacket, header

HEADER_BYTES = 8
ECHO_REPLY, ECHO_REQUEST = 0, 8
ECHO_REQUEST_V6, ECHO_REPLY_V6 = 128, 129
ECHO_REQUESTS = {4: ECHO_REQUEST, 6: ECHO_REQUEST_V6}
ECHO_REPLIES = {4: ECHO_REPLY, 6: ECHO_REPLY_V6}
PARAMETER_PROBLEM = 12  # of IPv4
REPORTS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}  # unreachable, too big, time exceeded, parameter problem
QUOTE_LIMIT = {4: 576, 6: 1280}  # bytes of the whole error: RFC 1812 4.3.2.3, RFC 4443 2.4 (c)

_HEADER = struct.Struct("!BBHI")
_ECHO = struct.Struct("!BBHHH")


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """Type and code of one error in both families."""

    v4: tuple[int, int]
    v6: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Report:
    """An ICMP error about a packet from one of our sockets, read from its error queue (ip(7))."""

    kind: int  # ICMP type
    code: int
    info: int  # the next hop's MTU for 'too big'
    offender: bytes | None  # the address that sent the error
    quoted: bytes  # the payload of the packet that caused the error
    destination: tuple[bytes, int] | None = None  # address and port to which that packet was sent


NET_UNREACHABLE = ErrorKind((3, 0), (1, 0))
HOST_UNREACHABLE = ErrorKind((3, 1), (1, 3))
PROTOCOL_UNREACHABLE = ErrorKind((3, 2), (4, 1))
PORT_UNREACHABLE = ErrorKind((3, 3), (1, 4))
PROHIBITED = ErrorKind((3, 13), (1, 1))
TTL_EXCEEDED = ErrorKind((11, 0), (3, 0))
TOO_BIG = ErrorKind((3, 4), (2, 0))


def is_error(version: int, kind: int) -> bool:
    """Whether a message of this type is an error: errors are never answered with errors (RFC 1122 3.2.2)."""
    return kind < 128 if version == 6 else kind in (3, 4, 5, 11, 12)


def is_unreachable(version: int, kind: int, code: int) -> bool:
    """Whether the error reports an unreachable destination, and not a packet that was too big."""
    return kind == 1 if version == 6 else kind == 3 and code != TOO_BIG.v4[1]


def quoted_source(buffer: bytes | bytearray, packet: IPPacket) -> bytes:
    """The source of the packet that the error in `packet` quotes; truncated if the quotation is."""
    at, size = (12, 4) if packet.version == 4 else (8, 16)
    start = packet.l4 + HEADER_BYTES + at
    return bytes(buffer[start : min(start + size, packet.end)])


def check(buffer: bytes | bytearray, packet: IPPacket) -> DropReason | None:
    """Why the message in `packet` must be dropped, or None. Checks its length and its checksum."""
    if packet.end - packet.l4 < HEADER_BYTES:
        return DropReason.TRUNCATED
    total = ones_sum(buffer[packet.l4 : packet.end])
    if packet.version == 6:
        total += pseudo_header_sum(packet.source + packet.destination, ICMPV6, packet.end - packet.l4)
    return None if fold(total) == 0xFFFF else DropReason.BAD_L4_CHECKSUM


def message(addresses: bytes, kind: int, code: int, rest: int, body: bytes | memoryview) -> bytes:
    """One message with its checksum; `rest` is the second word. `addresses`: 8 or 32 bytes, which select the family."""
    bare = _HEADER.pack(kind, code, 0, rest) + bytes(body)
    pseudo = pseudo_header_sum(addresses, ICMPV6, len(bare)) if len(addresses) == 32 else 0
    return _HEADER.pack(kind, code, checksum(bare, pseudo), rest) + bytes(body)


def echo_identity(buffer: bytes | bytearray, at: int) -> tuple[int, int]:
    """Identifier and sequence number of the echo message at `at`."""
    _, _, _, ident, sequence = _ECHO.unpack_from(buffer, at)
    return ident, sequence


def error(source: bytes, quoted: bytes | memoryview, kind: ErrorKind, rest: int = 0) -> bytes:
    """An IP packet with an error from `source` to the sender of the IP packet `quoted`, quoting as much as allowed."""
    version = quoted[0] >> 4
    destination = bytes(quoted[12:16] if version == 4 else quoted[8:24])
    family_header, protocol = (20, ICMP) if version == 4 else (40, ICMPV6)
    kind_code = kind.v4 if version == 4 else kind.v6
    quote = quoted[: QUOTE_LIMIT[version] - family_header - HEADER_BYTES]
    body = message(source + destination, *kind_code, rest, quote)
    return header(source, destination, protocol, len(body)) + body
