"""Plain heads are read as h11 reads them, or left to it."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.inspect.http import h1_plain

NAMES = [
    b"Host",
    b"host",
    b"Content-Length",
    b"content-length",
    b"Transfer-Encoding",
    b"Connection",
    b"X-A",
    b"X A",
    b"",
]
VALUES = [
    b"web.lab",
    b"5",
    b"+5",
    b"5, 5",
    b"0x5",
    b"5 ",
    b"chunked",
    b"close",
    b"a\tb",
    b"\xc3\xa4",
    b"a\x01b",
    b"a\0b",
    b"",
]
ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n ", b""]
FIELDS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([b":", b": ", b":\t", b" :", b"=" ]), st.sampled_from(VALUES),
              st.sampled_from(ENDS)),
    max_size=5,
)  # fmt: skip
REQUEST_LINES = [b"GET /a HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"GET /a HTTP/1.0\r\n", b"GET  /a HTTP/1.1\r\n",
                 b"G(T /a HTTP/1.1\r\n", b"GET /a\x7f HTTP/1.1\r\n", b"GET /a HTTP/1.1\n"]  # fmt: skip
STATUS_LINES = [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 \r\n", b"HTTP/1.1 304 Not Modified\r\n",
                b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200\r\n", b"HTTP/1.1 2000 OK\r\n",
                b"HTTP/1.1 200 O\rK\r\n"]  # fmt: skip


def head(line, fields):
    return line + b"".join(b"".join(field) for field in fields) + b"\r\n"


@given(st.sampled_from(REQUEST_LINES), FIELDS)
@example(REQUEST_LINES[0], [(b"Host", b": ", b"web.lab", b"\r\n")])
def test_a_plain_request_is_what_h11_reads(line, fields):
    data = head(line, fields)
    plain = h1_plain.read_request(data)
    if plain is None:
        return
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data)
    event = reader.next_event()
    assert plain == (event.method, event.target, event.headers.raw_items())
    assert event.http_version == b"1.1"
    assert b"transfer-encoding" not in dict(event.headers)


@given(st.sampled_from(STATUS_LINES), FIELDS, st.booleans())
@example(STATUS_LINES[0], [(b"Content-Length", b": ", b"5", b"\r\n")], False)
def test_a_plain_response_is_what_h11_reads(line, fields, is_head):
    data = head(line, fields)
    plain = h1_plain.read_response(data + b"hello", 65_536, is_bodiless=is_head)
    if plain is None:
        return
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="HEAD" if is_head else "GET", target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    event = reader.next_event()
    assert plain == (event.status_code, event.reason, event.headers.raw_items(), len(data))
    lengths = [value for name, value in event.headers if name == b"content-length"]
    assert lengths or is_head or event.status_code in (204, 304)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    ],
)
def test_what_is_not_plain_is_left_to_h11(data):
    assert h1_plain.read_request(data) is None


def test_most_requests_and_responses_are_plain():
    ask = b"POST /a?b HTTP/1.1\r\nHost: web.lab\r\nAccept: */*\r\nContent-Length: 5\r\n\r\n"
    assert h1_plain.read_request(ask)[2][-1] == (b"Content-Length", b"5")
    answer = b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 5\r\n\r\nhello"
    assert h1_plain.read_response(answer, 65_536, is_bodiless=False)[3] == len(answer) - 5
    assert h1_plain.read_response(answer, 20, is_bodiless=False) is None  # longer than allowed
    assert h1_plain.read_response(answer[:30], 65_536, is_bodiless=False) is None  # not whole
