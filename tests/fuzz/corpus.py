"""What parsers of HTTP and WebSocket have stumbled over, after the ideas of the tests of h11, h2 and wsproto."""

from __future__ import annotations

import struct
import zlib

from hyperframe import frame as frames

from tests.inspect.http.test_smuggling import CHUNKED, CHUNKS, FRAMINGS, posted

HTTP_1_REQUESTS = [
    *FRAMINGS.values(),
    *(posted(CHUNKED, body=chunks) for chunks in CHUNKS.values()),
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close, keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n",
    b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n\x16\x03\x01",
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: A\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue, x\r\nTE: trailers;q=0.5, gzip\r\n\r\n",
    b"M-SEARCH /\xff\xfe HTTP/1.1\r\nHost: h\r\nX-Empty:\r\nX-Bytes: \x80\xff\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
]
HTTP_1_RESPONSES = [
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\nrest",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 999 Odd\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok" * 2,
    b"HTTP/2 200\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Encoding: gzip\r\n\r\n0\r\n\r\n",
]


def http_2_frame(kind: int, flags: int, number: int, body: bytes, length: int | None = None) -> bytes:
    """A frame as it is on the wire (RFC 9113 4.1), whatever it says of its length."""
    size = len(body) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + body


HTTP_2_FRAMES = [
    *(http_2_frame(kind, flags, number, b"\0" * size) for kind in range(11) for flags, number, size in (
        (0, 0, 0), (0xFF, 1, 1), (4, 1, 5), (1, 3, 8), (0x2D, 1, 9))),
    http_2_frame(0, 8, 1, b"\xff"),  # more padding than there is data
    http_2_frame(1, 4, 1, b"\x82\x87\x84\xff\xff\xff\xff\xff"),  # an integer of HPACK without end
    http_2_frame(1, 4, 1, b"\x3f\xe1\xff\xff\x7f"),  # a table that is larger than was allowed
    http_2_frame(1, 4, 1, b"\x00\x00\x00"),  # a field without a name
    http_2_frame(1, 4, 2, b"\x82\x87\x84"),  # a stream that only the far end may begin
    http_2_frame(4, 0, 0, struct.pack("!HI", 4, 1 << 31)),  # a window that is too large
    http_2_frame(4, 0, 0, struct.pack("!HI", 5, 1)),  # frames that are too small
    http_2_frame(4, 0, 0, struct.pack("!HI", 2, 2)),
    http_2_frame(8, 0, 1, b"\0\0\0\0"),
    http_2_frame(8, 0, 0, b"\x7f\xff\xff\xff"),
    http_2_frame(0, 0, 1, b"", length=0xFFFFFF),
    frames.GoAwayFrame(0, last_stream_id=7, error_code=2, additional_data=b"x" * 99).serialize(),
    frames.AltSvcFrame(0, origin=b"https://a", field=b'h3=":443"').serialize(),
    frames.PushPromiseFrame(1, promised_stream_id=2, data=b"\x82", flags=["END_HEADERS"]).serialize(),
    frames.PriorityFrame(1, depends_on=1, stream_weight=255, exclusive=True).serialize(),
]  # fmt: skip


def websocket_frame(first: int, payload: bytes, *, is_masked: bool, length: bytes | None = None) -> bytes:
    """A frame (RFC 6455 5.2) with this first byte; `length`: as it is to stand there."""
    mask = b"\x01\x02\x03\x04" if is_masked else b""
    stated = bytes((len(payload),)) if length is None else length
    stated = bytes((stated[0] | (0x80 if is_masked else 0),)) + stated[1:]
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if is_masked else payload
    return bytes((first,)) + stated + mask + body


_ODD = [
    (0xC1, zlib.compress(b"x" * 9, wbits=-15)[:20], None),  # compressed, though nobody agreed to it
    (0x91, b"reserved", None),
    (0x83, b"opcode 3", None),
    (0x8B, b"opcode 11", None),
    (0x09, b"a fragmented ping", None),
    (0x89, b"p" * 100, None),
    (0x89, b"p" * 126, b"\x7e\x00\x7e"),  # a ping that is too long
    (0x80, b"what does it continue?", None),
    (0x81, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80", None),  # a surrogate in UTF-8
    (0x01, b"\xf0\x9f", None),
    (0x80, b"\x98\x80", None),  # the character's other half
    (0x88, b"", None),
    (0x88, b"\x03", None),
    (0x88, b"\x03\xed", None),  # 1005 is never sent
    (0x88, b"\xff\xff" + b"\xff" * 20, None),
    (0x82, b"short", b"\x7e\x00\x05"),  # a length that is longer than it must be
    (0x82, b"", b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff"),
    (0x82, b"", b"\x7f\x00\x00\x00\x01\x00\x00\x00\x00"),
]
WEBSOCKET_CLIENT = [websocket_frame(first, body, is_masked=True, length=length) for first, body, length in _ODD]
WEBSOCKET_ORIGIN = [websocket_frame(first, body, is_masked=False, length=length) for first, body, length in _ODD]
