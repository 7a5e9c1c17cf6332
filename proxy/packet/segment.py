"""Offload in software: super-packets split into segments, partial checksums completed (virtio 1.2 5.1.6.2)."""

from __future__ import annotations

import struct

from proxy.errors import DropReason
from proxy.wire import tcp, virtio
from proxy.wire.checksum import checksum, fold, ones_sum, pseudo_header_sum
from proxy.wire.ip import TCP, UDP, IPPacket

CWR = 0x80
_KINDS = {virtio.GSO_TCPV4: (4, TCP), virtio.GSO_TCPV6: (6, TCP)}
_CHECKSUM = {TCP: 16, UDP: 6}
_CSUM_START = struct.Struct("<6xHH").unpack_from
_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")


def segment_headers(buffer: bytes | bytearray, packet: IPPacket) -> int:
    """Size in bytes of the IP and transport headers in each segment of a checked packet."""
    l4 = (buffer[packet.l4 + 12] >> 4) * 4 if packet.protocol == TCP else 8
    return packet.l4 - packet.start + l4


def is_consistent(buffer: bytes | bytearray, packet: IPPacket) -> bool:
    """Whether the virtio-net header before `packet` agrees with it about the checksum's place and the type."""
    if buffer[0] & virtio.NEEDS_CSUM:
        start, offset = _CSUM_START(buffer)
        if (start, offset) != (packet.l4 - packet.start, _CHECKSUM.get(packet.protocol)):
            return False
    kind = buffer[1] & ~virtio.GSO_ECN
    if kind == virtio.GSO_UDP_L4:
        return packet.protocol == UDP
    return kind == virtio.GSO_NONE or _KINDS[kind] == (packet.version, packet.protocol)


def finish(buffer: bytearray, packet: IPPacket) -> None:
    """Complete a partial checksum in place, whose field holds the sum of the pseudo-header."""
    at = packet.l4 + _CHECKSUM[packet.protocol]
    field = 0xFFFF - fold(ones_sum(memoryview(buffer)[packet.l4 : packet.end]))
    _U16.pack_into(buffer, at, field or 0xFFFF if packet.protocol == UDP else field)


def segment(buffer: bytes | bytearray, packet: IPPacket, size: int) -> list[bytes] | DropReason:
    """The packets of a super-packet, with at most `size` bytes of payload each, and full checksums."""
    headers = packet.start + segment_headers(buffer, packet)
    head, payload = bytes(buffer[packet.start : headers]), memoryview(buffer)[headers : packet.end]
    if not payload:
        return DropReason.BAD_OFFLOAD
    l4 = packet.l4 - packet.start
    make = _tcp_segment if packet.protocol == TCP else _udp_segment
    pieces = []
    for number, at in enumerate(range(0, len(payload), size)):
        piece = payload[at : at + size]
        out = bytearray(head) + piece
        _write_lengths(out, packet, number)
        make(out, l4, at, at + size >= len(payload))
        _write_checksum(out, packet, l4)
        pieces.append(bytes(out))
    return pieces


def _write_lengths(out: bytearray, packet: IPPacket, number: int) -> None:
    if packet.version == 6:
        _U16.pack_into(out, 4, len(out) - 40)
        return
    _U16.pack_into(out, 2, len(out))
    _U16.pack_into(out, 4, (packet.fragment_id + number) & 0xFFFF)
    _U16.pack_into(out, 10, 0)
    _U16.pack_into(out, 10, checksum(out[: packet.l4 - packet.start]))


def _tcp_segment(out: bytearray, l4: int, at: int, is_last: bool) -> None:
    """Adjust a segment: only the last has FIN and PSH, only the first CWR (RFC 3168 6.1.2)."""
    (sequence,) = _U32.unpack_from(out, l4 + 4)
    _U32.pack_into(out, l4 + 4, (sequence + at) & 0xFFFF_FFFF)
    if not is_last:
        out[l4 + 13] &= ~(tcp.FIN | tcp.PSH)
    if at:
        out[l4 + 13] &= ~CWR & 0xFF


def _udp_segment(out: bytearray, l4: int, at: int, is_last: bool) -> None:
    _U16.pack_into(out, l4 + 4, len(out) - l4)


def _write_checksum(out: bytearray, packet: IPPacket, l4: int) -> None:
    at = l4 + _CHECKSUM[packet.protocol]
    _U16.pack_into(out, at, 0)
    pseudo = pseudo_header_sum(packet.source + packet.destination, packet.protocol, len(out) - l4)
    field = checksum(memoryview(out)[l4:], pseudo)
    _U16.pack_into(out, at, field or 0xFFFF if packet.protocol == UDP else field)
