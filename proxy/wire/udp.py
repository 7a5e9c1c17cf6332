"""UDP headers and whole datagrams (RFC 768, RFC 8200 8.1)."""

from __future__ import annotations

import struct

from proxy.errors import DropReason
from proxy.wire.checksum import fold, ones_sum, pseudo_header_sum
from proxy.wire.ip import UDP, IPPacket

HEADER_BYTES = 8
MAX_PAYLOAD = 65_507  # over IPv4 without options; IPv6 carries 20 bytes more

_HEADER = struct.Struct("!HHHH")


def check(buffer: bytes | bytearray, packet: IPPacket, *, partial_checksum: bool = False) -> DropReason | None:
    """Why the datagram in `packet` must not be delivered, or None. A partial checksum is trusted."""
    room = packet.end - packet.l4
    if room < HEADER_BYTES:
        return DropReason.TRUNCATED
    _, _, length, field = _HEADER.unpack_from(buffer, packet.l4)
    if length > room:
        return DropReason.TRUNCATED
    if length < HEADER_BYTES:
        return DropReason.BAD_HEADER
    if partial_checksum:
        return None
    if field == 0:  # allowed over IPv4, not over IPv6 (RFC 8200 8.1)
        return None if packet.version == 4 else DropReason.BAD_L4_CHECKSUM
    pseudo = pseudo_header_sum(packet.source + packet.destination, UDP, length)
    if fold(ones_sum(buffer[packet.l4 : packet.l4 + length]) + pseudo) != 0xFFFF:
        return DropReason.BAD_L4_CHECKSUM
    return None


def complete(buffer: bytearray, packet: IPPacket) -> None:
    """Complete a checksum that was left to the device: so far the field holds the sum of the pseudo-header."""
    length, at = packet.end - packet.l4, packet.l4 + 6
    pseudo = pseudo_header_sum(packet.source + packet.destination, UDP, length)
    if int.from_bytes(buffer[at : at + 2], "big") == pseudo:
        field = 0xFFFF - fold(ones_sum(memoryview(buffer)[packet.l4 : packet.end]))
        buffer[at : at + 2] = (field or 0xFFFF).to_bytes(2, "big")


def datagram(addresses: bytes, source: int, destination: int, payload: bytes | memoryview) -> bytes:
    """Header and payload with a full checksum. `addresses`: source and destination address, 8 or 32 bytes."""
    length = HEADER_BYTES + len(payload)
    pseudo = pseudo_header_sum(addresses, UDP, length)
    body = ones_sum(payload) + source + destination + length
    field = 0xFFFF - fold(body + pseudo)
    return _HEADER.pack(source, destination, length, field or 0xFFFF) + bytes(payload)


def partial(addresses: bytes, source: int, destination: int, payload: bytes | memoryview) -> bytes:
    """Header and payload. The checksum field holds the sum of the pseudo-header; the device completes it."""
    length = HEADER_BYTES + len(payload)
    return _HEADER.pack(source, destination, length, pseudo_header_sum(addresses, UDP, length)) + bytes(payload)
