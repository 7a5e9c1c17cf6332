"""The first message of a TLS client (RFC 8446 4.1.2), as far as it identifies server and client; and its JA4.

Bytes may end anywhere: the answer is then the number of bytes that are needed at least, so that one byte at a time
costs its sender more than the reader. A hello may be split over segments and over records; what grows beyond
`MAX_HELLO` is no hello.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

HANDSHAKE, CLIENT_HELLO = 22, 1
RECORD_HEADER, MESSAGE_HEADER = 5, 4
MAX_RECORD = 16_384  # RFC 8446 5.1
MAX_HELLO = 65_536  # browsers' are below 2 KB, also with post-quantum key shares; nobody needs more

SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS, EARLY_DATA = 0, 13, 16, 43, 42
ECH = 0xFE0D

VERSIONS = {0x0304: "TLSv1.3", 0x0303: "TLSv1.2", 0x0302: "TLSv1.1", 0x0301: "TLSv1", 0x0300: "SSLv3", 0x0002: "SSLv2"}
JA4_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}
EMPTY_HASH = "0" * 12
REMEMBERED, REMEMBERED_VALUES = 256, 64  # lists whose hash is known, and how long they may be

_word = struct.Struct("!H").unpack_from


class Malformed(enum.Enum):
    """Why these bytes are not a ClientHello."""

    NOT_TLS = "no TLS handshake record"
    NOT_HELLO = "a TLS handshake that does not begin with ClientHello"
    TOO_LONG = "a ClientHello of more than 64 KiB"
    BAD_RECORD = "an empty or oversized TLS record"
    BAD_LENGTH = "a length inside the ClientHello points beyond its end"
    BAD_NAME = "a server name that is none"


@dataclass(frozen=True, slots=True)
class Hello:
    """The contents of a ClientHello. Lists keep its order, without the reserved values of GREASE (RFC 8701)."""

    versions: tuple[int, ...]  # that it speaks; of old clients the highest only
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...]
    signature_algorithms: tuple[int, ...]
    alpn: tuple[str, ...]
    sni: str | None
    has_ech: bool
    length: int  # in bytes, with its records' headers

    @property
    def version(self) -> str:
        """The highest version that the client speaks, such as `TLSv1.3`."""
        return VERSIONS.get(max(self.versions, default=0), "unknown")

    @property
    def ja4(self) -> str:
        """The fingerprint of the client's TLS library and settings (FoxIO's JA4, over TCP)."""
        first = self.alpn[0] if self.alpn else ""
        if first and not (first[0].isascii() and first[0].isalnum() and first[-1].isascii() and first[-1].isalnum()):
            digits = first.encode("latin-1", "replace").hex()
            ends = digits[0] + digits[-1]
        else:
            ends = first[0] + first[-1] if first else "00"
        head = (
            f"t{JA4_VERSIONS.get(max(self.versions, default=0), '00')}{'i' if self.sni is None else 'd'}"
            f"{min(len(self.ciphers), 99):02}{min(len(self.extensions), 99):02}{ends}"
        )
        is_usual = max(len(self.ciphers), len(self.extensions), len(self.signature_algorithms)) <= REMEMBERED_VALUES
        digest = _remembered if is_usual else _digest
        extensions = tuple(each for each in self.extensions if each not in (SERVER_NAME, ALPN))
        return f"{head}_{digest(self.ciphers, ())}_{digest(extensions, self.signature_algorithms)}"


def parse(data: bytes) -> Hello | Malformed | int:
    """The ClientHello in a client's first bytes, why they are not one, or how many bytes are needed at least."""
    found = _reassemble(data)
    if not isinstance(found, tuple):
        return found
    message, length = found
    try:
        return _parse_hello(message, length)
    except (struct.error, IndexError, _TooShort):
        return Malformed.BAD_LENGTH
    except UnicodeDecodeError:
        return Malformed.BAD_NAME


def _reassemble(data: bytes) -> tuple[bytes, int] | Malformed | int:
    """The message without record headers, and how many bytes it took with them."""
    if data[:1] not in (b"", bytes([HANDSHAKE])) or data[1:2] not in (b"", b"\x03"):
        return Malformed.NOT_TLS
    message = bytearray()
    need = MESSAGE_HEADER
    at = 0
    while len(message) < need:
        if at > MAX_HELLO:
            return Malformed.TOO_LONG
        if len(data) < at + RECORD_HEADER:
            return at + RECORD_HEADER + (need - len(message))
        kind, version, size = data[at], data[at + 1] << 8 | data[at + 2], data[at + 3] << 8 | data[at + 4]
        if kind != HANDSHAKE or version >> 8 != 3:
            return Malformed.NOT_TLS
        if not 0 < size <= MAX_RECORD:
            return Malformed.BAD_RECORD
        start = at + RECORD_HEADER
        at = start + size
        message += data[start:at]
        if message and message[0] != CLIENT_HELLO:
            return Malformed.NOT_HELLO
        if len(message) >= MESSAGE_HEADER:
            need = MESSAGE_HEADER + int.from_bytes(message[1:MESSAGE_HEADER], "big")
            if need > MAX_HELLO:
                return Malformed.TOO_LONG
        if len(data) < at and len(message) < need:
            return max(len(data) + 1, min(at, len(data) + need - len(message)))
    return bytes(message[MESSAGE_HEADER:need]), at


def _parse_hello(body: bytes, length: int) -> Hello:
    reader = _Reader(body)
    (legacy_version,) = _word(reader.take(2))
    reader.take(32)
    reader.vector(1)  # session id
    ciphers = _words(reader.vector(2))
    reader.vector(1)  # compression
    extensions: list[int] = []
    versions: tuple[int, ...] = (legacy_version,)
    algorithms: tuple[int, ...] = ()
    alpn: tuple[str, ...] = ()
    sni: str | None = None
    listed = _Reader(reader.vector(2)) if reader.left else _Reader(b"")
    while listed.left:
        (kind,) = _word(listed.take(2))
        content = listed.vector(2)
        if _is_grease(kind):
            continue
        extensions.append(kind)
        if kind == SERVER_NAME:
            sni = _server_name(content)
        elif kind == SUPPORTED_VERSIONS:
            versions = _words(_Reader(content).vector(1))
        elif kind == SIGNATURE_ALGORITHMS:
            algorithms = _words(_Reader(content).vector(2))
        elif kind == ALPN:
            alpn = tuple(each.decode("latin-1") for each in _names(content) if not _is_grease_name(each))
    return Hello(versions, ciphers, tuple(extensions), algorithms, alpn, sni, ECH in extensions, length)


def _server_name(content: bytes) -> str | None:
    """The DNS name (RFC 6066 3), lower case, without a trailing dot."""
    entries = _Reader(_Reader(content).vector(2))
    while entries.left:
        kind = entries.take(1)[0]
        name = entries.vector(2)
        if kind == 0:
            text = name.decode("ascii").rstrip(".").lower()
            if not 0 < len(text) <= 253 or any(not ("!" < char < "\x7f") or char in "/\\\"'<>" for char in text):
                raise UnicodeDecodeError("ascii", name, 0, len(name), "not a host name")
            return text
    return None


def _names(content: bytes) -> Iterator[bytes]:
    names = _Reader(_Reader(content).vector(2))
    while names.left:
        yield names.vector(1)


class _TooShort(Exception):
    """A length points beyond the end of the bytes."""


class _Reader:
    """Reads fields one after another."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _TooShort
        self._at += count
        return self._data[self._at - count : self._at]

    def vector(self, size: int) -> bytes:
        """The bytes after a length field of `size` bytes."""
        return self.take(int.from_bytes(self.take(size), "big"))


def _words(data: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise _TooShort
    return tuple(each for each in struct.unpack(f"!{len(data) // 2}H", data) if not _is_grease(each))


def _is_grease(value: int) -> bool:
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


def _is_grease_name(name: bytes) -> bool:
    return len(name) == 2 and _is_grease(int.from_bytes(name, "big"))


def _hex(values: tuple[int, ...] | list[int]) -> str:
    return ",".join(f"{value:04x}" for value in values)


def _digest(values: tuple[int, ...], signatures: tuple[int, ...]) -> str:
    """JA4's digest of ciphers, or of extensions with signature algorithms."""
    listed = _hex(sorted(values))
    if listed and signatures:
        listed += "_" + _hex(signatures)
    return _hash(listed)


_remembered = functools.lru_cache(REMEMBERED)(_digest)  # most clients are one of few


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12] if text else EMPTY_HASH
