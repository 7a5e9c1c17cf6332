"""Heads of requests and responses, independent of the HTTP version and without their framing."""

from __future__ import annotations

import functools
from typing import Literal

Header = tuple[bytes, bytes]  # the name as received
Headers = list[Header]
Version = Literal["1.0", "1.1", "2"]

# Fields that concern a single connection (RFC 9110 7.6.1), or are generated from other attributes of the head.
OWN_FIELDS = frozenset(
    (
        b"connection",
        b"content-length",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"via",
    )
)
# Fields not allowed in trailers: for framing, routing, authentication and content (RFC 9110 6.5.1).
_NO_TRAILERS = OWN_FIELDS | frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"max-forwards",
        b"proxy-authorization",
        b"range",
        b"set-cookie",
        b"trailer",
    )
)


class RequestHead:
    """The head of a request. `headers` does not contain `OWN_FIELDS`."""

    __slots__ = (
        "authority",
        "closes",
        "headers",
        "is_absolute",
        "is_bodiless",
        "length",
        "method",
        "path",
        "protocol",
        "scheme",
        "size",
        "takes_trailers",
        "version",
        "via",
    )

    def __init__(self, method: bytes, scheme: bytes, authority: bytes, path: bytes, version: Version) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority  # host and port, as in Host
        self.path = path  # with the query; `*` for OPTIONS, empty for CONNECT
        self.version: Version = version
        self.headers: Headers = []
        self.length: int | None = None  # of the body, if known
        self.is_bodiless = True
        self.is_absolute = False  # the target was an absolute URL, meant for another proxy
        self.protocol: bytes | None = None  # to which the connection, or stream, should switch
        self.takes_trailers = False
        self.closes = version == "1.0"  # the client sends no more requests
        self.via: list[bytes] = []
        self.size = 0  # of the head, in bytes

    @property
    def is_tunnel(self) -> bool:
        """Whether it asks for a tunnel or an upgrade."""
        return self.protocol is not None or self.method == b"CONNECT"


class ResponseHead:
    """The head of a response, final or interim. `headers` does not contain `OWN_FIELDS`."""

    __slots__ = ("closes", "headers", "is_bodiless", "length", "protocol", "reason", "size", "status", "version", "via")

    def __init__(self, status: int, reason: bytes = b"", version: Version = "1.1") -> None:
        self.status = status
        self.reason = reason
        self.version: Version = version
        self.headers: Headers = []
        self.length: int | None = None
        self.is_bodiless = False
        self.protocol: bytes | None = None  # of a 101: the new protocol
        self.closes = False  # the connection to the client is closed after this response
        self.via: list[bytes] = []
        self.size = 0


def first(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first field `name` (in lower case), or None."""
    for each, value in headers:
        if each.lower() == name:
            return value
    return None


def values(headers: Headers, name: bytes) -> list[bytes]:
    """The values of all fields `name` (in lower case)."""
    return [value for each, value in headers if each.lower() == name]


def without(headers: Headers, name: bytes) -> Headers:
    """`headers` without the fields `name` (in lower case)."""
    return [each for each in headers if each[0].lower() != name]


def trailers_of(fields: Headers) -> Headers:
    """Those of `fields` that are allowed in trailers."""
    return [each for each in fields if each[0].lower() not in _NO_TRAILERS] if fields else fields


def tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated list, in lower case."""
    return [each for part in value.split(b",") if (each := part.strip().lower())]


@functools.lru_cache(maxsize=64)  # called three times a request
def host_and_port(authority: bytes) -> tuple[str, int | None]:
    """The host in lower case, without brackets, and the port; None if it is missing or invalid."""
    text = authority.decode("latin-1").lower()
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else None
    return host.removeprefix("[").removesuffix("]"), number
