"""Flow records for tests: one that is complete, with whatever a test wants to differ."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from proxy.flow.record import Decision, FlowRecord, TLSRecord, Totals

SECOND = 10**9
BASE = 1_750_000_000 * SECOND


def make_record(number: int = 0, **changes: Any) -> FlowRecord:
    """The end of a flow; flow `number` began that many seconds after the first, and took 2 s."""
    values: dict[str, Any] = {
        "event": "end",
        "seq": 1,
        "final": True,
        "flow_id": f"f{number:08d}",
        "community_id": "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "tenant": "acme",
        "user": "user@acme.example",
        "node": "edge",
        "onramp": "connected",
        "tunnel": "t1",
        "start": BASE + number * SECOND,
        "end": BASE + (number + 2) * SECOND,
        "duration_ms": 2000.0,
        "protocol": "tcp",
        "src": "100.96.0.2",
        "src_port": 40_000,
        "dst": "10.50.0.10",
        "dst_port": 80,
        "total": Totals(client_payload_bytes=100, origin_payload_bytes=2000),
        "level": "stream",
        "state": "closed",
        "closed_by": "client",
        "close_reason": "client_closed",
    }
    return FlowRecord(**{**values, **changes})


def live_record(number: int = 0, **changes: Any) -> FlowRecord:
    """An update of a flow that lives."""
    living = {"event": "update", "final": False, "end": None, "state": "established"}
    return make_record(number, **{**living, "closed_by": None, "close_reason": None, **changes})


ALLOWED = Decision(stage="network", policy="default", action="allow", reason="no rule matched")
DENIED = Decision(stage="network", policy="office", rule="no-ssh", action="block", enforced=False)
_v4 = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.50.0.10", "192.0.2.1"])
_v6 = st.sampled_from(["fd00::1", "fd00::2", "fd00:50::10", "2001:db8::1"])


@st.composite
def records(draw: st.DrawFn, live: bool = False) -> FlowRecord:
    """Records whose values are few, so that filters hit and miss."""
    address = draw(st.sampled_from([_v4, _v6]))
    start = BASE + draw(st.integers(0, 20)) * SECOND
    length = draw(st.integers(0, 5)) * SECOND
    changes = {
        "tenant": draw(st.sampled_from(["acme", "globex"])),
        "user": draw(st.sampled_from([None, "ann", "bob", "zoë"])),
        "device": draw(st.sampled_from([None, "laptop", "phone"])),
        "dst_host": draw(st.sampled_from([None, "wiki.acme.example", "Git.Example", "[::1]"])),
        "tls": draw(st.sampled_from([None, TLSRecord(), TLSRecord(sni="a.example", action="terminate")])),
        "dscp": draw(st.sampled_from([None, 0, 46])),
        "verdict": draw(st.sampled_from(["allowed", "denied"])),
        "decisions": draw(st.sampled_from([[], [ALLOWED], [DENIED, ALLOWED]])),
        "start": start,
        "duration_ms": length / 1e6,
        "src": draw(address),
        "dst": draw(address),
        "src_port": draw(st.sampled_from([0, 1024, 40_000, 65_535])),
        "dst_port": draw(st.sampled_from([22, 53, 80, 443])),
        "protocol": draw(st.sampled_from(["tcp", "udp", "icmp", "icmpv6"])),
        "total": Totals(
            client_payload_bytes=draw(st.integers(0, 5)), origin_payload_bytes=draw(st.sampled_from([0, 1, 1 << 40]))
        ),
    }
    number = draw(st.integers(0, 10**6))
    if live:
        return live_record(number, **changes, state=draw(st.sampled_from(["new", "established"])))
    reason = draw(st.sampled_from(["client_closed", "origin_reset", "denied"]))
    return make_record(number, **changes, end=start + length, close_reason=reason)
