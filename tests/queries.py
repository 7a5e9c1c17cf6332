"""Queries for tests: of few values, so that they hit and miss the records of `tests.records`."""

from __future__ import annotations

from hypothesis import strategies as st

from proxy.flow.parameters import parse_prefix
from proxy.flow.query import SORT_KEYS, Filters, FlowQuery
from proxy.flow.record import Protocol, State
from tests.records import BASE, SECOND

words = {
    "protocol": Protocol.__args__,
    "state": State.__args__,
    "user": ("ann", "zoë"),
    "device": ("laptop", "phone"),
    "verdict": ("allowed", "denied"),
    "tls_action": ("pass", "terminate"),
    "version": (4, 6),
    "dscp": (0, 46),
    "host": ("*.example", "wiki.acme.example", "[*", "?iki*"),
    "policy": ("office", "no-ssh", "default"),
}
prefixes = st.sampled_from(["0.0.0.0/0", "10.0.0.0/30", "10.50.0.10", "::/0", "fd00::/16", "2001:db8::1"])
ranges = st.sampled_from([(0, 0), (22, 80), (443, 443), (1024, 65_535)])


WHERE = (
    "",
    "",
    "net.dst.port == 443 or net.dst.port in {20..30}",
    "flow.bytes > 3 and not net.src.ip in {10.0.0.0/31 fd00::/16}",
    'identity.email == "ann" or net.dst.host contains "wiki"',
    "identity.email != flow.device and not flow.device == identity.email",
    'net.protocol != "udp" and flow.duration_s >= 2',
    'lower(identity.email) contains "z" xor flow.dscp < 50',
    'not (net.dst.host wildcard "*.example" or flow.dscp in {46}) and net.dst.ip != 10.50.0.10',
    'cidr(net.src.ip, 30, 64) == 10.0.0.0 or identity.email == flow.device or to_string(net.dst.port) ~ "^4"',
    'not identity.email in {"ann" "bob"} and flow.bytes < 99999999999999999999',
)


@st.composite
def queries(draw):
    return FlowQuery(
        tenant=draw(st.sampled_from(["acme", "globex", None])),
        since=draw(moments),
        until=draw(moments),
        sort=draw(st.sampled_from(sorted(SORT_KEYS))),
        descending=draw(st.booleans()),
        limit=draw(st.sampled_from([1, 5, 100])),
        where=draw(st.sampled_from(WHERE)),
        excluded=Filters(**draw(filters())),
        **draw(filters()),
    )


moments = st.none() | st.integers(0, 25).map(lambda second: BASE + second * SECOND)


@st.composite
def filters(draw):
    def some(values):
        return tuple(draw(st.lists(values, max_size=2)))

    chosen = {name: some(prefixes.map(parse_prefix)) for name in ("src", "dst", "ip") if draw(st.booleans())}
    chosen |= {name: some(ranges) for name in ("src_port", "dst_port", "port") if draw(st.booleans())}
    chosen |= {name: some(st.sampled_from(values)) for name, values in words.items() if draw(st.booleans())}
    return {
        **chosen,
        "min_bytes": draw(st.sampled_from([0, 0, 3, 1 << 40])),
        "min_duration_ms": draw(st.sampled_from([0, 0, 2000.0])),
    }
