"""The record of one request of an inspected flow: a child record, logged beside the flow's own."""

from __future__ import annotations

from typing import Literal

import msgspec

from proxy.flow.record import Verdict
from proxy.verdict import Decision

SCHEMA = "oxy.request/1"
Version = Literal["1.0", "1.1", "2"]
DEFAULT_PORTS = {"http": 80, "https": 443}


class RequestRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request and its response. Times are Unix nanoseconds, durations milliseconds; None means unknown."""

    schema: str = SCHEMA
    request_id: str  # the flow's id, a dot, and the request's number in it, from 1
    flow_id: str
    tenant: str
    user: str | None = None

    start: int
    duration_ms: float
    is_open: bool = False  # in progress; numbers are as of now
    ttfb_ms: float | None = None  # from the request's head to the response's

    method: str = ""  # empty: the bytes were not a request
    scheme: str = ""
    host: str = ""
    port: int | None = None
    path: str = ""  # with the query string
    client_version: Version | None = None
    origin_version: Version | None = None
    origin: str | None = None  # address:port, if policy redirected it
    status: int | None = None  # as sent to the client
    upgrade: str | None = None  # the connection's new protocol: websocket, connect, or the token asked for

    request_header_bytes: int = 0
    request_body_bytes: int = 0
    response_header_bytes: int = 0
    response_body_bytes: int = 0
    request_type: str | None = None  # media types
    response_type: str | None = None
    user_agent: str | None = None

    client_messages: int | None = None  # of a WebSocket
    origin_messages: int | None = None
    close_code: int | None = None  # of a WebSocket: the first that either side sent

    verdict: Verdict = "allowed"
    decisions: list[Decision] = []
    fault: str | None = None  # why it failed, as named in `Fault`
    error: str | None = None  # the same as an error type of Proxy-Status (RFC 9209 2.3)
    detail: str | None = None  # the same in words
    fault_by: Literal["client", "origin", "proxy"] | None = None

    @property
    def url(self) -> str:
        """The URL as a browser shows it."""
        return self.url_prefix + self.path

    @property
    def url_prefix(self) -> str:
        """The URL without path and query."""
        port = "" if self.port is None or self.port == DEFAULT_PORTS.get(self.scheme) else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{port}"
