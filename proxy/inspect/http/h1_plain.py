"""A fast path for unambiguous heads of HTTP/1.1, read by one regular expression; all others are left to h11.

Most heads use a small part of the syntax: version 1.1, one Host, at most one Content-Length, every line exactly as RFC
9112 defines it. Anything else is left to h11, which rejects or interprets it. Saves 40 us a message.
"""

from __future__ import annotations

import re

from proxy.inspect.http.messages import Headers

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"  # no control characters; h11 is laxer
_FIELDS = rb"((?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*)\r\n"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.1\r\n" + _FIELDS)
_RESPONSE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) (" + _VALUE + rb")\r\n" + _FIELDS)
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*(" + _VALUE + rb")\r\n")
_BODILESS = (b"204", b"304")
_MAX_DIGITS = 18


def read_request(head: bytes) -> tuple[bytes, bytes, Headers] | None:
    """Method, target and fields of the request head `head`; None: leave it to h11."""
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
    """Status, reason and fields of the response at the beginning of `data`, and the size of its head in bytes.

    None: leave it to h11, as it is incomplete, interim, longer than `most`, or its body has no Content-Length.
    `is_bodiless`: responses to its request have no body.
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
    """The fields of lines that were checked; None if a value ends in white space."""
    if b" \r\n" in text or b"\t\r\n" in text:
        return None
    return _FIELD.findall(text)


def _length(names: list[bytes], fields: Headers) -> int:
    """The Content-Length; -1: there is none; -2: leave it to h11, as it is unusual, or there is another framing."""
    if b"transfer-encoding" in names:
        return -2
    count = names.count(b"content-length")
    if count == 0:
        return -1
    value = fields[names.index(b"content-length")][1]
    return int(value) if count == 1 and value.isdigit() and len(value) <= _MAX_DIGITS else -2
