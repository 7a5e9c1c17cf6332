"""HTTP/1.1 on the wire: what a client may send, and should not."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.services.origin import wait_until


@contextlib.contextmanager
def connected(origin, service="http"):
    with socket.create_connection(("127.0.0.1", origin.port[service]), timeout=10) as sock:
        yield sock


def exchange(origin, request):
    """Everything that comes back until the server closes."""
    with connected(origin) as sock:
        sock.sendall(request)
        return sock.makefile("rb").read()


def statuses(answer):
    return [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: web\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: web\r\nX: " + b"a" * 100_000, 431),
        (b"POST /sink HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET http://[oops/ HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", 400),
    ],
)
def test_a_bad_request_is_told_so_and_the_connection_closed(origin, request_, status):
    assert statuses(exchange(origin, request_)) == [status]


def test_pipelined_requests_are_answered_in_order(origin):
    requests = b"".join(b"GET /status/%d HTTP/1.1\r\nHost: web\r\n\r\n" % code for code in (201, 404, 503))
    last = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
    assert statuses(exchange(origin, requests + last)) == [201, 404, 503, 200]


def test_a_body_that_nobody_reads_is_skipped(origin):
    body = b"x" * 1_000_000
    post = b"POST /status/200 HTTP/1.1\r\nHost: web\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert statuses(exchange(origin, post + body + b"GET / HTTP/1.0\r\n\r\n")) == [200, 200]


def test_continue_is_said_before_the_body_is_sent(origin):
    with connected(origin) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert sock.makefile("rb").read().endswith(b"hello")


def test_a_client_that_has_finished_sending_still_gets_its_answer(origin):
    with connected(origin) as sock:
        sock.sendall(b"GET /bytes/5000000 HTTP/1.1\r\nHost: web\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        _, _, body = sock.makefile("rb").read().partition(b"\r\n\r\n")
    assert len(body) == 5_000_000


def test_http_1_0_without_a_length_ends_by_closing(origin):
    answer = exchange(origin, b"GET /bytes/10 HTTP/1.0\r\n\r\n")
    assert statuses(answer) == [200]
    assert len(answer.partition(b"\r\n\r\n")[2]) == 10


def test_a_client_that_leaves_in_the_middle_is_forgotten(origin):
    before = origin.descriptors()
    with connected(origin) as reading, connected(origin) as writing:
        reading.sendall(b"GET /bytes/1000000000 HTTP/1.1\r\nHost: web\r\n\r\n")
        assert reading.recv(1000)
        writing.sendall(b"POST /sink HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\nabc")
        wait_until(lambda: origin.descriptors() == before + 2, "both are connected")
    wait_until(lambda: origin.descriptors() == before, "both are forgotten")


def test_garbage_instead_of_tls_ends_only_that_connection(origin, curl):
    with connected(origin, "https") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert not sock.makefile("rb").read().startswith(b"HTTP")
    assert "web" in curl(origin.url("/", scheme="https"))
