"""One flow explained as text: who, where to, which rule decided, how it ended, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from oxyctl.render.units import bytes_text, count_text, duration_text, endpoint_text, safe_text, time_text
from proxy.control.schema import Decision, FlowRecord, RequestRecord, Totals

LEVELS = {
    "packet": "packets end to end: the proxy forwarded them unread",
    "stream": "a stream: the proxy has a connection on each side, and relayed the bytes unread",
    "tls": "TLS: the proxy knows the name and the rest of the client's first message",
    "http": "HTTP: each request was read",
    "ssh": "SSH: each channel was read",
}
NOTHING_RELAYED = "a stream: the proxy makes the connection to the origin; nothing was relayed"
UNCONNECTED = ("client_tls_error", "origin_tls_error", "origin_refused", "origin_unreachable")
NO_COMMON_TLS = ("unsupported protocol", "no shared cipher", "no suitable", "wrong version")
ENDS = {
    "client_closed": "the client closed it",
    "client_reset": "the client reset it",
    "client_idle_timeout": "the client was idle or too slow for longer than its time limit",
    "client_tls_error": "the TLS handshake with the client failed",
    "client_protocol_error": "the client violated the protocol",
    "origin_closed": "the origin closed it",
    "origin_reset": "the origin reset it",
    "origin_tls_error": "the TLS handshake with the origin failed, or its certificate is not trusted",
    "origin_protocol_error": "the origin violated the protocol",
    "origin_refused": "the origin refused the connection: nothing listens on that port, or a firewall rejects it",
    "origin_unreachable": "the network reported that the origin is unreachable",
    "origin_timeout": "the origin did not answer in time",
    "denied": "it was denied before anything left the proxy",
    "limit_flows": "the tenant has reached its maximum number of flows",
    "limit_rate": "the tenant, or a rule, allows no more new flows per second",
    "evicted": "it was idle, and was evicted to make room for a new flow",
    "inspector_died": "the inspector that read it died",
    "policy_revoked": "a policy loaded while it was open does not allow it",
    "admin_killed": "it was ended with `oxyctl flows kill`",
    "drain": "the proxy stopped",
    "tunnel_closed": "its tunnel closed",
    "proxy_error": "a hook or the proxy itself failed",
    "unknown": "the proxy was killed while it was open, so its end was not recorded",
}
HINTS = {
    "denied": "The rule named above denied it; `oxyctl policy explain` shows which others nearly matched.",
    "policy_revoked": "The rule named above decided; `oxyctl policy diff` shows what changed.",
    "origin_refused": "Try it from the edge itself: is the server running, and does it listen on that port?",
    "origin_unreachable": "`oxyctl routes` shows where it was sent; the network there has no route, or rejects it.",
    "origin_timeout": "A firewall may drop it, or a return route is missing: `oxyctl capture` shows what comes back.",
    "origin_tls_error": "Check the origin's certificate: its name, its dates, and who issued it.",
    "client_tls_error": "It may not trust the tenant's authority (`oxyctl ca trust`), or pin certificates.",
    "limit_flows": "`oxyctl flows stats --live` shows who has flows open; the tenant's `limits.flows` is the limit.",
    "limit_rate": "`oxyctl top` shows the rate; the tenant's `limits.new_flows_per_s`, or the rule, is the limit.",
    "proxy_error": "The proxy's log has the traceback, with this flow's id.",
    "inspector_died": "The proxy's log says why; new sessions go to another inspector.",
    "evicted": "More descriptors (`descriptors` in proxy.yaml, `ulimit -n`) leave room for more idle flows.",
    "client_reset": "Clients reset connections that they give up on: after a timeout, or when a tab is closed.",
    "origin_reset": "The server's own log may say why it reset the connection.",
}


def flow_explanation(record: FlowRecord, requests: Sequence[RequestRecord] = ()) -> str:
    """The explanation, with the given `requests`."""
    lines = [f"Flow {record.flow_id} of tenant {record.tenant}: {_endpoints(record)}", ""]
    width = max(len(label) for label, _ in _sections(record, requests))
    last = None
    for label, text in _sections(record, requests):
        lines.append(f"  {'' if label == last else label:<{width}}  {text}")
        last = label
    return "\n".join(safe_text(line) for line in lines)


def _sections(record: FlowRecord, requests: Sequence[RequestRecord]) -> Iterator[tuple[str, str]]:
    yield "Who", _who(record)
    yield "When", _when(record)
    for decision in record.decisions:
        yield "Decided", _decision(decision)
    if not record.decisions:
        yield "Decided", "nothing yet" if record.state == "new" else "no decision is on record"
    if is_refused := record.verdict in ("denied", "error") and record.total == Totals():
        yield "Route", "none: nothing left the proxy"
    else:
        yield from _route_and_level(record)
    if timing := _timing(record):
        yield "Took", timing
    for request in requests:
        yield "Request", _request(request)
        for decision in request.decisions:
            if decision.rule is not None:
                yield "Request", f"  {_decision(decision)}"
    if not is_refused:
        yield "Moved", _volume(record)
    yield "End", _end(record)
    if hint := _hint(record):
        yield "Next", hint


def _route_and_level(record: FlowRecord) -> Iterator[tuple[str, str]]:
    """The flow's route, and how deep it was inspected."""
    yield "Route", _route(record)
    is_unused = record.level == "stream" and record.close_reason in UNCONNECTED
    level = NOTHING_RELAYED if is_unused else LEVELS.get(record.level, record.level)
    yield "Level", level + _protocol(record)
    if record.tls is not None:
        yield "TLS", _tls(record)
    if record.ssh is not None:
        known = (("client", record.ssh.client_version), ("server", record.ssh.server_version))
        yield "SSH", ", ".join(["passed, unread", *(f"{side} {version}" for side, version in known if version)])


def _endpoints(record: FlowRecord) -> str:
    host = f" ({record.dst_host}, from {record.host_source or 'its name'})" if record.dst_host else ""
    source, destination = endpoint_text(record.src, record.src_port), endpoint_text(record.dst, record.dst_port)
    return f"{record.protocol.upper()} from {source} to {destination}{host}"


def _who(record: FlowRecord) -> str:
    who = record.user or "unknown user"
    device = f" on {record.device}" if record.device else ""
    network = f", network {record.vnet}" if record.vnet else ""
    return f"{who}{device}, by tunnel {record.tunnel} ({record.onramp}){network}, at {record.node}"


def _when(record: FlowRecord) -> str:
    lasted = duration_text(record.duration_ms)
    began = time_text(record.start, date=True)
    return f"{began}, alive for {lasted}" if record.end is None else f"{began}, lasted {lasted}"


def _decision(decision: Decision) -> str:
    rule = f", rule {decision.rule}" if decision.rule else ""
    version = f" (version {decision.version})" if decision.version else ""
    shadow = "" if decision.enforced else "; audit-only, so not enforced"
    reason = f": {decision.reason}" if decision.reason else ""
    who = "a hook" if decision.policy == "hook" else f"policy {decision.policy}{rule}{version}"
    return f"{decision.stage}: {decision.action} by {who}{reason}{shadow}"


def _route(record: FlowRecord) -> str:
    if record.offramp is None:
        return "it did not leave the proxy"
    by = f"tunnel {record.offramp_tunnel}" if record.offramp_tunnel else f"off-ramp {record.offramp}"
    requested = endpoint_text(record.dst, record.dst_port)
    to = f" to {record.origin}" if record.origin else ""
    instead = ", not the destination that was requested" if record.origin and record.origin != requested else ""
    seen = f", seen there as {record.egress_ip}" if record.egress_ip else ""
    route = f"; route {record.route}" if record.route else ""
    return f"{by}{to}{instead}{seen}{route}"


def _protocol(record: FlowRecord) -> str:
    return f"; it is {record.detected_protocol}" if record.detected_protocol else ""


def _tls(record: FlowRecord) -> str:
    tls = record.tls
    assert tls is not None
    action = "passed, unread" if tls.action == "pass" else "terminated by the proxy"
    known = [
        ("name", tls.sni),
        ("version", tls.version),
        ("ALPN", tls.alpn),
        ("issuer", tls.issuer),
        ("error", tls.error),
    ]
    return ", ".join([action, *(f"{name} {value}" for name, value in known if value)])


def _timing(record: FlowRecord) -> str:
    parts = [
        ("to decide", record.policy_ms),
        ("until the origin answered", record.origin_tcp_ms),
        ("for the client's handshake", record.client_tcp_ms),
        ("to the first byte of the answer", record.ttfb_ms),
    ]
    return ", ".join(f"{duration_text(value)} {name}" for name, value in parts if value is not None)


def _request(request: RequestRecord) -> str:
    if request.is_open:
        became = f", now a {request.upgrade}" if request.upgrade else ""
        return f"{request.method} {request.url}: still open{became}"
    first = f", the first byte after {duration_text(request.ttfb_ms)}" if request.ttfb_ms is not None else ""
    answer = "no response" if request.status is None else str(request.status)
    sent = f"{bytes_text(request.request_body_bytes)} up, {bytes_text(request.response_body_bytes)} down"
    fault = f"; {request.fault} by the {request.fault_by}: {request.detail}" if request.fault else ""
    return f"{request.method} {request.url}: {answer} in {duration_text(request.duration_ms)}{first}; {sent}{fault}"


def _volume(record: FlowRecord) -> str:
    total = record.total
    up = f"{bytes_text(total.client_payload_bytes)} up in {count_text(total.client_packets, 'packet')}"
    down = f"{bytes_text(total.origin_payload_bytes)} down in {count_text(total.origin_packets, 'packet')}"
    zeek = f" (history {record.history}, state {record.conn_state})" if record.history else ""
    return f"{up}, {down}{zeek}"


def _end(record: FlowRecord) -> str:
    if record.close_reason is None:
        return {"new": "waiting for a decision or for the origin", "established": "open"}.get(record.state, "ending")
    return f"{ENDS.get(record.close_reason, record.close_reason)} ({record.close_reason})"


def _hint(record: FlowRecord) -> str | None:
    if record.close_reason == "denied" and record.decisions:
        last = record.decisions[-1]
        if last.policy == "hook":
            return "A hook of the application decided; its log may say why."
        if last.action == "rate-limit":
            return "It exceeded a limit of the rule named above; try again later, or when others have ended."
    error = (record.tls and record.tls.error) or ""
    if record.close_reason == "client_tls_error" and any(each in error for each in NO_COMMON_TLS):
        return "Client and proxy have no version or cipher in common: see the tenant's `inspection.minimum`."
    if record.close_reason is not None:
        return HINTS.get(record.close_reason)
    if record.state == "established" and not record.total.origin_packets:
        return "Nothing has come back; `oxyctl capture` shows whether the origin answers at all."
    return None
