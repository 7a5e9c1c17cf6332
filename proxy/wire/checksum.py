"""The Internet checksum, whole and incremental (RFC 1071, RFC 1624)."""

from __future__ import annotations

_from_bytes = int.from_bytes


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """The one's complement sum of 16-bit words, 0..0xFFFF; an odd last byte counts as if a zero followed.

    A number modulo 0xFFFF is the sum of its base-65536 digits: one big division instead of a loop over words.
    """
    total = _from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    return total % 0xFFFF or (0xFFFF if total else 0)


def checksum(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """The checksum of `data`, in which the checksum field is zero; `initial`: the sum of a pseudo-header."""
    return 0xFFFF - fold(ones_sum(data) + initial)


def fold(total: int) -> int:
    """Fold the carries of a sum of 16-bit words back into 16 bits: 0..0xFFFF."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def delta(old: bytes, new: bytes) -> int:
    """The change of a sum when the bytes `old` are replaced by `new` (same even length): 0..0xFFFE."""
    return (_from_bytes(new, "big") - _from_bytes(old, "big")) % 0xFFFF


def update(field: int, change: int) -> int:
    """The checksum field after the sum of its data has grown by `change`: RFC 1624 eqn. 3, as one remainder.

    Never 0xFFFF, the other representation of 0: not for UDP, where a field of 0 means that there is no checksum.
    """
    return (field - change) % 0xFFFF


def update_partial(field: int, change: int) -> int:
    """As `update`, for a field with only the sum of the pseudo-header, which the sending device completes."""
    return (field + change) % 0xFFFF


def pseudo_header_sum(addresses: bytes, protocol: int, length: int) -> int:
    """The sum over a pseudo-header (RFC 9293 3.1, RFC 8200 8.1). `addresses`: source and destination, 8 or 32 bytes."""
    return fold(ones_sum(addresses) + protocol + (length >> 16) + (length & 0xFFFF))
