"""What the proxy adds to what it forwards, what it takes away, and what it forwards no further."""

import pytest

from proxy.inspect.http.limits import Identity
from tests.inspect.http.talk import Talk
from tests.inspect.http.test_h1 import GET, OK

ALT_SVC = OK.replace(b"Content-Type: text/plain\r\n", b'Alt-Svc: h3=":443"; ma=86400\r\nalt-svc: clear\r\n')


def request(method=b"GET", *fields):
    return method + b" /a HTTP/1.1\r\nHost: web.lab\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


def test_what_would_lead_round_the_proxy_goes():
    assert b"lt-" not in Talk().exchange(GET, ALT_SVC)[1]


def test_it_stays_where_a_tenant_wants_that():
    talk = Talk()
    talk.handler.identity = Identity(keeps_alt_svc=True)
    assert b'Alt-Svc: h3=":443"; ma=86400\r\nalt-svc: clear\r\n' in talk.exchange(GET, ALT_SVC)[1]


def test_a_request_from_a_cdn_says_that_it_has_been_here():
    heard = Talk().say(request(b"GET", b"CDN-Loop: other; v=1"))
    assert b"CDN-Loop: other; v=1\r\nCDN-Loop: oxy\r\n" in heard
    assert b"CDN-Loop" not in Talk().say(GET)


@pytest.mark.parametrize("loops", [[b"oxy, other, OXY; a=b", b"oxy"], [b"oxy,oxy,oxy"]])
def test_a_loop_by_cdn_loop(loops):
    talk = Talk()
    assert talk.say(request(b"GET", *(b"CDN-Loop: " + each for each in loops))) == b""
    assert talk.client.take().startswith(b"HTTP/1.1 508 ")
    assert (talk.records[0].fault, talk.records[0].error) == ("loop", "proxy_loop_detected")


def test_max_forwards_counts_down():
    assert b"Max-Forwards: 2\r\n" in Talk().say(request(b"OPTIONS", b"Max-Forwards: 3"))
    assert b"Max-Forwards: 0\r\n" in Talk().say(request(b"GET", b"Max-Forwards: 0"))  # of others it says nothing
    assert b"Max-Forwards: -1\r\n" in Talk().say(request(b"TRACE", b"Max-Forwards: -1"))


def test_options_at_the_last_hop_is_answered_here():
    talk = Talk()
    assert talk.say(request(b"OPTIONS", b"Max-Forwards: 0")) == b""
    assert talk.client.take() == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_trace_at_the_last_hop_shows_what_came_without_its_secrets():
    talk = Talk()
    assert talk.say(request(b"TRACE", b"Max-Forwards: 0", b"Cookie: a=b", b"X-A: 1")) == b""
    read = talk.client.take()
    assert b"Content-Type: message/http\r\n" in read
    assert read.endswith(b"\r\n\r\nTRACE /a HTTP/1.1\r\nHost: web.lab\r\nMax-Forwards: 0\r\nX-A: 1\r\n\r\n")


def test_a_request_that_takes_long_is_told_of_while_it_goes_on():
    talk = Talk()
    talk.say(GET)
    talk.wait(0.9)
    assert talk.going_on == []
    talk.wait(0.2)
    assert [(each.status, each.duration_ms) for each in talk.going_on] == [(None, 1000.0)]
    talk.answer(OK[:-2])
    talk.wait(31)
    assert [(each.status, each.response_body_bytes) for each in talk.going_on[1:]] == [(200, 3)]
    talk.answer(OK[-2:])
    talk.wait(60)
    assert [each.request_id for each in (*talk.going_on, *talk.records)] == ["F1.1"] * 3


def test_quick_requests_are_told_of_once():
    talk = Talk()
    for _ in range(5):
        talk.wait(0.4)
        talk.exchange(GET, OK)
    talk.wait(5)
    assert (len(talk.records), talk.going_on) == (5, [])
