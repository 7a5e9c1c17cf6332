"""What comes too early, too late or too fast for a WebSocket: before the switch, behind a hook, past a shut window."""

import h2.errors
import h2.events as events
import pytest

from proxy.inspect.http.frames import close_frame
from proxy.inspect.http.limits import HIGH_WATER
from proxy.inspect.http.websocket import accept_of
from proxy.inspect.stream import Side
from proxy.verdict import HttpEffects, Verdict
from tests.inspect.http.h2_peer import REQUEST
from tests.inspect.http.talk import Talk
from tests.inspect.http.test_h2 import H2Talk
from tests.inspect.http.test_websocket import ASK, CONNECT, DEFLATE, KEY, YES, client, deflated, opened, server

LATER = {"websocket_message": "later"}
SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: web.lab\r\n\r\n"
SWITCHED = [(b":status", b"200")]


def yes_to(asked):
    key = asked.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    return YES + b"Sec-WebSocket-Accept: " + accept_of(key) + b"\r\n\r\n"


def both_h2(**options):
    talk = H2Talk(connect_protocol=True, **options)
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    talk.origin_says(talk.server.headers(1, SWITCHED, end=False))
    return talk


def test_what_comes_before_the_switch_is_no_second_request_to_the_origin():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    assert talk.origin.take().startswith(b"GET /chat ")
    talk.client_says(talk.browser.data(1, SMUGGLED, end=True))
    assert talk.origin.take() == b""
    talk.origin_says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    assert dict(talk.browser.of(events.ResponseReceived)[0].headers)[b":status"] == b"404"
    assert talk.origin.take() == b""
    assert [record.status for record in talk.records] == [404]


def test_frames_that_come_before_the_switch_follow_it():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    asked = talk.origin.take()
    talk.client_says(talk.browser.data(1, client(b"early"), end=True))
    talk.origin_says(yes_to(asked))
    assert talk.origin.take() == client(b"early")
    assert talk.origin.is_ended
    talk.origin_says(server(b"late"))
    talk.handler.ended(Side.ORIGIN)
    talk.settle()
    assert talk.browser.body(1) == server(b"late")
    assert (talk.records[0].client_messages, talk.records[0].fault) == (1, None)


def test_what_is_no_frame_before_the_switch_is_refused_after_it():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    asked = talk.origin.take()
    talk.client_says(talk.browser.data(1, SMUGGLED))
    talk.origin_says(yes_to(asked))
    assert b"admin" not in talk.origin.take()
    assert talk.records[0].fault_by == "client"


def test_frames_behind_the_request_of_http_1_1_follow_the_switch():
    hooks = {"http_response": "later"}
    talk = opened_with(ASK + b"\r\n" + client(b"early"), hooks)
    talk.handler.ended(Side.CLIENT)
    talk.asked.pop()[2](None)
    assert talk.origin.take() == client(b"early")
    assert talk.origin.is_ended


def opened_with(data, hooks):

    talk = Talk(hooks=hooks)
    assert talk.say(data).startswith(b"GET /chat ")
    talk.answer(YES + b"Sec-WebSocket-Accept: " + accept_of(KEY) + b"\r\n\r\n")
    return talk


def test_a_ping_between_the_frames_of_a_compressed_message_hides_nothing_from_the_hook():
    seen = []
    talk = opened(DEFLATE, hooks={"websocket_message": lambda message: seen.append(message.data)})
    [frame] = deflated(b"secret " * 9)
    payload = bytes(byte ^ frame[2 + i % 4] for i, byte in enumerate(frame[6:]))
    parts = client(payload[:5], 2, 0x40), client(b"p", 9), client(payload[5:], 0)
    assert talk.say(b"".join(parts)) == b"".join(parts)
    talk.say(client(b"plain", 2))
    assert seen == [b"secret " * 9, b"plain"]


def test_the_end_does_not_overtake_the_message_that_a_hook_looks_at():
    talk = both_h2(hooks=LATER)
    talk.client_says(talk.browser.data(1, client(b"last"), end=True))
    talk.origin_says(talk.server.data(1, server(b"bye"), end=True))
    assert not talk.server.of(events.StreamEnded)
    while talk.asked:
        talk.asked.pop(0)[2](None)
        talk.settle()
    assert (talk.server.body(1), talk.browser.body(1)) == (client(b"last"), server(b"bye"))
    assert talk.server.of(events.StreamEnded)
    assert talk.browser.of(events.StreamEnded)
    assert [record.fault for record in talk.records] == [None]


def test_a_hook_that_has_answered_does_not_have_more_read_than_the_origin_takes():
    talk = opened(hooks=LATER)
    talk.origin.takes = False
    talk.say(client(bytes(HIGH_WATER + 1), 2) + client(b"more", 2))
    for _ in range(2):
        talk.asked.pop()[2](None)
    assert talk.client.is_paused
    talk.drained(Side.ORIGIN)
    assert not talk.client.is_paused


def test_what_waits_for_an_origins_window_is_not_lost_when_both_have_ended():
    talk = H2Talk(client_h2=False, connect_protocol=True, window=100)
    talk.client_says(ASK + b"\r\n")
    talk.origin_says(talk.server.headers(1, SWITCHED, end=False))
    sent = client(bytes(70_000), 2)
    talk.client_says(sent)
    talk.origin_says(talk.server.data(1, b"", end=True))
    talk.handler.ended(Side.CLIENT)
    talk.settle()
    assert talk.finished is None
    assert talk.client.is_ended
    talk.server.read()
    talk.origin_says(talk.server.out())
    assert talk.server.body(1) == sent
    assert talk.server.of(events.StreamEnded)
    assert talk.finished == ("origin_closed", "origin")


def test_an_origin_that_never_takes_the_rest_is_not_waited_for_without_end():
    talk = H2Talk(client_h2=False, connect_protocol=True)
    talk.client_says(ASK + b"\r\n")
    talk.origin_says(talk.server.headers(1, SWITCHED, end=False))
    talk.client_says(client(bytes(70_000), 2))
    talk.origin_says(talk.server.data(1, b"", end=True))
    talk.handler.ended(Side.CLIENT)
    talk.wait(130)
    assert (talk.records[0].fault, talk.records[0].fault_by) == ("response_timeout", "origin")
    assert talk.finished is not None


def test_drain_says_farewell_once_and_lets_a_held_client_end():
    talk = opened(hooks=LATER)
    talk.say(client(b"held"))
    assert talk.client.is_paused
    talk.handler.drain()
    talk.handler.drain()
    assert talk.client.take() == close_frame(1001, "the proxy ends", is_masked=False)
    assert talk.origin.take() == close_frame(1001, "the proxy ends", is_masked=True)
    assert not talk.client.is_paused
    talk.asked.pop()[2](None)
    assert talk.origin.take() == b""
    talk.handler.ended(Side.CLIENT)
    talk.handler.ended(Side.ORIGIN)
    assert talk.finished is not None


def test_a_hook_that_reads_an_early_answer_still_gets_all_of_it_when_the_origin_wants_no_more():
    hooks = {"http_request": lambda _: Verdict(http=HttpEffects(reads=("response",))), "http_body": "later"}
    talk = H2Talk(hooks=hooks)
    talk.client_says(talk.browser.headers(1, [(b":method", b"POST"), *REQUEST[1:]], end=False))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    talk.origin_says(talk.server.data(1, b"enough", end=True))
    talk.server.h2.reset_stream(1, h2.errors.ErrorCodes.NO_ERROR)
    talk.origin_says(talk.server.out())
    while talk.asked:
        talk.asked.pop(0)[2](None)
        talk.settle()
    assert talk.browser.body(1) == b"enough"
    assert talk.browser.of(events.StreamEnded)
    assert (talk.records[0].status, talk.records[0].fault) == (200, None)


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_refused_switch_leaves_no_stream_at_the_origin(has_ended):
    talk = H2Talk(connect_protocol=True)
    talk.client_says(talk.browser.headers(1, CONNECT, end=False))
    if has_ended:
        talk.client_says(talk.browser.data(1, b"early", end=True))
    talk.origin_says(talk.server.headers(1, [(b":status", b"404")], end=False))
    talk.origin_says(talk.server.data(1, b"no", end=True))
    assert talk.browser.body(1) == b"no"
    assert talk.server.of(events.StreamEnded)
    assert talk.server.h2.open_inbound_streams == 0
    assert talk.server.body(1) == b""
    assert [record.status for record in talk.records] == [404]
