"""Exports each ended flow as a span of OpenTelemetry, in a separate thread.

Attributes are named by the semantic conventions, or `oxy.…` where these have no name. Each decision about the flow is
an event of the span. The trace id is a digest of the flow's id, so it is known from the flow.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxy.errors import ProxyError
from proxy.flow.record import FlowRecord
from proxy.telemetry.sink import QUEUE_ITEMS, ThreadedSink

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from proxy.settings.model import SpanExport

BATCH_RECORDS = 512
MISSING = "records.spans needs OpenTelemetry: pip install 'oxyctl[otel]'"


def otlp_exporter(settings: SpanExport) -> SpanExporter:
    """An exporter of spans by OTLP over HTTP. Raises ProxyError if it is not installed."""
    try:
        module = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError:
        raise ProxyError(MISSING) from None
    exporter: SpanExporter = module.OTLPSpanExporter(
        endpoint=settings.endpoint, headers=dict(settings.headers), timeout=settings.timeout_s
    )
    return exporter


class Spans(ThreadedSink[FlowRecord]):
    """Takes the last record of each flow. Nothing waits for an unreachable collector."""

    def __init__(self, exporter: SpanExporter, node: str, *, queue_records: int = QUEUE_ITEMS) -> None:
        self._exporter, self._build = exporter, _SpanBuilder(node)
        super().__init__("spans", queue_items=queue_records, batch_items=BATCH_RECORDS)

    def _write(self, items: list[FlowRecord]) -> str | None:
        try:
            result = self._exporter.export([self._build(record) for record in items])
        except Exception as error:  # any error of a library that uses the network
            return str(error) or type(error).__name__
        return None if result.name == "SUCCESS" else "the collector rejected them"

    def _close(self) -> None:
        self._exporter.shutdown()


class _SpanBuilder:
    """Builds spans from records."""

    def __init__(self, node: str) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import Event, ReadableSpan
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
            from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
        except ImportError:
            raise ProxyError(MISSING) from None
        self._span, self._context, self._event, self._status = ReadableSpan, SpanContext, Event, Status
        self._kind, self._flags, self._code = SpanKind.SERVER, TraceFlags(TraceFlags.SAMPLED), StatusCode
        self._resource = Resource.create({"service.name": "oxy-proxy", "service.instance.id": node})
        self._scope = InstrumentationScope("proxy.telemetry.spans")

    def __call__(self, record: FlowRecord) -> Any:
        """The span of an ended flow."""
        trace, span = trace_ids(record.flow_id)
        is_bad = record.verdict in ("denied", "error")
        status = self._status(self._code.ERROR, record.close_reason) if is_bad else self._status(self._code.UNSET)
        decisions = [
            self._event("decision", _known(decision_attributes(record, number)), record.start)
            for number in range(len(record.decisions))
        ]
        return self._span(
            name=f"{record.protocol} {record.dst_host or record.dst}:{record.dst_port}",
            context=self._context(trace, span, is_remote=False, trace_flags=self._flags),
            resource=self._resource, attributes=_known(attributes(record)), events=decisions, kind=self._kind,
            status=status, start_time=record.start, end_time=record.end or record.start,
            instrumentation_scope=self._scope,
        )  # fmt: skip


def trace_ids(flow_id: str) -> tuple[int, int]:
    """The ids of a flow's trace (16 bytes) and span (8 bytes), derived from the flow's id."""
    digest = hashlib.sha256(flow_id.encode()).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


def attributes(record: FlowRecord) -> dict[str, str | int | float | None]:
    """Attributes of a flow, named by the semantic conventions (general attributes, network, TLS, user)."""
    tls, total = record.tls, record.total
    return {
        "client.address": record.src, "client.port": record.src_port,
        "server.address": record.dst_host or record.dst, "server.port": record.dst_port,
        "network.transport": record.protocol, "network.type": "ipv6" if ":" in record.dst else "ipv4",
        "network.protocol.name": record.detected_protocol,
        "user.id": record.user, "host.name": record.device,
        "tls.client.server_name": None if tls is None else tls.sni,
        "tls.next_protocol": None if tls is None else tls.alpn,
        "oxy.tenant": record.tenant, "oxy.network": record.vnet, "oxy.flow_id": record.flow_id,
        "oxy.community_id": record.community_id, "oxy.onramp": record.onramp, "oxy.tunnel": record.tunnel,
        "oxy.offramp": record.offramp, "oxy.origin": record.origin, "oxy.level": record.level,
        "oxy.verdict": record.verdict, "oxy.close_reason": record.close_reason, "oxy.closed_by": record.closed_by,
        "oxy.client.bytes": total.client_payload_bytes, "oxy.origin.bytes": total.origin_payload_bytes,
        "oxy.client.packets": total.client_packets, "oxy.origin.packets": total.origin_packets,
        "oxy.policy_ms": record.policy_ms, "oxy.origin_tcp_ms": record.origin_tcp_ms, "oxy.ttfb_ms": record.ttfb_ms,
    }  # fmt: skip


def decision_attributes(record: FlowRecord, number: int) -> dict[str, str | bool | None]:
    """Attributes of one of the flow's decisions."""
    decision = record.decisions[number]
    return {
        "oxy.stage": decision.stage, "oxy.policy": decision.policy, "oxy.rule": decision.rule,
        "oxy.action": decision.action, "oxy.reason": decision.reason,
        "oxy.policy.version": decision.version, "oxy.enforced": decision.enforced,
    }  # fmt: skip


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
