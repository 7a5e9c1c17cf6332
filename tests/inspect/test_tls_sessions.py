"""TLS that ends in an inspector, with real sockets through a real proxy: what is agreed, recorded, and not read."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.inspect.world import ReadingStage, client_context, echo, speaking
from tests.netns import needs_root
from tests.running import ORIGIN, staged, until

pytestmark = [pytest.mark.netns, needs_root]


@pytest.fixture(scope="module")
def stage():
    with staged(ReadingStage) as stage:
        yield stage


def issuer(sock: ssl.SSLSocket) -> str:
    return dict(part for each in sock.getpeercert()["issuer"] for part in each)["commonName"]


def exchange(sock: ssl.SSLSocket, data: bytes) -> bytes:
    sock.sendall(data)
    back = b""
    while len(back) < len(data):
        back += sock.recv(65_536)
    return back


@pytest.mark.parametrize("version", [4, 6])
def test_tls_ends_in_the_proxy_on_both_sides(stage, laptop, version):
    port = stage.serve(echo, stage.server_context(), version)
    with speaking(laptop, port, client_context(stage.client_trust), version=version) as sock:
        assert issuer(sock).startswith("oxyctl CA of acme")
        assert sock.version() == "TLSv1.3"
        assert exchange(sock, b"hello" * 1000) == b"hello" * 1000
    record = stage.record(port)
    assert (record.level, record.detected_protocol, record.close_reason) == ("tls", "tls", "client_closed")
    assert (record.tls.sni, record.tls.action, record.tls.version) == ("wiki.lab", "terminate", "TLSv1.3")
    assert (record.tls.origin_version, record.tls.issuer) == ("TLSv1.3", "roots of the lab")
    assert record.tls.ja4.startswith("t13d")


def test_what_the_origin_agrees_is_what_the_client_is_offered(stage, laptop):
    port = stage.serve(echo, stage.server_context(alpn=("acme/1", "h2")))
    wanted = client_context(stage.client_trust, ("h2", "acme/1"))
    with speaking(laptop, port, wanted) as sock:
        assert sock.selected_alpn_protocol() == "acme/1"
        assert exchange(sock, b"x") == b"x"
    assert stage.record(port).tls.alpn == "acme/1"


def test_megabytes_pass_unharmed_both_ways(stage, laptop):
    port = stage.serve(echo, stage.server_context())
    data = random.Random(7).randbytes(3 << 20)
    with speaking(laptop, port, client_context(stage.client_trust)) as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        back = bytearray()
        while len(back) < len(data):
            back += sock.recv(65_536)
        sender.join()
    assert back == data
    totals = stage.record(port).total
    assert totals.client_payload_bytes > len(data)
    assert totals.origin_payload_bytes > len(data)


def test_both_sides_resume_a_session(stage, laptop):
    port = stage.serve(echo, stage.server_context())
    context = client_context(stage.client_trust)
    with speaking(laptop, port, context) as first:
        assert exchange(first, b"x") == b"x"
        session = first.session
    raw = laptop.tcp(ORIGIN[4], port)
    with context.wrap_socket(raw, server_hostname="wiki.lab", session=session) as second:
        assert second.session_reused
        assert exchange(second, b"x") == b"x"
    tls = stage.record(port, 2).tls
    assert (tls.is_resumed, tls.origin_is_resumed) == (True, True)


def test_an_address_instead_of_a_name(stage, laptop):
    port = stage.serve(echo, stage.server_context(ORIGIN[4]))
    with speaking(laptop, port, client_context(stage.client_trust), ORIGIN[4]) as sock:
        assert sock.getpeercert()["subjectAltName"] == (("IP Address", ORIGIN[4]),)
        assert exchange(sock, b"x") == b"x"
    assert stage.record(port).tls.sni is None


def was_reset(sock: ssl.SSLSocket) -> bool:
    """Whether the connection ends by a reset, which `ssl` does not tell from an end."""
    try:
        return socket.socket.recv(sock, 1) is None
    except ConnectionResetError:
        return True


# What is not read.


def plain(laptop, port: int, data: bytes, *, first: bool = True) -> bytes:
    """What comes back when `data` is sent in the clear; `first`: at once."""
    sock = laptop.tcp(ORIGIN[4], port)
    greeting = b"" if first else sock.recv(100)
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    answer = b""
    while part := sock.recv(65_536):
        answer += part
    return greeting + answer


def reasons(record) -> list[str]:
    return [each.reason for each in record.decisions if each.stage == "inspect"]


@pytest.mark.parametrize(
    ("data", "protocol", "reason"),
    [
        (b"SSH-2.0-test\r\n", "ssh", "ssh, which is not inspected"),
        (b"GET / HTTP/1.1\r\n\r\n", "http", "http, which is not inspected"),
        (b"\x00" * 1000, None, "neither TLS nor HTTP"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", None, "a TLS handshake that does not begin with ClientHello"),
        (b"\x16\x03\x01", None, "the client sent too little before it closed"),
    ],
)
def test_what_is_not_tls_is_relayed_and_the_record_says_why(stage, laptop, data, protocol, reason):
    port = stage.serve(echo)
    assert plain(laptop, port, data) == data
    record = stage.record(port)
    assert (record.level, record.detected_protocol, reasons(record)) == ("stream", protocol, [reason])
    assert record.total.client_payload_bytes == record.total.origin_payload_bytes == len(data)


def test_a_server_that_speaks_first_is_relayed(stage, laptop):
    def greet(sock):
        sock.sendall(b"220 mail.lab\r\n")
        echo(sock)

    port = stage.serve(greet)
    assert plain(laptop, port, b"EHLO x\r\n", first=False) == b"220 mail.lab\r\nEHLO x\r\n"
    assert reasons(stage.record(port)) == ["the origin speaks first"]


def test_a_client_that_says_nothing_in_time_is_relayed(stage, laptop):
    port = stage.serve(echo)
    sock = laptop.tcp(ORIGIN[4], port)
    until(lambda: any(reasons(flow) for flow in stage.live(dst_port=port)))
    sock.sendall(b"late")
    assert sock.recv(10) == b"late"
    sock.close()
    assert reasons(stage.record(port)) == ["the client sent too little in time"]


def test_a_hello_in_single_bytes_is_read(stage, laptop):
    port = stage.serve(echo, stage.server_context())
    raw = laptop.tcp(ORIGIN[4], port)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(stage.client_trust).wrap_bio(incoming, outgoing, server_hostname="wiki.lab")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    for byte in outgoing.read():
        raw.send(bytes([byte]))
    incoming.write(raw.recv(65_536))
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    assert tls.version() == "TLSv1.3"


# What goes wrong.


def test_a_client_that_does_not_trust_the_ca_ends_its_session_only(stage, laptop):
    port = stage.serve(echo, stage.server_context())
    with pytest.raises(ssl.SSLCertVerificationError), speaking(laptop, port, ssl.create_default_context()):
        pass
    record = stage.record(port)
    assert record.close_reason == "client_tls_error"
    assert "unknown ca" in record.tls.error


@pytest.mark.parametrize(
    ("name", "flaw", "alert"),
    [
        ("wiki.lab", {"self_signed": True}, "unknown ca"),
        ("wiki.lab", {"days": -1}, "expired"),
        ("other.lab", {}, "bad certificate"),
    ],
)
def test_an_origin_that_is_not_to_be_trusted_is_told_by_an_alert(stage, laptop, name, flaw, alert):
    port = stage.serve(echo, stage.flawed_context(name, **flaw))
    with (
        pytest.raises(ssl.SSLError, match=f"(?i){alert.replace(' ', '.')}"),
        speaking(laptop, port, client_context(stage.client_trust)),
    ):
        pass
    record = stage.record(port)
    assert (record.close_reason, record.closed_by) == ("origin_tls_error", "origin")
    assert record.tls.error


def test_an_origin_that_speaks_no_tls(stage, laptop):
    def say_http(sock):
        sock.recv(1_000)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    port = stage.serve(say_http)
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"),
        speaking(laptop, port, client_context(stage.client_trust)),
    ):
        pass
    assert stage.record(port).close_reason == "origin_tls_error"


def test_an_origin_that_is_silent_in_the_handshake(stage, laptop):
    port = stage.serve(lambda sock: sock.recv(1) and until(lambda: not sock.recv(65_536)))
    with pytest.raises(OSError), speaking(laptop, port, client_context(stage.client_trust)):  # noqa: PT011
        pass
    assert stage.record(port).close_reason == "origin_timeout"


def test_an_inspector_that_is_killed_ends_its_sessions_and_another_one_starts(stage, laptop):
    port = stage.serve(echo, stage.server_context())
    context = client_context(stage.client_trust)
    with speaking(laptop, port, context) as sock:
        assert exchange(sock, b"x") == b"x"
        (pid,) = stage.inspector_pids()
        os.kill(pid, signal.SIGKILL)
        assert was_reset(sock)
    assert stage.record(port).close_reason == "inspector_died"
    with speaking(laptop, port, context) as sock:
        assert exchange(sock, b"again") == b"again"
    (successor,) = stage.inspector_pids()
    assert successor != pid


def test_an_inspector_owns_nothing(stage, laptop):
    port = stage.serve(echo, stage.server_context())
    with speaking(laptop, port, client_context(stage.client_trust)) as sock:
        assert exchange(sock, b"x") == b"x"
        (pid,) = stage.inspector_pids()
        (inspector,) = stage.status.inspectors
        status = dict(
            line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert "0" not in status["Uid"].split()
    assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"] == "1"
    assert (inspector.pid, inspector.is_ready, inspector.sessions) == (pid, True, 1)
    assert inspector.memory_bytes > 1 << 20
    if importlib.util.find_spec("pyseccomp"):
        assert status["Seccomp"] == "2"
        assert inspector.shortfalls == []


def test_a_flow_that_is_killed_is_reset_on_both_sides(stage, laptop):
    port = stage.serve(echo, stage.server_context())
    with speaking(laptop, port, client_context(stage.client_trust)) as sock:
        assert exchange(sock, b"x") == b"x"
        (flow,) = stage.live(dst_port=port)
        stage.control.kill(flow.flow_id, [("all_tenants", "true")])
        assert was_reset(sock)
    assert stage.record(port).close_reason == "admin_killed"
