"""What two kernels say to each other through a stream: resets, ports used again, urgent bytes; to a socket or a tunnel.

laptop: a kernel whose packets go through the proxy ==(SEQPACKET)== proxy ------ origin: another kernel
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import select
import socket
import struct

import pytest

from proxy.stream.queues import SIOCOUTQ, is_delivered
from tests.netns import needs_root
from tests.running import PATIENCE_S, staged, until
from tests.test_app_life import in_background
from tests.test_downgrade import CONFIGURATION as ROUTED

pytestmark = [pytest.mark.netns, needs_root]
SIZE = 1_000_000
BODY = 20_000_000
CONNECTIONS = 40
ANSWER = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def running():
    with staged() as stage:
        yield stage


@pytest.fixture(scope="module")
def running_routed():
    with staged(configuration=ROUTED) as stage:
        yield stage


@pytest.fixture
def routed(running_routed):
    yield running_routed
    running_routed.after_test()


@pytest.fixture
def stage(running):
    yield running
    running.after_test()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_until_reset(sock):
    """How many bytes came, and what ended them."""
    count = 0
    try:
        while data := sock.recv(1 << 16):
            count += len(data)
    except OSError as error:
        return count, error.errno
    return count, 0


class ToSocket:
    """The origin is reached by a socket of the proxy's host."""

    def __init__(self, stage, version, offload):
        self.stage, self.version = stage, version
        self.listener, self.laptop = stage.listen(version), stage.laptop(offload=offload)
        self.address = self.listener.getsockname()[:2]

    def dial(self, port=0):
        """A connection, from this port; its end in the laptop."""
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        sock = self.laptop.run(socket.socket, family, socket.SOCK_STREAM)
        self.stage._closing.callback(sock.close)
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.laptop.addresses[self.version], port))
        sock.connect(self.address)
        return sock

    def connect(self):
        """Both ends of a connection."""
        return self.dial(), self.stage.accept(self.listener)


class ToTunnel(ToSocket):
    """The origin is another laptop: the stream goes down to packets again."""

    def __init__(self, stage, version, offload):
        self.stage, self.version = stage, version
        self.laptop, self.far = stage.laptop(offload=offload), stage.laptop(offload=offload)
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.listener = self.far.run(socket.socket, family)
        stage._closing.callback(self.listener.close)
        self.listener.settimeout(PATIENCE_S)
        self.listener.bind((self.far.addresses[version], 0))
        self.listener.listen(16)
        self.address = self.listener.getsockname()[:2]


@pytest.fixture(params=["socket", "tunnel"])
def path(request, version, offload):
    """A way through the proxy, at level stream."""
    stage = request.getfixturevalue("stage" if request.param == "socket" else "routed")
    return (ToSocket if request.param == "socket" else ToTunnel)(stage, version, offload)


@pytest.mark.parametrize("who", ["client", "origin"])
def test_all_that_was_delivered_before_a_reset_is_read_before_it(path, who):
    for _ in range(5):
        client, origin = path.connect()
        speaker, reader = (client, origin) if who == "client" else (origin, client)
        reading = in_background(read_until_reset, reader)
        port = client.getsockname()[1]
        speaker.sendall(bytes(SIZE))
        until(lambda speaker=speaker: is_delivered(speaker, is_shut=False))
        reset(speaker)
        assert reading() == (SIZE, errno.ECONNRESET)
        (record,) = until(lambda port=port: path.stage.ended(src_port=port, dst_port=path.address[1]))
        assert record.close_reason == f"{who}_reset"
        payload = record.total.client_payload_bytes if who == "client" else record.total.origin_payload_bytes
        assert payload == SIZE


def test_a_refusal_with_the_rest_unread_is_read(path):
    """A server that answers 413 after the headers, and closes: between two kernels its answer always arrives."""

    def serve():
        server = path.stage.accept(path.listener)
        assert server.recv(1000).startswith(b"POST")
        server.sendall(ANSWER)
        server.close()

    for _ in range(10):
        serving = in_background(serve)
        sock = path.dial()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(b"POST / HTTP/1.1\r\nHost: origin\r\n\r\n" + bytes(BODY))
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(1000):
                answer += data
        assert answer == ANSWER
        serving()
        sock.close()


@pytest.mark.slow
def test_a_reader_that_pauses_gets_all_of_it_and_then_the_reset(path):
    client, origin = path.connect()
    sent = filled(origin)
    least = sent - unacknowledged(origin)
    reset(origin)
    until(lambda: "tcp" not in path.stage.status.flows)  # the flow is over; its bytes are not
    count, error = read_until_reset(client)
    assert (count >= least > 0, error) == (True, errno.ECONNRESET)


def test_the_same_port_again_at_once_after_a_reset(path):
    """Forty connections of one client from one port, each ended by its reset: every one of them is answered."""
    server = in_background(echo, path.listener, CONNECTIONS)
    for number in range(CONNECTIONS):
        sock = path.dial(port=40_000)
        sock.sendall(b"%d" % number)
        assert sock.recv(10) == b"%d" % number
        reset(sock)
    assert server() == CONNECTIONS


@pytest.mark.parametrize("who", ["client", "origin"])
def test_urgent_byte_between_others(path, who):
    client, origin = path.connect()
    port = client.getsockname()[1]
    speaker, reader = (client, origin) if who == "client" else (origin, client)
    speaker.send(b"abc")
    speaker.send(b"X", socket.MSG_OOB)
    speaker.send(b"def")
    assert until(lambda: urgent_byte(reader)) == b"X"
    speaker.close()
    data = b""
    while more := reader.recv(100):
        data += more
    assert data == b"abcdef"
    reader.close()
    (record,) = until(lambda: path.stage.ended(src_port=port, dst_port=path.address[1]))
    assert record.total.client_payload_bytes + record.total.origin_payload_bytes == 7


def urgent_byte(sock):
    try:
        return sock.recv(1, socket.MSG_OOB)
    except OSError:
        return b""


def echo(listener, connections):
    """Answer what each of so many connections says, until it ends; how many were reset."""
    resets = 0
    for _ in range(connections):
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(PATIENCE_S)
            try:
                while data := sock.recv(100):
                    sock.sendall(data)
            except ConnectionResetError:
                resets += 1
    return resets


def filled(sock):
    """Send until every buffer on the way is full: how much that was."""
    sent = 0
    sock.setblocking(False)
    while select.select([], [sock], [], 0.5)[1]:
        sent += sock.send(bytes(65_536))
    return sent


def unacknowledged(sock):
    return int.from_bytes(fcntl.ioctl(sock.fileno(), SIOCOUTQ, bytes(4)), "little")
