"""A packet that is larger than the tunnel's MTU, cut into fragments (RFC 791, RFC 8200 4.5)."""

from __future__ import annotations

import struct

from proxy.wire import ip

_U16 = struct.Struct("!H")


def split(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    """`packet` (a header without options or extensions, and its payload) as packets of at most `mtu` bytes each."""
    if len(packet) <= mtu:
        return [packet]
    return _split_ipv4(packet, mtu, ident & 0xFFFF) if packet[0] >> 4 == 4 else _split_ipv6(packet, mtu, ident)


def _split_ipv4(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    source, destination, protocol, ttl, tos = packet[12:16], packet[16:20], packet[9], packet[8], packet[1]
    payload, step = packet[20:], (mtu - 20) & ~7
    pieces = []
    for at in range(0, len(payload), step):
        piece = payload[at : at + step]
        more = at + step < len(payload)
        pieces.append(
            ip.ipv4_header(
                source, destination, protocol, len(piece), ttl=ttl, tos=tos, ident=ident, offset=at, more=more
            )
            + piece
        )
    return pieces


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
