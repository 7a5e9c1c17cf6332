"""Flows in the formats of other tools: Suricata's EVE, Zeek's conn.log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from proxy.control.schema import FlowRecord

Get = Callable[[FlowRecord], Any]

_REASONS = {"client_idle_timeout": "timeout", "origin_timeout": "timeout", "drain": "shutdown"}
_TRANSPORTS = {"tcp", "udp", "icmp"}
_encode = msgspec.json.Encoder().encode


def eve_lines(records: Iterable[FlowRecord]) -> Iterator[str]:
    """Events of type `flow` (Suricata user guide, EVE JSON format)."""
    for record in records:
        yield _encode(eve(record)).decode()


def eve(record: FlowRecord) -> dict[str, Any]:
    """One flow as an EVE event."""
    total = record.total
    end = record.end if record.end is not None else record.start + int(record.duration_ms * 1e6)
    event: dict[str, Any] = {
        "timestamp": _iso(end),
        "flow_id": _number(record.flow_id),
        "event_type": "flow",
        "src_ip": record.src,
        "src_port": record.src_port,
        "dest_ip": record.dst,
        "dest_port": record.dst_port,
        "ip_v": 6 if ":" in record.src else 4,
        "proto": {"icmpv6": "IPv6-ICMP"}.get(record.protocol, record.protocol.upper()),
        "community_id": record.community_id,
        "flow": {
            "pkts_toserver": total.client_packets,
            "pkts_toclient": total.origin_packets,
            "bytes_toserver": total.client_bytes,
            "bytes_toclient": total.origin_bytes,
            "start": _iso(record.start),
            "end": _iso(end),
            "age": int(record.duration_ms / 1000),
            "state": record.state,
            "reason": _REASONS.get(record.close_reason or "", "unknown"),
            "alerted": False,
        },
        "host": record.node,
    }
    if record.detected_protocol:
        event["app_proto"] = record.detected_protocol
    return event


def _iso(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f%z")


def _number(flow_id: str) -> int:
    """A number below 2^53, which all JSON readers keep exactly, from our flow id."""
    try:
        return int(flow_id, 16) & (1 << 53) - 1
    except ValueError:
        return int.from_bytes(flow_id.encode()[-6:], "big")


_ZEEK: tuple[tuple[str, str, Get], ...] = (
    ("ts", "time", lambda r: f"{r.start / 1e9:.6f}"),
    ("uid", "string", lambda r: r.flow_id),
    ("id.orig_h", "addr", lambda r: r.src),
    ("id.orig_p", "port", lambda r: r.src_port),
    ("id.resp_h", "addr", lambda r: r.dst),
    ("id.resp_p", "port", lambda r: r.dst_port),
    ("proto", "enum", lambda r: {"icmpv6": "icmp"}.get(r.protocol, r.protocol)),
    ("service", "string", lambda r: r.detected_protocol),
    ("duration", "interval", lambda r: f"{r.duration_ms / 1e3:.6f}"),
    ("orig_bytes", "count", lambda r: r.total.client_payload_bytes),
    ("resp_bytes", "count", lambda r: r.total.origin_payload_bytes),
    ("conn_state", "string", lambda r: r.conn_state or "OTH"),
    ("local_orig", "bool", lambda r: None),
    ("local_resp", "bool", lambda r: None),
    ("missed_bytes", "count", lambda r: 0),
    ("history", "string", lambda r: r.history or None),
    ("orig_pkts", "count", lambda r: r.total.client_packets),
    ("orig_ip_bytes", "count", lambda r: r.total.client_bytes),
    ("resp_pkts", "count", lambda r: r.total.origin_packets),
    ("resp_ip_bytes", "count", lambda r: r.total.origin_bytes),
    ("tunnel_parents", "set[string]", lambda r: "(empty)"),
    ("community_id", "string", lambda r: r.community_id),
)


def zeek_lines(records: Iterable[FlowRecord]) -> Iterator[str]:
    """A conn.log (Zeek's ASCII writer: a header, and values between tabs)."""
    yield "#separator \\x09"
    yield "#set_separator\t,"
    yield "#empty_field\t(empty)"
    yield "#unset_field\t-"
    yield "#path\tconn"
    yield "\t".join(["#fields", *(name for name, _, _ in _ZEEK)])
    yield "\t".join(["#types", *(kind for _, kind, _ in _ZEEK)])
    for record in records:
        yield "\t".join(_zeek_text(get(record)) for _, _, get in _ZEEK)


def _zeek_text(value: Any) -> str:
    """Escape as Zeek's writer does: a separator inside a value would split it."""
    if value is None:
        return "-"
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
