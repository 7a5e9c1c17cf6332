"""Blocks of a pcapng file (draft-ietf-opsawg-pcapng): little-endian, nanoseconds, a comment on every packet."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

ETHERNET, RAW_IP = 1, 101  # link types (https://www.tcpdump.org/linktypes.html)
INBOUND, OUTBOUND = 1, 2  # the direction bits of epb_flags

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D_0D0A, 1, 5, 6
_SECRETS, _TLS_KEY_LOG = 10, 0x544C_534B
_BYTE_ORDER = 0x1A2B_3C4D
_COMMENT = 1
_SHB_OS, _SHB_APPLICATION = 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_FILTER = 2, 3, 9, 11
_EPB_FLAGS = 2
_ISB_START, _ISB_END, _ISB_RECEIVED, _ISB_DROPPED, _ISB_DELIVERED = 2, 3, 4, 5, 8
_NANOSECONDS = b"\x09"  # 10^-9
_PLAIN_TEXT = b"\x00"  # the filter is a string, not a program

_packet_head = struct.Struct("<IIIIIII")  # type, length, interface, time high and low, captured, original
_option = struct.Struct("<HH")
_u32 = struct.Struct("<I")
PACKET_OVERHEAD = _packet_head.size + 4


class Statistics(NamedTuple):
    """Counters of one interface: packets that passed the filter, were lost for lack of space, and were written."""

    received: int
    dropped: int
    delivered: int


def section(application: str, system: str, comment: str) -> bytes:
    """The block at the start of every file."""
    body = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)
    options = [(_COMMENT, comment.encode()), (_SHB_OS, system.encode()), (_SHB_APPLICATION, application.encode())]
    return _block(_SECTION, body + _options(options))


def interface(link_type: int, snaplen: int, name: str, description: str, filter_: str | None) -> bytes:
    """The description of the next interface, numbered from 0."""
    options = [(_IF_NAME, name.encode()), (_IF_DESCRIPTION, description.encode()), (_IF_TSRESOL, _NANOSECONDS)]
    if filter_:
        options.append((_IF_FILTER, _PLAIN_TEXT + filter_.encode()))
    return _block(_INTERFACE, struct.pack("<HHI", link_type, 0, snaplen) + _options(options))


def packet_options(comment: str, direction: int) -> bytes:
    """The options at the end of a `packet`: encoded once, used for all packets that share them."""
    options = [(_COMMENT, comment.encode())]
    if direction:
        options.append((_EPB_FLAGS, _u32.pack(direction)))
    return _options(options)


def packet(number: int, time_ns: int, data: bytes, original: int, options: bytes) -> bytes:
    """One packet of interface `number`, `original` bytes long before it was cut; `options` from `packet_options`."""
    captured = len(data)
    padding = bytes(-captured % 4)
    length = PACKET_OVERHEAD + captured + len(padding) + len(options)
    head = _packet_head.pack(_PACKET, length, number, time_ns >> 32, time_ns & 0xFFFF_FFFF, captured, original)
    return b"".join((head, data, padding, options, _u32.pack(length)))


def statistics(number: int, start_ns: int, end_ns: int, counts: Statistics) -> bytes:
    """The final statistics of interface `number`."""
    options = [(_ISB_START, _time(start_ns)), (_ISB_END, _time(end_ns))]
    values = {_ISB_RECEIVED: counts.received, _ISB_DROPPED: counts.dropped, _ISB_DELIVERED: counts.delivered}
    options += [(code, struct.pack("<Q", value)) for code, value in values.items()]
    return _block(_STATISTICS, _u32.pack(number) + _time(end_ns) + _options(options))


def tls_secrets(lines: bytes) -> bytes:
    """A Decryption Secrets Block (section 4.7) with lines of the SSLKEYLOGFILE format."""
    return _block(_SECRETS, struct.pack("<II", _TLS_KEY_LOG, len(lines)) + lines + bytes(-len(lines) % 4))


def _time(nanoseconds: int) -> bytes:
    return struct.pack("<II", nanoseconds >> 32, nanoseconds & 0xFFFF_FFFF)


def _options(options: Iterable[tuple[int, bytes]]) -> bytes:
    encoded = [_option.pack(code, len(value)) + value + bytes(-len(value) % 4) for code, value in options]
    return b"".join([*encoded, _option.pack(0, 0)])


def _block(kind: int, body: bytes) -> bytes:
    length = _u32.pack(12 + len(body))
    return _u32.pack(kind) + length + body + length
