"""GUE, the header of unconnected tunnels over UDP (draft-ietf-intarea-gue): versions 0 and 1, and the context in it.

    version 0   | 00 C Hlen | protocol | flags | private data: 4 * Hlen bytes | IP packet |
    version 1   | IP packet |                     no header: its own first nibble is 4 or 6

The context is private data by local agreement, with no flag set: "OX", a version, then fields of one byte of type, one
byte of length and a value; zeros fill the last word.
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
MAX_TOKEN = MAX_PRIVATE - 3 - 6 - 6 - 2  # beside a tenant and a site
PROTOCOLS = {4: 4, 6: 41}  # by IP version
ENTROPY_PORTS = range(49_152, 65_536)  # source ports that may stand for an inner flow (RFC 6335 6)

PAD, TENANT, SITE, TOKEN = 0, 1, 2, 3  # types of the context's fields; a pad is one byte without length
CONTEXT_VERSION = 1

_WITH_PORTS = (TCP, UDP)
_MAGIC = b"OX"
_BASE = struct.Struct("!BBH")
_U32 = struct.Struct("!I")
_REMEMBERED = 4096  # headers: every packet of a tunnel has the same


@dataclass(frozen=True, slots=True)
class Context:
    """What a packet says about its tunnel. `others`: fields of unknown types."""

    tenant: int | None = None  # 0 to 2**32 - 1, as the site's
    site: int | None = None
    token: bytes | None = None
    others: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Gue:
    """One header. The same object is returned for the same bytes."""

    version: int
    length: int  # bytes: the IP packet begins so far behind the header's start
    inner: int  # the packet's IP version; 0 when the header does not tell
    context: Context | None = None


VERSION_1 = {4: Gue(1, 0, 4), 6: Gue(1, 0, 6)}


def parse(buffer: bytes | bytearray | memoryview, start: int, end: int) -> Gue | DropReason:
    """The header at `start` of a UDP payload that ends at `end`, or why the datagram must be dropped.

    That the packet behind it begins with the IP version that the header announces is checked; the packet is not.
    """
    if end <= start:
        return DropReason.GUE_TRUNCATED
    first = buffer[start]
    if first >= 0x20:
        return _without_header(first)
    length = BASE_BYTES + (first << 2)
    if end - start <= length:
        return DropReason.GUE_TRUNCATED
    header = _remembered(bytes(buffer[start : start + length]))
    if isinstance(header, Gue) and header.inner != buffer[start + length] >> 4:
        return DropReason.GUE_INNER
    return header


def _without_header(first: int) -> Gue | DropReason:
    if first >= 0x80:
        return DropReason.GUE_VERSION
    if first < 0x40:
        return DropReason.GUE_CONTROL
    return VERSION_1.get(first >> 4, DropReason.GUE_V1_INNER)


@lru_cache(_REMEMBERED)
def _remembered(header: bytes) -> Gue | DropReason:
    """What these bytes of a version 0 header say; their number is what Hlen says."""
    _, protocol, flags = _BASE.unpack_from(header)
    if flags:  # one unknown flag, and every later offset is unknown; the known ones we never asked for
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
    """The context in private data; None when it holds none: others' surplus is not ours to read."""
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
    """A version 0 header before packets of IP version `inner`. Version 1 has none: b"" stands before its packets.

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
    """A number for the flow of the IP packet at `start`: the same for all of its packets, fragments apart.

    0 to 2**32 - 1. The packet has a whole header; what follows it may be missing.
    """
    if packet[start] < 0x60:
        with_ports = packet[start] == 0x45 and packet[start + 9] in _WITH_PORTS and not (
            packet[start + 6] & 0x3F or packet[start + 7]
        )  # fmt: skip
        return crc32(packet[start + 12 : start + (24 if with_ports else 20)])
    return crc32(packet[start + 8 : start + (44 if packet[start + 6] in _WITH_PORTS else 40)])


def source_port(flow: int) -> int:
    """The outer source port that stands for an inner flow, so that routers on the way spread flows over paths."""
    return ENTROPY_PORTS[flow % len(ENTROPY_PORTS)]
