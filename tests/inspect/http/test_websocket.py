"""WebSockets through HTTP/1.1 and HTTP/2 in any pairing: frames unharmed, messages for hooks, what is refused."""

import zlib

import h2.events as events
import pytest
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from proxy.inspect.http.frames import FrameReader, close_frame
from proxy.inspect.http.websocket import accept_of
from proxy.inspect.stream import Side
from proxy.verdict import deny
from tests.inspect.http.talk import Talk
from tests.inspect.http.test_h2 import H2Talk

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ASK = (
    b"GET /chat HTTP/1.1\r\nHost: web.lab\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
)
YES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
CONNECT = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":authority", b"web.lab"),
    (b":path", b"/chat"),
    (b"sec-websocket-version", b"13"),
]
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


def opened(extra=b"", **options):
    talk = Talk(**options)
    heard = talk.say(ASK + extra + b"\r\n")
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in heard
    read = talk.answer(YES + b"Sec-WebSocket-Accept: " + accept_of(KEY) + b"\r\n" + extra + b"\r\n")
    assert read.startswith(b"HTTP/1.1 101 ")
    return talk


def client(payload=b"hi", opcode=1, first=0x80, key=b"\x01\x02\x03\x04"):
    masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return bytes((first | opcode,)) + _length(len(payload), 0x80) + key + masked


def server(payload=b"hi", opcode=1, first=0x80):
    return bytes((first | opcode,)) + _length(len(payload), 0) + payload


def _length(size, mask):
    if size < 126:
        return bytes((mask | size,))
    if size < 1 << 16:
        return bytes((mask | 126,)) + size.to_bytes(2, "big")
    return bytes((mask | 127,)) + size.to_bytes(8, "big")


def test_the_key_of_the_rfc():
    assert accept_of(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_frames_pass_unharmed_and_are_counted():
    talk = opened()
    sent = client() + client(b"a" * 70_000, 2) + client(b"x" * 300, 1, 0) + client(b"", 9) + client(b"y", 0)
    heard = b"".join(talk.say(sent[start : start + 1000]) for start in range(0, len(sent), 1000))
    assert heard == sent
    assert talk.answer(server() + server(b"ping", 9)) == server() + server(b"ping", 9)
    talk.say(client(b"\x03\xe9bye", 8))
    talk.answer(server(b"\x03\xe9", 8))
    talk.handler.ended(Side.ORIGIN)
    talk.handler.ended(Side.CLIENT)
    record = talk.records[0]
    assert (record.upgrade, record.status, record.fault) == ("websocket", 101, None)
    assert (record.client_messages, record.origin_messages, record.close_code) == (3, 1, 1001)
    assert talk.finished == ("origin_closed", "origin")


def test_a_message_of_16_mb_passes_while_it_comes():
    talk = opened()
    sent = client(b"z" * (16 << 20), 2, key=b"\0\0\0\0")
    for start in range(0, len(sent), 1 << 18):
        part = sent[start : start + (1 << 18)]
        assert talk.say(part) == part
    assert talk.handler._front.exchange.websocket.client.frames.messages == 1


BROKEN = [
    (server(), "unmasked_frame", 1002),
    (client(first=0xC0), "reserved_bits", 1002),
    (client(first=0xA0), "reserved_bits", 1002),
    (client(opcode=3), "bad_opcode", 1002),
    (client(opcode=0), "bad_fragment", 1002),
    (client(first=0) + client(), "bad_fragment", 1002),
    (client(opcode=9, first=0), "control_frame", 1002),
    (client(b"x" * 126, opcode=9), "control_frame", 1002),
    (bytes((0x82, 0xFF)) + (1 << 62).to_bytes(8, "big") + b"\0\0\0\0", "frame_too_large", 1009),
    (client(b"\x03", opcode=8), "bad_close", 1002),
    (client(b"\x03\xed", opcode=8), "bad_close", 1002),  # 1005 says that there was no code
    (client(b"\x03\xe8\xff", opcode=8), "bad_message", 1007),
]


@pytest.mark.parametrize(("frame", "fault", "code"), BROKEN, ids=[each[1] for each in BROKEN])
def test_a_frame_that_breaks_the_protocol_ends_the_connection(frame, fault, code):
    talk = opened()
    talk.say(client(b"good"))
    talk.handler.received(Side.CLIENT, frame)
    assert talk.client.take() == close_frame(code, talk.records[0].detail, is_masked=False)
    assert talk.records[0].fault == fault
    assert talk.client.is_ended
    assert talk.finished == ("client_protocol_error", "client")


def test_a_close_frame_that_is_partly_with_the_origin_is_followed_by_nothing():
    talk = opened()
    frame = client(b"\x00\x7b", opcode=8)
    talk.say(frame[:7])
    talk.handler.received(Side.CLIENT, frame[7:])
    assert talk.records[0].fault == "bad_close"
    assert talk.origin.take() == b""


def test_a_masked_frame_of_an_origin_is_the_origins_fault():
    talk = opened()
    talk.answer(client())
    assert (talk.records[0].fault, talk.records[0].fault_by) == ("masked_frame", "origin")
    assert talk.finished[1] == "origin"


def test_compressed_messages_pass_as_they_are_where_no_hook_reads():
    talk = opened(DEFLATE)
    assert talk.say(client(b"\xff\xff\xffgarbage", first=0xC0)) == client(b"\xff\xff\xffgarbage", first=0xC0)
    assert talk.handler._front.exchange.websocket.client.messages is None


def deflated(*messages):
    extension = PerMessageDeflate()
    extension.accept("permessage-deflate")
    protocol = FrameProtocol(client=True, extensions=[extension])
    return [protocol.send_data(message, fin=True) for message in messages]


def test_a_hook_reads_whole_messages_inflated_and_decides():
    seen = []
    hooks = {"websocket_message": lambda m: seen.append((m.from_client, m.data)) or ("no" if m.data == "bad" else None)}
    talk = opened(DEFLATE, hooks=hooks)
    first, second, third = deflated("one " * 50, b"two", "bad")
    assert talk.say(first + second) == first + second
    assert talk.answer(server(b"plain")) == server(b"plain")
    heard = talk.say(third)
    assert third not in heard
    assert heard == close_frame(1008, "no", is_masked=True)
    assert (talk.origin.is_ended, talk.origin.is_aborted) == (True, False)  # which would take the frame back
    assert seen == [(True, "one " * 50), (True, b"two"), (False, "plain"), (True, "bad")]
    assert (talk.records[0].fault, talk.records[0].verdict) == ("denied", "denied")


def test_a_message_goes_on_as_soon_as_it_is_whole_and_allowed():
    talk = opened(hooks={"websocket_message": "later"})
    talk.say(client(b"fir", first=0))
    assert talk.origin.take() == b""
    assert talk.say(client(b"st", 0) + client(b"second")[:3]) == b""
    assert talk.client.is_paused
    _, message, then = talk.asked.pop()
    assert message.data == "first"
    then(None)
    assert talk.origin.take() == client(b"fir", first=0) + client(b"st", 0)
    assert not talk.client.is_paused
    talk.say(client(b"second")[3:])
    talk.asked.pop()[2](deny("not this"))
    assert talk.client.take() == close_frame(1008, "not this", is_masked=False)


def test_control_frames_do_not_wait_for_messages():
    talk = opened(hooks={"websocket_message": lambda m: None})
    assert talk.say(client(b"p", 9)) == client(b"p", 9)


def test_what_inflates_without_end_is_refused():
    talk = opened(DEFLATE, hooks={"websocket_message": lambda m: None}, message_bytes=1 << 20)
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = press.compress(b"\0" * (64 << 20)) + press.flush(zlib.Z_SYNC_FLUSH)
    talk.say(client(bomb[:-4], 2, 0xC0, key=b"\0\0\0\0"))
    assert talk.records[0].fault == "message_too_large"


def test_text_that_is_no_utf_8_is_refused_where_it_is_read():
    talk = opened(hooks={"websocket_message": lambda m: None})
    talk.say(client(b"\xff\xfe"))
    assert talk.records[0].fault == "bad_message"


def test_drain_says_1001_to_both():
    talk = opened()
    talk.handler.drain()
    assert talk.client.take() == close_frame(1001, "the proxy ends", is_masked=False)
    assert talk.origin.take() == close_frame(1001, "the proxy ends", is_masked=True)


# By HTTP/2 (RFC 8441).


def test_http_2_to_http_1_1():
    talk = H2Talk(origin_h2=False)
    assert talk.browser.h2.remote_settings.enable_connect_protocol == 1
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    heard = talk.origin.take()
    assert heard.startswith(
        b"GET /chat HTTP/1.1\r\nHost: web.lab\r\nsec-websocket-version: 13\r\nConnection: Upgrade\r\n"
    )
    key = heard.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    talk.origin_says(YES + b"Sec-WebSocket-Accept: " + accept_of(key) + b"\r\n\r\n" + server())
    response = dict(talk.browser.of(events.ResponseReceived)[0].headers)
    assert response[b":status"] == b"200"
    assert not {b"upgrade", b"connection", b"sec-websocket-accept"} & set(response)
    assert talk.browser.body(1) == server()
    talk.client_says(talk.browser.data(1, client()))
    assert talk.origin.take() == client()
    talk.client_says(talk.browser.data(1, client(b"\x03\xe8", 8), end=True))
    assert talk.origin.is_ended
    talk.handler.ended(Side.ORIGIN)
    talk.settle()
    assert talk.browser.of(events.StreamEnded)
    assert (talk.records[0].upgrade, talk.records[0].close_code) == ("websocket", 1000)


@pytest.mark.parametrize(("answer", "verdict"), [(server(b"\x03\xe8", 8), "allowed"), (b"", "error")])
def test_a_client_of_http_2_may_leave_once_both_have_sent_a_close_frame(answer, verdict):
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    key = talk.origin.take().partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    talk.origin_says(YES + b"Sec-WebSocket-Accept: " + accept_of(key) + b"\r\n\r\n")
    talk.client_says(talk.browser.data(1, client(b"\x03\xe8", 8)))
    talk.origin_says(answer)
    talk.handler.ended(Side.CLIENT)
    assert (talk.records[-1].verdict, talk.records[-1].close_code) == (verdict, 1000)


def test_an_accept_that_answers_another_key_is_refused():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    talk.origin_says(YES + b"Sec-WebSocket-Accept: " + accept_of(b"other") + b"\r\n\r\n")
    assert dict(talk.browser.of(events.ResponseReceived)[0].headers)[b":status"] == b"502"


def test_http_2_to_http_2():
    talk = H2Talk(connect_protocol=True)
    assert talk.browser.h2.remote_settings.enable_connect_protocol == 1
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    asked = talk.server.of(events.RequestReceived)[0].headers
    assert asked[:5] == [CONNECT[0], CONNECT[1], CONNECT[2], CONNECT[4], CONNECT[3]]
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    talk.client_says(talk.browser.data(1, client()))
    assert talk.server.body(1) == client()
    talk.origin_says(talk.server.data(1, server()))
    assert talk.browser.body(1) == server()


def test_http_2_is_offered_only_where_the_origin_has_it():
    talk = H2Talk()
    assert not talk.browser.h2.remote_settings.enable_connect_protocol


def test_http_1_1_to_http_2():
    talk = H2Talk(client_h2=False, connect_protocol=True)
    talk.client_says(ASK + b"\r\n")
    asked = talk.server.of(events.RequestReceived)[0].headers
    assert asked[0] == CONNECT[0]
    assert b"sec-websocket-key" not in dict(asked)
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    read = talk.client.take()
    assert read.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in read
    talk.client_says(client())
    assert talk.server.body(1) == client()


def test_http_1_1_where_the_origins_http_2_has_none():
    talk = H2Talk(client_h2=False)
    talk.client_says(ASK + b"\r\n")
    dial = talk.dials[0]
    assert dial.alpn == ("http/1.1",)
    other = dial.connected()
    assert other.take().startswith(b"GET /chat HTTP/1.1")


def test_a_reader_finds_the_ends_of_messages():
    reader = FrameReader(1 << 20, is_masked=False, allows_rsv1=False)
    data = server(b"a", first=0) + server(b"", 9) + server(b"b", 0) + server(b"cc") + b"\x81"
    assert reader.feed(data) is None
    assert reader.ends == [8, 12]
    assert reader.messages == 2
    assert not reader.is_at_boundary
