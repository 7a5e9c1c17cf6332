"""Bytes between two real connections: all of them, in order, with every FIN and RST, and no more memory than said."""

from __future__ import annotations

import errno
import gc
import hashlib
import socket

import pytest

from proxy.stream import relay as relay_module
from proxy.stream.queues import SIOCOUTQ, ask, is_delivered
from proxy.stream.relay import CHUNK, PIPE_BYTES, Relay, Side
from tests.stream.relays import BLOCK, relaying

MANY = 64 << 20
SMALL = {"near_rcv": 8192, "near_snd": 8192, "far_rcv": 8192, "far_snd": 8192}


def other(scene, side):
    return scene.origin if side == "client" else scene.client


SIDES = pytest.mark.parametrize("side", ["client", "origin"])


@SIDES
@pytest.mark.parametrize("size", [1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_bytes_arrive_as_they_were_sent(side, size):
    with relaying() as scene:
        sender, receiver = getattr(scene, side), other(scene, side)
        sender.send_many(size)
        scene.loop.until(lambda: receiver.received == size)
        assert receiver.digest.digest() == sender.sent_digest.digest()
        counted = scene.flow.client_payload, scene.flow.origin_payload
        assert counted == ((size, 0) if side == "client" else (0, size))


def test_question_and_answer_then_each_side_closes():
    with relaying() as scene:
        scene.client.send(b"GET / HTTP/1.0\r\n\r\n", then_shut=True)
        scene.loop.until(lambda: scene.origin.is_eof)
        assert scene.origin.head == b"GET / HTTP/1.0\r\n\r\n"
        assert scene.reasons == []
        scene.origin.send(b"HTTP/1.0 200 OK\r\n\r\n", then_shut=True)
        scene.loop.until(lambda: scene.client.is_eof)
        assert scene.client.head == b"HTTP/1.0 200 OK\r\n\r\n"
        assert (scene.reasons, scene.flow.history) == (["client_closed"], "Ff")
        assert scene.flow.ttfb_ms > 0


@SIDES
def test_half_close_leaves_the_other_direction_open(side):
    with relaying() as scene:
        closed, open_ = getattr(scene, side), other(scene, side)
        closed.shut()
        scene.loop.until(lambda: open_.is_eof)
        for _ in range(3):
            open_.send_many(CHUNK * 4)
            sent = open_.sent + CHUNK * 4
            scene.loop.until(lambda sent=sent: closed.received == sent)
        open_.shut()
        scene.loop.until(lambda: closed.is_eof)
        assert closed.digest.digest() == open_.sent_digest.digest()
        assert scene.reasons == [f"{side}_closed"]


@pytest.mark.slow
def test_bulk_in_both_directions_at_once():
    with relaying() as scene:
        scene.client.send_many(MANY, then_shut=True)
        scene.origin.send_many(MANY, then_shut=True)
        scene.loop.until(lambda: scene.reasons)
        scene.loop.until(lambda: scene.client.is_eof and scene.origin.is_eof)
        for sender, receiver in ((scene.client, scene.origin), (scene.origin, scene.client)):
            assert (receiver.received, receiver.digest.digest()) == (MANY, sender.sent_digest.digest())
        flow = scene.flow
        assert (flow.client_payload, flow.origin_payload) == (MANY, MANY)
        assert flow.spliced > MANY  # most of both went through pipes


@SIDES
def test_reset_of_one_side_is_a_reset_at_the_other(side):
    with relaying() as scene:
        broken, witness = getattr(scene, side), other(scene, side)
        witness.send(b"hello")
        scene.loop.until(lambda: broken.received == 5)
        broken.reset()
        scene.loop.until(lambda: witness.error)
        assert witness.error.errno == errno.ECONNRESET
        assert scene.reasons == [f"{side}_reset"]


@SIDES
def test_reset_after_a_half_close_is_a_reset_too(side):
    with relaying() as scene:
        broken, witness = getattr(scene, side), other(scene, side)
        broken.send(b"x", then_shut=True)
        scene.loop.until(lambda: witness.is_eof)
        broken.reset()
        error = scene.loop.until(lambda: witness.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        assert error == errno.EPIPE  # what the kernel says of a reset behind a FIN
        assert scene.reasons == [f"{side}_reset"]


@SIDES
@pytest.mark.parametrize("size", [1, 1000, CHUNK, 3 * CHUNK, 2_000_000])
def test_bytes_that_were_delivered_before_a_reset_arrive_before_the_reset(side, size):
    """As they would without us; the relay hears of both at once."""
    with relaying(**{side: {"near_rcv": 4 << 20, "far_snd": 4 << 20}}) as scene:
        sender, receiver = getattr(scene, side), other(scene, side)

        def send_and_vanish():
            assert sender.sock.send(BLOCK[:1] * size) == size
            while not is_delivered(sender.sock, is_shut=False):
                pass
            sender.reset()

        scene.loop.call(send_and_vanish)
        scene.loop.until(lambda: receiver.error)
        assert (receiver.received, receiver.is_eof) == (size, False)
        assert receiver.error.errno == errno.ECONNRESET
        assert scene.reasons == [f"{side}_reset"]


@SIDES
@pytest.mark.parametrize("size", [10, 300_000])
def test_answer_of_a_peer_that_refuses_the_rest_arrives(side, size):
    """It says why, and closes with bytes unread: a reset, met while we write to it."""
    with relaying(**{side: {"near_rcv": 1 << 20, "far_snd": 1 << 20}}) as scene:
        refuser, sender = getattr(scene, side), other(scene, side)
        refuser.pause()
        sender.send_many(64 << 20)
        scene.loop.turns(50)
        assert refuser.sock.send(bytes(size)) == size
        refuser.close()
        scene.loop.until(lambda: sender.error)
        scene.loop.until(lambda: sender.received == size)
        assert sender.error.errno in (errno.ECONNRESET, errno.EPIPE)
        assert scene.reasons == [f"{side}_reset"]


@SIDES
def test_what_comes_for_a_side_that_is_gone_is_not_read(side):
    with relaying(client=SMALL, origin=SMALL) as scene:
        gone, intact_sock = getattr(scene, side), other(scene, side)
        intact_sock.pause()
        gone.send_many(4 << 20)
        scene.loop.turns(300)
        gone.reset()
        scene.loop.until(lambda: scene.intact_sock)
        intact_sock.send_many(1 << 20)
        calls = scene.calls
        scene.loop.turns(300)
        assert scene.calls - calls < 20
        counted = scene.flow.origin_payload if side == "client" else scene.flow.client_payload
        assert (counted, scene.reasons) == (0, [])


def test_both_sides_gone_is_the_end():
    with relaying(client=SMALL, origin=SMALL) as scene:
        scene.client.pause()
        scene.origin.send_many(4 << 20)
        scene.loop.turns(300)
        scene.origin.reset()
        scene.loop.until(lambda: scene.intact_sock)
        assert scene.reasons == []
        scene.client.reset()
        scene.loop.until(lambda: scene.reasons)
        assert (scene.reasons, scene.is_cut) == (["origin_reset"], True)


@SIDES
def test_slow_reader_slows_the_sender_and_loses_nothing(side):
    with relaying(client=SMALL, origin=SMALL) as scene:
        sender, receiver = getattr(scene, side), other(scene, side)
        receiver.pause()
        sender.send_many(8 << 20, then_shut=True)
        before = -1
        while before != sender.sent:  # until nothing moves any more
            before = sender.sent
            scene.loop.turns(200)
        assert sender.sent < 4 << 20
        reading = scene.relay.client if side == "client" else scene.relay.origin
        assert len(reading.pending) <= CHUNK
        assert reading.piped_bytes <= PIPE_BYTES
        receiver.read()
        scene.loop.until(lambda: receiver.is_eof)
        assert (receiver.received, receiver.digest.digest()) == (8 << 20, sender.sent_digest.digest())
        calls = scene.calls
        scene.loop.turns(300)
        assert scene.calls == calls  # nobody waits to write any more


def test_nothing_spins_when_one_side_is_done_and_its_last_bytes_wait():
    """The client's socket is shut in both directions while the origin does not read what it sent."""
    with relaying(origin={"near_snd": 1 << 18, "far_rcv": 8192}) as scene:
        scene.origin.pause()
        size = 1 << 20
        scene.client.send_many(size, then_shut=True)
        scene.origin.shut()
        scene.loop.until(lambda: scene.client.is_eof and scene.client.sent == size)
        scene.loop.turns(100)
        calls = scene.calls
        scene.loop.turns(300)
        assert (scene.calls, scene.reasons) == (calls, [])
        scene.origin.read()
        scene.loop.until(lambda: scene.origin.is_eof)
        assert scene.origin.digest.digest() == scene.client.sent_digest.digest()
        assert scene.reasons == ["origin_closed"]


def test_slow_reader_that_has_half_closed_gets_everything_before_the_end():
    """The origin's socket is shut in both directions while its last bytes wait for the client: a hang-up, no reset."""
    with relaying(client=SMALL, origin={"near_rcv": 4 << 20, "far_snd": 4 << 20}) as scene:
        scene.client.pause()
        scene.client.shut()
        scene.loop.until(lambda: scene.origin.is_eof)
        size = 3 << 20
        scene.origin.send_many(size, then_shut=True)
        scene.loop.until(lambda: scene.origin.sent == size)
        calls = scene.calls
        scene.loop.turns(300)
        assert scene.reasons == []
        assert scene.calls - calls < 50
        scene.client.read()
        scene.loop.until(lambda: scene.client.is_eof)
        assert (scene.client.received, scene.client.error) == (size, None)
        assert scene.client.digest.digest() == scene.origin.sent_digest.digest()
        assert scene.reasons == ["client_closed"]


@SIDES
def test_peer_that_vanishes_while_bytes_wait_for_it(side):
    with relaying(client=SMALL, origin=SMALL) as scene:
        gone, witness = getattr(scene, side), other(scene, side)
        gone.pause()
        witness.send_many(4 << 20)
        scene.loop.turns(300)
        assert scene.reasons == []
        gone.reset()
        scene.loop.until(lambda: witness.error)
        assert scene.reasons == [f"{side}_reset"]
        assert witness.error.errno in (errno.ECONNRESET, errno.EPIPE)


@SIDES
def test_sender_that_vanishes_while_its_bytes_wait(side):
    with relaying(client=SMALL, origin=SMALL) as scene:
        gone, witness = getattr(scene, side), other(scene, side)
        witness.pause()
        gone.send_many(4 << 20)
        scene.loop.turns(300)
        least = gone.sent - ask(gone.sock, SIOCOUTQ)
        gone.reset()
        scene.loop.until(lambda: scene.intact_sock)
        assert scene.reasons == []
        witness.read()
        scene.loop.until(lambda: witness.error)
        assert witness.error.errno == errno.ECONNRESET
        assert witness.received >= least > 0
        assert scene.reasons == [f"{side}_reset"]


@SIDES
def test_nothing_spins_while_one_side_is_half_closed(side):
    with relaying() as scene:
        getattr(scene, side).shut()
        scene.loop.until(lambda: other(scene, side).is_eof)
        calls = scene.calls
        scene.loop.turns(300)
        assert scene.calls == calls


@SIDES
def test_nothing_spins_while_one_side_does_not_read(side):
    with relaying(client=SMALL, origin=SMALL) as scene:
        sender, receiver = getattr(scene, side), other(scene, side)
        receiver.pause()
        sender.send_many(8 << 20)
        before = -1
        while before != sender.sent:
            before = sender.sent
            scene.loop.turns(200)
        calls = scene.calls
        scene.loop.turns(300)
        assert scene.calls - calls < 50  # some when a delayed ACK made room; one that spins makes one a turn


@pytest.mark.parametrize("buffers", [{}, {"near_snd": 1 << 18, "far_rcv": 8192}], ids=["fast", "slow"])
def test_idle_relay_holds_no_pipe(buffers):
    with relaying(origin=buffers) as scene:
        scene.client.send_many(4 << 20)
        scene.loop.until(lambda: scene.origin.received == 4 << 20)
        scene.loop.turns(5)
        assert scene.flow.spliced > 0
        assert (scene.relay.client.pipe, scene.relay.origin.pipe) == (None, None)
        assert len(relay_module._pipes) == 1


def test_pipe_is_given_back_when_the_last_round_took_the_last_byte(monkeypatch):
    monkeypatch.setattr(relay_module, "MAX_READS", 2)
    with relaying(client={"near_rcv": 1 << 20, "far_snd": 1 << 20}) as scene:
        size = scene.client.sock.send(bytes(3 * CHUNK))
        scene.loop.until(lambda: scene.origin.received == size)
        scene.loop.turns(5)
        assert scene.flow.spliced > 0
        assert scene.relay.client.pipe is None


def test_pipe_that_holds_bytes_at_the_end_is_not_used_again():
    """It would give them to the next flow, of whatever tenant."""
    with relaying(origin={"near_snd": 1 << 18, "far_rcv": 8192}) as scene:
        scene.origin.pause()
        scene.client.send_many(8 << 20)
        scene.loop.until(lambda: scene.relay.client.piped_bytes > 0)
        scene.relay.abort("admin_killed")
        assert relay_module._pipes == []


def test_no_pipe_to_be_had_means_copying(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(relay_module, "_take_pipe", refuse)
    with relaying() as scene:
        scene.client.send_many(2 << 20, then_shut=True)
        scene.loop.until(lambda: scene.origin.is_eof)
        assert scene.origin.digest.digest() == scene.client.sent_digest.digest()
        assert (scene.origin.received, scene.flow.spliced) == (2 << 20, 0)


@pytest.mark.parametrize("reason", ["admin_killed", "drain", "client_idle_timeout"])
def test_abort_resets_both_sides_once(reason):
    with relaying() as scene:
        scene.relay.abort(reason)
        scene.relay.abort("drain")
        scene.loop.until(lambda: scene.client.error and scene.origin.error)
        assert {scene.client.error.errno, scene.origin.error.errno} == {errno.ECONNRESET}
        assert scene.reasons == [reason]


def test_bug_in_one_flow_ends_that_flow(monkeypatch):
    with relaying() as scene:
        monkeypatch.setattr(type(scene.relay), "first_bytes", lambda self, chunk: 1 / 0)
        scene.origin.send(b"x")
        scene.loop.until(lambda: scene.reasons)
        assert scene.reasons == ["proxy_error"]
        scene.loop.until(lambda: scene.client.error and scene.origin.error)


@SIDES
@pytest.mark.parametrize("size", [1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_last_bytes_and_the_fin_that_stand_in_the_socket_together_both_arrive(side, size):
    with relaying(**{side: {"near_rcv": 1 << 20, "far_snd": 1 << 20}}) as scene:
        sender, receiver = getattr(scene, side), other(scene, side)

        def send_at_once():
            sender.sock.sendall(bytes(size))
            sender.shut()

        scene.loop.call(send_at_once)
        scene.loop.until(lambda: receiver.is_eof)
        assert (receiver.received, scene.reasons) == (size, [])


def urgent_byte(sock):
    """The urgent byte that has arrived, or nothing."""
    try:
        return sock.recv(1, socket.MSG_OOB)
    except OSError:
        return b""


@SIDES
@pytest.mark.parametrize("size", [0, 6, CHUNK, 5 * CHUNK])
def test_urgent_byte_arrives_urgent_and_the_others_around_it(side, size):
    with relaying(**{side: {"near_rcv": 1 << 20, "far_snd": 1 << 20}}) as scene:
        sender, receiver = getattr(scene, side), other(scene, side)
        receiver.pause()

        def send_at_once():
            sender.sock.sendall(b"b" * size)
            sender.sock.send(b"!", socket.MSG_OOB)
            sender.sock.send(b"after")

        scene.loop.call(send_at_once)
        got = bytearray()
        scene.loop.until(lambda: len(got) == size or got.extend(waiting(receiver.sock, size - len(got))))
        assert scene.loop.until(lambda: urgent_byte(receiver.sock)) == b"!"
        scene.loop.until(lambda: len(got) == size + 5 or got.extend(waiting(receiver.sock, 6)))
        assert got == b"b" * size + b"after"
        scene.loop.call(lambda: (sender.sock.send(b"last"), sender.shut()))
        receiver.read()
        scene.loop.until(lambda: receiver.is_eof)
        assert receiver.head == b"last"
        counted = scene.flow.client_payload if side == "client" else scene.flow.origin_payload
        assert counted == size + len("!afterlast")


def waiting(sock, most):
    """What has arrived, up to so many bytes."""
    try:
        return sock.recv(most)
    except BlockingIOError:
        return b""


@SIDES
def test_urgent_byte_waits_for_room_as_the_others_do(side):
    """It comes to a side whose peer takes nothing; and again, and again."""
    with relaying(client=SMALL, origin=SMALL) as scene:
        sender, receiver = getattr(scene, side), other(scene, side)
        receiver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sent = hashlib.sha256()
        for turn in range(200):
            block = bytes([turn]) * 5000
            for data, flags in ((block, 0), (b"!", socket.MSG_OOB)):
                receiver.pause()
                while data:
                    try:
                        n = sender.sock.send(data, flags)
                    except BlockingIOError:
                        receiver.read()
                        scene.loop.turns(1)
                        continue
                    sent.update(data[:n])
                    data = data[n:]
        sender.shut()
        receiver.read()
        scene.loop.until(lambda: receiver.is_eof)
        assert (receiver.received, receiver.digest.digest()) == (200 * 5001, sent.digest())


@SIDES
def test_rest_of_a_burst_is_read_after_the_others_had_their_turn(monkeypatch, side):
    """It is told again, although nothing new has happened."""
    monkeypatch.setattr(relay_module, "MAX_READS", 1)
    with relaying(**{side: {"near_rcv": 1 << 20, "far_snd": 1 << 20}}) as scene:
        sender, receiver = getattr(scene, side), other(scene, side)
        scene.loop.call(lambda: sender.sock.sendall(bytes(3 * CHUNK)))
        scene.loop.until(lambda: receiver.received == 3 * CHUNK)


@SIDES
def test_fin_that_came_while_bytes_waited_is_not_forgotten(monkeypatch, side):
    monkeypatch.setattr(relay_module, "CHUNK", CHUNK + 1)  # no pipe
    slow = {"near_snd": 8192, "far_rcv": 8192}
    buffers = {"client": slow, "origin": slow} | {side: {"near_rcv": 1 << 20, "far_snd": 1 << 20}}
    with relaying(**buffers) as scene:
        sender, receiver = getattr(scene, side), other(scene, side)
        receiver.pause()
        size = CHUNK + 100  # the rest will be a short read
        sender.send_many(size, then_shut=True)
        scene.loop.until(lambda: sender.sent == size)
        scene.loop.turns(100)
        receiver.read()
        scene.loop.until(lambda: receiver.is_eof)
        assert receiver.digest.digest() == sender.sent_digest.digest()


def test_relay_that_is_over_leaves_nothing_to_the_collector():
    gc.disable()
    try:
        with relaying() as scene:
            scene.client.send(b"x", then_shut=True)
            scene.loop.until(lambda: scene.origin.is_eof)
            scene.origin.shut()
            scene.loop.until(lambda: scene.reasons)
            scene.loop.turns(2)
            scene.relay = None
            left = [kept for kept in gc.get_objects() if isinstance(kept, Relay | Side)]
            assert [kept for kept in left if getattr(kept, "relay", kept).flow is scene.flow] == []
    finally:
        gc.enable()


def test_small_exchanges_use_no_pipe():
    with relaying() as scene:
        for turn in range(1, 20):
            scene.client.send(b"q" * 100)
            scene.loop.until(lambda turn=turn: scene.origin.received == 100 * turn)
            scene.origin.send(b"a" * 2000)
            scene.loop.until(lambda turn=turn: scene.client.received == 2000 * turn)
        assert scene.flow.spliced == 0
        assert relay_module._pipes == []
