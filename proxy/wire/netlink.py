"""Netlink framing: messages in a datagram, and attributes in a message (netlink(7))."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NESTED, KIND = 0x8000, 0x3FFF
NO_BYTES = b""

header = struct.Struct("=IHHII")  # length, type, flags, sequence, port
subsystem = struct.Struct("=BBH")  # nfgenmsg: family, version 0, and a number in network order
_attribute = struct.Struct("=HH")
_error = struct.Struct("=i")


class Message(NamedTuple):
    """One message; its body is between `start` and `end` of the datagram."""

    kind: int
    flags: int
    sequence: int
    start: int
    end: int


def messages(buffer: bytes | bytearray, end: int) -> Iterator[Message]:
    """The messages before `end`, up to one that is truncated or has an impossible length."""
    at, size, unpack = 0, header.size, header.unpack_from
    while at + size <= end:
        length, kind, flags, sequence, _ = unpack(buffer, at)
        if length < size or at + length > end:
            return
        yield Message(kind, flags, sequence, at + size, at + length)
        at += length + 3 & ~3


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return header.pack(header.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


def attributes(buffer: bytes | bytearray, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield type, start and end of each value before `end`; types are without their flags."""
    unpack = _attribute.unpack_from
    while at + 4 <= end:
        length, kind = unpack(buffer, at)
        if length < 4 or at + length > end:
            return
        yield kind & KIND, at + 4, at + length
        at += length + 3 & ~3


def values(buffer: bytes | bytearray, at: int, end: int) -> dict[int, bytes]:
    """The values by type; if one occurs twice, the last."""
    return {kind: bytes(buffer[start:stop]) for kind, start, stop in attributes(buffer, at, end)}


def attribute(kind: int, value: bytes) -> bytes:
    return _attribute.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *values: bytes) -> bytes:
    return attribute(kind | NESTED, NO_BYTES.join(values))


def error_code(buffer: bytes | bytearray, start: int, end: int) -> int:
    """The errno in the body of an NLMSG_ERROR or NLMSG_DONE; 0: no error, or a body that is too short."""
    return -_error.unpack_from(buffer, start)[0] if start + 4 <= end else 0
