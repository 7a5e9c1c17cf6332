"""GRE with checksum, key and sequence number (RFC 2784, RFC 2890); IP protocol 47."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from proxy.errors import DropReason
from proxy.wire.checksum import fold, ones_sum

PROTOCOL = 47
BASE_BYTES = 4
ETHERTYPES = {4: 0x0800, 6: 0x86DD}  # by IP version
CHECKSUM, KEY, SEQUENCE = 0x8000, 0x2000, 0x1000

_VERSION = 0x0007
_DISCARD = 0x4C00  # routing present, strict source route, recursion: bits of RFC 1701 that RFC 2784 does not support
_VARIES = CHECKSUM | SEQUENCE
_BASE = struct.Struct("!HH")
_U32 = struct.Struct("!I")
_U16 = struct.Struct("!H")
_INNER = {ethertype: version for version, ethertype in ETHERTYPES.items()}
_MAX_CACHED = 4096  # cached headers: all packets of a tunnel without checksum and sequence numbers have the same


@dataclass(frozen=True, slots=True)
class Gre:
    """One header."""

    length: int  # in bytes, up to the IP packet
    inner: int  # IP version of the inner packet
    key: int | None = None
    sequence: int | None = None
    has_checksum: bool = False


def parse(buffer: bytes | bytearray | memoryview, start: int, end: int) -> Gre | DropReason:
    """The header at `start` of a payload that ends at `end`, or why to drop it. Verifies the checksum, if present."""
    if end - start < BASE_BYTES:
        return DropReason.GRE_TRUNCATED
    (flags,) = _U16.unpack_from(buffer, start)
    length = header_bytes(flags)
    if end - start < length:
        return DropReason.GRE_TRUNCATED
    if flags & _VARIES:
        found = _read(bytes(buffer[start : start + length]))
        if isinstance(found, Gre) and flags & CHECKSUM and ones_sum(buffer[start:end]) != 0xFFFF:
            return DropReason.GRE_CHECKSUM
    else:
        found = _read_cached(bytes(buffer[start : start + length]))
    if isinstance(found, Gre) and (end - start == length or found.inner != buffer[start + length] >> 4):
        return DropReason.GRE_INNER
    return found


def header_bytes(flags: int) -> int:
    """The length of a header with these flags, in bytes."""
    return BASE_BYTES + 4 * (flags >> 15) + 4 * (flags >> 13 & 1) + 4 * (flags >> 12 & 1)


def _read(header: bytes) -> Gre | DropReason:
    flags, ethertype = _BASE.unpack_from(header)
    if flags & _VERSION:
        return DropReason.GRE_VERSION
    if flags & _DISCARD:
        return DropReason.GRE_ROUTING
    inner = _INNER.get(ethertype)
    if inner is None:
        return DropReason.GRE_PROTOCOL
    at = BASE_BYTES + (4 if flags & CHECKSUM else 0)
    key = sequence = None
    if flags & KEY:
        (key,) = _U32.unpack_from(header, at)
        at += 4
    if flags & SEQUENCE:
        (sequence,) = _U32.unpack_from(header, at)
    return Gre(len(header), inner, key, sequence, bool(flags & CHECKSUM))


_read_cached = lru_cache(_MAX_CACHED)(_read)


def header(
    inner: int, packet: bytes | bytearray | memoryview = b"", *,
    key: int | None = None, sequence: int | None = None, checksum: bool = False,
) -> bytes:  # fmt: skip
    """The header for `packet`, of IP version `inner`; the packet's bytes are used only for a checksum."""
    flags = (CHECKSUM if checksum else 0) | (KEY if key is not None else 0) | (SEQUENCE if sequence is not None else 0)
    options = b"" if key is None else _U32.pack(key)
    if sequence is not None:
        options += _U32.pack(sequence & 0xFFFFFFFF)
    base = _BASE.pack(flags, ETHERTYPES[inner])
    if not checksum:
        return base + options
    total = fold(ones_sum(base + options) + ones_sum(packet))
    return base + _U16.pack(0xFFFF - total) + bytes(2) + options


def is_later(sequence: int, last: int) -> bool:
    """Whether `sequence` comes after `last`, in numbers that wrap at 2**32 (RFC 2890 2.2)."""
    return 0 < (sequence - last) & 0xFFFFFFFF < 0x80000000
