"""GUE, the header of unconnected tunnels over UDP (draft-ietf-intarea-gue): versions 0 and 1, and the context in it.

    version 0   | 00 C Hlen | protocol | flags | private data: 4 * Hlen bytes | IP packet |
    version 1   | IP packet |                     no header: the packet's first nibble is 4 or 6

The context is private data by local agreement, with no flag set: "OX", a version, then fields, each with one byte of
type, one byte of length, and a value; zeros pad the last word.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

from proxy.errors import DropReason
from proxy.wire.ip import NO_NEXT_HEADER, TCP, UDP

PORT = 6080
BASE_BYTES = 4
MAX_PRIVATE = 124  # Hlen has five bits and counts words
MAX_TOKEN = MAX_PRIVATE - 3 - 6 - 6 - 2  # what remains beside a tenant and a site
PROTOCOLS = {4: 4, 6: 41}  # by IP version
ENTROPY_PORTS = range(49_152, 65_536)  # source ports for inner flows (RFC 6335 6)

PAD, TENANT, SITE, TOKEN = 0, 1, 2, 3  # field types of the context; a pad is a single byte without length
CONTEXT_VERSION = 1

_WITH_PORTS = (TCP, UDP)
_MAGIC = b"OX"
_BASE = struct.Struct("!BBH")
_U32 = struct.Struct("!I")
_MAX_CACHED = 4096  # cached headers: all packets of a tunnel have the same


@dataclass(frozen=True, slots=True)
class Context:
    """The tunnel's identity, carried in a packet. `others`: fields of unknown types."""

    tenant: int | None = None  # 0 to 2**32 - 1, like the site
    site: int | None = None
    token: bytes | None = None
    others: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Gue:
    """One header. The same object is returned for the same bytes."""

    version: int
    length: int  # in bytes, up to the IP packet
    inner: int  # IP version of the inner packet; 0 if the header does not contain it
    context: Context | None = None


VERSION_1 = {4: Gue(1, 0, 4), 6: Gue(1, 0, 6)}


def parse(buffer: bytes | bytearray | memoryview, start: int, end: int) -> Gue | DropReason:
    """The header at `start` of a UDP payload that ends at `end`, or why the datagram must be dropped.

    Checks that the inner packet begins with the IP version that the header announces, and nothing else of that packet.
    """
    if end <= start:
        return DropReason.GUE_TRUNCATED
    first = buffer[start]
    if first >= 0x20:
        return _without_header(first)
    length = BASE_BYTES + (first << 2)
    if end - start <= length:
        return DropReason.GUE_TRUNCATED
    header = _parse_header(bytes(buffer[start : start + length]))
    if isinstance(header, Gue) and header.inner != buffer[start + length] >> 4:
        return DropReason.GUE_INNER
    return header


def _without_header(first: int) -> Gue | DropReason:
    if first >= 0x80:
        return DropReason.GUE_VERSION
    if first < 0x40:
        return DropReason.GUE_CONTROL
    return VERSION_1.get(first >> 4, DropReason.GUE_V1_INNER)


@lru_cache(_MAX_CACHED)
def _parse_header(header: bytes) -> Gue | DropReason:
    """Parse a version 0 header, whose length is that given by Hlen. Cached."""
    _, protocol, flags = _BASE.unpack_from(header)
    if flags:  # after an unknown flag all offsets are unknown; the known flags were never requested
        return DropReason.GUE_FLAGS
    if protocol == NO_NEXT_HEADER:
        return DropReason.GUE_NO_NEXT_HEADER
    if protocol not in (4, 41):
        return DropReason.GUE_PROTOCOL
    context = parse_context(header[BASE_BYTES:])
    if isinstance(context, DropReason):
        return context
    return Gue(0, len(header), 4 if protocol == 4 else 6, context)


def parse_context(private: bytes) -> Context | DropReason | None:
    """The context in private data, or why to drop the packet; None: private data of others, which is ignored."""
    if private[:2] != _MAGIC:
        return None
    if len(private) < 3 or private[2] != CONTEXT_VERSION:
        return DropReason.CONTEXT_VERSION
    fields: dict[int, bytes] = {}
    at, end = 3, len(private)
    while at < end:
        kind = private[at]
        if kind == PAD:
            at += 1
            continue
        if at + 2 > end or (after := at + 2 + private[at + 1]) > end:
            return DropReason.CONTEXT_TRUNCATED
        if kind in fields:
            return DropReason.CONTEXT_REPEATED
        fields[kind] = private[at + 2 : after]
        at = after
    return _known(fields)


def _known(fields: dict[int, bytes]) -> Context | DropReason:
    numbers = {}
    for kind in (TENANT, SITE):
        value = fields.pop(kind, None)
        if value is not None and len(value) != _U32.size:
            return DropReason.CONTEXT_BAD_FIELD
        numbers[kind] = None if value is None else _U32.unpack(value)[0]
    return Context(numbers[TENANT], numbers[SITE], fields.pop(TOKEN, None), tuple(fields.items()))


def header(inner: int, context: Context | None = None) -> bytes:
    """The version 0 header for packets of IP version `inner`. Version 1 has no header.

    ValueError: the context does not fit into 124 bytes.
    """
    private = b"" if context is None else _private(context)
    return _BASE.pack(len(private) >> 2, PROTOCOLS[inner], 0) + private


def _private(context: Context) -> bytes:
    fields = [(kind, _U32.pack(value)) for kind, value in ((TENANT, context.tenant), (SITE, context.site))
              if value is not None]  # fmt: skip
    if context.token is not None:
        fields.append((TOKEN, context.token))
    fields += context.others
    if any(len(value) > 255 for _, value in fields):
        raise ValueError("a field of a context has at most 255 bytes")
    raw = _MAGIC + bytes([CONTEXT_VERSION]) + b"".join(bytes([kind, len(value)]) + value for kind, value in fields)
    raw += bytes(-len(raw) % 4)
    if len(raw) > MAX_PRIVATE:
        raise ValueError(f"a context has at most {MAX_PRIVATE} bytes, this one {len(raw)}")
    return raw


def entropy(packet: bytes | bytearray | memoryview, start: int) -> int:
    """A hash of the flow of the IP packet at `start`: the same for all of its packets, except fragments.

    0 to 2**32 - 1. The packet must have a complete IP header; what follows it may be missing.
    """
    if packet[start] < 0x60:
        with_ports = packet[start] == 0x45 and packet[start + 9] in _WITH_PORTS and not (
            packet[start + 6] & 0x3F or packet[start + 7]
        )  # fmt: skip
        return crc32(packet[start + 12 : start + (24 if with_ports else 20)])
    return crc32(packet[start + 8 : start + (44 if packet[start + 6] in _WITH_PORTS else 40)])


def source_port(flow: int) -> int:
    """The outer source port for the hash of an inner flow, so that routers spread flows over paths."""
    return ENTROPY_PORTS[flow % len(ENTROPY_PORTS)]
