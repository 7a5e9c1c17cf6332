"""Checks from inside a node: requests, connections, datagrams, programs, and traffic that must not arrive."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta, field

from oxyctl.topology.checks.base import FromNode, check_host, parsed
from oxyctl.topology.choices import Trust
from oxyctl.topology.model import ErrorAt, Lab
from oxyctl.topology.quantities import Duration, Share, Texts, seconds, share
from oxyctl.traffic.config import DNS_PORT, Family
from oxyctl.traffic.messages import TYPES, encode_query
from oxyctl.traffic.targets import parse_endpoint, parse_url, parse_websocket_url
from proxy.settings import suggest

Outcome = Literal["connected", "refused", "unreachable", "timeout", "reset"]
Count = Annotated[int, Meta(ge=0)]
Several = Annotated[int, Meta(ge=1, le=1000)]
Size = Annotated[int, Meta(ge=8, le=65_000)]


class HttpCheck(FromNode, kw_only=True, frozen=True, tag="http"):
    """An HTTP request gets the expected response. `verify`: the certificate must be valid for this name and signed by
    an authority that the node trusts (by default the lab's), or by the given one."""

    url: str
    method: Annotated[str, Meta(pattern="^[A-Z]{1,20}$")] = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    family: Family | None = None
    http2: bool = False
    verify: bool | Trust = False
    status: int | list[int] = 200
    contains: Texts = field(default_factory=list)
    length: Count | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None

    def summary(self) -> str:
        """The URL."""
        return self.url

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid URL or authority."""
        super().validate(lab, error_at)
        check_host(lab, error_at, parsed(error_at, "url", parse_url, self.url).endpoint.host, "url")
        check_verify(self.verify, self.sources, lab, error_at)


class WebSocketCheck(FromNode, kw_only=True, frozen=True, tag="websocket"):
    """A WebSocket echoes all messages over one connection."""

    url: str
    count: Several = 3
    size: Annotated[int, Meta(ge=0, le=64 << 20)] = 64
    family: Family | None = None
    http2: bool = False
    verify: bool | Trust = False

    def summary(self) -> str:
        """The URL."""
        return self.url

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid URL or authority."""
        super().validate(lab, error_at)
        check_host(lab, error_at, parsed(error_at, "url", parse_websocket_url, self.url).endpoint.host, "url")
        check_verify(self.verify, self.sources, lab, error_at)


def check_verify(verify: bool | Trust, nodes: list[str], lab: Lab, error_at: ErrorAt) -> None:
    """Raise `error_at(...)` if a node must verify with its tenant's authority but does not trust it."""
    for name in nodes if verify == "tenant-ca" else []:
        if lab.nodes[name].trust != "tenant-ca":
            raise error_at(f"node '{name}' does not have `trust: tenant-ca`", "verify")


class ToPort(FromNode, kw_only=True, frozen=True):
    """A check with the target `host:port`."""

    to: str
    family: Family | None = None

    def summary(self) -> str:
        """The target."""
        return self.to

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid target."""
        super().validate(lab, error_at)
        check_host(lab, error_at, parsed(error_at, "to", parse_endpoint, self.to).host, "to")


class TcpCheck(ToPort, kw_only=True, frozen=True, tag="tcp"):
    """A TCP connection attempt has the expected outcome, or one of several."""

    expect: Outcome | list[Outcome] = "connected"


class UdpCheck(ToPort, kw_only=True, frozen=True, tag="udp"):
    """An echo service answers datagrams, except for at most the share `loss`; or all have another outcome."""

    count: Several = 5
    size: Size = 64
    loss: Share = 0.0
    expect: Literal["answered", "refused", "unreachable", "timeout"] = "answered"

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid loss."""
        super().validate(lab, error_at)
        parsed(error_at, "loss", share, self.loss)


class PingCheck(FromNode, kw_only=True, frozen=True, tag="ping"):
    """Echo requests are answered within `rtt`, except for at most the share `loss`."""

    to: str
    family: Family | None = None
    count: Several = 3
    size: Size = 56
    loss: Share = 0.0
    rtt: Duration | None = None

    def summary(self) -> str:
        """The target."""
        return self.to

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid target, loss or RTT."""
        super().validate(lab, error_at)
        check_host(lab, error_at, parsed(error_at, "to", partial(parse_endpoint, default_port=1), self.to).host, "to")
        parsed(error_at, "loss", share, self.loss)
        if self.rtt is not None:
            parsed(error_at, "rtt", seconds, self.rtt)


class DnsCheck(FromNode, kw_only=True, frozen=True, tag="dns"):
    """A DNS query is answered with this code, and with at least these values."""

    server: str
    query: str
    type: str = "A"
    over: Literal["udp", "tcp"] = "udp"
    family: Family | None = None
    code: str = "noerror"
    answers: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """The query and the server."""
        return f"{self.query} {self.type} at {self.server}"

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid server, name or type."""
        super().validate(lab, error_at)
        server = parsed(error_at, "server", partial(parse_endpoint, default_port=DNS_PORT), self.server)
        check_host(lab, error_at, server.host, "server")
        if self.type not in TYPES:
            raise error_at(f"unknown record type '{self.type}'{suggest(self.type, TYPES)}", "type")
        parsed(error_at, "query", lambda name: encode_query(0, name, self.type), self.query)


class ExecCheck(FromNode, kw_only=True, frozen=True, tag="exec"):
    """A program ends with this exit code and the expected output. It runs alone, after all checks before it."""

    command: Annotated[list[str], Meta(min_length=1)]
    timeout: Duration = 30
    exit_code: int = 0
    contains: Texts = field(default_factory=list)  # in its standard output
    matches: str | None = None  # a regular expression, searched for there

    def summary(self) -> str:
        """The command line."""
        return " ".join(self.command)

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid regular expression."""
        super().validate(lab, error_at)
        if self.matches is not None:
            parsed(error_at, "matches", re.compile, self.matches)


class DroppedCheck(FromNode, kw_only=True, frozen=True, tag="dropped"):
    """Traffic to `to` must not arrive. Passes only if the same traffic to `canary` arrives right before and after."""

    by: Literal["tcp", "udp", "ping", "http"]
    to: str
    canary: str
    family: Family | None = None
    timeout: Duration = 2
    expect: list[Literal["timeout", "unreachable", "refused", "reset"]] = field(
        default_factory=lambda: ["timeout", "unreachable"]
    )

    def summary(self) -> str:
        """The traffic that must not arrive."""
        return f"{self.by} to {self.to}"

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid target or canary."""
        super().validate(lab, error_at)
        for key_path in ("to", "canary"):
            check_host(lab, error_at, parsed(error_at, key_path, self._host, getattr(self, key_path)), key_path)

    def _host(self, text: str) -> str:
        if self.by == "http":
            return parse_url(text).endpoint.host
        return parse_endpoint(text, 1 if self.by == "ping" else None).host
