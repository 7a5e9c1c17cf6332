"""Parses the ClientHello of TLS (RFC 8446 4.1.2), as far as it identifies server and client, and computes its JA4.

The bytes may end anywhere: the result is then the minimum number of bytes needed, so that sending one byte at a time
costs the sender more than the reader. A ClientHello may be split over segments and records; one longer than
`MAX_HELLO` is rejected.
"""

from __future__ import annotations

import enum
import functools
import re
import struct
from dataclasses import dataclass
from hashlib import sha256

HANDSHAKE, CLIENT_HELLO = 22, 1
RECORD_HEADER, MESSAGE_HEADER = 5, 4
MAX_RECORD = 16_384  # RFC 8446 5.1
MAX_HELLO = 65_536  # those of browsers are below 2 KB, even with post-quantum key shares

SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS, EARLY_DATA = 0, 13, 16, 43, 42
ECH = 0xFE0D

VERSIONS = {0x0304: "TLSv1.3", 0x0303: "TLSv1.2", 0x0302: "TLSv1.1", 0x0301: "TLSv1", 0x0300: "SSLv3", 0x0002: "SSLv2"}
JA4_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}
EMPTY_HASH = "0" * 12
MAX_CACHED, MAX_CACHED_VALUES = 256, 64  # number of lists whose hash is cached, and their maximum length

_word = struct.Struct("!H").unpack_from
_head = struct.Struct("!HH").unpack_from  # of an extension: its kind and size
_GREASE = frozenset(each << 8 | each for each in range(0x0A, 0x100, 0x10))  # RFC 8701
_PARSED = frozenset((SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS))
_HOST_NAME = re.compile(r"[#-&(-.0-;=?-\[\]-~]{1,253}").fullmatch  # no blanks, quotes, slashes, angle brackets


class Malformed(enum.Enum):
    """The reason why bytes are not a ClientHello."""

    NOT_TLS = "no TLS handshake record"
    NOT_HELLO = "a TLS handshake that does not begin with ClientHello"
    TOO_LONG = "a ClientHello of more than 64 KiB"
    BAD_RECORD = "an empty or oversized TLS record"
    BAD_LENGTH = "a length inside the ClientHello points beyond its end"
    BAD_NAME = "a server name that is none"


@dataclass(frozen=True, slots=True)
class Hello:
    """The contents of a ClientHello. Lists are in its order, without the reserved values of GREASE (RFC 8701)."""

    versions: tuple[int, ...]  # that it supports; from old clients only the highest
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...]
    signature_algorithms: tuple[int, ...]
    alpn: tuple[str, ...]
    sni: str | None
    has_ech: bool
    length: int  # in bytes, including record headers

    @property
    def version(self) -> str:
        """The highest version that the client supports, such as `TLSv1.3`."""
        return VERSIONS.get(max(self.versions, default=0), "unknown")

    @property
    def ja4(self) -> str:
        """The fingerprint of the client's TLS library and settings (FoxIO's JA4, over TCP)."""
        first = self.alpn[0] if self.alpn else ""
        if first and not (first[0].isascii() and first[0].isalnum() and first[-1].isascii() and first[-1].isalnum()):
            digits = first.encode("latin-1", "replace").hex()
            alpn_letters = digits[0] + digits[-1]
        else:
            alpn_letters = first[0] + first[-1] if first else "00"
        head = (
            f"t{JA4_VERSIONS.get(max(self.versions, default=0), '00')}{'i' if self.sni is None else 'd'}"
            f"{min(len(self.ciphers), 99):02}{min(len(self.extensions), 99):02}{alpn_letters}"
        )
        is_cacheable = max(len(self.ciphers), len(self.extensions), len(self.signature_algorithms)) <= MAX_CACHED_VALUES
        digest = _cached_digest if is_cacheable else _digest
        extensions = tuple(each for each in self.extensions if each not in (SERVER_NAME, ALPN))
        return f"{head}_{digest(self.ciphers, ())}_{digest(extensions, self.signature_algorithms)}"


def parse(data: bytes) -> Hello | Malformed | int:
    """The ClientHello in a client's first bytes, why they are not one, or the minimum number of bytes needed."""
    reassembled = _reassemble(data)
    if not isinstance(reassembled, tuple):
        return reassembled
    message, length = reassembled
    try:
        return _parse_hello(message, length)
    except (struct.error, IndexError, _TooShort):
        return Malformed.BAD_LENGTH
    except UnicodeDecodeError:
        return Malformed.BAD_NAME


def _reassemble(data: bytes) -> tuple[bytes, int] | Malformed | int:
    """The message without record headers, and its length in bytes with them; otherwise as `parse`."""
    if data[:1] not in (b"", bytes([HANDSHAKE])) or data[1:2] not in (b"", b"\x03"):
        return Malformed.NOT_TLS
    message = bytearray()
    needed = MESSAGE_HEADER
    at = 0
    while len(message) < needed:
        if at > MAX_HELLO:
            return Malformed.TOO_LONG
        if len(data) < at + RECORD_HEADER:
            return at + RECORD_HEADER + (needed - len(message))
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
            needed = MESSAGE_HEADER + int.from_bytes(message[1:MESSAGE_HEADER], "big")
            if needed > MAX_HELLO:
                return Malformed.TOO_LONG
        if len(data) < at and len(message) < needed:
            return max(len(data) + 1, min(at, len(data) + needed - len(message)))
    return bytes(message[MESSAGE_HEADER:needed]), at


def _parse_hello(body: bytes, length: int) -> Hello:
    """Parse by offsets, in one pass, since every connection that is lifted to a stream or inspected pays for it."""
    (legacy_version,) = _word(body)
    _, at = _vector(body, 34, 1)  # session id, after the version and 32 random bytes
    start, at = _vector(body, at, 2)
    ciphers = _uint16s(body, start, at)
    _, at = _vector(body, at, 1)  # compression
    extensions: list[int] = []
    versions: tuple[int, ...] = (legacy_version,)
    algorithms: tuple[int, ...] = ()
    alpn: tuple[str, ...] = ()
    sni: str | None = None
    at, last = _vector(body, at, 2) if at < len(body) else (at, at)
    while at < last:
        kind, size = _head(body, at)
        start, at = at + 4, at + 4 + size
        if at > last:
            raise _TooShort
        if kind in _GREASE:
            continue
        extensions.append(kind)
        if kind in _PARSED:
            content = body[start:at]
            if kind == SERVER_NAME:
                sni = _server_name(content)
            elif kind == SUPPORTED_VERSIONS:
                versions = _uint16s(content, *_vector(content, 0, 1))
            elif kind == SIGNATURE_ALGORITHMS:
                algorithms = _uint16s(content, *_vector(content, 0, 2))
            else:
                alpn = _protocol_names(content)
    return Hello(versions, ciphers, tuple(extensions), algorithms, alpn, sni, ECH in extensions, length)


def _server_name(content: bytes) -> str | None:
    """The DNS name (RFC 6066 3) in lower case, without a trailing dot."""
    at, last = _vector(content, 0, 2)
    while at < last:
        kind = content[at]
        start, at = _vector(content[:last], at + 1, 2)
        if kind == 0:
            name = content[start:at]
            text = name.decode("ascii").rstrip(".").lower()
            if not _HOST_NAME(text):
                raise UnicodeDecodeError("ascii", name, 0, len(name), "not a host name")
            return text
    return None


def _protocol_names(content: bytes) -> tuple[str, ...]:
    """The protocol names of ALPN (RFC 7301 3.1)."""
    at, last = _vector(content, 0, 2)
    names = []
    while at < last:
        start, at = _vector(content[:last], at, 1)
        if not _is_grease_name(name := content[start:at]):
            names.append(name.decode("latin-1"))
    return tuple(names)


class _TooShort(Exception):
    """A length points beyond the end of the bytes."""


def _vector(data: bytes, at: int, size: int) -> tuple[int, int]:
    """The start and the end of the bytes that follow a length field of `size` bytes at `at`."""
    start = at + size
    end = start + int.from_bytes(data[at:start], "big")
    if start > len(data) or end > len(data):
        raise _TooShort
    return start, end


def _uint16s(data: bytes, start: int, end: int) -> tuple[int, ...]:
    numbers = struct.unpack(f"!{(end - start) // 2}H", data[start:end])
    return numbers if _GREASE.isdisjoint(numbers) else tuple([each for each in numbers if each not in _GREASE])


def _is_grease_name(name: bytes) -> bool:
    return len(name) == 2 and int.from_bytes(name, "big") in _GREASE


def _hex(values: tuple[int, ...] | list[int]) -> str:
    return ",".join(f"{value:04x}" for value in values)


def _digest(values: tuple[int, ...], signatures: tuple[int, ...]) -> str:
    """JA4's digest of ciphers, or of extensions with signature algorithms."""
    text = _hex(sorted(values))
    if text and signatures:
        text += "_" + _hex(signatures)
    return _hash(text)


_cached_digest = functools.lru_cache(MAX_CACHED)(_digest)  # most connections are from a few kinds of clients


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12] if text else EMPTY_HASH
