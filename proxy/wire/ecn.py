"""ECN in tunnels: copies congestion marks to the outer header and back (RFC 6040)."""

from __future__ import annotations

import struct

from proxy.errors import DropReason
from proxy.wire.checksum import update

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3
MASK = 3

# RFC 6040 4.2, by inner and outer mark; None: drop, since the sender of the inner packet does not support ECN
_ARRIVING: tuple[tuple[int | None, ...], ...] = (
    # outer: Not-ECT, ECT(1), ECT(0), CE
    (NOT_ECT, NOT_ECT, NOT_ECT, None),
    (ECT_1, ECT_1, ECT_1, CE),
    (ECT_0, ECT_1, ECT_0, CE),
    (CE, CE, CE, CE),
)
_U16 = struct.Struct("!H")


def traffic_class(buffer: bytes | bytearray | memoryview, start: int) -> int:
    """TOS or traffic class of the IP packet at `start`, to be copied to an outer header (RFC 6040 4.1, normal mode)."""
    if buffer[start] < 0x60:
        return buffer[start + 1]
    return (buffer[start] & 0xF) << 4 | buffer[start + 1] >> 4


def decapsulate(inner: int, outer: int) -> int | None:
    """The mark of a packet that leaves the tunnel; None: drop it. Only the two ECN bits of both arguments are used."""
    return _ARRIVING[inner & MASK][outer & MASK]


def arrive(buffer: bytearray, start: int, outer: int) -> DropReason | None:
    """Set the mark of the inner packet at `start`, which leaves the tunnel; `outer`: the outer TOS or traffic class.

    The caller ensures that the packet has at least 20 bytes. Returns the reason if the packet must be dropped.
    """
    outer &= MASK
    if outer == NOT_ECT:
        return None
    inner = traffic_class(buffer, start)
    mark = _ARRIVING[inner & MASK][outer]
    if mark is None:
        return DropReason.ECN_NOT_CAPABLE
    if mark != inner & MASK:
        set_mark(buffer, start, mark)
    return None


def set_mark(buffer: bytearray, start: int, mark: int) -> None:
    """Write `mark` into the packet at `start`, and update the checksum of an IPv4 header."""
    if buffer[start] >= 0x60:
        buffer[start + 1] = buffer[start + 1] & 0xCF | mark << 4
        return
    old = buffer[start + 1]
    buffer[start + 1] = old & 0xFC | mark
    (field,) = _U16.unpack_from(buffer, start + 10)
    _U16.pack_into(buffer, start + 10, update(field, (buffer[start + 1] - old) % 0xFFFF))
