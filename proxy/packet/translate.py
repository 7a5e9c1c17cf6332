"""Network address translation of one packet in place: the readable version of the loops in `kernel/pump.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable

from proxy.flow.path import Path
from proxy.wire import virtio
from proxy.wire.checksum import delta, update, update_partial
from proxy.wire.ip import IPPacket

L4_CHECKSUM = {6: 16, 17: 6}  # offset of the checksum in TCP and UDP headers

_U16 = struct.Struct("!H")


def set_rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Make `path` replace `old` with `new`: source, destination and ports as in a packet, 12 or 36 bytes."""
    addresses = len(new) - 4
    path.rewritten = new
    path.ip_delta = delta(old[:addresses], new[:addresses])
    path.l4_delta = delta(old, new)


def set_reverse(path: Path, of: Path, new: bytes) -> None:
    """Make `path` undo `of`. `new`: what `of` replaces, with source and destination exchanged."""
    path.rewritten = new
    path.ip_delta, path.l4_delta = -of.ip_delta % 0xFFFF, -of.l4_delta % 0xFFFF


def translate(buffer: bytearray | memoryview, packet: IPPacket, path: Path) -> None:
    """Rewrite addresses, ports and checksums of the TCP segment in `packet`, wherever its headers begin."""
    new = path.rewritten
    addresses = len(new) - 4
    if packet.version == 4:
        buffer[packet.start + 12 : packet.start + 20] = new[:addresses]
        _adjust(buffer, packet.start + 10, update, path.ip_delta)
    else:
        buffer[packet.start + 8 : packet.start + 40] = new[:addresses]
    buffer[packet.l4 : packet.l4 + 4] = new[addresses:]
    at = packet.l4 + L4_CHECKSUM[packet.protocol]
    if has_partial_checksum(buffer, packet):
        _adjust(buffer, at, update_partial, path.ip_delta)
    else:
        _adjust(buffer, at, update, path.l4_delta)


def has_partial_checksum(buffer: bytes | bytearray | memoryview, packet: IPPacket) -> bool:
    """Whether a virtio-net header before the packet says that its checksum covers the pseudo-header only."""
    return packet.start == virtio.HEADER_BYTES and bool(buffer[0] & virtio.NEEDS_CSUM)


def _adjust(buffer: bytearray | memoryview, at: int, how: Callable[[int, int], int], change: int) -> None:
    (field,) = _U16.unpack_from(buffer, at)
    _U16.pack_into(buffer, at, how(field, change))
