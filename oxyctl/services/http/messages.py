"""Requests and responses as resources handle them, and byte ranges."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import BinaryIO

import msgspec

Header = tuple[str, str]
Piece = bytes | memoryview
TEXT = ("Content-Type", "text/plain; charset=utf-8")
JSON = ("Content-Type", "application/json")


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case; `body` can be read once."""

    method: str
    target: str
    path: str  # decoded, without the query
    query: dict[str, str]
    version: str
    headers: list[Header]
    body: AsyncIterator[bytes]
    client: tuple[str, int]
    server: tuple[str, int]
    scheme: str

    def header(self, name: str) -> str | None:
        """The first header of that name, or None."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Part:
    """A part of an open file, sent without being read into this process where possible; closed after sending."""

    file: BinaryIO
    start: int
    length: int

    def __len__(self) -> int:
        return self.length


@dataclass
class Response:
    """One response. `length` None is not known beforehand: chunked, or until the connection closes."""

    status: int = 200
    headers: list[Header] = field(default_factory=list)
    body: bytes | Iterable[Piece] | AsyncIterable[Piece] | Part = b""
    length: int | None = None
    trailers: list[Header] = field(default_factory=list)  # HTTP/2 only

    def __post_init__(self) -> None:
        if isinstance(self.body, bytes):
            self.length = len(self.body)
        elif isinstance(self.body, Part):
            self.length = self.body.length


class Refused(Exception):
    """A request that gets an error status; `str()` is the explanation that is sent with it."""

    def __init__(self, status: int, text: str = "", headers: Iterable[Header] = ()) -> None:
        super().__init__(text or HTTPStatus(status).phrase)
        self.status, self.headers = status, list(headers)

    def response(self) -> Response:
        """The error as a response."""
        return Response(self.status, [TEXT, *self.headers], f"{self}\n".encode())


def text(body: str, status: int = 200) -> Response:
    """A plain text response."""
    return Response(status, [TEXT], body.encode())


def json(value: object) -> Response:
    """A JSON response, ended by a line feed for readers in a terminal."""
    return Response(200, [JSON], msgspec.json.encode(value) + b"\n")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and stop of the requested single range (RFC 9110 14.1.2); None: the whole. Refused with 416."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,15})-(\d{0,15})\s*", header or "", re.ASCII)
    if match is None or not any(match.groups()):
        return None  # no range, several, or another unit: a server may ignore them
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise Refused(416, f"there are {size} bytes", [("Content-Range", f"bytes */{size}")])
    return start, stop
