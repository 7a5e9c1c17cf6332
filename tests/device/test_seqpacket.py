"""The client's side of a connected tunnel, against a proxy of a few lines; and what a read of zero bytes means."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from proxy.context import TunnelContext, decode_context
from proxy.device.seqpacket import SEND_BUFFER_BYTES, dial, enlarge_send_buffer, is_end_of_file
from proxy.errors import ProxyError

CONTEXT = TunnelContext(tenant="acme", addresses=["100.96.0.2", "fd00:96::2"], mtu=1280, offload="virtio-net")


@pytest.fixture
def answering(tmp_path):
    """Makes a listener that gives `answer` (None: hangs up) to one client; afterwards `heard` is its first datagram."""
    with contextlib.ExitStack() as stack:

        def start(answer):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(str(tmp_path / "tunnel.sock"))
            listener.listen()
            heard = []

            def serve():
                client, _ = listener.accept()
                heard.append(client.recv(65_536))
                if answer is not None:
                    client.send(answer)
                    stack.enter_context(client)
                else:
                    client.close()

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            return str(tmp_path / "tunnel.sock"), heard

        yield start


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_dial_introduces_itself_and_hands_over_what_was_agreed(answering):
    path, heard = answering(b'{"ok": true, "mtu": 1200, "offload": "virtio-net"}')
    sock, answer = dial(path, CONTEXT)
    with sock:
        assert (answer.mtu, answer.offload) == (1200, "virtio-net")
        assert sock.getblocking() is False
    assert heard[0].startswith(b"{")
    assert decode_context(heard[0]) == CONTEXT


def test_a_refusal_carries_the_proxys_reason(answering):
    path, _ = answering(b'{"ok": false, "error": "unknown tenant"}')
    with pytest.raises(ProxyError, match="refused the tunnel: unknown tenant"):
        dial(path, CONTEXT)


def test_a_hang_up_without_an_answer_may_be_tried_again(answering):
    path, _ = answering(None)
    with pytest.raises(ProxyError, match="without an answer") as caught:
        dial(path, CONTEXT)
    assert caught.value.retryable


def test_nobody_listens(tmp_path):
    with pytest.raises(FileNotFoundError):
        dial(str(tmp_path / "nothing"), CONTEXT)


def test_a_proxy_that_never_answers(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        with pytest.raises(TimeoutError):
            dial(str(tmp_path / "silent"), CONTEXT, timeout_s=0.05)


def test_a_zero_length_datagram_is_not_the_end(pair):
    ours, theirs = pair
    theirs.send(b"")
    assert ours.recv(10) == b""
    assert not is_end_of_file(ours)
    theirs.send(b"next")
    assert ours.recv(10) == b"next"


def test_a_closed_peer_is_the_end(pair):
    ours, theirs = pair
    theirs.close()
    assert ours.recv(10) == b""
    assert is_end_of_file(ours)


def test_what_was_sent_before_the_end_comes_first(pair):
    ours, theirs = pair
    theirs.send(b"")
    theirs.send(b"last")
    theirs.close()
    assert ours.recv(10) == b""
    assert not is_end_of_file(ours)
    assert ours.recv(10) == b"last"
    assert ours.recv(10) == b""
    assert is_end_of_file(ours)


def test_a_peer_that_only_stops_sending_is_the_end_too(pair):
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    assert is_end_of_file(ours)


def test_a_quiet_peer_is_not_the_end(pair):
    assert not is_end_of_file(pair[0])


def test_the_send_buffer_holds_several_super_packets(pair):
    ours, _ = pair
    before = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    enlarge_send_buffer(ours)
    after = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert before <= after <= 2 * SEND_BUFFER_BYTES
    ours.setblocking(False)
    for _ in range(3):
        assert ours.send(bytes(65_000)) == 65_000
