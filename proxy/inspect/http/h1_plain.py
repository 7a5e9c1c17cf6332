"""Heads of HTTP/1.1 that cannot be read in two ways, read by one regular expression; all others are h11's.

What most heads are is a small part of what a head may be: version 1.1, one Host, at most one length, every line as RFC
9112 writes it. Whatever differs is left to h11, which refuses it or knows how it is meant: 40 us less for each message.
"""

from __future__ import annotations

import re

from proxy.inspect.http.messages import Headers

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"  # no control characters, which h11 lets pass
_FIELDS = rb"((?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*)\r\n"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.1\r\n" + _FIELDS)
_RESPONSE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) (" + _VALUE + rb")\r\n" + _FIELDS)
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*(" + _VALUE + rb")\r\n")
_BODILESS = (b"204", b"304")
_MAX_DIGITS = 18


def read_request(head: bytes) -> tuple[bytes, bytes, Headers] | None:
    """Method, target and fields of a request whose head is `head`; None: h11 has to read it."""
    match = _REQUEST.fullmatch(head)
    if match is None:
        return None
    method, target, text = match.groups()
    fields = _fields(text)
    if fields is None:
        return None
    names = [name.lower() for name, _ in fields]
    if names.count(b"host") != 1 or _length(names, fields) < -1:
        return None
    return method, target, fields


def read_response(data: bytes, most: int, *, is_bodiless: bool) -> tuple[int, bytes, Headers, int] | None:
    """Status, reason and fields of a response that `data` begins with, and how many bytes its head has.

    None: h11 has to read it; it is not whole, interim, longer than `most`, or its body's end is not told by a length.
    `is_bodiless`: it answers a request whose responses have no body.
    """
    match = _RESPONSE.match(data)
    if match is None or match.end() > most:
        return None
    status, reason, text = match.groups()
    fields = _fields(text)
    if fields is None:
        return None
    length = _length([name.lower() for name, _ in fields], fields)
    if length < -1 or (length < 0 and not is_bodiless and status not in _BODILESS):
        return None
    return int(status), reason, fields, match.end()


def _fields(text: bytes) -> Headers | None:
    """The fields of lines that were checked; None where a value ends in blanks."""
    if b" \r\n" in text or b"\t\r\n" in text:
        return None
    return _FIELD.findall(text)


def _length(names: list[bytes], fields: Headers) -> int:
    """What Content-Length says; -1: nothing; -2: something that h11 has to judge, or there is another framing."""
    if b"transfer-encoding" in names:
        return -2
    count = names.count(b"content-length")
    if count == 0:
        return -1
    value = fields[names.index(b"content-length")][1]
    return int(value) if count == 1 and value.isdigit() and len(value) <= _MAX_DIGITS else -2
