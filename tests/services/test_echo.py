"""echo, sink, halfclose and reset: small protocols that show what happens to a connection's two directions."""

from __future__ import annotations

import errno
import socket
import threading

import pytest

from oxyctl.services.halfclose import GREETING
from tests.services.origin import Origin, node, wait_until

SIZES = [0, 1, 1472, 1473, 9000, 65_507]


def connect(origin, service, address):
    return socket.create_connection((address, origin.port[service]), timeout=10)


def datagrams(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(10)
    return sock


def test_echo_returns_every_byte_then_closes_its_side_too(origin, address):
    data = bytes(range(256)) * 40_000  # 10 MB: more than all buffers together
    with connect(origin, "echo", address) as sock:

        def send():
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert sock.makefile("rb").read() == data
        sender.join()


def test_echo_holds_back_a_client_that_does_not_read(origin, address):
    with connect(origin, "echo", address) as sock:
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(1 << 30))


@pytest.mark.parametrize("size", SIZES)
def test_echo_returns_datagrams_of_any_size(origin, address, size):
    with datagrams(address) as sock:
        sock.connect((address, origin.port["echo"]))  # connected: only an answer from that address is received
        sock.send(bytes(size))
        assert sock.recv(70_000) == bytes(size)


def test_echo_returns_a_burst_of_datagrams(origin, address):
    with datagrams(address) as sock:
        sock.connect((address, origin.port["echo"]))
        for number in range(200):
            sock.send(str(number).encode())
        assert [int(sock.recv(100)) for _ in range(200)] == list(range(200))


def test_sink_counts_until_the_end(origin, address):
    with connect(origin, "sink", address) as sock:
        sock.sendall(bytes(3_000_000))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        client = sock.getsockname()
    wait_until(lambda: f":{client[1]}: 3000000 bytes, end of file" in origin.log.read_text(), "it is logged")


def test_halfclose_reads_on_after_its_fin(origin, address):
    with connect(origin, "halfclose", address) as sock:
        assert sock.makefile("rb").read() == GREETING
        sock.sendall(bytes(500_000))
        sock.shutdown(socket.SHUT_WR)
        client = sock.getsockname()
        wait_until(lambda: f":{client[1]}: 500000 bytes, end of file" in origin.log.read_text(), "it is logged")


def test_reset_answers_a_line_with_rst(origin, address):
    with connect(origin, "reset", address) as sock:
        sock.sendall(b"no line yet")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        sock.sendall(b", now\n")
        with pytest.raises(ConnectionResetError) as caught:
            sock.recv(1)
        assert caught.value.errno == errno.ECONNRESET


def test_an_answer_leaves_from_the_address_that_was_asked(tmp_path):
    addresses = ["127.0.0.1", "127.1.2.3"]
    origin = Origin(tmp_path, node("echo", addresses=addresses))
    try:
        for address in addresses:
            with datagrams(address) as sock:
                sock.sendto(b"who?", (address, origin.port["echo"]))
                assert sock.recvfrom(100) == (b"who?", (address, origin.port["echo"]))
    finally:
        assert origin.stop() == 0
