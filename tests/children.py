"""Child records for tests: of values that are few, so that filters hit and miss."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from proxy.flow.child import Child, ChildFilters, ChildQuery
from proxy.flow.request import RequestRecord
from proxy.flow.ssh import ChannelRecord, FileRecord
from tests.records import ALLOWED, BASE, DENIED, SECOND

FLOW = "17abcdef0123456789"  # a name as the proxy gives it: stored in nine bytes


def make_request(number: int = 1, **changes: Any) -> RequestRecord:
    """One GET of an hour ago that took 12 ms."""
    flow_id = changes.pop("flow_id", FLOW)
    values: dict[str, Any] = {
        "request_id": f"{flow_id}.{number}",
        "flow_id": flow_id,
        "tenant": "acme",
        "user": "user@acme.example",
        "start": BASE + number * SECOND,
        "duration_ms": 12.5,
        "ttfb_ms": 11.25,
        "method": "GET",
        "scheme": "https",
        "host": "wiki.lab",
        "path": "/index.html?lang=en",
        "client_version": "2",
        "origin_version": "1.1",
        "status": 200,
        "response_body_bytes": 1024,
        "response_type": "text/html",
    }
    return RequestRecord(**{**values, **changes})


def make_channel(number: int = 1, **changes: Any) -> ChannelRecord:
    """A command that was run and succeeded."""
    values: dict[str, Any] = {
        "channel_id": f"{FLOW}.{number}",
        "flow_id": FLOW,
        "tenant": "acme",
        "start": BASE,
        "duration_ms": 2000.0,
        "kind": "exec",
        "ssh_user": "deploy",
        "command": "uptime",
        "principals": ["deploy"],
        "exit_status": 0,
    }
    return ChannelRecord(**{**values, **changes})


_paths = st.sampled_from(["/", "/index.html", "/Admin/[x]", "/a?b=*", "/é"])
_common = {
    "tenant": st.sampled_from(["acme", "globex"]),
    "user": st.sampled_from([None, "ann", "zoë"]),
    "start": st.integers(0, 5).map(lambda second: BASE + second * SECOND),
    "duration_ms": st.sampled_from([0.0, 0.001, 1500.0]),
    "verdict": st.sampled_from(["allowed", "denied"]),
    "decisions": st.sampled_from([[], [ALLOWED], [DENIED, ALLOWED]]),
}


@st.composite
def children(draw: st.DrawFn) -> Child:
    """A request, a channel or a file, complete or nearly empty."""
    flow_id = draw(st.sampled_from([FLOW, "17abcdef012345678a", "a-name-of-another-kind"]))
    names = {"flow_id": flow_id}
    kind = draw(st.sampled_from([RequestRecord, RequestRecord, ChannelRecord, FileRecord]))
    common = {name: draw(values) for name, values in _common.items()}
    number = draw(st.integers(1, 10**6))
    if kind is RequestRecord:
        return RequestRecord(
            request_id=f"{flow_id}.{number}", **names, **common,
            method=draw(st.sampled_from(["", "GET", "POST", "x-odd"])), scheme=draw(st.sampled_from(["http", "https"])),
            host=draw(st.sampled_from(["", "wiki.lab", "[odd", "::1"])), port=draw(st.sampled_from([None, 80, 8443])),
            path=draw(_paths), status=draw(st.sampled_from([None, 200, 404, 503])),
            ttfb_ms=draw(st.sampled_from([None, 1.5])), fault=draw(st.sampled_from([None, "slow_body"])),
            client_version=draw(st.sampled_from([None, "1.1", "2"])), close_code=draw(st.sampled_from([None, 1000])),
            detail=draw(st.sampled_from([None, "no more came"])), request_body_bytes=draw(st.integers(0, 3)),
        )  # fmt: skip
    if kind is ChannelRecord:
        return ChannelRecord(
            channel_id=f"{flow_id}.{number}", **names, **common, kind=draw(st.sampled_from(["exec", "shell"])),
            ssh_user="deploy", command=draw(st.sampled_from([None, "ls /"])),
            exit_status=draw(st.sampled_from([None, 0])),
            forward_host=draw(st.sampled_from([None, "db.lab"])),
            forward_protocol=draw(st.sampled_from([None, "ssh"])), principals=draw(st.sampled_from([[], ["a", "b"]])),
            recording=draw(st.sampled_from([None, "x.cast"])), error=draw(st.sampled_from([None, "refused"])),
        )  # fmt: skip
    return FileRecord(
        channel_id=f"{flow_id}.{number}", **names, tenant=common["tenant"], user=common["user"], time=common["start"],
        operation=draw(st.sampled_from(["read", "rename"])), path=draw(_paths),
        target=draw(st.sampled_from([None, "/b"])),
        bytes=draw(st.integers(0, 2)), refused=draw(st.booleans()),
    )  # fmt: skip


_filters = {
    "status": st.sampled_from([(200, 200), (400, 499), (0, 0)]),
    "method": st.sampled_from(["GET", "X-ODD", "EXEC", "READ"]),
    "host": st.sampled_from(["wiki.*", "[odd", "?b.lab"]),
    "url": st.sampled_from(["*/admin/*", "https://wiki.lab/*", "*8443*", "/b*", "*[x]"]),
    "fault": st.sampled_from(["slow_body", "refused"]),
    "user": st.sampled_from(["ann", "zoë"]),
    "verdict": st.sampled_from(["allowed", "denied"]),
    "flow_id": st.sampled_from([FLOW, "a-name-of-another-kind"]),
}


@st.composite
def child_filters(draw: st.DrawFn) -> ChildFilters:
    """Up to three filters, of up to two values each."""
    names = draw(st.lists(st.sampled_from(list(_filters)), max_size=3, unique=True))
    chosen = {name: tuple(draw(st.lists(_filters[name], min_size=1, max_size=2))) for name in names}
    return ChildFilters(**chosen)


@st.composite
def child_queries(draw: st.DrawFn) -> ChildQuery:
    wanted = draw(child_filters())
    return ChildQuery(
        kind=draw(st.sampled_from(["request", "channel", "file"])), tenant=draw(st.sampled_from([None, "acme"])),
        until=draw(st.sampled_from([None, BASE + 2 * SECOND])), excluded=draw(child_filters()), limit=1000,
        **{name: getattr(wanted, name) for name in _filters},
    )  # fmt: skip
