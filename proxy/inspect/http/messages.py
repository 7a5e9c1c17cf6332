"""The heads of requests and responses as exchanges see them: without their framing, whatever the version was."""

from __future__ import annotations

import functools
from typing import Literal

Header = tuple[bytes, bytes]  # the name as it came
Headers = list[Header]
Version = Literal["1.0", "1.1", "2"]

# What concerns one connection and no more (RFC 9110 7.6.1), or is written anew from the head's other fields.
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
# What must not come after a body: how it is framed, sent and read, and who asks (RFC 9110 6.5.1).
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
    """A request without its body. `headers` lacks what is in `OWN_FIELDS`."""

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
        self.authority = authority  # host and port as in Host
        self.path = path  # with its query; `*` of OPTIONS, empty of CONNECT
        self.version: Version = version
        self.headers: Headers = []
        self.length: int | None = None  # of the body, where it was announced
        self.is_bodiless = True
        self.is_absolute = False  # the target was a whole URL: it is meant for a proxy behind this one
        self.protocol: bytes | None = None  # what the connection, or the stream, is to become
        self.takes_trailers = False
        self.closes = version == "1.0"  # the client wants no other request to follow
        self.via: list[bytes] = []
        self.size = 0  # bytes of the head

    @property
    def is_tunnel(self) -> bool:
        """Whether it asks for the connection to become something else."""
        return self.protocol is not None or self.method == b"CONNECT"


class ResponseHead:
    """A response without its body; also an interim one. `headers` lacks what is in `OWN_FIELDS`."""

    __slots__ = ("closes", "headers", "is_bodiless", "length", "protocol", "reason", "size", "status", "version", "via")

    def __init__(self, status: int, reason: bytes = b"", version: Version = "1.1") -> None:
        self.status = status
        self.reason = reason
        self.version: Version = version
        self.headers: Headers = []
        self.length: int | None = None
        self.is_bodiless = False
        self.protocol: bytes | None = None  # of 101: what is spoken from here
        self.closes = False  # the connection to the client ends with this response
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
    """All but the fields `name` (in lower case)."""
    return [each for each in headers if each[0].lower() != name]


def trailers_of(fields: Headers) -> Headers:
    """Those of them that may come after a body."""
    return [each for each in fields if each[0].lower() not in _NO_TRAILERS] if fields else fields


def tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated list, in lower case."""
    return [each for part in value.split(b",") if (each := part.strip().lower())]


@functools.lru_cache(maxsize=64)  # asked three times for each request
def host_and_port(authority: bytes) -> tuple[str, int | None]:
    """The host in lower case, without brackets, and the port, if one is there; a bad port is None."""
    text = authority.decode("latin-1").lower()
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else None
    return host.removeprefix("[").removesuffix("]"), number
