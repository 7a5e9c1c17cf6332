"""TCP headers: flags, the MSS option, and resets (RFC 9293)."""

from __future__ import annotations

import struct

from proxy.errors import DropReason
from proxy.wire.checksum import checksum, fold, ones_sum, pseudo_header_sum, update
from proxy.wire.ip import TCP, IPPacket, header

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
MIN_HEADER = 20

_HEADER = struct.Struct("!HHIIBBHHH")
_U16 = struct.Struct("!H")


def is_well_formed(buffer: bytes | bytearray, packet: IPPacket) -> bool:
    """Whether the packet contains the complete TCP header, including its options."""
    room = packet.end - packet.l4
    return room >= MIN_HEADER and MIN_HEADER <= (buffer[packet.l4 + 12] >> 4) * 4 <= room


def check(buffer: bytes | bytearray, packet: IPPacket, *, partial_checksum: bool = False) -> DropReason | None:
    """Why the segment in `packet` must be dropped, or None. A partial checksum is trusted."""
    if not is_well_formed(buffer, packet):
        return DropReason.TRUNCATED
    if partial_checksum:
        return None
    pseudo = pseudo_header_sum(packet.source + packet.destination, TCP, packet.end - packet.l4)
    if fold(ones_sum(buffer[packet.l4 : packet.end]) + pseudo) != 0xFFFF:
        return DropReason.BAD_L4_CHECKSUM
    return None


def flags(buffer: bytes | bytearray, packet: IPPacket) -> int:
    return buffer[packet.l4 + 13]


def sequence(buffer: bytes | bytearray, packet: IPPacket) -> int:
    return int.from_bytes(buffer[packet.l4 + 4 : packet.l4 + 8], "big")


def clamp_mss(buffer: bytearray | memoryview, l4: int, mss: int, *, partial_checksum: bool = False) -> bool:
    """Lower the MSS option of the SYN whose header is at `l4` to at most `mss`. Returns whether it changed.

    With a partial checksum the field covers only the pseudo-header, which does not include the option.
    """
    at = l4 + MIN_HEADER
    end = l4 + (buffer[l4 + 12] >> 4) * 4
    while at < end:
        kind = buffer[at]
        if kind == 0:
            return False
        if kind == 1:
            at += 1
            continue
        if at + 1 >= end or buffer[at + 1] < 2 or at + buffer[at + 1] > end:
            return False
        if kind == 2 and buffer[at + 1] == 4:
            return _lower(buffer, l4, at + 2, mss, partial_checksum)
        at += buffer[at + 1]
    return False


def _lower(buffer: bytearray | memoryview, l4: int, at: int, mss: int, partial_checksum: bool) -> bool:
    (offered,) = _U16.unpack_from(buffer, at)
    if offered <= mss:
        return False
    _U16.pack_into(buffer, at, mss)
    if not partial_checksum:
        change = (mss - offered) if (at - l4) % 2 == 0 else (_swap(mss) - _swap(offered))
        (field,) = _U16.unpack_from(buffer, l4 + 16)
        _U16.pack_into(buffer, l4 + 16, update(field, change % 0xFFFF))
    return True


def _swap(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8


def acknowledgement(buffer: bytes | bytearray, packet: IPPacket) -> int:
    return int.from_bytes(buffer[packet.l4 + 8 : packet.l4 + 12], "big")


def payload_bytes(buffer: bytes | bytearray, packet: IPPacket) -> int:
    return packet.end - packet.l4 - (buffer[packet.l4 + 12] >> 4) * 4


def probe(source: bytes, destination: bytes, ports: tuple[int, int]) -> bytes:
    """A SYN from `source`. If `destination` has this connection, it answers with its sequence numbers (RFC 5961 4)."""
    fields = (*ports, 0, 0, 5 << 4, SYN, 0)
    total = checksum(_HEADER.pack(*fields, 0, 0), pseudo_header_sum(source + destination, TCP, MIN_HEADER))
    return header(source, destination, TCP, MIN_HEADER) + _HEADER.pack(*fields, total, 0)


def reset(source: bytes, destination: bytes, ports: tuple[int, int], number: int) -> bytes:
    """An RST from `source` that `destination` accepts if it expects sequence number `number` (RFC 9293 3.10.7.4)."""
    fields = (*ports, number, 0, 5 << 4, RST, 0)
    total = checksum(_HEADER.pack(*fields, 0, 0), pseudo_header_sum(source + destination, TCP, MIN_HEADER))
    return header(source, destination, TCP, MIN_HEADER) + _HEADER.pack(*fields, total, 0)


def reset_for(buffer: bytes | bytearray, packet: IPPacket) -> bytes:
    """The RST with which the host addressed by the segment in `packet` would refuse it (RFC 9293 3.10.7.1)."""
    sport, dport, seq, ack, offset, bits, *_ = _HEADER.unpack_from(buffer, packet.l4)
    if bits & ACK:
        reply_seq, reply_ack, reply_flags = ack, 0, RST
    else:
        length = packet.end - packet.l4 - (offset >> 4) * 4 + bool(bits & SYN) + bool(bits & FIN)
        reply_seq, reply_ack, reply_flags = 0, (seq + length) & 0xFFFFFFFF, RST | ACK
    fields = (dport, sport, reply_seq, reply_ack, 5 << 4, reply_flags, 0)
    addresses = packet.destination + packet.source
    total = checksum(_HEADER.pack(*fields, 0, 0), pseudo_header_sum(addresses, TCP, MIN_HEADER))
    return header(packet.destination, packet.source, TCP, MIN_HEADER) + _HEADER.pack(*fields, total, 0)
