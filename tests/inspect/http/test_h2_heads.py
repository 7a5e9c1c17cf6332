"""Heads of HTTP/2 that pass beside h2, and the same by h2 alone: the same is read, kept and refused."""

import h2.events as events
import h2.exceptions
import hyperframe.frame as frames
import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.inspect.http import h2_data, h2_heads, h2_wire
from proxy.inspect.http.faults import HttpError
from proxy.inspect.http.h2_data import Incoming
from proxy.inspect.http.h2_guard import FrameGuard
from proxy.inspect.http.limits import Limits
from tests.inspect.http.h2_peer import Peer

LIMITS = Limits(streams=5)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"web.lab"), (b":path", b"/a")]
USUAL = [REQUEST, REQUEST[::-1], [*REQUEST, (b"te", b"trailers"), (b"cookie", b"a=1")],
         [*REQUEST, (b"content-length", b"5")], [(b":method", b"HEAD"), *REQUEST[1:]]]  # fmt: skip
UNUSUAL = [
    [*REQUEST, (b"X-Upper", b"1")], [*REQUEST, (b"te", b"gzip")], [*REQUEST, (b"connection", b"close")],
    [*REQUEST, (b"x", b" 1")], [*REQUEST, (b"x", b"1\r\n2")], [*REQUEST, (b"", b"1")], [*REQUEST, (b"a:b", b"1")],
    [*REQUEST, (b":path", b"/b")], [*REQUEST[:3], (b"x", b"1"), REQUEST[3]], [*REQUEST[:3], (b":path", b"")],
    REQUEST[:3],
    [*REQUEST, (b"content-length", b"5"), (b"content-length", b"6")], [*REQUEST, (b"content-length", b"+5")],
    [*REQUEST, (b"host", b"other.lab")], [*REQUEST, (b"host", b"web.lab")], [*REQUEST[:3], (b":status", b"200")],
    [*REQUEST, (b"cookie", b"a=1"), (b"x", b"1"), (b"cookie", b"b=2")], [(b":method", b"CONNECT"), *REQUEST[1:]],
    [(b":method", b"CONNECT"), (b":authority", b"web.lab:1")], [(b"x", b"trailer")],
]  # fmt: skip
RESPONSES = [
    [(b":status", b"200")], [(b":status", b"204"), (b"content-length", b"0")], [(b":status", b"200"), (b"x", b"")],
    [(b":status", b"304"), (b"content-length", b"9")], [(b":status", b"103")], [(b":status", b"2000")], [(b"x", b"1")],
    [(b":status", b"200"), (b":path", b"/")], [(b":status", b"200"), (b"Upper", b"1")], [(b"grpc-status", b"0")],
]  # fmt: skip
STEP = st.tuples(
    st.sampled_from([1, 3, 5, 7, 9, 11, 13, 2, 0]), st.sampled_from(USUAL + UNUSUAL), st.booleans(), st.booleans()
)


class Ear:
    """One end that hears what is sent to it, by its own way or by h2 alone."""

    def __init__(self, receive, *, is_client=False):
        self.h2 = h2_wire.connection(LIMITS, is_client=is_client)
        guard = FrameGuard(LIMITS, 0.0, lambda last, code: None, has_preface=not is_client)
        self.heard, self.own = [], 0
        self._incoming = Incoming(self.h2, guard, self._event, receive, self._head_received, self._took, self._complete)

    def hear(self, data):
        """What is wrong with it, as the rest of the proxy is told."""
        try:
            self._incoming.read(data, 0.0)
        except HttpError as error:
            return error.fault
        except h2.exceptions.ProtocolError as error:
            return h2_wire.fault_of(error).fault
        return None

    def state(self):
        """What h2 knows of streams that are not closed."""
        return {
            number: (stream.state_machine.state, stream._expected_content_length, stream._actual_content_length)
            for number, stream in self.h2.streams.items()
            if not stream.closed
        }

    def _event(self, event):
        if type(event) in (events.RequestReceived, events.ResponseReceived):
            self.own -= 1
            self._head_received(event.stream_id, event.headers, event.stream_ended is not None)
        elif type(event) is events.StreamEnded:
            self._complete(event.stream_id)
        elif type(event) is events.StreamReset:
            self.heard.append((event.stream_id, "reset", event.error_code))

    def _head_received(self, number, fields, is_complete):
        self.own += 1
        self.heard.append((number, sorted(fields), is_complete))

    def _took(self, number, data, size):
        self.heard.append((number, data))

    def _complete(self, number):
        self.heard.append((number, "end"))


def by_h2_alone(made, part):
    return None


def head(encoder, number, fields, is_last, has_priority=False):
    frame = frames.HeadersFrame(number, encoder.encode(fields))
    frame.flags.add("END_HEADERS")
    if is_last:
        frame.flags.add("END_STREAM")
    if has_priority:
        frame.flags.add("PRIORITY")
        frame.depends_on = 3
    return frame.serialize()


def compare(mine, other, pieces):
    for piece in pieces:
        fault = other.hear(piece)
        assert mine.hear(piece) == fault
        assert mine.heard == other.heard
        if fault is not None:
            return
        assert mine.state() == other.state()
        assert list(mine.h2.decoder.header_table.dynamic_entries) == list(other.h2.decoder.header_table.dynamic_entries)


@settings(max_examples=60)
@given(st.lists(STEP, max_size=8))
def test_requests_are_read_as_h2_reads_them(steps):
    encoder = Encoder()
    pieces = [PREFACE + frames.SettingsFrame(0).serialize()]
    for number, fields, is_last, has_priority in steps:
        pieces.append(head(encoder, number, fields, is_last, has_priority) if number else b"")
    compare(Ear(h2_heads.receive_request), Ear(by_h2_alone), pieces)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from(RESPONSES), st.booleans()), max_size=6))
def test_responses_are_read_as_h2_reads_them(steps):
    ears = Ear(h2_heads.receive_response, is_client=True), Ear(by_h2_alone, is_client=True)
    for ear in ears:
        for number, method in ((1, b"GET"), (3, b"HEAD"), (5, b"POST")):
            ear.h2.send_headers(number, [(b":method", method), *REQUEST[1:]], end_stream=number != 5)
    encoder = Encoder()
    pieces = [frames.SettingsFrame(0).serialize()]
    pieces += [head(encoder, number, fields, is_last) for number, fields, is_last in steps]
    compare(*ears, pieces)


@pytest.mark.parametrize("fields", UNUSUAL)
def test_what_is_unusual_is_for_h2_to_judge(fields):
    encoder = Encoder()
    begun = PREFACE + frames.SettingsFrame(0).serialize() + head(encoder, 1, REQUEST, True)
    compare(Ear(h2_heads.receive_request), Ear(by_h2_alone), [begun, head(encoder, 3, fields, True)])


@pytest.mark.parametrize("fields", USUAL)
def test_what_is_usual_does_not_take_h2s_way(fields):
    ear, encoder = Ear(h2_heads.receive_request), Encoder()
    ear.hear(PREFACE + frames.SettingsFrame(0).serialize() + head(encoder, 1, REQUEST, True))
    ear.own = 0
    ear.hear(head(encoder, 3, fields, False))
    assert ear.own == 1


def test_more_streams_than_allowed_are_refused_and_closed_ones_do_not_count():
    ear, encoder = Ear(h2_heads.receive_request), Encoder()
    ear.hear(PREFACE + frames.SettingsFrame(0).serialize())
    for number in range(1, 40, 2):
        assert ear.hear(head(encoder, number, REQUEST, True)) is None
        assert h2_heads.send_response(ear.h2, number, [(b":status", b"200")], is_last=True)
    for number in range(41, 51, 2):
        assert ear.hear(head(encoder, number, REQUEST, True)) is None
    assert ear.hear(head(encoder, 51, REQUEST, True)) is not None


def test_a_head_of_several_frames_is_understood():
    peer, ear = Peer(is_client=True), Ear(h2_heads.receive_request)
    ear.hear(peer.out())
    peer.hear(ear.h2.data_to_send())
    for number in (1, 3):
        peer.h2.send_headers(number, REQUEST, end_stream=True)
    ear.hear(peer.out())
    large = [(b":status", b"200"), *((b"x-%d" % each, b"y" * 5_000) for each in range(9))]
    assert large == peer.hear(h2_heads.send_response(ear.h2, 1, large, is_last=False))[0].headers
    assert peer.hear(h2_heads.send_response(ear.h2, 3, [(b":status", b"204")], is_last=True))[-1].stream_id == 3


def test_nothing_is_sent_on_a_stream_that_was_reset():
    peer, ear = Peer(is_client=True), Ear(h2_heads.receive_request)
    ear.hear(peer.out() + peer.headers(1, REQUEST) + peer.headers(3, REQUEST))
    peer.h2.reset_stream(3)
    ear.hear(peer.out())
    assert h2_heads.send_response(ear.h2, 3, [(b":status", b"200")], is_last=True) is None
    with pytest.raises(h2.exceptions.ProtocolError):
        h2_data.spend(ear.h2, 3, 0, is_last=True)
    assert h2_heads.send_response(ear.h2, 1, [(b":status", b"200")], is_last=True)
    with pytest.raises(h2.exceptions.ProtocolError):
        h2_data.spend(ear.h2, 1, 0, is_last=True)
