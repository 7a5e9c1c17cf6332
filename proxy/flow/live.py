"""Live flows in queries: the properties of a record, without building a record."""

from __future__ import annotations

import operator

from proxy.flow.query import FlowQuery, Getters

_VERSION = {4: b"\x04", 16: b"\x06"}
_TOTALS = frozenset(("bytes", "up", "down"))


def flow_getters(now_ns: int) -> Getters:
    """Functions that read from a flow the values needed for filters and sorting. `now_ns`: the end of durations."""
    payload = operator.methodcaller("payload")
    return {
        "flow_id": operator.attrgetter("id"),
        "start": operator.attrgetter("started_ns"),
        "end": operator.attrgetter("ended_ns"),
        "duration": lambda flow: ((flow.ended_ns or now_ns) - flow.started_ns) / 1e6,
        "bytes": lambda flow: sum(payload(flow)),
        "up": lambda flow: payload(flow)[0],
        "down": lambda flow: payload(flow)[1],
        "tenant": operator.attrgetter("tenant.name"),
        "user": operator.attrgetter("carrier.user"),
        "device": operator.attrgetter("carrier.device"),
        "src": lambda flow: _VERSION[len(flow.source)] + flow.source,
        "dst": lambda flow: _VERSION[len(flow.destination)] + flow.destination,
        "src_port": operator.attrgetter("source_port"),
        "dst_port": operator.attrgetter("destination_port"),
        "community_id": lambda flow: flow.community_id(),
        **{name: operator.attrgetter(name) for name in _SAME},
    }


_SAME = (
    "protocol", "state", "close_reason", "verdict", "level", "onramp", "offramp", "decisions", "dscp", "dst_host",
    "tls_action",
)  # fmt: skip


def needs_totals(query: FlowQuery) -> bool:
    """Whether the order or a filter depends on the flows' traffic."""
    return query.sort in _TOTALS or bool(query.min_bytes or query.excluded.min_bytes or query.where)
