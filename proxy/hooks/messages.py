"""The arguments of the hooks above the stream: a handshake, a request, a message, a channel, a query.

Each leads to `flow`, the flow that carries it, with the application's extension. Header names are in lower case.
"""

from __future__ import annotations

from typing import Any, Generic, Literal

import msgspec

from proxy.context import Extension
from proxy.flow.context import FlowContext

Headers = list[tuple[str, str]]


class TlsClientHello(msgspec.Struct, Generic[Extension], kw_only=True):
    """What a client offers in its first TLS message (RFC 8446 4.1.2)."""

    flow: FlowContext[Extension]
    sni: str | None = None
    alpn: list[str] = []
    version: str | None = None  # the highest that it supports: `TLSv1.3`
    ja4: str | None = None


class HttpRequest(msgspec.Struct, Generic[Extension], kw_only=True):
    """The head of a request, before any of it is sent to the origin."""

    flow: FlowContext[Extension]
    version: Literal["1.0", "1.1", "2"]
    method: str
    scheme: Literal["http", "https"]
    host: str
    path: str  # including the query
    headers: Headers = []


class HttpResponse(msgspec.Struct, Generic[Extension], kw_only=True):
    """The head of a response, before any of it is sent to the client."""

    request: HttpRequest[Extension]
    status: int
    headers: Headers = []


class HttpBodyPart(msgspec.Struct, Generic[Extension], kw_only=True):
    """A part of the body of a request or response, as sent: not decompressed."""

    request: HttpRequest[Extension]
    response: HttpResponse[Extension] | None = None  # None: the body is the request's
    data: bytes  # at most 64 KiB
    is_last: bool  # no more parts follow; `data` may then be empty
    state: Any = None  # for the application: kept from one part of this body to the next


class WebSocketMessage(msgspec.Struct, Generic[Extension], kw_only=True):
    """A complete message from either side (RFC 6455 5.6)."""

    request: HttpRequest[Extension]  # that opened the connection
    sender: Literal["client", "origin"]
    kind: Literal["text", "binary"]
    data: bytes


class SshAuth(msgspec.Struct, Generic[Extension], kw_only=True):
    """A user's authentication attempt (RFC 4252)."""

    flow: FlowContext[Extension]
    username: str
    method: Literal["publickey", "password", "keyboard-interactive", "none"]
    fingerprint: str | None = None  # of the public key: `SHA256:...`
    identity: str | None = None  # the user according to the tunnel or to the key or certificate
    responses: tuple[str, ...] = ()  # a password, or answers: accepted only if the hook returns `PROVED`


class SshChannel(msgspec.Struct, Generic[Extension], kw_only=True):
    """A request of either side to open a channel (RFC 4254 5.1)."""

    flow: FlowContext[Extension]
    username: str
    kind: str  # `session`, `direct-tcpip`, ...
    target: tuple[str, int] | None = None  # of a forwarded connection


class SshExec(msgspec.Struct, Generic[Extension], kw_only=True):
    """A request for a command, a subsystem or a shell in a session (RFC 4254 6.5)."""

    channel: SshChannel[Extension]
    kind: Literal["exec", "subsystem", "shell"]
    command: str = ""


class DnsQuery(msgspec.Struct, Generic[Extension], kw_only=True):
    """The question of a DNS query (RFC 1035 4.1.2)."""

    flow: FlowContext[Extension]
    name: str
    type: str  # `A`, `AAAA`, `HTTPS`, ...
