"""HTTP read by an inspector, with real programs: curl, and an origin's errors as pages."""

from __future__ import annotations

import concurrent.futures
import shutil
import ssl
import threading

import pytest

from tests.inspect.world import ReadingStage, client_context, run, speaking
from tests.netns import needs_root
from tests.running import ORIGIN, staged, until

pytestmark = [
    pytest.mark.netns,
    needs_root,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]


@pytest.fixture(scope="module")
def stage():
    with staged(ReadingStage, level="http") as stage:
        yield stage


def answer(sock) -> None:
    """A small HTTP/1.1 origin: says what it was asked for, as long as it is asked."""
    read = b""
    while True:
        while b"\r\n\r\n" not in read:
            data = sock.recv(65_536)
            if not data:
                return
            read += data
        head, _, read = read.partition(b"\r\n\r\n")
        line = head.split(b"\r\n")[0]
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line))


def curl(stage, laptop, port: int, *words: str, name: str = "wiki.lab", scheme: str = "https", path: str = "/page"):
    """What curl says of `scheme://name:port` and the path."""
    where = f"{name}:{port}:{ORIGIN[4]}"
    return run(
        laptop, "curl", "-sS", "-m", "60", "--cacert", stage.client_trust, "--resolve", where,
        "-w", "\n%{http_version} %{http_code}", *words, f"{scheme}://{name}:{port}{path}",
    )  # fmt: skip


def test_https_is_read_with_curl(stage, laptop):
    port = stage.serve(answer, stage.server_context(alpn=("http/1.1",)))
    done = curl(stage, laptop, port)
    assert done.stdout == "GET /page HTTP/1.1\n1.1 200", done.stderr
    record = stage.record(port)
    assert (record.level, record.detected_protocol, record.tls.alpn) == ("http", "tls", "http/1.1")


def test_requests_are_found_while_they_go_on_and_after(stage, laptop):
    release = threading.Event()

    def slow(sock):
        sock.recv(65_536)
        sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n")
        release.wait(20)
        sock.sendall(b"no")

    port = stage.serve(slow, stage.server_context(alpn=("http/1.1",)))
    asked = [("tenant", "acme"), ("url", f"https://wiki.lab:{port}/*"), ("limit", "10")]
    flows = [("tenant", "acme"), ("http_status", "4xx"), ("host", "wiki.*"), ("dst_port", str(port))]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(curl, stage, laptop, port)
        (going_on,) = until(lambda: stage.control.children("requests", asked).items)
        live = stage.control.flows(flows).items
        release.set()
        assert done.result().stdout.endswith("1.1 404")
    assert (going_on.is_open, going_on.status, going_on.response_body_bytes) == (True, 404, 0)
    assert [(flow.flow_id, flow.final) for flow in live] == [(going_on.flow_id, False)]
    over = until(lambda: [each for each in stage.control.children("requests", asked).items if not each.is_open])
    assert [(each.request_id, each.status, each.response_body_bytes) for each in over] == [
        (going_on.request_id, 404, 2)
    ]
    record = stage.record(port)
    assert [flow.flow_id for flow in stage.control.flows(flows).items] == [record.flow_id]
    assert stage.control.flows([*flows, ("not_http_method", "GET")]).items == []


def test_h2_is_offered_only_where_the_origin_has_it(stage, laptop):
    port = stage.serve(answer, stage.server_context(alpn=("http/1.1",)))
    assert curl(stage, laptop, port, "--http2").stdout.endswith("\n1.1 200")


def test_an_origin_without_alpn_is_read_as_well(stage, laptop):
    port = stage.serve(answer, stage.server_context())
    assert curl(stage, laptop, port).stdout.endswith("\n1.1 200")
    assert stage.record(port).level == "http"


def test_plain_http_is_read(stage, laptop):
    port = stage.serve(answer)
    assert curl(stage, laptop, port, scheme="http").stdout.endswith("\n1.1 200")
    record = stage.record(port)
    assert (record.level, record.detected_protocol, record.tls) == ("http", "http", None)


def test_an_expired_certificate_is_told_by_a_page(stage, laptop):
    port = stage.serve(answer, stage.flawed_context("wiki.lab", days=-1))
    done = curl(stage, laptop, port)
    assert done.stdout.endswith(" 502"), done.stderr
    assert "expired" in done.stdout
    assert "expired" in stage.record(port).tls.error
    (request,) = until(lambda: stage.control.children("requests", [("tenant", "acme"), ("url", f"*:{port}/*")]).items)
    assert (request.fault, request.error, request.fault_by) == ("origin_tls", "tls_certificate_error", "origin")


def test_what_is_no_http_inside_tls_is_relayed(stage, laptop):
    def greet(sock):
        sock.sendall(b"220 hello\r\n")
        while data := sock.recv(100):
            sock.sendall(data)

    port = stage.serve(greet, stage.server_context())
    with speaking(laptop, port, client_context(stage.client_trust)) as sock:
        assert sock.recv(100) == b"220 hello\r\n"
        sock.sendall(b"EHLO")
        assert sock.recv(100) == b"EHLO"
        assert isinstance(sock, ssl.SSLSocket)
    assert stage.record(port).level == "tls"
