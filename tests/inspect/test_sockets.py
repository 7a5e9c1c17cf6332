"""What streams pass on of what has come: in one piece, bounded, and the end behind it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from proxy.inspect.http.limits import HIGH_WATER
from proxy.inspect.sockets import LARGE_WRITES, MAX_READ, RECORD, TLSStream, Turn
from proxy.inspect.stream import Side
from proxy.inspect.tls import facts_of
from proxy.poller import IN, OUT, Poller
from proxy.session.facts import TLSFacts
from tests.inspect.test_tls_records import connected


class Heard:
    """A handler that remembers."""

    def __init__(self):
        self.pieces, self.has_ended, self.drains = [], False, 0

    def received(self, side, data):
        self.pieces.append(data)

    def ended(self, side):
        self.has_ended = True

    def drained(self, side):
        self.drains += 1


@pytest.fixture
def made():
    """Makes a stream whose ALPN is this, with what is heard of it, and its peer."""
    loop = asyncio.new_event_loop()
    poller, closing = Poller(loop), []

    def make(alpn):
        _, ours, peer = connected()
        ours.setblocking(False)
        facts = TLSFacts(facts_of(ours, None).version, "any", alpn=alpn)
        stream = TLSStream(Side.ORIGIN, ours, poller, Turn(), lambda error: None, facts)
        stream.handler = heard = Heard()
        stream.resume()
        closing.extend((stream, peer))
        return stream, heard, peer

    yield make
    for each in closing:
        each.close()
    poller.close()
    loop.close()


def sent(stream, peer, size):
    """Write so many zeros, which the peer reads; how many it has read."""
    taken = []

    def take():
        while sum(taken) < size:
            data = peer.recv(RECORD)
            assert not any(data)
            taken.append(len(data))

    reading = threading.Thread(target=take)
    reading.start()
    stream.write(bytes(size))
    while stream.queued:
        stream.ready(OUT)
    reading.join()
    return sum(taken)


def test_records_of_many_streams_are_passed_on_together(made):
    stream, heard, peer = made("h2")
    for part in (b"one", b"two", b"three"):
        peer.send(part)
    stream.ready(IN)
    assert heard.pieces == [b"onetwothree"]


def test_a_short_record_of_a_single_stream_is_not_followed_by_another_read(made):
    stream, heard, peer = made("http/1.1")
    for part in (b"one", b"two"):
        peer.send(part)
    stream.ready(IN)
    assert heard.pieces == [b"one"]
    stream.ready(IN)
    assert heard.pieces == [b"one", b"two"]


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_no_more_than_64_kib_are_passed_on_at_one_event(made, alpn):
    stream, heard, peer = made(alpn)
    body = bytes(range(256)) * 1024
    sending = threading.Thread(target=peer.sendall, args=(body,))
    sending.start()
    while sum(map(len, heard.pieces)) < len(body):
        stream.ready(IN)
    sending.join()
    assert b"".join(heard.pieces) == body
    assert max(map(len, heard.pieces)) <= MAX_READ


def test_what_came_before_the_end_is_passed_on_before_it(made):
    stream, heard, peer = made("h2")
    peer.send(b"last words")
    peer.close()
    stream.ready(IN)
    assert heard.pieces == [b"last words"]
    while not heard.has_ended:
        stream.ready(IN)


def test_an_origin_that_takes_a_large_body_without_an_answer_has_its_session_saved(made):
    stream, _, peer = made("h2")
    done = []
    stream.after_read = lambda sock: done.append("saved") or (lambda sock: done.append("callback removed"))
    taken = 0
    for number in range(1, LARGE_WRITES + 3):
        taken += sent(stream, peer, 2 * RECORD)
        assert done == ["saved", "callback removed"][: max(0, number - LARGE_WRITES + 1)]
    assert stream.after_read is None
    assert taken == (LARGE_WRITES + 2) * 2 * RECORD


def test_who_has_written_much_hears_when_it_has_gone_and_who_passes_on_what_was_read_does_not(made):
    stream, heard, peer = made("h2")
    for _ in range(3):
        sent(stream, peer, MAX_READ + 36)
    assert heard.drains == 0
    sent(stream, peer, HIGH_WATER + 1)
    assert heard.drains == 1
    sent(stream, peer, MAX_READ)
    assert heard.drains == 1
