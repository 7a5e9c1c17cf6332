"""What a peer had delivered before its reset is read by the other one before it hears of the reset: real kernels.

laptop: a kernel whose packets go through the proxy ==(SEQPACKET)== proxy ------ origin: another kernel
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

import pytest

from proxy.stream.relay import is_delivered
from tests.netns import needs_root
from tests.running import ORIGIN, staged, until
from tests.test_app_life import in_background

pytestmark = [pytest.mark.netns, needs_root]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])
SIZE = 1_000_000
BODY = 20_000_000
ANSWER = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def running():
    with staged() as stage:
        yield stage


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


def connected(stage, version, offload):
    listener, laptop = stage.listen(version), stage.laptop(offload=offload)
    sock = laptop.tcp(ORIGIN[version], listener.getsockname()[1])
    return sock, stage.accept(listener)


@FAMILIES
@MODES
@pytest.mark.parametrize("who", ["client", "origin"])
def test_all_that_was_delivered_before_a_reset_is_read_before_it(stage, version, offload, who):
    for _ in range(5):
        client, origin = connected(stage, version, offload)
        speaker, reader = (client, origin) if who == "client" else (origin, client)
        reading = in_background(read_until_reset, reader)
        speaker.sendall(bytes(SIZE))
        until(lambda speaker=speaker: is_delivered(speaker, is_shut=False))
        reset(speaker)
        assert reading() == (SIZE, errno.ECONNRESET)
        (record,) = until(lambda client=origin: stage.ended(close_reason=f"{who}_reset", protocol="tcp")[:1])
        payload = record.total.client_payload_bytes if who == "client" else record.total.origin_payload_bytes
        assert payload == SIZE


@FAMILIES
@MODES
def test_a_refusal_with_the_rest_unread_is_read(stage, version, offload):
    """A server that answers 413 after the headers, and closes: between two kernels its answer always arrives."""
    listener, laptop = stage.listen(version), stage.laptop(offload=offload)

    def serve():
        server = stage.accept(listener)
        assert server.recv(1000).startswith(b"POST")
        server.sendall(ANSWER)
        server.close()

    for _ in range(10):
        serving = in_background(serve)
        sock = laptop.tcp(ORIGIN[version], listener.getsockname()[1])
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(b"POST / HTTP/1.1\r\nHost: origin\r\n\r\n" + bytes(BODY))
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(1000):
                answer += data
        assert answer == ANSWER
        serving()


@pytest.mark.slow
@FAMILIES
def test_a_reader_that_pauses_gets_all_of_it_and_then_the_reset(stage, version):
    client, origin = connected(stage, version, False)
    sent = 0
    origin.setblocking(False)
    with contextlib.suppress(BlockingIOError):  # until every buffer on the way is full
        while True:
            sent += origin.send(bytes(65_536))
    until(lambda: stage.status.flows == {"tcp": 1})
    least = sent - int.from_bytes(bytes(unacknowledged(origin)), "little")
    reset(origin)
    until(lambda: not stage.status.flows)  # the flow is over; its bytes are not
    count, error = read_until_reset(client)
    assert (count >= least > 0, error) == (True, errno.ECONNRESET)


def unacknowledged(sock):
    import fcntl

    return fcntl.ioctl(sock.fileno(), 0x5411, bytes(4))  # SIOCOUTQ
