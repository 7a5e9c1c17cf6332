"""Encodes and decodes DNS messages (RFC 1035, RFC 3596)."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")  # type, class, TTL, length
_IN = 1
_RECURSE, _RESPONSE, _TRUNCATED = 0x0100, 0x8000, 0x0200
_MAX_POINTERS = 64
_MAX_NAME = 253

TYPES = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "HTTPS": 65,
    "ANY": 255,
}  # fmt: skip
_TYPE_NAMES = {number: name for name, number in TYPES.items()}
_CODES = {0: "noerror", 1: "formerr", 2: "servfail", 3: "nxdomain", 4: "notimp", 5: "refused"}


class Malformed(ValueError):
    """The bytes are not a DNS message."""


class Answer(NamedTuple):
    """One resource record. `value` is its text in a zone file, or hexadecimal for types unknown here."""

    name: str
    type: str
    ttl: int
    value: str


class Response(NamedTuple):
    """A parsed response."""

    ident: int
    code: str
    is_truncated: bool
    answers: list[Answer]


def encode_query(ident: int, name: str, kind: str) -> bytes:
    """A recursive query, class IN. ValueError: invalid name or type."""
    if kind not in TYPES:
        raise ValueError(f"unknown record type '{kind}' (known: {', '.join(TYPES)})")
    return _HEADER.pack(ident, _RECURSE, 1, 0, 0, 0) + encode_name(name) + struct.pack("!HH", TYPES[kind], _IN)


def encode_name(name: str) -> bytes:
    """A name as labels. ValueError: it is not valid."""
    plain = name.removesuffix(".")
    labels = plain.split(".") if plain else []
    if len(plain) > _MAX_NAME or not plain.isascii() or not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"not a DNS name: {name!r}")
    return b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"


def decode_response(message: bytes) -> Response:
    """Decode the response in `message`. Malformed: it is not one."""
    try:
        ident, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
        if not flags & _RESPONSE:
            raise Malformed("a query, not a response")
        at = _HEADER.size
        for _ in range(questions):
            at = _read_name(message, at)[1] + 4
        records = []
        for _ in range(answers):
            record, at = _read_record(message, at)
            records.append(record)
    except (struct.error, IndexError, ipaddress.AddressValueError):
        raise Malformed("the message is truncated") from None
    code = flags & 0x0F
    return Response(ident, _CODES.get(code, f"rcode_{code}"), bool(flags & _TRUNCATED), records)


def _read_record(message: bytes, at: int) -> tuple[Answer, int]:
    name, at = _read_name(message, at)
    number, _, ttl, length = _RECORD.unpack_from(message, at)
    at += _RECORD.size
    if at + length > len(message):
        raise Malformed("a record is longer than the message")
    kind = _TYPE_NAMES.get(number, f"TYPE{number}")  # RFC 3597 5
    return Answer(name, kind, ttl, _read_value(message, at, length, kind)), at + length


def _read_value(message: bytes, at: int, length: int, kind: str) -> str:
    data = message[at : at + length]
    match kind:
        case "A":
            return str(ipaddress.IPv4Address(data))
        case "AAAA":
            return str(ipaddress.IPv6Address(data))
        case "NS" | "CNAME" | "PTR":
            return _read_name(message, at)[0]
        case "MX":
            return f"{int.from_bytes(data[:2], 'big')} {_read_name(message, at + 2)[0]}"
        case "SRV":
            return f"{' '.join(map(str, struct.unpack_from('!HHH', data)))} {_read_name(message, at + 6)[0]}"
        case "TXT":
            return _read_strings(data)
    return data.hex()


def _read_strings(data: bytes) -> str:
    strings, at = [], 0
    while at < len(data):
        strings.append(data[at + 1 : at + 1 + data[at]].decode("latin-1"))
        at += 1 + data[at]
    return "".join(strings)


def _read_name(message: bytes, at: int) -> tuple[str, int]:
    """The name at `at` and the offset after it. Pointers are followed, with a limit (RFC 1035 section 4.1.4)."""
    labels, end, pointers = [], None, 0
    while length := message[at]:
        if length >= 0xC0:
            end = at + 2 if end is None else end
            at = (length & 0x3F) << 8 | message[at + 1]
            pointers += 1
            if pointers > _MAX_POINTERS:
                raise Malformed("a name's compression pointers form a loop")
        elif length < 0x40:
            labels.append(message[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length
        else:
            raise Malformed("a label of an unknown kind")
    return ".".join(labels) or ".", at + 1 if end is None else end
