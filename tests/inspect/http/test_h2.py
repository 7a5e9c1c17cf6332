"""HTTP/2 on either side or on both, as transcripts; and what a peer may not do."""

import h2.events as events
import hpack
import hyperframe.frame as frames
import pytest
from h2.settings import SettingCodes

from proxy.errors import ProxyError
from proxy.inspect.http import h2_wire
from proxy.inspect.http.limits import Limits
from proxy.inspect.stream import Side
from proxy.verdict import Ruling, deny
from tests.inspect.http.h2_peer import REQUEST, Peer
from tests.inspect.http.talk import Talk, tls

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


class H2Talk(Talk):
    """A talk whose client, and maybe origin, speak HTTP/2."""

    def __init__(self, *, origin_h2=True, client_h2=True, connect_protocol=False, window=65_535, **options):
        super().__init__(tls("h2" if client_h2 else "http/1.1"), tls("h2" if origin_h2 else "http/1.1"), **options)
        self.browser = Peer(is_client=True, window=window) if client_h2 else None
        self.server = Peer(is_client=False, connect_protocol=connect_protocol) if origin_h2 else None
        if client_h2:
            self.client_says(self.browser.out())
        if origin_h2:
            self.origin_says(self.server.out())
        self.settle()

    def settle(self):
        """Whatever was written is heard, until nobody has more to say."""
        moved = True
        while moved:
            moved = False
            if self.browser and self.client.written:
                self.browser.hear(self.client.take())
                if out := self.browser.out():
                    self.handler.received(Side.CLIENT, out)
                moved = True
            if self.server and self.origin.written:
                self.server.hear(self.origin.take())
                if out := self.server.out():
                    self.handler.received(Side.ORIGIN, out)
                moved = True

    def client_says(self, data):
        if data:
            self.handler.received(Side.CLIENT, data)
        self.settle()

    def origin_says(self, data):
        if data:
            self.handler.received(Side.ORIGIN, data)
        self.settle()


def test_streams_pass_side_by_side():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.client_says(talk.browser.headers(3, [*REQUEST[:3], (b":path", b"/b")]))
    asked = talk.server.of(events.RequestReceived)
    assert [dict(e.headers)[b":path"] for e in asked] == [b"/a", b"/b"]
    assert dict(asked[0].headers)[b"via"] == b"2 oxy"
    talk.origin_says(talk.server.headers(3, [(b":status", b"200")], end=False))
    talk.origin_says(talk.server.data(3, b"second", end=True))
    talk.origin_says(talk.server.headers(1, [(b":status", b"404"), (b"x", b"y")]))
    assert talk.browser.body(3) == b"second"
    assert dict(talk.browser.of(events.ResponseReceived, 1)[0].headers)[b":status"] == b"404"
    assert sorted((r.path, r.status, r.client_version, r.origin_version) for r in talk.records) == [
        ("/a", 404, "2", "2"),
        ("/b", 200, "2", "2"),
    ]
    assert talk.finished is None


def test_trailers_and_interim_responses_pass():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST, end=False))
    talk.client_says(talk.browser.data(1, b"ask"))
    talk.browser.h2.send_headers(1, [(b"x-sum", b"1")], end_stream=True)
    talk.client_says(talk.browser.out())
    assert talk.server.of(events.TrailersReceived)[0].headers == [(b"x-sum", b"1")]
    talk.origin_says(talk.server.headers(1, [(b":status", b"103"), (b"link", b"</s>")], end=False))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    talk.origin_says(talk.server.data(1, b"answer"))
    talk.origin_says(talk.server.headers(1, [(b"grpc-status", b"0")]))
    assert (b"link", b"</s>") in talk.browser.of(events.InformationalResponseReceived)[0].headers
    assert talk.browser.of(events.TrailersReceived)[0].headers == [(b"grpc-status", b"0")]
    assert talk.records[0].request_body_bytes == 3


def test_a_client_of_h2_and_an_origin_of_1_1():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, [*REQUEST, (b"cookie", b"a=1"), (b"cookie", b"b=2")]))
    heard = talk.origin.take()
    assert heard == b"GET /a HTTP/1.1\r\nHost: web.lab\r\ncookie: a=1; b=2\r\nVia: 2 oxy\r\n\r\n"
    talk.origin_says(OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: 5\r\nConnection: keep-alive\r\n\r\n"))
    headers = dict(talk.browser.of(events.ResponseReceived)[0].headers)
    assert headers == {b":status": b"200", b"content-type": b"text/plain", b"content-length": b"5", b"via": b"1.1 oxy"}
    assert talk.browser.body(1) == b"hello"
    assert talk.browser.of(events.StreamEnded)


def test_concurrent_streams_have_connections_of_their_own_to_an_origin_of_1_1():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.client_says(talk.browser.headers(3, [*REQUEST[:3], (b":path", b"/b")]))
    dial = talk.dials[0]
    assert (dial.host, dial.port, dial.server_name) == ("192.0.2.1", 80, "web.lab")
    other = dial.connected(tls("http/1.1"))
    assert other.take().startswith(b"GET /b HTTP/1.1")
    dial.receiver.received(OK)
    talk.settle()
    assert talk.browser.body(3) == b"hello"
    talk.origin_says(OK)
    assert talk.browser.body(1) == b"hello"


def test_a_connection_that_its_origin_closes_is_closed_here_too():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.client_says(talk.browser.headers(3, [*REQUEST[:3], (b":path", b"/b")]))
    dial = talk.dials[0]
    other = dial.connected(tls("http/1.1"))
    dial.receiver.received(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    talk.settle()
    assert talk.browser.body(3) == b"hello"
    assert other.is_ended
    assert not talk.origin.is_ended


def test_a_client_of_1_1_and_an_origin_of_h2():
    talk = H2Talk(client_h2=False)
    talk.client_says(b"POST /up HTTP/1.1\r\nHost: web.lab\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    asked = talk.server.of(events.RequestReceived)[0]
    assert (b"x-y", b"z") in asked.headers
    assert (b":authority", b"web.lab") in asked.headers
    talk.client_says(b"0\r\n\r\n")
    assert talk.server.of(events.StreamEnded)
    assert talk.server.body(1) == b"abc"
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    assert talk.client.take() == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVia: 2 oxy\r\n\r\n"
    talk.origin_says(talk.server.data(1, b"xyz", end=True))
    assert talk.client.take() == b"3\r\nxyz\r\n0\r\n\r\n"
    talk.client_says(b"GET / HTTP/1.1\r\nHost: web.lab\r\n\r\n")
    talk.origin_says(talk.server.headers(3, [(b":status", b"204")]))
    assert talk.client.take() == b"HTTP/1.1 204 No Content\r\nVia: 2 oxy\r\n\r\n"


def test_prior_knowledge_in_the_clear():
    talk = Talk()
    browser, server = Peer(is_client=True), Peer(is_client=False)
    opening = browser.out()
    assert talk.say(opening[:10]) == b""
    server.hear(talk.say(opening[10:]))
    server.hear(talk.say(browser.headers(1, REQUEST)))
    assert server.of(events.RequestReceived)


# Flow control.


def test_the_client_s_window_follows_the_origin_s():
    talk = H2Talk(window_bytes=65_535, upload_window_bytes=65_535)
    talk.origin.takes = False
    talk.client_says(talk.browser.headers(1, REQUEST, end=False))
    talk.settle()
    sent = 0
    while (room := min(talk.browser.h2.local_flow_control_window(1), 16_384)) > 0 and sent < 1 << 20:
        talk.handler.received(Side.CLIENT, talk.browser.data(1, b"x" * room))
        talk.browser.hear(talk.client.take())
        sent += room
    assert sent < 400_000  # the server's window, what waits for it, and the client's own window
    talk.origin.takes = True
    talk.server.hear(talk.origin.take())
    talk.server.read()
    talk.drained(Side.ORIGIN)
    talk.origin_says(talk.server.out())
    assert len(talk.server.body(1)) == sent
    assert talk.browser.h2.local_flow_control_window(1) > 0


def test_the_origin_s_window_follows_the_client_s():
    talk = H2Talk(window=65_535, window_bytes=65_535)
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    sent = 0
    while (room := min(talk.server.h2.local_flow_control_window(1), 16_384)) > 0 and sent < 1 << 20:
        talk.origin_says(talk.server.data(1, b"x" * room))
        sent += room
    assert sent < 300_000
    assert len(talk.browser.body(1)) == 65_535
    talk.browser.read()
    talk.client_says(talk.browser.out())
    assert len(talk.browser.body(1)) == sent
    assert talk.server.h2.local_flow_control_window(1) > 0


def test_one_stream_that_is_not_read_holds_up_no_other():
    talk = H2Talk(window=65_535)
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.client_says(talk.browser.headers(3, REQUEST))
    talk.browser.h2.increment_flow_control_window(1 << 20)
    talk.client_says(talk.browser.out())
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    talk.origin_says(talk.server.headers(3, [(b":status", b"200")], end=False))
    for _ in range(12):
        talk.origin_says(talk.server.data(1, b"x" * 16_000))
    talk.origin_says(talk.server.data(3, b"quick", end=True))
    assert talk.browser.body(3) == b"quick"


# Resets, GOAWAY, drain.


def test_a_stream_that_the_client_resets_is_reset_at_the_origin():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.browser.h2.reset_stream(1, 8)
    talk.client_says(talk.browser.out())
    assert talk.server.of(events.StreamReset)[0].error_code == 8
    assert talk.records[0].fault == "cancelled"


def test_a_stream_that_the_origin_resets_is_a_502():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.server.h2.reset_stream(1, 2)
    talk.origin_says(talk.server.out())
    headers = dict(talk.browser.of(events.ResponseReceived)[0].headers)
    assert headers[b":status"] == b"502"
    assert b"connection_terminated" in headers[b"proxy-status"]
    assert (talk.records[0].fault, talk.records[0].status) == ("origin_reset", 502)


def test_a_response_that_is_broken_off_is_reset_for_the_client():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    talk.server.h2.reset_stream(1, 2)
    talk.origin_says(talk.server.out())
    assert talk.browser.of(events.StreamReset)
    assert talk.records[0].fault == "response_cut"


def test_an_early_answer_stops_the_upload():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST, end=False))
    talk.origin_says(talk.server.headers(1, [(b":status", b"413")]))
    talk.server.h2.reset_stream(1, 0)
    talk.origin_says(talk.server.out())
    assert dict(talk.browser.of(events.ResponseReceived)[0].headers)[b":status"] == b"413"
    assert not talk.browser.of(events.StreamReset)  # in one piece with the answer curl 7.88 would lose that
    talk.client_says(talk.browser.data(1, b"more"))
    talk.wait(1)
    talk.settle()
    assert talk.browser.of(events.StreamReset)[0].error_code == 0
    assert talk.finished is None
    assert talk.records[0].fault is None


def test_an_origin_that_goes_away_completes_what_it_has_begun():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.client_says(talk.browser.headers(3, [*REQUEST[:3], (b":path", b"/b")]))
    talk.origin_says(frames.GoAwayFrame(0, last_stream_id=1, error_code=0).serialize())
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")]))
    assert talk.browser.of(events.ResponseReceived, 1)
    other = talk.dials[0].connected(tls("http/1.1"))
    assert other.take().startswith(b"GET /b HTTP/1.1")  # asked for again: the origin had not begun with it


def test_requests_wait_for_the_only_connection_of_an_origin_that_has_no_other():
    talk = H2Talk(origin_h2=False)
    for number in (1, 3, 5):
        talk.client_says(talk.browser.headers(number, REQUEST))
    for dial in talk.dials:
        dial.then(ProxyError("what leaves by a tunnel has one connection only", side="origin"))
    asked = len(talk.dials)
    for number in (1, 3, 5):
        assert talk.origin.take().startswith(b"GET /a ")
        talk.origin_says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert talk.browser.of(events.StreamEnded, number)
    assert len(talk.dials) == asked
    assert [each.fault for each in talk.records] == [None] * 3


def test_drain_says_goaway_and_waits_for_what_is_under_way():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.handler.drain()
    raw = talk.client.take()
    assert frames.Frame.parse_frame_header(memoryview(raw[:9]))[0].type == frames.GoAwayFrame.type
    assert talk.finished is None
    talk.handler.received(Side.ORIGIN, talk.server.headers(1, [(b":status", b"200")]))
    assert talk.finished == ("drain", "proxy")
    assert talk.client.is_ended


def test_an_idle_connection_is_sent_away():
    talk = H2Talk()
    talk.wait(80)
    assert talk.finished is not None


# What a peer may not do.


def flood(frame, count, talk=None):
    talk = talk or H2Talk()
    for _ in range(count // 50):
        talk.handler.received(Side.CLIENT, frame * 50)
        if talk.finished:
            break
    return talk


FLOODS = [
    (frames.PingFrame(0, opaque_data=b"12345678").serialize(), "ping_flood"),
    (frames.SettingsFrame(0).serialize(), "settings_flood"),
    (frames.PriorityFrame(5, depends_on=3, stream_weight=1).serialize(), "priority_flood"),
    (frames.WindowUpdateFrame(0, window_increment=1).serialize(), "window_flood"),
    (frames.ExtensionFrame(0xEE, 0, flag_byte=0, body=b"").serialize(), "unknown_frames"),
]


@pytest.mark.parametrize(("frame", "fault"), FLOODS, ids=[each[1] for each in FLOODS])
def test_floods_of_small_frames_have_names(frame, fault):
    talk = flood(frame, 5_000)
    assert talk.finished == ("client_protocol_error", "client")
    assert [record.fault for record in talk.records] == [fault]


def test_a_flood_of_empty_data():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST, end=False))
    flood(frames.DataFrame(1, data=b"").serialize(), 5_000, talk)
    assert talk.records[0].fault == "empty_frames"


def test_rapid_reset():
    talk = H2Talk()
    for number in range(1, 4001, 2):
        talk.browser.h2.send_headers(number, REQUEST, end_stream=True)
        talk.browser.h2.reset_stream(number, 8)
        talk.client_says(talk.browser.out())
        if talk.finished:
            break
    assert talk.finished == ("client_protocol_error", "client")
    assert 900 < number / 2 < 1_100
    assert {record.fault for record in talk.records} >= {"cancelled"}


def test_a_header_block_without_end():
    talk = H2Talk()
    block = frames.HeadersFrame(1, data=b"\x00\x01a\x01b" * 100, flags=[]).serialize()
    talk.handler.received(Side.CLIENT, block)
    flood(frames.ContinuationFrame(1, data=b"\x00\x01a\x01b" * 10).serialize(), 5_000, talk)
    assert talk.records[0].fault == "continuation_flood"


def test_a_header_list_that_grows_when_it_is_decoded():
    talk = H2Talk()
    fields = [*REQUEST, (b"x-bomb", b"y" * 3_000)]
    talk.client_says(talk.browser.headers(1, fields))
    block = talk.browser.h2.encoder.encode([*fields, *[fields[-1]] * 5_000])
    assert len(block) < 16_000
    frame = frames.HeadersFrame(3, data=block, flags=["END_HEADERS", "END_STREAM"])
    talk.handler.received(Side.CLIENT, frame.serialize())
    assert "header_bomb" in [record.fault for record in talk.records]
    assert talk.finished is not None


def test_a_window_that_is_never_opened_ends_the_stream():
    talk = H2Talk(window=0)
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    for _ in range(5):
        talk.origin_says(talk.server.data(1, b"x" * 16_000))
    talk.wait(200)
    assert talk.records[0].fault == "slow_read"
    talk.settle()
    assert talk.browser.of(events.StreamReset)


@pytest.mark.parametrize("origin_h2", [False, True])
@pytest.mark.parametrize("size", [1, 60_000])
def test_the_end_of_a_response_waits_for_the_client_s_window(size, origin_h2):
    talk = H2Talk(window=0, origin_h2=origin_h2)
    _answered_whole(talk, b"x" * size)
    assert talk.browser.body(1) == b""
    assert talk.records == []
    talk.browser.h2.increment_flow_control_window(size, 1)
    talk.client_says(talk.browser.out())
    assert talk.browser.body(1) == b"x" * size
    assert talk.browser.of(events.StreamEnded)
    (record,) = talk.records
    assert (record.fault, record.response_body_bytes) == (None, size)


def test_the_end_of_a_response_waits_for_the_client_s_connection():
    talk = H2Talk(window=1 << 20)
    talk.client.takes = False
    talk.browser.h2.increment_flow_control_window(1 << 20)
    talk.client_says(talk.browser.out())
    talk.client.queued = 300_000  # of other streams
    _answered_whole(talk, b"x" * 60_000)
    assert talk.browser.body(1) == b""
    talk.client.takes = True
    talk.drained(Side.CLIENT)
    talk.settle()
    assert talk.browser.body(1) == b"x" * 60_000
    assert talk.browser.of(events.StreamEnded)


def _answered_whole(talk, body):
    talk.client_says(talk.browser.headers(1, REQUEST))
    if talk.server is None:
        talk.origin_says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    for start in range(0, len(body), 16_000):
        part = body[start : start + 16_000]
        talk.origin_says(talk.server.data(1, part, end=start + len(part) == len(body)))


def test_a_stream_whose_request_ends_after_its_response_is_forgotten():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST, end=False))
    talk.server.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    talk.origin_says(talk.server.out())
    talk.client_says(talk.browser.data(1, b"ask", end=True))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")]))
    assert talk.server.body(1) == b""
    talk.server.h2.increment_flow_control_window(3, 1)
    talk.origin_says(talk.server.out())
    assert talk.server.body(1) == b"ask"
    assert not talk.handler._main.streams


@pytest.mark.parametrize("size", [1, 60_000])
def test_the_end_of_a_response_that_is_never_taken_ends_the_stream(size):
    talk = H2Talk(window=0)
    _answered_whole(talk, b"x" * size)
    talk.wait(200)
    assert talk.records[0].fault == "slow_read"
    talk.settle()
    assert talk.browser.of(events.StreamReset)


def test_a_page_that_is_never_taken_ends_the_stream():
    talk = H2Talk(window=0, judge=lambda facts: Ruling(deny("no"), []))
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.wait(200)
    assert talk.records[0].fault == "denied"
    talk.settle()
    assert talk.browser.of(events.StreamReset)


def test_goaway_waits_for_the_end_of_a_response():
    talk = H2Talk(window=0)
    _answered_whole(talk, b"hello")
    talk.handler.drain()
    talk.settle()
    assert talk.finished is None
    talk.handler.received(Side.CLIENT, frames.WindowUpdateFrame(1, window_increment=5).serialize())
    assert b"hello" in talk.client.take()
    assert talk.finished is not None


@pytest.mark.parametrize("path", [b"/a b", b"/a\r\nX: y", b"", b"/a HTTP/1.1\r\nHost: evil\r\n\r\nGET /"])
def test_a_path_that_would_be_two_requests_in_1_1(path):
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, [*REQUEST[:3], (b":path", path)]))
    assert talk.origin.take() == b""
    assert [record.fault for record in talk.records] in (["bad_request"], ["bad_frame"])


@pytest.mark.parametrize("is_complete", [True, False])
def test_too_many_fields_are_answered_by_a_page(is_complete):
    talk = H2Talk(origin_h2=False)
    fields = [*REQUEST, *((b"x-%d" % number, b"y") for number in range(300))]
    talk.client_says(talk.browser.headers(1, fields, end=is_complete))
    (response,) = talk.browser.of(events.ResponseReceived)
    assert dict(response.headers)[b":status"] == b"431"
    assert talk.browser.of(events.StreamEnded)
    assert [(record.fault, record.status) for record in talk.records] == [("too_many_headers", 431)]
    talk.wait(1)
    talk.settle()
    assert bool(talk.browser.of(events.StreamReset)) is not is_complete
    talk.client_says(talk.browser.headers(3, REQUEST))
    assert talk.origin.take().startswith(b"GET ")


def test_of_a_malformed_request_no_response_is_recorded():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, [*REQUEST[:3], (b":path", b"/a b")]))
    assert talk.browser.of(events.StreamReset)
    assert [(record.fault, record.status, record.host) for record in talk.records] == [("bad_request", None, "web.lab")]


@pytest.mark.parametrize(
    "field", [(b"x", b"a\r\nb: c"), (b"x\r\ny", b"a"), (b"X-Upper", b"a"), (b"transfer-encoding", b"chunked")]
)
def test_fields_that_would_be_others_in_1_1(field):
    talk = H2Talk(origin_h2=False)
    block = talk.browser.h2.encoder.encode([*REQUEST, field])
    talk.handler.received(Side.CLIENT, frames.HeadersFrame(1, data=block, flags=["END_HEADERS"]).serialize())
    assert talk.origin.take() == b""
    assert [record.fault for record in talk.records] in (["bad_request"], ["bad_frame"])


def test_a_body_longer_than_its_content_length_is_refused():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, [*REQUEST, (b"content-length", b"2")], end=False))
    talk.client_says(talk.browser.data(1, b"abcdef"))
    assert b"abcdef" not in talk.origin.take()
    assert talk.records[0].fault is not None


@pytest.mark.parametrize("size", [1, 5, 13])
def test_single_bytes_are_as_good_as_segments(size):
    talk = H2Talk(origin_h2=False)
    data = talk.browser.headers(1, REQUEST, end=False) + talk.browser.data(1, b"abc", end=True)
    for start in range(0, len(data), size):
        talk.handler.received(Side.CLIENT, data[start : start + size])
    assert talk.origin.take().endswith(b"3\r\nabc\r\n0\r\n\r\n")


def test_long_fields_go_without_huffman_coding_whose_time_grows_with_their_square():
    made = h2_wire.connection(Limits(), is_client=True)
    short, long = [(b"x-short", b"a" * 100)], [(b"x-long", b"a" * 60_000)]
    assert len(made.encoder.encode(short)) < 100
    block = made.encoder.encode(long)
    assert len(block) > 60_000
    assert hpack.Decoder(1 << 20).decode(block, raw=True) == long
