"""Fragmentation of packets larger than the tunnel's MTU (RFC 791, RFC 8200 4.5)."""

from __future__ import annotations

import struct

from proxy.wire import ip
from proxy.wire.checksum import checksum

MORE_FRAGMENTS = 0x2000

_U16 = struct.Struct("!H")
_LENGTHS = struct.Struct("!HHH")  # total length, identification, flags and offset


def split(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    """Split `packet` (without extension headers) into packets of at most `mtu` bytes. Options are copied as needed."""
    if len(packet) <= mtu:
        return [packet]
    return _split_ipv4(packet, mtu, ident & 0xFFFF) if packet[0] >> 4 == 4 else _split_ipv6(packet, mtu, ident)


def _split_ipv4(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    size = (packet[0] & 15) * 4
    options = packet[20:size], _copied_options(packet[20:size]) if size > 20 else b""
    payload, pieces, at = packet[size:], [], 0
    while at < len(payload):
        mine = options[at > 0]
        piece = payload[at : at + (mtu - 20 - len(mine) & ~7)]
        more = at + len(piece) < len(payload)
        head = bytearray(packet[:20] + mine)
        head[0] = 0x40 | len(head) // 4
        fragment = at >> 3 | (MORE_FRAGMENTS if more else 0)
        _LENGTHS.pack_into(head, 2, len(head) + len(piece), ident, fragment)
        _U16.pack_into(head, 10, 0)
        _U16.pack_into(head, 10, checksum(head))
        pieces.append(bytes(head) + piece)
        at += len(piece)
    return pieces


def _copied_options(options: bytes) -> bytes:
    """The options that every fragment has, as their first bit tells (RFC 791 3.1), padded to whole words."""
    kept, at = b"", 0
    while at < len(options) and options[at] != 0:
        size = 1 if options[at] == 1 else options[at + 1] if at + 1 < len(options) else 0
        if size < 1 or at + size > len(options):
            break
        if options[at] & 0x80:
            kept += options[at : at + size]
        at += size
    return kept + bytes(-len(kept) % 4)


def _split_ipv6(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    payload, step = packet[40:], (mtu - 48) & ~7
    pieces = []
    for at in range(0, len(payload), step):
        piece = payload[at : at + step]
        head = bytearray(packet[:40])
        _U16.pack_into(head, 4, 8 + len(piece))
        head[6] = ip.FRAGMENT
        more = at + step < len(payload)
        pieces.append(bytes(head) + ip.fragment_header(packet[6], ident, at, more) + piece)
    return pieces
