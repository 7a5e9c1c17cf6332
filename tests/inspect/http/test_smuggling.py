"""Request smuggling: of whatever a client sends, no two readers of what goes on see different requests in it.

The list follows RFC 9112 section 11.2, and what has been found in proxies: CL.TE, TE.CL, TE.TE, CL.0, chunks that two
parsers count differently, line ends, names with blanks, and requests of HTTP/2 that are others in HTTP/1.1.
"""

import hyperframe.frame as frames
import pytest

from proxy.inspect.stream import Side
from tests.fuzz.readers import read_as
from tests.inspect.http.h2_peer import REQUEST
from tests.inspect.http.talk import Talk
from tests.inspect.http.test_h1 import GET, OK
from tests.inspect.http.test_h2 import H2Talk

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: web.lab\r\n\r\n"
LENGTH, CHUNKED = b"Content-Length: %d" % (len(HIDDEN) + 5), b"Transfer-Encoding: chunked"


def posted(*fields, body=b"0\r\n\r\n" + HIDDEN):
    return b"POST /up HTTP/1.1\r\nHost: web.lab\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


FRAMINGS = {
    "CL.TE": posted(LENGTH, CHUNKED),
    "TE.CL": posted(CHUNKED, b"Content-Length: 5"),
    "CL.CL": posted(b"Content-Length: 5", LENGTH),
    "CL, CL": posted(b"Content-Length: 5, %d" % (len(HIDDEN) + 5)),
    "CL +": posted(b"Content-Length: +5"),
    "CL -": posted(b"Content-Length: -5"),
    "CL 0x": posted(b"Content-Length: 0x5"),
    "CL 5 6": posted(b"Content-Length: 5 6"),
    "CL _": posted(b"Content-Length: 4_5"),
    "CL arabic": posted("Content-Length: ٥".encode()),
    "CL empty": posted(b"Content-Length:"),
    "CL huge": posted(b"Content-Length: " + b"9" * 40),
    "TE.TE x": posted(CHUNKED, b"Transfer-Encoding: x"),
    "TE identity": posted(LENGTH, b"Transfer-Encoding: identity"),
    "TE twice": posted(b"Transfer-Encoding: chunked, chunked"),
    "TE then": posted(b"Transfer-Encoding: chunked, identity"),
    "TE parameter": posted(LENGTH, b"Transfer-Encoding: chunked;q=1"),
    "TE quoted": posted(LENGTH, b'Transfer-Encoding: "chunked"'),
    "TE prefix": posted(LENGTH, b"Transfer-Encoding: xchunked"),
    "TE vertical tab": posted(LENGTH, b"Transfer-Encoding: \x0bchunked"),
    "TE no-break space": posted(LENGTH, b"Transfer-Encoding: chunked\xa0"),
    "TE empty": posted(LENGTH, b"Transfer-Encoding:"),
    "name blank": posted(LENGTH, b"Transfer-Encoding : chunked"),
    "name tab": posted(LENGTH, b"Transfer-Encoding\t: chunked"),
    "name indented": posted(LENGTH, b" Transfer-Encoding: chunked"),
    "name vertical tab": posted(LENGTH, b"\x0bTransfer-Encoding: chunked"),
    "name NUL": posted(LENGTH, b"Transfer-Encoding\x00: chunked"),
    "name underscore": posted(LENGTH, b"Transfer_Encoding: chunked"),
    "fold": posted(LENGTH, b"X: y\r\n Transfer-Encoding: chunked"),
    "fold value": posted(LENGTH, b"Transfer-Encoding:\r\n chunked"),
    "LF in value": posted(LENGTH, b"X: y\nTransfer-Encoding: chunked"),
    "CR in value": posted(LENGTH, b"X: y\rTransfer-Encoding: chunked"),
    "CR CR LF": posted(LENGTH, b"X: y\r\r\nTransfer-Encoding: chunked"),
    "1.0 chunked": posted(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "GET with a body": posted(LENGTH).replace(b"POST", b"GET", 1),
    "CL.0": posted(LENGTH, body=HIDDEN + b"12345"),
    "connection names CL": posted(LENGTH, b"Connection: Content-Length"),
    "connection names TE": posted(CHUNKED, b"Connection: Transfer-Encoding, Host"),
    "expect": posted(LENGTH, b"Expect: 100-continue"),
    "absolute": posted(LENGTH).replace(b"/up", b"http://other.lab/up", 1),
    "no blank in the line": posted(LENGTH).replace(b"POST /up", b"POST/up", 1),
    "tab in the line": posted(LENGTH).replace(b"POST /up", b"POST\t/up", 1),
}
CHUNKS = {
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "blank before": b" 5\r\nhello\r\n0\r\n\r\n",
    "blank after": b"5 \r\nhello\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n",
    "LF": b"5\nhello\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nhello\r\n0\r\n\r\n",
    "CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "quoted extension": b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n',
    "extension": b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    "overflow": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "no end": b"5\r\nhello0\r\n\r\n",
    "longer": b"5\r\nhello!\r\n0\r\n\r\n",
    "LF after data": b"5\r\nhello\n0\r\n\r\n",
    "many zeros": b"00000000000000005\r\nhello\r\n000\r\n\r\n",
    "empty size": b"\r\nhello\r\n0\r\n\r\n",
    "length in trailers": b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n",
    "coding in trailers": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "host in trailers": b"5\r\nhello\r\n0\r\nHost: other.lab\r\n\r\n",
    "LF in trailers": b"5\r\nhello\r\n0\r\nX: y\n\r\n",
    "fold in trailers": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "CR for a blank line": b"5\r\nhello\r\n0\r\n\r" + HIDDEN,
}


def hears(data):
    """What the origin hears of it, and which requests are on record; each is answered when it is there."""
    talk, heard = Talk(), b""
    heard += talk.say(data)
    for _ in range(5):
        if talk.finished is None and talk.handler._active:
            talk.answer(OK)
            heard += talk.origin.take()
    return heard, talk


def assert_is_read_alike(heard, talk):
    """All readers see the same requests, which are those that the proxy has seen."""
    assert read_as(heard, "length") == read_as(heard, "chunks")
    seen = [record.method for record in talk.records if record.fault not in ("bad_request",)]
    lines = [line.split(b" ")[0].decode() for line, _ in read_as(heard, "length")]
    assert len(lines) <= talk.handler._number
    assert all(line in ("POST", "GET") for line in lines), lines
    assert len(seen) <= talk.handler._number


@pytest.mark.parametrize("data", FRAMINGS.values(), ids=FRAMINGS)
def test_framings(data):
    heard, talk = hears(data)
    assert_is_read_alike(heard, talk)


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_chunks(chunks):
    heard, talk = hears(posted(CHUNKED, body=chunks + HIDDEN))
    assert_is_read_alike(heard, talk)
    for name in (b"Content-Length", b"other.lab"):
        assert name not in heard
    assert heard.count(b"Transfer-Encoding") <= 1  # in the head


REFUSED = [
    "CL.TE", "TE.CL", "CL.CL", "CL, CL", "CL +", "CL -", "CL 0x", "CL 5 6", "CL _", "CL arabic", "CL huge", "TE.TE x",
    "TE identity", "TE twice", "TE then", "TE parameter", "TE quoted", "TE prefix", "name blank", "name tab", "fold",
    "name indented", "name vertical tab", "name NUL", "fold value", "LF in value", "CR in value", "CR CR LF",
    "1.0 chunked", "no blank in the line", "tab in the line",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_never_leaves(name):
    heard, talk = hears(FRAMINGS[name])
    assert heard == b""
    assert talk.records[0].fault in ("both_framings", "bad_framing", "bad_request", "bad_line_end", "obs_fold")
    assert len(talk.records) == 1


def test_the_reader_of_these_tests_does_see_a_hidden_request():
    both = FRAMINGS["CL.TE"]
    assert [line for line, _ in read_as(both, "length")] == [b"POST /up HTTP/1.1"]
    assert [line for line, _ in read_as(both, "chunks")] == [b"POST /up HTTP/1.1", b"GET /hidden HTTP/1.1"]


H2_FIELDS = {
    "coding": [(b"transfer-encoding", b"chunked")],
    "two lengths": [(b"content-length", b"1"), (b"content-length", b"2")],
    "length and more": [(b"content-length", b"0")],
    "odd length": [(b"content-length", b"+3")],
    "LF in a value": [(b"x", b"y\ntransfer-encoding: chunked")],
    "CR in a value": [(b"x", b"y\rz")],
    "NUL in a value": [(b"x", b"y\x00z")],
    "blank before a value": [(b"x", b" y")],
    "colon in a name": [(b"a:b", b"c")],
    "blank in a name": [(b"content-length ", b"0")],
    "no name": [(b"", b"y")],
    "connection": [(b"connection", b"transfer-encoding")],
    "upgrade": [(b"upgrade", b"websocket")],
    "te": [(b"te", b"gzip")],
    "second path": [(b":path", b"/other")],
    "second method": [(b":method", b"POST")],
    "unknown pseudo-field": [(b":x", b"y")],
    "two hosts": [(b"host", b"other.lab")],
}


@pytest.mark.parametrize("fields", H2_FIELDS.values(), ids=H2_FIELDS)
def test_fields_of_http_2(fields):
    talk = H2Talk(origin_h2=False)
    block = talk.browser.h2.encoder.encode([*REQUEST, *fields])
    data = frames.HeadersFrame(1, data=block, flags=["END_HEADERS"]).serialize()
    talk.handler.received(
        Side.CLIENT, data + frames.DataFrame(1, data=b"abc" + HIDDEN, flags=["END_STREAM"]).serialize()
    )
    heard = talk.origin.take()
    assert read_as(heard, "length") == read_as(heard, "chunks")
    assert len(read_as(heard, "length")) <= 1
    assert b"other.lab" not in heard
    assert b"\r\nX" not in heard.replace(GET, b"")


@pytest.mark.parametrize("method", [b"GET /x HTTP/1.1\r\nHost: h\r\n\r\nGET", b"G ET", b"", b"GET\t"])
def test_methods_of_http_2(method):
    talk = H2Talk(origin_h2=False)
    block = talk.browser.h2.encoder.encode([(b":method", method), *REQUEST[1:]])
    talk.handler.received(
        Side.CLIENT, frames.HeadersFrame(1, data=block, flags=["END_HEADERS", "END_STREAM"]).serialize()
    )
    assert talk.origin.take() == b""
