"""Clients that mean no good, or have stopped: none of them costs the proxy memory, or another client its answer."""

from __future__ import annotations

import resource
import socket

import pytest

from tests.control.test_control_server import flows
from tests.records import make_record

CHUNK = bytes(1 << 20)


@pytest.fixture
def client(path):
    with socket.socket(socket.AF_UNIX) as client:
        yield client


def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def send_until_refused(client, head, chunk=CHUNK, count=1024):
    """Send a gigabyte; how much of it was taken."""
    client.sendall(head)
    sent = 0
    try:
        for _ in range(count):
            client.sendall(chunk)
            sent += len(chunk)
    except OSError:
        pass
    return sent


@pytest.mark.parametrize(
    "head",
    [
        b"PUT /v1/routes HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n",
        b"GET /v1/flows HTTP/1.1\r\nhost: x\r\nx-fill: ",
        b"",
    ],
    ids=["body", "header", "no HTTP at all"],
)
def test_a_request_of_a_gigabyte_is_refused_early(server, path, client, proxy, head):
    client.connect(path)
    before = peak_kib()
    assert send_until_refused(client, head, chunk=CHUNK.replace(b"\0", b"x")) < 16 << 20
    assert peak_kib() - before < 32 << 10
    assert flows(path, "tenant=acme")["items"] == []  # the next one is answered


@pytest.mark.parametrize("target", ["/v1/flows?tenant=acme&limit=20000", "/v1/flows/export?tenant=acme"])
def test_a_client_that_stops_reading_is_let_go(start, loop, path, client, proxy, target):
    server = start(idle_timeout_s=0.3)
    proxy.past = [make_record(number) for number in range(3000)]
    client.connect(path)
    client.sendall(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert len(flows(path, "tenant=acme&limit=5")["items"]) == 5
    while loop.do(lambda: len(server._connections)):  # it is gone after its time, not for ever
        pass
    received = b""
    try:
        while data := client.recv(1 << 16):
            received += data
    except OSError:
        pass
    assert b"200 OK" in received
    assert b'"truncated"' not in received  # what stands at the end of a list,
    assert b'"exported"' not in received  # and of an export
