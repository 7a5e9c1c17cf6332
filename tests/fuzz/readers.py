"""Readers of HTTP/1.1 that are as careless as some servers are: what they see in the same bytes must be the same."""

from __future__ import annotations

import re
from typing import Literal

Prefers = Literal["length", "chunks"]


def read_as(data: bytes, prefers: Prefers) -> list[tuple[bytes, bytes]]:
    """The requests in `data`, as their first lines and bodies; what is not whole yet is the last one.

    Lines may end with LF alone, names may have blanks around, a length is its first digits, and of two framings it
    takes the one that it prefers: all of which real servers have done.
    """
    found = []
    while data:
        head, end, rest = _split(data, rb"\r?\n\r?\n")
        line, _, fields = _split(head, rb"\r?\n")
        if not end:
            found.append((line, b""))
            break
        body, data = _body(fields, rest, prefers)
        found.append((line, body))
    return found


def _split(data: bytes, separator: bytes) -> tuple[bytes, bytes, bytes]:
    match = re.search(separator, data)
    return (data, b"", b"") if match is None else (data[: match.start()], match[0], data[match.end() :])


def _body(fields: bytes, rest: bytes, prefers: Prefers) -> tuple[bytes, bytes]:
    length, is_chunked = None, False
    for each in re.split(rb"\r?\n", fields):
        name, _, value = each.partition(b":")
        name = name.strip(b" \t\x0b\x0c\xa0").lower()
        if name == b"content-length" and length is None and (digits := re.search(rb"\d+", value)):
            length = int(digits[0][:9])
        is_chunked |= name == b"transfer-encoding" and b"chunked" in value.lower()
    if is_chunked and (prefers == "chunks" or length is None):
        return _chunks(rest)
    return rest[: length or 0], rest[length or 0 :]


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, end, data = _split(data, rb"\r?\n")
        size = re.match(rb"\s*\+?(?:0[xX])?([0-9a-fA-F]+)", line)
        if not end or size is None:
            return body, b""
        if not int(size[1], 16):
            break
        body, data = body + data[: int(size[1], 16)], data[int(size[1], 16) :].removeprefix(b"\r").removeprefix(b"\n")
    while True:  # trailers
        line, end, data = _split(data, rb"\r?\n")
        if not line or not end:
            return body, data
