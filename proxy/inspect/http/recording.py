"""The record of an exchange."""

from __future__ import annotations

import time

from proxy.flow.request import RequestRecord
from proxy.inspect.http.faults import report_of
from proxy.inspect.http.messages import first, host_and_port
from proxy.inspect.http.progress import Progress
from proxy.inspect.http.rules import media_type
from proxy.session.facts import FlowFacts

MAX_PATH, MAX_AGENT = 8_192, 512  # recorded characters of values that may be 64 KiB long


def record_of(exchange: Progress, flow: FlowFacts, now: float, *, is_open: bool = False) -> RequestRecord:
    """The record of `exchange` at `now` on the session's clock. `is_open`: it has not ended."""
    request, response, started = exchange.request, exchange.response, exchange.started
    host, port = host_and_port(request.authority)
    agent = first(request.headers, b"user-agent")
    upgrade = None
    if exchange.is_switched:
        upgrade = request.protocol.decode("latin-1").lower() if request.protocol is not None else "connect"
    record = RequestRecord(
        request_id=f"{flow.id}.{exchange.number}",
        flow_id=flow.id,
        tenant=flow.tenant,
        user=flow.user,
        start=time.time_ns() - int((now - started) * 1e9),
        duration_ms=round((now - started) * 1e3, 3),
        is_open=is_open,
        ttfb_ms=None if exchange.first_byte is None else round((exchange.first_byte - started) * 1e3, 3),
        method=request.method.decode("latin-1"),
        scheme=request.scheme.decode("latin-1"),
        host=host,
        port=port,
        path=request.path[:MAX_PATH].decode("latin-1"),
        client_version=request.version,
        origin_version=exchange.origin_version,
        origin=None if exchange.origin_address is None else "{}:{}".format(*exchange.origin_address),
        status=None if response is None else response.status,
        upgrade=upgrade,
        request_header_bytes=request.size,
        request_body_bytes=exchange.request_bytes,
        response_header_bytes=0 if response is None else response.size,
        response_body_bytes=exchange.response_bytes,
        request_type=media_type(request.headers),
        response_type=None if response is None else media_type(response.headers),
        user_agent=None if agent is None else agent[:MAX_AGENT].decode("latin-1"),
        verdict=exchange.outcome,
        decisions=exchange.decisions,
        fault=exchange.fault,
        error=None if exchange.fault is None else report_of(exchange.fault).error,
        detail=exchange.detail,
        fault_by=exchange.fault_by,
    )
    if exchange.websocket is not None:
        record.client_messages = exchange.websocket.client.frames.messages
        record.origin_messages = exchange.websocket.origin.frames.messages
        record.close_code = exchange.websocket.close_code
    return record
