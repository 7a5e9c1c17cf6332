"""Identifies the protocol of a client's first bytes: TLS, HTTP/1, HTTP/2, SSH, or unknown."""

from __future__ import annotations

import enum

from proxy.wire.client_hello import HANDSHAKE

H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SSH_BANNER = b"SSH-"
MAX_METHOD = 32
MAX_REQUEST_LINE = 8_192
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Sniffed(enum.Enum):
    """The identified protocol."""

    TLS = "tls"
    HTTP1 = "http"
    HTTP2 = "h2"
    SSH = "ssh"
    UNKNOWN = "unknown"


def sniff(data: bytes) -> Sniffed | None:
    """The protocol of a client's first bytes; None: more bytes are needed."""
    if not data:
        return None
    if data[0] == HANDSHAKE:
        if len(data) < 2:
            return None
        return Sniffed.TLS if data[1] == 3 else Sniffed.UNKNOWN
    for start, found in ((H2_PREFACE, Sniffed.HTTP2), (SSH_BANNER, Sniffed.SSH)):
        if data.startswith(start):
            return found
        if start.startswith(data):
            return None
    return _sniff_http1(data)


def _sniff_http1(data: bytes) -> Sniffed | None:
    """Match a request line (RFC 9112 3): a method, a target, and ` HTTP/1.`; None: more bytes are needed."""
    method, space, rest = data.partition(b" ")
    if not method or len(method) > MAX_METHOD or not _TOKEN.issuperset(method):
        return Sniffed.UNKNOWN
    if not space:
        return None
    line, newline, _ = rest.partition(b"\n")
    if newline:
        _, _, version = line.rstrip(b"\r").rpartition(b" ")
        return Sniffed.HTTP1 if version.startswith(b"HTTP/1.") else Sniffed.UNKNOWN
    if any(byte < 0x20 and byte != 0x0D for byte in line):
        return Sniffed.UNKNOWN
    # of a target that exceeds all limits, the first part is enough: the HTTP handler rejects it
    return None if len(line) < MAX_REQUEST_LINE else Sniffed.HTTP1
