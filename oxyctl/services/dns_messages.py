"""A DNS server's messages (RFC 1035, RFC 6891): queries decoded, answers encoded."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")  # type, class
_RECORD = struct.Struct("!HHHIH")  # pointer to the name of the question, type, class, TTL, length
_RESPONSE, _AUTHORITATIVE, _TRUNCATED = 0x8000, 0x0400, 0x0200
_RECURSION_DESIRED, _RECURSION_AVAILABLE, _OPCODE = 0x0100, 0x0080, 0x7800
_NAME_OF_QUESTION = 0xC000 | _HEADER.size
_OPT = 41
CLASS_IN, CLASS_ANY = 1, 255
A, PTR, AAAA, ANY = 1, 12, 28, 255
PLAIN_BYTES, OUR_BYTES = 512, 1232  # sizes of UDP messages: without EDNS, and what we advertise
TTL_S = 5


class Code(enum.IntEnum):
    """Response codes (RFC 1035 section 4.1.1)."""

    NOERROR = 0
    FORMERR = 1
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


class Query(NamedTuple):
    """One question, and its bytes as `question`. `code` is set if it cannot be answered."""

    ident: int
    flags: int
    name: str
    type: int
    question: bytes
    udp_bytes: int
    has_edns: bool
    code: Code = Code.NOERROR


class Record(NamedTuple):
    """One resource record of the queried name."""

    type: int
    data: bytes


def decode_query(message: bytes) -> Query | None:
    """The query in `message`; None if it is not a query, and must not be answered."""
    if len(message) < _HEADER.size:
        return None
    ident, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(message)
    if flags & _RESPONSE:
        return None
    rejected = Query(ident, flags, "", 0, b"", PLAIN_BYTES, False)
    if flags & _OPCODE:
        return rejected._replace(code=Code.NOTIMP)
    try:
        name, at = _read_name(message)
        kind, group = _QUESTION.unpack_from(message, at)
    except (IndexError, ValueError, struct.error):
        return rejected._replace(code=Code.FORMERR)
    if (questions, answers, authorities) != (1, 0, 0):
        return rejected._replace(code=Code.FORMERR)
    end = at + _QUESTION.size
    size = _edns_bytes(message, end) if additionals else None
    code = Code.NOERROR if group in (CLASS_IN, CLASS_ANY) else Code.REFUSED
    limit = max(PLAIN_BYTES, size or 0)
    return Query(ident, flags, name, kind, message[_HEADER.size : end], limit, size is not None, code)


def encode_answer(query: Query, code: Code, records: Sequence[Record], limit: int) -> bytes:
    """The response to `query`. If it would be longer than `limit` bytes, it is truncated: TC set, no records."""
    answers = b"".join(
        _RECORD.pack(_NAME_OF_QUESTION, each.type, CLASS_IN, TTL_S, len(each.data)) + each.data for each in records
    )
    extra = struct.pack("!BHHIH", 0, _OPT, OUR_BYTES, 0, 0) if query.has_edns else b""
    is_truncated = _HEADER.size + len(query.question) + len(answers) + len(extra) > limit
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | code | query.flags & (_RECURSION_DESIRED | _OPCODE)
    flags |= _TRUNCATED if is_truncated else 0
    count = 0 if is_truncated else len(records)
    header = _HEADER.pack(query.ident, flags, 1 if query.question else 0, count, 0, 1 if extra else 0)
    return header + query.question + (b"" if is_truncated else answers) + extra


def _read_name(message: bytes) -> tuple[str, int]:
    """The queried name in lower case without the final dot, and the offset of its end."""
    labels, at = [], _HEADER.size
    while length := message[at]:
        label = message[at + 1 : at + 1 + length]
        if length > 63 or len(label) < length:
            raise ValueError("an invalid label")
        labels.append(label.decode("latin-1").lower())
        at += 1 + length
    if at - _HEADER.size > 254:
        raise ValueError("longer than a name may be")
    return ".".join(labels), at + 1


def _edns_bytes(message: bytes, at: int) -> int | None:
    """The UDP size that an OPT record at `at` advertises; None if there is no OPT record."""
    if len(message) < at + 11 or message[at] != 0:
        return None
    kind, size = _QUESTION.unpack_from(message, at + 1)
    return int(size) if kind == _OPT else None
