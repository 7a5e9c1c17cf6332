"""Ended flows as spans: names, times, decisions; and what becomes of them when the collector does not answer."""

from __future__ import annotations

import asyncio
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from proxy.errors import ProxyError
from proxy.flow.record import Decision, TLSRecord
from proxy.settings.model import SpanExport
from proxy.telemetry.spans import Spans, otlp_exporter, trace_ids
from tests.records import make_record

BLOCKED = Decision("network", "office", "block", rule="no-ssh", version="3f2a", reason="ssh is for admins")


def sent(*records, exporter=None, **options):
    """What the sink has said to the exporter of these records, and what it counts as lost."""
    spans = Spans(exporter or InMemorySpanExporter(), "edge", **options)
    for record in records:
        spans.submit(record)
    asyncio.run(spans.close())
    return spans.lost


def test_a_flow_is_a_span_with_its_times_names_and_decisions():
    exporter = InMemorySpanExporter()
    record = make_record(
        1, user="ann", dst_host="wiki.example", decisions=[BLOCKED], verdict="denied", close_reason="denied",
        tls=TLSRecord(sni="wiki.example"),
    )  # fmt: skip
    assert sent(record, exporter=exporter) == 0
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == (f"tcp wiki.example:{record.dst_port}", SpanKind.SERVER)
    assert (span.start_time, span.end_time) == (record.start, record.end)
    assert (span.context.trace_id, span.context.span_id) == trace_ids(record.flow_id)
    said = dict(span.attributes)
    assert (said["client.address"], said["server.address"], said["network.type"]) == (
        record.src,
        "wiki.example",
        "ipv4",
    )
    assert (said["oxy.tenant"], said["user.id"], said["oxy.flow_id"]) == ("acme", "ann", record.flow_id)
    assert None not in said.values()
    (event,) = span.events
    assert (event.name, event.attributes["oxy.rule"], event.attributes["oxy.enforced"]) == ("decision", "no-ssh", True)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "denied")
    assert span.resource.attributes["service.instance.id"] == "edge"


class Deaf(InMemorySpanExporter):
    """A collector that refuses, or is gone."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def export(self, spans):
        if self.how == "breaks":
            raise ConnectionError("the collector is gone")
        return SpanExportResult.FAILURE


@pytest.mark.parametrize(("how", "said"), [("refuses", "rejected them"), ("breaks", "the collector is gone")])
def test_what_the_collector_does_not_take_is_counted_and_said_once(how, said, caplog):
    assert sent(*map(make_record, range(1500)), exporter=Deaf(how)) == 1500
    assert caplog.text.count("spans cannot be written") == 1
    assert said in caplog.text


def test_a_collector_that_keeps_us_waiting_delays_nobody():
    go_on, asked = threading.Event(), threading.Event()

    class Slow(InMemorySpanExporter):
        def export(self, spans):
            asked.set()
            go_on.wait(20)
            return super().export(spans)

    exporter = Slow()
    spans = Spans(exporter, "edge", queue_records=10)
    spans.submit(make_record(0))
    assert asked.wait(20)
    for number in range(1, 100):
        spans.submit(make_record(number))
    assert spans.lost == 89
    go_on.set()
    asyncio.run(spans.close())
    assert len(exporter.get_finished_spans()) == 11


def test_a_collector_reads_them_by_otlp():
    bodies = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append((self.path, self.headers["x-key"], self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        settings = SpanExport(endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces", headers={"x-key": "k"})
        lost = sent(make_record(1, decisions=[BLOCKED]), make_record(2), exporter=otlp_exporter(settings))
        server.shutdown()
        thread.join()
    assert lost == 0
    ((path, key, body),) = bodies
    (scope,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans
    assert (path, key, scope.scope.name) == ("/v1/traces", "k", "proxy.telemetry.spans")
    assert [span.events[0].name if span.events else None for span in scope.spans] == ["decision", None]


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ProxyError, match=r"pip install 'oxyctl\[otel\]'"):
        otlp_exporter(SpanExport(endpoint="http://127.0.0.1:4318/v1/traces"))
