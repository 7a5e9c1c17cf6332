"""ClientHellos as tests need them: of any list, GREASE included, in as many records as wanted."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Sequence

CHROME_CIPHERS = (0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C,
                  0x009D, 0x002F, 0x0035)  # fmt: skip
CHROME_EXTENSIONS = (0x001B, 0x000B, 0x0033, 0x0005, 0x0012, 0x4469, 0x000A, 0x002D, 0x0017, 0xFF01, 0x0023, 0x0015)
CHROME_ALGORITHMS = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)
CHROME_JA4 = "t13d1516h2_8daaf6152771_e5627efa2ab1"  # FoxIO's own example


def vector(size: int, data: bytes) -> bytes:
    """`data` behind its length."""
    return len(data).to_bytes(size, "big") + data


def words(values: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(values)}H", *values)


def extension(kind: int, data: bytes = b"") -> bytes:
    return words([kind]) + vector(2, data)


def server_name(name: bytes) -> bytes:
    return extension(0, vector(2, b"\0" + vector(2, name)))


def chrome(name: bytes | None = b"www.example.com", *, grease: bool = True, more: bytes = b"") -> bytes:
    """The message that FoxIO's example is of, without its record."""
    extensions = [extension(0x1A1A)] if grease else []
    extensions += [extension(kind, bytes(3)) for kind in CHROME_EXTENSIONS]
    if name is not None:
        extensions.append(server_name(name))
    extensions.append(extension(13, vector(2, words(CHROME_ALGORITHMS))))
    extensions.append(extension(16, vector(2, vector(1, b"h2") + vector(1, b"http/1.1"))))
    extensions.append(extension(43, vector(1, words([0x0A0A, 0x0304, 0x0303] if grease else [0x0304, 0x0303]))))
    ciphers = ([0x2A2A] if grease else []) + list(CHROME_CIPHERS)
    body = b"\x03\x03" + bytes(32) + vector(1, bytes(32)) + vector(2, words(ciphers)) + vector(1, b"\0")
    return b"\x01" + vector(3, body + vector(2, b"".join(extensions) + more))


def records(message: bytes, size: int = 16_384) -> bytes:
    """The message in records of at most `size` bytes."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, piece) for piece in pieces)


def openssl(name: str = "wiki.lab", alpn: Sequence[str] = ()) -> bytes:
    """What this Python's own TLS library says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()
