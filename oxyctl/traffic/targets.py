"""Parses `host:port` and URLs."""

from __future__ import annotations

import re
import urllib.parse
from typing import NamedTuple

SCHEMES = {"http": 80, "https": 443}
WEBSOCKETS = {"ws": "http", "wss": "https"}
_ENDPOINT = re.compile(
    r"(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[^:\[\]/\s]+))(?::(?P<port>\d{1,5}))?|(?P<bare>[0-9a-fA-F:.]+)"
)


class Endpoint(NamedTuple):
    """A destination: a name or address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Url(NamedTuple):
    """An HTTP target, parsed."""

    scheme: str
    endpoint: Endpoint
    path: str  # with its query

    @property
    def host_header(self) -> str:
        """The value of the `Host` header (RFC 9110 7.2)."""
        host, port = self.endpoint
        name = f"[{host}]" if ":" in host else host
        return name if port == SCHEMES[self.scheme] else f"{name}:{port}"


def parse_endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """Parse `web:80`, `10.0.0.1:80`, `[fd00::1]:80`; with a default, the port may be missing. ValueError."""
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a host and port: {text!r} (write web:80 or [fd00::1]:80)")
    host = match["six"] or match["name"] or match["bare"]
    port = int(match["port"]) if match["port"] else default_port
    if port is None:
        raise ValueError(f"no port: {text!r} (write {'[' + host + ']' if ':' in host else host}:80)")
    if not 0 < port < 65_536:
        raise ValueError(f"not a port: {port}")
    return Endpoint(host, port)


def parse_websocket_url(text: str) -> Url:
    """The HTTP URL that opens `ws://web/ws` or `wss://[fd00::1]:8443/ws`. ValueError."""
    scheme, _, rest = text.partition(":")
    if scheme not in WEBSOCKETS:
        raise ValueError(f"not the URL of a WebSocket: {text!r} (write ws://web/ws or wss://web:8443/ws)")
    return parse_url(f"{WEBSOCKETS[scheme]}:{rest}")


def parse_url(text: str) -> Url:
    """Parse `http://web/path` or `https://[fd00::1]:8443/`. ValueError."""
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {text!r}: {error}") from None
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ValueError(f"not a URL: {text!r} (write http://web/ or https://web:8443/path)")
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError(f"not a URL: {text!r}: its path needs percent-encoding")
    return Url(parts.scheme, Endpoint(parts.hostname, port or SCHEMES[parts.scheme]), path)
