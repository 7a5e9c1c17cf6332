"""Data of HTTP/2 that passes beside h2: nothing is lost, and what h2 refuses is refused all the same."""

import h2.events as events
import hyperframe.frame as frames
import pytest

from proxy.inspect.http import h2_windows
from proxy.inspect.stream import Side
from tests.inspect.http.h2_peer import REQUEST
from tests.inspect.http.test_h2 import H2Talk

POST = [(b":method", b"POST"), *REQUEST[1:]]


def data_frame(number, data, *flags):
    frame = frames.DataFrame(number, data, flags=list(flags))
    return frame.serialize()


def was_ended(talk):
    """Whether the proxy has said GOAWAY."""
    return any(type(event) is events.ConnectionTerminated for event in talk.browser.events)


def posting(*more, end=False):
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, [*POST, *more], end=end))
    return talk


@pytest.mark.parametrize("size", [1, 100, 4_095, 4_096, 5_000, 16_384])
def test_a_body_in_pieces_of_any_size_arrives_whole(size):
    talk = posting()
    talk.server.reads = True
    body = bytes(range(256)) * 80  # 20,480 bytes in frames of 10,240
    data = data_frame(1, body[:10_240]) + data_frame(1, body[10_240:], "END_STREAM")
    for start in range(0, len(data), size):
        talk.client_says(data[start : start + size])
    assert talk.server.body(1) == body
    assert talk.server.of(events.StreamEnded, 1)


def test_padding_counts_in_the_windows():
    talk = posting()
    frame = frames.DataFrame(1, b"hello", pad_length=9, flags=["PADDED", "END_STREAM"])
    talk.client_says(frame.serialize())
    assert talk.server.body(1) == b"hello"


@pytest.mark.parametrize("length", [b"4", b"6"])
def test_a_body_that_is_not_as_long_as_said_is_refused(length):
    talk = posting((b"content-length", length))
    talk.client_says(data_frame(1, b"hello", "END_STREAM"))
    assert not talk.server.of(events.StreamEnded, 1)
    assert was_ended(talk)


def test_data_after_the_end_of_a_stream_is_refused():
    talk = posting()
    talk.client_says(data_frame(1, b"hello", "END_STREAM") + data_frame(1, b"more"))
    assert talk.server.body(1) == b"hello"
    assert was_ended(talk) or talk.browser.of(events.StreamReset, 1)


def test_data_beyond_the_window_is_refused():
    talk = posting()  # whose origin opens no window: nothing is taken
    for _ in range(100):
        if talk.finished is not None:
            break
        talk.client_says(data_frame(1, b"x" * 16_384))
    assert talk.finished is not None
    assert was_ended(talk)


def test_frames_that_come_together_are_counted_together():
    talk = posting()
    talk.client_says(b"".join(data_frame(1, b"x" * 16_384) for _ in range(100)))
    assert talk.finished is not None
    assert was_ended(talk)


def test_frames_of_two_streams_that_come_together_keep_apart():
    talk = posting()
    talk.client_says(talk.browser.headers(3, POST, end=False))
    both = [data_frame(1 + 2 * (each % 3 == 0), b"%d" % each) for each in range(9)]
    talk.client_says(b"".join(both) + data_frame(1, b"!", "END_STREAM") + data_frame(3, b"?", "END_STREAM"))
    assert (talk.server.body(1), talk.server.body(3)) == (b"124578!", b"036?")


def test_data_within_a_header_block_is_refused():
    talk = H2Talk()
    block = talk.browser.headers(1, POST, end=False)
    talk.client_says(block)
    second = bytearray(talk.browser.headers(3, POST, end=False))
    second[4] &= ~0x4  # END_HEADERS: CONTINUATION has to follow
    talk.client_says(bytes(second) + data_frame(1, b"hello"))
    assert was_ended(talk)


def test_windows_open_again_as_data_passes():
    talk = posting()
    talk.server.reads = True
    sent = 0
    for _ in range(200):  # 3.2 MB: many times what the windows hold
        window = talk.browser.h2.local_flow_control_window(1)
        assert window > 0
        talk.client_says(talk.browser.data(1, b"x" * min(window, 16_000)))
        talk.server.read()
        talk.origin_says(talk.server.out())
        sent += min(window, 16_000)
    assert len(talk.server.body(1)) == sent > 2_000_000


def upload(talk, number, size):
    """Data of the client on this stream, as its windows allow; the origin reads all of it."""
    while size:
        room = min(talk.browser.h2.local_flow_control_window(number), 16_000, size)
        assert room > 0
        talk.client_says(talk.browser.data(number, b"x" * room))
        talk.server.read()
        talk.origin_says(talk.server.out())
        size -= room


def widest(talk, *numbers):
    """What the windows of these streams, and the connection's (0), hold at most."""
    made = talk.handler._front.h2
    managers = [made.streams[each]._inbound_window_manager if each else made._inbound_flow_control_window_manager
                for each in numbers]  # fmt: skip
    return [each.max_window_size for each in managers]


def test_the_window_of_an_upload_widens_as_it_passes():
    talk = H2Talk(window_bytes=65_535, upload_window_bytes=262_140)
    talk.server.reads = True
    for number in (1, 3):
        talk.client_says(talk.browser.headers(number, POST, end=False))
    upload(talk, 1, 60_000)
    assert widest(talk, 1, 3, 0) == [65_535, 65_535, 100 * 65_535 + 2 * 262_140]
    upload(talk, 1, 40_000)
    assert widest(talk, 1, 3) == [131_070, 65_535]
    upload(talk, 1, 300_000)
    assert widest(talk, 1, 3) == [262_140, 65_535]
    assert talk.browser.h2.local_flow_control_window(1) > 65_535
    talk.client_says(talk.browser.data(1, b"", end=True))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=True))
    upload(talk, 3, 300_000)
    assert widest(talk, 3, 0) == [262_140, 100 * 65_535 + 2 * 262_140]
    assert len(talk.server.body(3)) == 300_000
    assert talk.handler._front.windows.spare == (4 << 20) - (262_140 - 65_535)


def test_the_window_of_an_upload_stays_small_where_the_origin_is_slower_than_the_client():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, POST, end=False))
    for _ in range(100):
        while (room := min(talk.browser.h2.local_flow_control_window(1), 16_000)) > 0:
            talk.client_says(talk.browser.data(1, b"x" * room))
        talk.server.read()
        talk.server.reads = False
        talk.origin_says(talk.server.out())
    assert len(talk.server.body(1)) > 6_000_000
    assert widest(talk, 1)[0] <= 256 << 10


def test_what_an_upload_has_of_the_windows_that_all_share_is_given_back_with_the_session(monkeypatch):
    monkeypatch.setattr(h2_windows.SHARED, "available", 1 << 20)
    talk = H2Talk(window_bytes=65_535, spare_window_bytes=0)
    talk.server.reads = True
    talk.client_says(talk.browser.headers(1, POST, end=False))
    upload(talk, 1, 1_000_000)
    assert h2_windows.SHARED.available < 1 << 19
    assert len(talk.at_ends) == 1
    talk.at_ends[0]()
    assert h2_windows.SHARED.available == 1 << 20
    talk.handler.ended(Side.CLIENT)
    assert h2_windows.SHARED.available == 1 << 20


def test_the_window_of_an_origin_s_stream_widens_as_its_client_reads():
    talk = H2Talk(window_bytes=65_535, wide_window_bytes=262_140)
    talk.browser.reads = True
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    for _ in range(40):
        talk.origin_says(talk.server.data(1, b"x" * 16_000))
    made = talk.handler._main.h2
    assert made.streams[1]._inbound_window_manager.max_window_size == 262_140
    talk.origin_says(talk.server.data(1, b"", end=True))
    assert talk.handler._main.windows.spare == 4 << 20
    assert talk.browser.body(1) == b"x" * 640_000


def test_a_wide_window_is_shut_by_an_origin_that_stops():
    talk = H2Talk(window=65_535, window_bytes=65_535, upload_window_bytes=262_140)
    talk.server.reads = True
    talk.client_says(talk.browser.headers(1, POST, end=False))
    upload(talk, 1, 400_000)
    talk.server.reads = False
    sent = 0
    while (room := min(talk.browser.h2.local_flow_control_window(1), 16_000)) > 0 and sent < 1 << 20:
        talk.client_says(talk.browser.data(1, b"y" * room))
        sent += room
    assert 65_535 < sent < 450_000  # the wide window, the origin's own, and what was passed on before that was shut
    talk.server.reads = True
    talk.server.read()
    talk.origin_says(talk.server.out())
    assert len(talk.server.body(1)) == 400_000 + sent
    assert talk.browser.h2.local_flow_control_window(1) > 0
