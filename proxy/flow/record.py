"""The record of one flow, which is logged, stored, filtered and shown."""

from __future__ import annotations

from typing import Literal

import msgspec

from proxy.verdict import Decision as Decision  # a part of each record

Event = Literal["start", "connected", "update", "end"]
State = Literal["new", "established", "closed"]
Protocol = Literal["tcp", "udp", "icmp", "icmpv6", "sctp", "gre", "esp", "ah"]
Level = Literal["packet", "stream", "tls", "http", "ssh"]
Verdict = Literal["allowed", "denied", "audit", "redirected", "error"]
ClosedBy = Literal["client", "origin", "proxy"]
CloseReason = Literal[
    "client_closed",
    "client_reset",
    "client_idle_timeout",
    "client_tls_error",
    "client_protocol_error",
    "origin_closed",
    "origin_reset",
    "origin_tls_error",
    "origin_protocol_error",
    "origin_refused",
    "origin_unreachable",
    "origin_timeout",
    "denied",
    "limit_flows",
    "limit_rate",
    "evicted",
    "inspector_died",
    "policy_revoked",
    "admin_killed",
    "drain",
    "tunnel_closed",
    "proxy_error",
    "unknown",
]

SCHEMA = "oxy.flow/1"


class Totals(msgspec.Struct, frozen=True):
    """Counters of both directions. `*_bytes` count IP packets as tunnelled, `*_payload_bytes` delivered payload."""

    client_packets: int = 0
    client_bytes: int = 0
    client_payload_bytes: int = 0
    origin_packets: int = 0
    origin_bytes: int = 0
    origin_payload_bytes: int = 0
    spliced_bytes: int = 0

    def minus(self, earlier: Totals) -> Totals:
        """The difference from `earlier`."""
        return Totals(*(getattr(self, f) - getattr(earlier, f) for f in self.__struct_fields__))


class TLSRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The TLS of a flow: the ClientHello, and, if the proxy terminated it, both sides."""

    sni: str | None = None
    alpn: str | None = None  # negotiated; if TLS was passed, all that the client offered
    version: str | None = None  # negotiated with the client; if TLS was passed, the highest that it offered
    ja4: str | None = None
    has_ech: bool = False  # the name is that of the outer ClientHello
    action: Literal["pass", "terminate"] = "pass"
    cipher: str | None = None
    is_resumed: bool = False
    origin_version: str | None = None
    origin_cipher: str | None = None
    origin_is_resumed: bool = False
    issuer: str | None = None  # of the origin's certificate
    asks_certificate: bool = False  # the origin requests a client certificate
    error: str | None = None  # why there is no TLS with the client or the origin


class SSHRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The SSH of a flow that was relayed unread: the identification strings of both sides (RFC 4253 4.2)."""

    client_version: str | None = None
    server_version: str | None = None


class FlowRecord(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One event of one flow. Times are Unix nanoseconds, durations milliseconds; None means unknown."""

    schema: str = SCHEMA
    event: Event
    seq: int  # number of this flow's record, from 0
    final: bool = False  # the flow's last record

    flow_id: str  # sorts by start time
    parent_id: str | None = None
    community_id: str
    tenant: str
    user: str | None = None
    device: str | None = None
    vnet: str | None = None
    node: str
    onramp: str
    tunnel: str
    offramp: str | None = None
    offramp_tunnel: str | None = None  # the tunnel by which it leaves, if the off-ramp is a tunnel
    route: str | None = None

    start: int
    end: int | None = None
    duration_ms: float
    client_tcp_ms: float | None = None
    origin_tcp_ms: float | None = None
    policy_ms: float | None = None
    ttfb_ms: float | None = None

    protocol: Protocol
    src: str
    src_port: int  # the echo identifier for icmp and icmpv6
    dst: str
    dst_port: int
    origin: str | None = None  # address:port, as dialled
    egress_ip: str | None = None
    dst_host: str | None = None
    host_source: str | None = None
    dscp: int | None = None  # of the client's first packet

    total: Totals
    delta: Totals | None = None

    level: Level
    detected_protocol: str | None = None
    tls: TLSRecord | None = None
    ssh: SSHRecord | None = None

    verdict: Verdict = "allowed"
    decisions: list[Decision] = []

    state: State
    conn_state: str | None = None  # Zeek's: S0 S1 SF REJ RSTO RSTR OTH ...
    history: str = ""  # Zeek's letters, upper case from the client
    closed_by: ClosedBy | None = None
    close_reason: CloseReason | None = None
