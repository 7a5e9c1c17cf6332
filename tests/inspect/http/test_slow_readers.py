"""Large messages of WebSockets and many streams, past ends that read slowly or not at all."""

import h2.events as events
import pytest

from proxy.inspect.http.h2_wire import STREAM_HIGH_WATER
from proxy.inspect.http.limits import HIGH_WATER
from proxy.inspect.stream import Side
from tests.inspect.http.h2_peer import REQUEST
from tests.inspect.http.test_h2 import H2Talk
from tests.inspect.http.test_h2_data import POST
from tests.inspect.http.test_websocket import CONNECT, YES, accept_of, client, opened, server

MESSAGE = 16 << 20
PIECE = 60_000
SLACK = HIGH_WATER + STREAM_HIGH_WATER + 2 * PIECE


def fragments(part):
    """A message in fragments, with a ping behind each."""
    count, ping = MESSAGE >> 20, part(b"there?", 9)
    found = []
    for number in range(count):
        first = 0x80 if number == count - 1 else 0
        found += [part(bytes([number]) * (1 << 20), 0 if number else 2, first, *KEY[part]), ping]
    return b"".join(found)


KEY = {client: (b"\0\0\0\0",), server: ()}  # masked with zeros, for the time that it takes


@pytest.mark.parametrize("side", [Side.CLIENT, Side.ORIGIN])
def test_a_message_of_16_mb_over_http_1(side):
    talk = opened()
    data = fragments(client if side is Side.CLIENT else server)
    sender, reader, far = talk.client, talk.origin, Side.ORIGIN
    if side is Side.ORIGIN:
        sender, reader, far = talk.origin, talk.client, Side.CLIENT
    reader.takes, heard = False, bytearray()
    for start in range(0, len(data), PIECE):
        talk.handler.received(side, data[start : start + PIECE])
        assert reader.queued < SLACK
        if sender.is_paused:
            heard += reader.take()
            talk.drained(far)
            assert not sender.is_paused
    assert heard + reader.take() == data
    talk.say(client(b"\x03\xe8", 8))
    talk.answer(server(b"\x03\xe8", 8))
    for each in Side:
        talk.handler.ended(each)
    (record,) = talk.records
    messages = (1, 0) if side is Side.CLIENT else (0, 1)
    assert (record.client_messages, record.origin_messages, record.close_code, record.fault) == (*messages, 1000, None)


def test_a_message_of_16_mb_to_a_client_of_http_2_that_opens_its_window_late():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    asked = talk.origin.take()
    key = asked.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    talk.origin_says(YES + b"Sec-WebSocket-Accept: " + accept_of(key) + b"\r\n\r\n")
    data, most = fragments(server), 0
    for start in range(0, len(data), PIECE):
        talk.origin_says(data[start : start + PIECE])
        most = max(most, talk.handler._front.streams[1].out.size)
        if talk.origin.is_paused:
            talk.browser.read()
            talk.browser.reads = False
            talk.client_says(talk.browser.out())
    while talk.browser._unread:
        talk.browser.read()
        talk.browser.reads = False
        talk.client_says(talk.browser.out())
    assert talk.browser.body(1) == data
    assert PIECE < most < SLACK


def test_a_hundred_streams_whose_windows_never_open_are_slow_readers():
    talk = H2Talk(window=0)
    for number in range(1, 201, 2):
        talk.client_says(talk.browser.headers(number, REQUEST))
        talk.origin_says(talk.server.headers(number, [(b":status", b"200")], end=False))
        talk.origin_says(talk.server.data(number, b"x" * 15_000, end=number % 4 == 1))
    held = sum(stream.out.size for stream in talk.handler._front.streams.values())
    assert held == 100 * 15_000
    for number in range(3, 201, 4):
        talk.origin_says(talk.server.data(number, b"x" * 500, end=True))
    talk.wait(200)
    talk.settle()
    assert [record.fault for record in talk.records] == ["slow_read"] * 100
    assert len(talk.browser.of(events.StreamReset)) == 100
    assert not talk.handler._front.streams
    assert not talk.handler._main.streams


def answered(talk, count):
    """The numbers of so many streams, each with the head of its answer."""
    numbers = range(1, 2 * count, 2)
    for number in numbers:
        talk.client_says(talk.browser.headers(number, REQUEST))
        talk.origin_says(talk.server.headers(number, [(b":status", b"200")], end=False))
    return numbers


def test_however_many_streams_are_not_read_another_one_passes():
    talk = H2Talk(window=65_535)
    talk.browser.h2.increment_flow_control_window(1 << 30)
    talk.client_says(talk.browser.out())
    *unread, read = answered(talk, 100)
    held = 0
    for number in unread:
        while room := min(talk.server.h2.local_flow_control_window(number), 16_384):
            talk.origin_says(talk.server.data(number, b"x" * room))
            held += room
    held -= sum(len(talk.browser.body(number)) for number in unread)
    assert held < 16 << 20  # what is held for a client is bounded
    for _ in range(64):
        talk.origin_says(talk.server.data(read, b"y" * 16_384))
        talk.browser.h2.acknowledge_received_data(16_384, read)
        talk.client_says(talk.browser.out())
    assert len(talk.browser.body(read)) == 1 << 20


def test_however_many_uploads_the_origin_does_not_read_another_one_passes():
    talk = H2Talk()
    talk.server.h2.increment_flow_control_window(1 << 30)
    talk.origin_says(talk.server.out())
    numbers = range(1, 201, 2)
    for number in numbers:
        talk.client_says(talk.browser.headers(number, POST, end=False))
    *unread, read = numbers
    for number in unread:
        while room := min(talk.browser.h2.local_flow_control_window(number), 16_384):
            talk.client_says(talk.browser.data(number, b"x" * room))
    for _ in range(64):
        talk.client_says(talk.browser.data(read, b"y" * 16_384))
        talk.server.h2.acknowledge_received_data(16_384, read)
        talk.origin_says(talk.server.out())
    assert len(talk.server.body(read)) == 1 << 20
